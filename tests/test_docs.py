"""The tables of the documentation name what the library's own lists name."""

import ast
import re
from pathlib import Path

import pytest

from mfdeq.forward import METHODS as FORWARD_METHODS
from mfdeq.linear.direct.registry import PACKAGES
from mfdeq.linear.krylov.krylov import METHODS as KRYLOV_METHODS
from mfdeq.optimization.methods import METHODS as OPTIMIZATION_METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WORKS = {
    key: (" ".join(title.split()), year)
    for key, title, year in re.findall(
        r"^@\w+\{(\w+),.*?^  title = \{\{(.*?)\}\},$.*?^  year = \{(\d{4})\},$",
        (DOCS / "references.bib").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


@pytest.mark.parametrize(
    ("page", "first", "last", "names"),
    [
        ("solvers.rst", "* - ``method``", "Linear systems", FORWARD_METHODS),
        ("solvers.rst", "* - ``package``", "Graphs with long edges", PACKAGES),
        ("optimization.rst", "* - ``method``", "The accuracy of a step", OPTIMIZATION_METHODS),
    ],
)
def test_tables_of_methods_are_complete(page, first, last, names):
    table = (DOCS / page).read_text("utf-8").partition(first)[2].partition(last)[0]
    assert set(re.findall(r'\* - ``"([a-z-]+)"``', table)) == set(names)


def test_the_page_on_solvers_names_every_krylov_method():
    page = (DOCS / "solvers.rst").read_text("utf-8")
    assert [name for name in KRYLOV_METHODS if f'``"{name}"``' not in page] == []


def references_sections():
    """Yield the name of each file of the package and the text of a References section in it."""
    for path in sorted((ROOT / "mfdeq").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = (ast.get_docstring(node) or "").partition("References\n----------\n")[2]
                section = re.split(r"\n\n\w+\n-{3,}\n", text)[0]  # up to the next title
                if section:
                    yield path.relative_to(ROOT).as_posix(), " ".join(section.split())


def test_the_bibliography_has_every_work_that_docstrings_cite():
    titles = sorted(WORKS.values(), key=lambda work: -len(work[0]))
    missing = []
    for path, section in references_sections():
        found, rest = [], section.lower()
        for title, year in titles:  # the longest first: one may be a part of another
            if title.lower() in rest and year in rest:
                rest = rest.replace(title.lower(), "")
                found.append(title)
        # Each work has its year, and there are no other numbers like it but those of reports.
        years = re.findall(r"(?<![-\w])(?:19|20)\d\d(?![-\w])", section)
        if len(years) != len(found):
            missing.append((path, section, found))
    assert missing == []


def test_pages_cite_works_of_the_bibliography():
    cited = {
        key.strip()
        for page in DOCS.glob("*.rst")
        for keys in re.findall(r":cite:\w+:`([^`]+)`", page.read_text("utf-8"))
        for key in keys.split(",")
    }
    assert len(cited) > 50
    assert cited <= WORKS.keys()
