"""Evaluations that fail in `ReducedFunctional` and `minimize`, by exceptions and by NaN."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize as by_scipy

import mfdeq
from mfdeq.optimization.methods import METHODS

FAILURES = (RuntimeError, KeyError, ZeroDivisionError, AssertionError, mfdeq.DomainError)
MISTAKES = (TypeError, NameError, AttributeError, ImportError, NotImplementedError)
TARGET = np.array([6.0, 3.0])


def fail_beyond(theta, limit, error):
    """Raise an error, or return whether to return NaN, where a parameter is above a limit."""
    beyond = theta.max() > limit
    if beyond and error is not None:
        raise error("outside of the table")
    return beyond


class Growth(mfdeq.ResidualModel):
    """h = exp theta, in two components, with failures in one of its functions."""

    state_size = param_size = 2

    def __init__(self, where="residual", limit=2.0, error=RuntimeError):
        self.where, self.limit, self.error = where, limit, error

    def check(self, where, theta, value):
        if where == self.where and fail_beyond(theta, self.limit, self.error):
            return value * np.nan
        return value

    def residual(self, h, theta):
        return self.check("residual", theta, h - np.exp(theta))

    def linearize(self, h, theta):
        grown = self.check("linearize", theta, np.exp(theta))

        def curvature(lam):
            grown = self.check("curvature", theta, np.exp(theta))
            return mfdeq.Curvature(params_params=sp.diags(-lam * grown).tocsr())

        return mfdeq.Linearization(
            sp.identity(2, format="csr"), -sp.diags(grown).tocsr(), curvature
        )


def loss_of(where, limit=2.0, error=RuntimeError):
    """Return the misfit to the target, with failures in one of its functions."""

    def value(h, theta):
        failing = where == "value" and fail_beyond(theta, limit, error)
        return np.nan if failing else 0.5 * float((h - TARGET) @ (h - TARGET))

    def d_state(h, theta):
        failing = where == "d_state" and fail_beyond(theta, limit, error)
        return (h - TARGET) * (np.nan if failing else 1.0)

    def d_params(h, theta):
        return np.zeros(2)

    identity = sp.identity(2, format="csr")
    return mfdeq.Loss(
        value, d_state, d_params, lambda h, theta: mfdeq.Curvature(state_state=identity)
    )


def functional(where, error=RuntimeError, limit=2.0, **options):
    if where in ("value", "d_state"):
        return mfdeq.ReducedFunctional(Growth(""), loss_of(where, limit, error), **options)
    return mfdeq.ReducedFunctional(Growth(where, limit, error), loss_of(""), **options)


WHERE = ("residual", "linearize", "value")
START = np.array([-1.0, -1.0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("where", "error"), [*itertools.product(WHERE, [RuntimeError, None])])
def test_a_trial_that_fails_is_a_rejected_step(where, method, error):
    F = functional(where, error)
    found = mfdeq.minimize(F, START, method, radius=100.0, gtol=1e-9)
    np.testing.assert_allclose(found.params, np.log(TARGET), rtol=1e-6)
    assert found.report.limited_by in ("gtol", "rounding")
    assert found.report.failures > 0
    said = "outside of the table" if error else "NaN"
    assert said in found.report.last_failure
    assert said in str(found.report)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nth", [2, 3])
@pytest.mark.parametrize("where", ["d_state", "curvature"])
def test_a_derivative_that_fails_at_one_trial_is_a_rejected_step(where, nth, method):
    """The gradient fails after the loss, and the curvature after both."""
    points = []

    def fail(theta):
        if not any(np.all(theta == point) for point in points):
            points.append(theta.copy())
        if len(points) == nth:
            raise RuntimeError("outside of the table")

    class Failing(Growth):
        def linearize(self, h, theta):
            lin = super().linearize(h, theta)

            def curvature(lam):
                fail(theta)
                return lin.curvature(lam)

            return mfdeq.Linearization(lin.d_state, lin.d_params, curvature)

    def d_state(h, theta):
        fail(theta)
        return h - TARGET

    good = loss_of("")
    loss = mfdeq.Loss(
        lambda h, theta: good.value(h, theta),
        d_state if where == "d_state" else lambda h, theta: h - TARGET,
        lambda h, theta: np.zeros(2),
        lambda h, theta: mfdeq.Curvature(state_state=sp.identity(2, format="csr")),
    )
    model = Failing("") if where == "curvature" else Growth("")
    found = mfdeq.minimize(mfdeq.ReducedFunctional(model, loss), START, method, gtol=1e-9)
    np.testing.assert_allclose(found.params, np.log(TARGET), rtol=1e-6)
    uses_it = where == "d_state" or method not in ("l-bfgs", "gauss-newton")
    assert (found.report.failures > 0) == uses_it
    assert found.report.last_failure == ("RuntimeError: outside of the table" if uses_it else "")


@pytest.mark.parametrize("error", FAILURES)
def test_every_exception_that_is_no_mistake_is_a_failure(error):
    found = mfdeq.minimize(functional("residual", error), START, radius=100.0)
    np.testing.assert_allclose(found.params, np.log(TARGET), rtol=1e-6)
    assert error.__name__ in found.report.last_failure


def test_a_trial_beyond_bounds_of_the_table_is_rejected_within_bounds():
    F = functional("residual", limit=1.0)
    found = mfdeq.minimize(F, START, bounds=(-2.0, [1.0, 0.9]), gtol=1e-9)
    np.testing.assert_allclose(found.params, [1.0, 0.9])


@pytest.mark.parametrize("where", ["residual", "value", "d_state"])
@pytest.mark.parametrize("error", MISTAKES)
def test_a_mistake_propagates_unchanged(where, error):
    for on_failure in ("raise", "inf"):
        F = functional(where, error, on_failure=on_failure)
        assert np.isfinite(F.value(START))
        with pytest.raises(error, match="outside of the table") as caught:
            (F.gradient if where == "d_state" else F.value)(TARGET)
        assert type(caught.value) is error
        assert any("raised in" in note for note in caught.value.__notes__)
        if where != "d_state":  # the loss is too large there for the gradient to be computed
            with pytest.raises(error, match="outside of the table") as caught:
                mfdeq.minimize(F, START, radius=100.0)
            assert type(caught.value) is error
            assert any("mfdeq.minimize" in note for note in caught.value.__notes__)


def test_a_wrong_shape_at_a_trial_propagates():
    class Short(Growth):
        def residual(self, h, theta):
            return (h - np.exp(theta))[: 1 if theta.max() > 2.0 else 2]

    F = mfdeq.ReducedFunctional(Short(""), loss_of(""), on_failure="inf")
    with pytest.raises(mfdeq.ModelError, match=r"shape \(2,\), got shape \(1,\)"):
        mfdeq.minimize(F, START, radius=100.0)


@pytest.mark.parametrize("where", ["residual", "linearize", "value", "d_state"])
def test_an_exception_at_the_start_propagates_unchanged(where):
    F = functional(where)
    with pytest.raises(RuntimeError, match="outside of the table") as caught:
        mfdeq.minimize(F, np.array([3.0, 0.0]))
    assert any("raised in" in note for note in caught.value.__notes__)


def test_a_domain_error_at_the_start_keeps_its_type_and_pickles():
    F = functional("residual", mfdeq.DomainError)
    with pytest.raises(mfdeq.DomainError, match="outside of the table") as caught:
        F.value(np.array([3.0, 0.0]))
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, mfdeq.DomainError)
    assert str(again) == "outside of the table"


@pytest.mark.parametrize("error", [RuntimeError, mfdeq.DomainError, None])
@pytest.mark.parametrize("where", ["residual", "linearize", "value", "d_state"])
def test_a_failure_is_infinite_or_raised(where, error):
    beyond = np.array([3.0, 0.0])
    F = functional(where, error, on_failure="inf")
    value = F.value(beyond)
    assert value == (np.inf if where in ("residual", "value") else F.value(beyond))
    assert np.isnan(F.gradient(beyond)).all() or where == "value"
    raising = functional(where, error)
    call = raising.gradient if where in ("linearize", "d_state") else raising.value
    with pytest.raises(error or mfdeq.ModelError):
        call(beyond)


def test_a_failure_is_not_computed_again_at_the_same_point():
    calls = []

    class Counted(Growth):
        def residual(self, h, theta):
            calls.append(theta.copy())
            return super().residual(h, theta)

    F = mfdeq.ReducedFunctional(Counted(), loss_of(""), on_failure="inf")
    F.value(START)
    F.value(np.array([3.0, 0.0]))
    before = len(calls)
    assert F.value(np.array([3.0, 0.0])) == np.inf
    assert len(calls) == before


def test_the_solve_after_a_failure_starts_from_the_last_good_state():
    starts = []

    class Seen(Growth):
        def residual(self, h, theta):
            starts.append((theta.copy(), h.copy()))
            return super().residual(h, theta)

    F = mfdeq.ReducedFunctional(Seen(), loss_of(""), on_failure="inf")
    state = F.equilibrium(START).state
    F.value(np.array([3.0, 0.0]))
    assert F.equilibrium(START).state is state  # not lost by the failure
    F.value(START + 0.01)
    first = next(h for theta, h in starts if np.all(theta == START + 0.01))
    np.testing.assert_array_equal(first, state)


def test_optimizers_of_scipy_step_back_from_a_failure():
    F = functional("residual", on_failure="inf")
    found = by_scipy(F.value, START, jac=F.gradient, hessp=F.hessp, method="trust-krylov")
    np.testing.assert_allclose(found.x, np.log(TARGET), rtol=1e-5)


def test_gradients_that_fail_everywhere_keep_the_point_before():
    """The best point is the last whose gradient could be computed."""
    calls = []

    def d_state(h, theta):
        calls.append(theta.copy())
        if len(calls) > 4:
            raise RuntimeError("no gradient")
        return h - TARGET

    identity = sp.identity(2, format="csr")
    loss = mfdeq.Loss(
        lambda h, theta: 0.5 * float((h - TARGET) @ (h - TARGET)),
        d_state,
        lambda h, theta: np.zeros(2),
        lambda h, theta: mfdeq.Curvature(state_state=identity),
    )
    F = mfdeq.ReducedFunctional(Growth(""), loss)
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        mfdeq.minimize(F, START, radius=0.1)
    best = caught.value.best
    assert not best.converged
    assert best.report.failures > 0
    assert best.report.last_failure == "RuntimeError: no gradient"
    np.testing.assert_array_equal(best.equilibrium.params, best.params)
    np.testing.assert_allclose(best.equilibrium.state, np.exp(best.params), rtol=1e-9)


def test_an_exception_of_the_callback_propagates():
    def callback(theta, step):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        mfdeq.minimize(functional(""), START, callback=callback)


@pytest.mark.parametrize("method", ["newton-cg", "newton"])
def test_a_minimum_beyond_the_values_of_a_model_is_described(method):
    """The loss decreases up to the edge of a table, where a run ends soon, and says why."""
    F = functional("residual", limit=1.0)
    with pytest.raises(mfdeq.ConvergenceError, match=r"outside of the table.*add bounds") as caught:
        mfdeq.minimize(F, START, method)
    np.testing.assert_allclose(caught.value.best.params.max(), 1.0, rtol=1e-6)
    assert len(caught.value.report.steps) < 100
