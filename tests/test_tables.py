"""Results that notebooks show as tables have the rows of what is printed."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import mfdeq
from mfdeq.studies import grid


class Cells(HTMLParser):
    """The cells of the rows of the tables in a document, and the lines outside of them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.lines, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "div":
            self.lines.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += text
        elif self.open and self.open[-1] == "div":
            self.lines[-1] += text


def residual(h, theta):
    return h + h**3 - theta


MODEL = mfdeq.from_function(residual, 2, 2, "residual")
LOSS = mfdeq.LeastSquares(np.arange(2), np.array([0.3, 0.5])) + mfdeq.QuadraticPrior(0.1)
THETA = np.array([2.0, 10.0])


def results():
    eq = mfdeq.solve(MODEL, THETA)
    yield "Eigenpairs", mfdeq.eigsh(eq.hessian(LOSS), k=2)
    yield "Verification", mfdeq.verify(MODEL, THETA, LOSS)
    yield "SolveReport", eq.report
    yield "MinimizeReport", mfdeq.minimize(mfdeq.ReducedFunctional(MODEL, LOSS), THETA).report
    start = mfdeq.solve(MODEL, THETA).state
    yield "Branch", mfdeq.follow(MODEL, THETA, np.ones(2), start=start, span=(0.0, 1.0))


@pytest.fixture(scope="module")
def found():
    return dict(results())


NAMES = ["Eigenpairs", "Verification", "SolveReport", "MinimizeReport", "Branch"]


@pytest.mark.parametrize("name", NAMES)
def test_html_has_the_rows_and_lines_of_the_text(found, name):
    shown = Cells(found[name]._repr_html_())
    printed = [re.sub(r"\s+", " ", line).strip() for line in str(found[name]).splitlines()]
    cells = [re.sub(r"\s+", " ", " ".join(row)).strip() for row in shown.rows]
    assert len(shown.rows) > 1
    assert sorted(cells + shown.lines) == sorted(printed)
    assert len({len(row) for row in shown.rows}) == 1


def test_a_report_of_eigenpairs_shows_the_accuracy_of_each():
    report = mfdeq.eigsh(np.diag(np.arange(30.0)), k=30).report
    shown = Cells(report._repr_html_())
    assert shown.rows[0] == ["residual", "product error"]
    assert len(shown.rows) == 1 + 20
    assert shown.lines == ["… 10 more pairs", str(report)]


def test_a_minimum_shows_its_steps():
    minimum = mfdeq.minimize(mfdeq.ReducedFunctional(MODEL, LOSS), THETA)
    shown = Cells(minimum._repr_html_())
    assert len(shown.rows) == 1 + len(minimum.report.steps)
    assert minimum.reason in shown.lines[0]
    assert f"{minimum.value:.8g}" in shown.rows[-1]


def measure(x, label):
    if x == 3:
        raise ValueError("<three>")
    return {"square": x**2 + 0.5, "all": np.ones(4)}


def test_a_study_shows_its_cases(tmp_path):
    study = mfdeq.Study(tmp_path / "study")
    assert Cells(study._repr_html_()).rows == [[]]
    study.map(measure, grid(x=list(range(30)), label=["a<b"]), workers=0, progress=False)
    shown = Cells(study._repr_html_())
    assert shown.rows[0] == ["label", "x", "square", "error"]
    assert shown.rows[3] == ["a<b", "2", "4.5", ""]
    assert shown.rows[4] == ["a<b", "3", "", "ValueError: <three>"]
    assert len(shown.rows) == 21
    assert shown.lines == [repr(study), "… 10 more cases"]


def test_text_is_escaped():
    checks = [mfdeq.verification.Check("<d_state>", "PASS", 1.0, 2.0, "a & b")]
    text = mfdeq.Verification(checks)._repr_html_()
    assert "<d_state>" not in text
    assert Cells(text).rows[1] == ["<d_state>", "PASS", "1.00e+00", "2.00e+00", "a & b"]
