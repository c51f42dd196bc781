"""The programs of docs/extending.rst run, each by itself in a fresh interpreter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "extending.rst"
# A title, the line under it, and all up to the next title.
INTRODUCTION, *SECTIONS = re.split(r"\n(?=An? [a-z ]+\n-+\n)", PAGE.read_text("utf-8"))
RUN = """
import doctest, sys
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, sys.argv[1], sys.argv[1], 0)
sys.exit(doctest.DocTestRunner().run(test).failed)
"""


def test_there_is_a_section_for_each_row_of_the_table():
    rows = re.findall(r"^   \* - (an? .*)$", INTRODUCTION, re.MULTILINE)
    assert rows == [section.partition("\n")[0].lower() for section in SECTIONS]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_a_program_runs(section):
    run = subprocess.run(
        [sys.executable, "-c", RUN, section.partition("\n")[0]],
        input=INTRODUCTION + "\n" + section,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
