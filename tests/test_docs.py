"""The tables of the documentation name what the library's own lists name."""

import re
from pathlib import Path

import pytest

from mfdeq.forward import METHODS as FORWARD_METHODS
from mfdeq.linear.direct.registry import PACKAGES
from mfdeq.linear.krylov.krylov import METHODS as KRYLOV_METHODS
from mfdeq.optimization.methods import METHODS as OPTIMIZATION_METHODS

DOCS = Path(__file__).parent.parent / "docs"


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
