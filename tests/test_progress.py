"""Progress bars: in a terminal, and nowhere else; their counts are those of the reports."""

import io
import itertools
import re
import sys

import numpy as np
import pytest
from support import study_functions
from support.functionals import WAVY_LOSS, IdentityModel
from support.terminal import Terminal

import mfdeq
from mfdeq.progress import Forecast, ProgressBar, share_of_decrease


def opened(monkeypatch):
    """Return a terminal that is standard error from now on, which no fixture could change."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    return terminal


def show_three(stream, monkeypatch, **options):
    """What is written to standard error while three units are counted."""
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("work", "pieces", **options) as bar:
        for done in range(3, 6):
            bar.show(done, "going well")
    return stream.getvalue()


def test_a_bar_is_shown_in_a_terminal(monkeypatch):
    shown = show_three(Terminal(), monkeypatch, total=5, done=2)
    for part in ("work", "5/5", "going well"):
        assert part in shown


def test_nothing_is_written_where_standard_error_is_a_file(monkeypatch):
    assert show_three(io.StringIO(), monkeypatch) == ""


def test_nothing_is_written_where_no_bar_is_wanted(monkeypatch):
    assert show_three(Terminal(), monkeypatch, shown=False) == ""


def test_the_line_of_the_bar_is_ended_after_an_error(monkeypatch):
    terminal = opened(monkeypatch)
    with pytest.raises(mfdeq.ConvergenceError), ProgressBar("work", "pieces"):
        raise mfdeq.ConvergenceError("it went wrong")
    assert terminal.getvalue().endswith("\n")


def test_only_the_outermost_bar_is_shown(monkeypatch):
    terminal = opened(monkeypatch)
    with ProgressBar("outer", "pieces") as outer:
        with ProgressBar("inner", "pieces") as inner:
            inner.show(4)
        outer.show(1)
    assert "outer: 1 pieces" in on_screen(terminal)
    assert "inner" not in terminal.getvalue()
    with ProgressBar("later", "pieces") as later:
        later.show(2)
    assert "later: 2 pieces" in on_screen(terminal)


def on_screen(terminal):
    """What is left on the last line that was written to."""
    return terminal.getvalue().rstrip("\n").split("\r")[-1].split("\n")[-1]


def counted(terminal, title, unit):
    """The number of units on the last line, whose rate is shown as well."""
    found = re.search(rf"{title}: *(?:.*\| )?(\d+)(?:/\d+)? ?(?:{unit})? \[", on_screen(terminal))
    assert found, on_screen(terminal)
    assert re.search(rf"(/s|s/ {unit})", on_screen(terminal))
    return int(found[1])


def model(**options):
    return mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, "residual", **options)


def test_solve_counts_the_iterations_of_its_report(monkeypatch):
    terminal = opened(monkeypatch)
    eq = mfdeq.solve(model(), np.full(3, 9.0), method="newton", progress=True)
    assert counted(terminal, "newton", "iterations") == eq.report.iterations > 2
    assert "worst residual" in on_screen(terminal)


def test_eigsh_counts_the_products_of_its_report(monkeypatch):
    terminal, seconds = opened(monkeypatch), itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(seconds)))  # every text is shown
    pairs = mfdeq.eigsh(np.diag(np.arange(1.0, 301.0)), 2, progress=True)
    assert counted(terminal, "eigsh", "products") == pairs.report.products
    assert f"after {pairs.report.products} products" in str(pairs.report)
    assert "2 pairs" in on_screen(terminal)
    assert "looking for others" in terminal.getvalue()


def test_eigsh_with_a_preconditioner_counts_the_products_of_its_report(monkeypatch):
    terminal = opened(monkeypatch)
    d = np.arange(1.0, 301.0)
    pairs = mfdeq.eigsh(np.diag(d), 2, "SA", preconditioner=np.diag(1 / (d + 0.3)), progress=True)
    assert counted(terminal, "eigsh", "products") == pairs.report.products


def test_eigsh_with_a_shift_counts_its_solves(monkeypatch):
    terminal, seconds = opened(monkeypatch), itertools.count()
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(seconds)))  # every text is shown
    A = np.diag(np.arange(1.0, 301.0))
    pairs = mfdeq.eigsh(A, 2, sigma=0.5, progress=True)
    np.testing.assert_allclose(pairs.values, [1.0, 2.0], rtol=1e-9)
    assert counted(terminal, "eigsh", "solves") > 2
    assert "2 pairs" in on_screen(terminal)


@pytest.mark.parametrize("method", ["newton-cg", "line-search", "l-bfgs"])
def test_minimize_counts_the_iterations_of_its_report(method, monkeypatch):
    terminal = opened(monkeypatch)
    F = mfdeq.ReducedFunctional(IdentityModel(3), WAVY_LOSS)
    found = mfdeq.minimize(F, np.array([0.1, -0.2, 0.05]), method, progress=True)
    iterations = len(found.report.steps) - 1
    assert counted(terminal, "minimize", "iterations") == iterations > 1
    norm = found.report.steps[-1].gradient_norm
    assert f"loss {found.value:.5g}, |gradient| {norm:.1e}" in on_screen(terminal)


def test_a_resumed_minimization_counts_from_its_checkpoint(tmp_path, monkeypatch):
    terminal = opened(monkeypatch)

    def run(**options):
        F = mfdeq.ReducedFunctional(IdentityModel(3), WAVY_LOSS)
        start = np.array([0.1, -0.2, 0.05])
        return mfdeq.minimize(F, start, checkpoint=tmp_path / "run", progress=True, **options)

    with pytest.raises(mfdeq.ConvergenceError, match="max_iterations"):
        run(max_iterations=2)
    assert counted(terminal, "minimize", "iterations") == 2
    found = run()
    assert counted(terminal, "minimize", "iterations") == len(found.report.steps) - 1


def test_the_bar_of_a_minimization_stands_for_those_of_its_solves(monkeypatch):
    terminal = opened(monkeypatch)
    F = mfdeq.ReducedFunctional(model(), mfdeq.LeastSquares([0], [1.0]), progress=True)
    prior = mfdeq.QuadraticPrior(np.eye(3))
    F = F + mfdeq.ReducedFunctional(model(), prior)
    F.value(np.ones(3))
    assert on_screen(terminal).startswith("newton")
    seen = len(terminal.getvalue())
    mfdeq.minimize(F, np.full(3, 0.5), progress=True)
    assert "newton" not in terminal.getvalue()[seen:]
    assert on_screen(terminal).startswith("minimize")


def test_follow_counts_the_points_of_its_branch(monkeypatch):
    terminal = opened(monkeypatch)
    branch = mfdeq.follow(
        model(), np.zeros(3), np.ones(3), span=(0.0, 2.0), start=np.zeros(3), progress=True
    )
    assert counted(terminal, "follow", "points") == len(branch.points)
    assert "t = 2" in on_screen(terminal)


def test_a_study_counts_its_cases_and_failures(tmp_path, monkeypatch):
    terminal = opened(monkeypatch)
    study = mfdeq.Study(tmp_path / "study")
    cases = [{"i": i} for i in range(4)]
    for count in (3, 4):  # the second call computes the last case only
        study.map(study_functions.fail_for_one_and_two, cases[:count], workers=0)
        assert counted(terminal, "study", "cases") == count
        assert f"{study.status().failed} failed" in on_screen(terminal)


LONG_CALLS = {
    "solve": lambda: mfdeq.solve(model(), np.ones(3), progress=True),
    "eigsh": lambda: mfdeq.eigsh(np.diag(np.arange(60.0)), 2, progress=True),
    "minimize": lambda: mfdeq.minimize(
        mfdeq.ReducedFunctional(IdentityModel(3), WAVY_LOSS), np.zeros(3), progress=True
    ),
    "follow": lambda: mfdeq.follow(model(), np.zeros(3), 0, span=(0.0, 1.0), progress=True),
}


@pytest.mark.parametrize("call", LONG_CALLS)
def test_a_long_call_writes_nothing_to_a_file(call, monkeypatch):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    LONG_CALLS[call]()
    assert file.getvalue() == ""


def test_the_time_left_follows_from_the_shares_done():
    forecast = Forecast()
    assert forecast.seconds_left(0.2, 100.0) is None
    assert forecast.seconds_left(0.4, 101.0) is None  # too early
    assert forecast.seconds_left(0.4, 110.0) == pytest.approx(30.0)
    assert forecast.seconds_left(0.7, 130.0) == pytest.approx(18.0)
    assert forecast.seconds_left(0.1, 140.0) is None  # it begins again
    assert forecast.seconds_left(0.2, 150.0) == pytest.approx(80.0)
    assert forecast.seconds_left(1.0, 160.0) == 0.0


@pytest.mark.parametrize(
    ("first", "now", "target", "share"),
    [(1.0, 1e-3, 1e-6, 0.5), (1.0, 10.0, 1e-6, 0.0), (1.0, 1e-9, 1e-6, 1.0), (1.0, 0.0, 1e-6, 1.0),
     (1e-7, 1e-7, 1e-6, 1.0), (1.0, np.inf, 1e-6, 0.0), (1.0, 0.5, 0.0, 0.0)],
)  # fmt: skip
def test_the_share_of_a_decrease_is_in_digits(first, now, target, share):
    assert share_of_decrease(first, now, target) == pytest.approx(share)


def test_the_time_left_is_shown_beside_the_text(monkeypatch):
    terminal = opened(monkeypatch)
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    with ProgressBar("work", "pieces") as bar:
        for done, share in ((0, 0.0), (1, 0.25), (2, 0.5)):
            bar.show(done, "going well", share)
        bar.close()
    assert "going well" in on_screen(terminal)
    assert "left" not in on_screen(terminal)  # at the end
