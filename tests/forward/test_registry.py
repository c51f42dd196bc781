"""Forward methods from outside the library: registered by name, and used by `mfdeq.solve`."""

import pytest
from support.cases import build, close

import mfdeq
from mfdeq.forward import METHODS, ForwardMethod, register


class Richardson(ForwardMethod):
    """h <- h - d R(h), with a fixed d."""

    max_iterations = 60

    def __init__(self, damping=0.6):
        self.damping = damping

    def iterate(self, problem, h, solver, monitor):
        R = problem.residual(h)
        monitor.record(h, R)
        while not monitor.done:
            h = h - self.damping * R
            R = problem.residual(h)
            monitor.record(h, R)


@pytest.fixture
def richardson():
    register("richardson", Richardson())
    yield
    del METHODS["richardson"]


@pytest.mark.usefixtures("richardson")
def test_solve_uses_a_registered_method_by_its_name():
    case = build("cosine")
    eq = case.solve(method="richardson")
    close(eq.state, case.truth.state, 1e-9)
    assert eq.report.method == "richardson"
    assert 3 < eq.report.iterations < 60


def test_a_registered_method_has_its_own_limit(monkeypatch):
    monkeypatch.setitem(METHODS, "slow", Richardson(damping=0.02))
    case = build("cosine")
    with pytest.raises(mfdeq.ConvergenceError, match="slow did not converge in 60 iterations"):
        case.solve(method="slow")
    with pytest.raises(mfdeq.ConvergenceError, match="slow did not converge in 3 iterations"):
        case.solve(method="slow", max_iterations=3)


@pytest.mark.usefixtures("richardson")
def test_the_error_for_an_unknown_method_lists_a_registered_one():
    case = build("cosine")
    with pytest.raises(mfdeq.ArgumentError, match="'richardson'"):
        case.solve(method="broyden")


@pytest.mark.parametrize("name", [*METHODS, "auto", "snes", None])
def test_a_registered_name_is_refused(name):
    before = dict(METHODS)
    with pytest.raises(
        mfdeq.ArgumentError, match="name: expected a string that is not among 'newton'"
    ):
        register(name, Richardson())
    assert before == METHODS


@pytest.mark.parametrize("method", [Richardson, lambda problem, h, solver, monitor: h, None])
def test_an_object_that_is_not_a_forward_method_is_refused(method):
    with pytest.raises(mfdeq.ArgumentError, match=r"derived from mfdeq\.forward\.ForwardMethod"):
        register("other", method)
    assert "other" not in METHODS
