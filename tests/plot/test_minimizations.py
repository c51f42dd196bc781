"""Convergence plots: curves, markers and refused arguments."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import build
from support.pictures import legend, plot, plt
from support.refusing import refused

import mfdeq
from mfdeq.plot.minimizations import MAX_MARKED_ITERATIONS


def minimized(method="newton-cg", **options):
    case = build("bratu_field")
    return mfdeq.minimize(
        mfdeq.ReducedFunctional(case.model, case.loss, case.h0), case.params, method, **options
    )


def test_gradients_are_drawn_over_the_cost_with_ends_marked():
    newton = minimized()
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        minimized("l-bfgs", max_iterations=4)
    stopped = caught.value.best
    ax = plot.convergence({"Newton": newton, "L-BFGS": stopped})
    first, end, second, cross = ax.lines
    for line, last, found in ((first, end, newton), (second, cross, stopped)):
        steps = found.report.steps
        assert list(line.get_xdata()) == [step.solves for step in steps]
        assert list(line.get_ydata()) == [step.gradient_norm for step in steps]
        assert last.get_xdata() == [found.report.solves]
        assert last.get_ydata() == [steps[-1].gradient_norm]
        assert last.get_color() == line.get_color()
    assert (end.get_marker(), cross.get_marker()) == ("o", "X")
    assert legend(ax) == ["Newton", "L-BFGS"]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "linear solves")
    _, given = plt.subplots()
    assert plot.convergence(newton, given, over="seconds") is given
    assert list(given.lines[0].get_xdata()) == [step.seconds for step in newton.report.steps]
    assert given.get_xlabel() == "seconds"
    assert given.get_legend() is None
    assert given.lines[0].get_marker() == "."
    newton.report.steps *= MAX_MARKED_ITERATIONS  # so many that dots would be a band
    ax = plot.convergence(newton, label="a name")
    assert legend(ax) == ["a name"]
    assert ax.lines[0].get_marker() == ""


NOTHING = np.ones(3)
REFUSED = {
    "no minimum": (lambda: plot.convergence({"a": NOTHING}), "mfdeq.minimize returns, got ndarray"),
    "an empty mapping": (lambda: plot.convergence({}), "minima: expected at least one Minimum"),
    "another cost": (lambda: plot.convergence(NOTHING, over="money"), "over.*'money'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_drawn_are_refused(name):
    call, words = REFUSED[name]
    with refused(mfdeq.ArgumentError, words):
        call()
