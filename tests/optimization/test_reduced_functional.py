"""`mfdeq.ReducedFunctional`: one solve per point, failures, and scipy's optimizers."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
from scipy.optimize import minimize
from support.cases import build, close

import mfdeq
from mfdeq.optimization.reduced_functional import SOLVE_OPTIONS


def functional(name="diffusion", **options):
    case = build(name)
    return mfdeq.ReducedFunctional(case.model, case.loss, case.h0, **options), case


def test_one_solve_serves_all_calls_at_a_point():
    F, case = functional()
    theta = case.params.copy()
    value = F.value(theta)
    close(F.gradient(theta), case.truth.gradient, 1e-8)
    close(F.hessian(theta).toarray(), case.truth.H, 1e-7)
    close(F.hessp(theta, np.ones(6)), case.truth.H @ np.ones(6), 1e-7)
    assert F.solves == 1
    report = F.equilibrium(theta).report
    assert report.forward.setups + report.linear.setups == 1  # the model is linear
    assert F.value(theta.copy()) == value
    assert F.solves == 1
    # Optimizers change parameters in place, so they are copied and compared by value.
    theta[0] += 0.1
    assert F.value(theta) != value
    assert F.solves == 2
    theta[0] -= 0.1
    assert abs(F.value(theta) - value) <= 1e-9 * abs(value)
    assert F.solves == 3


def test_linear_solves_of_all_points_are_counted():
    F, case = functional()
    theta, expected = case.params, 0
    for step in range(3):
        H = F.hessian(theta + 0.01 * step)
        F.gradient(theta + 0.01 * step)
        before = F.linear_solves
        F.value(theta + 0.01 * step + 0.001)  # a trial point; H stays valid
        H @ np.ones((6, 2))
        report = F.equilibrium(theta + 0.01 * step + 0.001).report
        assert F.linear_solves == before + report.forward.columns + 4
        expected = F.linear_solves
    bad = np.full(6, np.nan)
    with pytest.raises(mfdeq.MfdeqError):
        F.value(bad)
    assert F.linear_solves == expected


def test_the_next_solve_starts_from_the_last_state():
    F, case = functional("bratu_field")
    F.value(case.params)
    F.value(case.params + 1e-6)
    assert F.equilibrium(case.params + 1e-6).report.iterations <= 2  # with the LU at case.params


SCIPY_METHODS = ("trust-krylov", "Newton-CG", "trust-ncg", "BFGS", "trust-constr")


@pytest.mark.parametrize("method", SCIPY_METHODS)
def test_scipy_minimizes_a_reduced_functional(method):
    F, case = functional()
    loss = case.loss
    second_order = {} if method == "BFGS" else {"hessp": F.hessp}
    found = minimize(F.value, case.params, jac=F.gradient, method=method, tol=1e-6, **second_order)
    assert F.value(found.x) < F.value(case.params)
    size = np.linalg.norm(mfdeq.solve(case.model, case.params).gradient(loss))
    assert np.linalg.norm(F.gradient(found.x)) <= 1e-4 * size


class Fold(mfdeq.ResidualModel):
    """h² = theta: no state below zero."""

    state_size = param_size = 1

    def residual(self, h, theta):
        return h * h - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.diag(2 * h),
            -np.eye(1),
            lambda lam: mfdeq.Curvature(state_state=np.diag(2 * lam)),
        )

    def initial_state(self, theta):
        return np.ones(1)


LOSS = mfdeq.LeastSquares(np.array([0]), np.array([0.1]))


def test_a_failed_solve_raises_or_is_infinite():
    raising = mfdeq.ReducedFunctional(Fold(), LOSS)
    below = np.full(1, -1.0)
    for call in (raising.value, raising.gradient, raising.hessian):
        with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
            call(below)
    assert raising.solves <= 2  # a failure is not repeated at the same point
    infinite = mfdeq.ReducedFunctional(Fold(), LOSS, on_failure="inf")
    assert infinite.value(below) == np.inf
    assert np.isnan(infinite.gradient(below)).all()
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        infinite.hessian(below)
    # Results at other points are not lost.
    assert np.isclose(infinite.value(np.full(1, 4.0)), 0.5 * 1.9**2)


def test_a_far_step_falls_back_to_the_default_start():
    F = mfdeq.ReducedFunctional(Fold(), LOSS, np.full(1, -1e-300))
    assert np.isclose(F.value(np.full(1, 4.0)), 0.5 * 1.9**2)


def test_line_searches_step_back_from_the_fold():
    F = mfdeq.ReducedFunctional(Fold(), LOSS, on_failure="inf")
    found = minimize(F.value, np.full(1, 0.3), jac=F.gradient, hessp=F.hessp, method="trust-krylov")
    assert np.isclose(found.x[0], 0.01, rtol=1e-3)


def test_on_failure_and_loss_are_checked():
    with pytest.raises(mfdeq.ArgumentError, match="on_failure: expected one of"):
        mfdeq.ReducedFunctional(Fold(), LOSS, on_failure="ignore")
    with pytest.raises(mfdeq.ArgumentError, match="loss"):
        mfdeq.ReducedFunctional(Fold(), lambda h, theta: 0.0)


def test_losses_and_functionals_pickle():
    case = build("diffusion")
    theta = case.params
    prior = mfdeq.QuadraticPrior(2.0)
    misfit = mfdeq.LeastSquares(np.array([0, 3]), np.ones(2))
    F = mfdeq.ReducedFunctional(Fold(), LOSS)
    F.gradient(np.full(1, 4.0))
    for loss in (misfit, prior, misfit + prior, 2.0 * misfit):
        before = mfdeq.solve(case.model, theta).gradient(loss)
        again = pickle.loads(pickle.dumps(loss))
        close(mfdeq.solve(case.model, theta).gradient(again), before, 1e-12)
    again = pickle.loads(pickle.dumps(F))
    close(again.gradient(np.full(1, 4.0)), F.gradient(np.full(1, 4.0)), 1e-12)


def test_losses_add_and_scale_like_numbers():
    case = build("diffusion")
    eq = case.solve()
    prior, misfit = mfdeq.QuadraticPrior(2.0), mfdeq.LeastSquares(np.array([0, 3]), np.ones(2))
    one, other = eq.gradient(prior), eq.gradient(misfit)
    close(eq.gradient(sum([misfit, prior])), one + other, 1e-12)
    close(eq.gradient(misfit / 4 - prior * 2), other / 4 - 2 * one, 1e-12)
    close(eq.gradient(-misfit), -other, 1e-12)
    v = np.arange(6.0)
    both = eq.hessian(misfit) @ v / 4 - 2 * (eq.hessian(prior) @ v)
    close(eq.hessian(misfit / 4 - prior * 2) @ v, both, 1e-12)


def test_a_model_class_and_unknown_options_are_refused():
    with pytest.raises(mfdeq.ArgumentError, match="instance"):
        mfdeq.ReducedFunctional(Fold, LOSS)
    with pytest.raises(mfdeq.ArgumentError, match=r"options of mfdeq.solve .*got tolerance"):
        mfdeq.ReducedFunctional(Fold(), LOSS, tolerance=1e-3)


def test_all_options_of_solve_are_accepted():
    own = {"model", "theta", "h0", "on_failure"}
    options = set(inspect.signature(mfdeq.solve).parameters) - own
    assert options == set(SOLVE_OPTIONS)
