"""The first gradient and the first product at an equilibrium carry an estimate of their error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from support.cases import build

import mfdeq
from mfdeq.models.linearization import ComputedLinearization

EXACT = 1e-11


class Counting:
    """Count the calls of a model's methods."""

    def __init__(self, model, *names):
        self.counts = dict.fromkeys(names, 0)
        for name in names:
            setattr(model, name, self._counted(name, getattr(model, name)))

    def _counted(self, name, function):
        def counted(*args):
            self.counts[name] += 1
            return function(*args)

        return counted


def test_the_first_gradient_and_product_are_estimated():
    case = build("smooth")
    eq = case.solve()
    assert np.isnan(eq.report.gradient_error)
    assert np.isnan(eq.report.product_error)
    eq.gradient(case.loss)
    assert 0 < eq.report.gradient_error < EXACT
    assert np.isnan(eq.report.product_error)
    eq.hessian(case.loss) @ case.random(case.model.param_size)
    assert 0 < eq.report.product_error < EXACT


@pytest.mark.parametrize("make", ["solve", "functional"])
def test_estimates_can_be_turned_off(make):
    case = build("smooth")
    if make == "solve":
        eq = case.solve(error_estimates=False)
    else:
        F = mfdeq.ReducedFunctional(case.model, case.loss, case.h0, error_estimates=False)
        eq = F.equilibrium(case.params)
    eq.gradient(case.loss)
    eq.hessian(case.loss) @ case.random(case.model.param_size)
    assert np.isnan(eq.report.gradient_error)
    assert np.isnan(eq.report.product_error)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (0,)])
def test_estimates_do_not_change_results(shape):
    case = build("stiff")
    v = case.random(case.model.param_size, *shape)
    results = []
    for error_estimates in (False, True):
        eq = case.solve(error_estimates=error_estimates)
        results.append((eq.gradient(case.loss), eq.hessian(case.loss) @ v))
    np.testing.assert_array_equal(*(gradient for gradient, _ in results))
    np.testing.assert_array_equal(*(product for _, product in results))


@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())])
def test_an_estimate_costs_two_applications_and_no_linearization(solver, monkeypatch):
    model = Diffusion(16)
    loss = model.loss(observations=20)
    eq = mfdeq.solve(model, model.lognormal(), solver=solver).polish()
    eq.error_estimates = True
    factor, applied = eq.factor, []
    original = type(factor).approximate

    def approximate(self, r, *, adjoint=False):
        applied.append(adjoint)
        return original(self, r, adjoint=adjoint)

    monkeypatch.setattr(type(factor), "approximate", approximate)
    counted = Counting(model, "linearize", "residual")
    eq.gradient(loss)
    assert sorted(applied) == [False, True]
    assert counted.counts == {"linearize": 0, "residual": 1}
    eq.gradient(loss)
    assert len(applied) == 2, "a second gradient was estimated"
    H, v = eq.hessian(loss), np.ones(model.param_size)
    applied.clear()
    H @ np.stack([v, -v, v], axis=1)
    assert sorted(applied) == [False, True, True]  # two of the product, one of the adjoint
    assert counted.counts["linearize"] == 0


def test_a_gradient_evaluates_no_second_derivatives():
    case = build("smooth")
    asked = []

    class FirstOrder(type(case.model)):
        def linearize(self, h, theta):
            right = super().linearize(h, theta)

            def refuse(*args):
                asked.append(args)
                return right.curvature(*args)

            return mfdeq.Linearization(right.d_state, right.d_params, refuse)

    model = object.__new__(FirstOrder)
    model.__dict__.update(case.model.__dict__)
    eq = mfdeq.solve(model, case.params, rtol=1e-4)
    eq.gradient(case.loss)
    assert eq.report.gradient_error > 0
    assert not asked


class Differenced(mfdeq.ResidualModel):
    """h + h³ = exp(theta), whose derivative in theta is a difference with a step that is too long.

    The accuracy that it states is that of a good step.
    """

    state_size = param_size = 2

    def residual(self, h, theta):
        return h + h**3 - np.exp(theta)

    def linearize(self, h, theta):
        return self.differenced(h, theta, 1.0)

    def linearize_for_comparison(self, h, theta):
        return self.differenced(h, theta, 2.0)

    def differenced(self, h, theta, step):
        forward = (np.exp(theta + step) - np.exp(theta)) / step
        return ComputedLinearization(
            np.diag(1 + 3 * h**2),
            -np.diag(forward),
            curvature=lambda lam: mfdeq.Curvature(
                -np.diag(lam * forward), None, np.diag(6 * lam * h)
            ),
            accuracy=(1e-6, 1e-4),
            sources={"d_params": "long steps", "curvature": "long steps"},
        )


@pytest.mark.parametrize(
    ("result", "compute"),
    [
        ("the gradient", lambda eq, loss: eq.gradient(loss)),
        ("the product with a Hessian", lambda eq, loss: eq.hessian(loss) @ np.ones(2)),
    ],
)
def test_bad_differences_are_warned_of(result, compute):
    loss = mfdeq.LeastSquares(np.arange(2), np.zeros(2))
    eq = mfdeq.solve(Differenced(), np.array([1.0, 2.0]))
    with pytest.warns(mfdeq.AccuracyWarning, match="inexact .computed by long steps") as said:
        compute(eq, loss)
    assert [str(w.message).partition(" has ")[0] for w in said] == [result]
    assert said[0].filename == __file__


def test_the_estimate_of_a_gradient_by_bad_differences_is_its_error():
    loss = mfdeq.LeastSquares(np.arange(2), np.zeros(2))
    eq = mfdeq.solve(Differenced(), np.array([1.0, 2.0]))
    with pytest.warns(mfdeq.AccuracyWarning):
        g = eq.gradient(loss)
    truth = eq.state * np.exp(eq.params) / (1 + 3 * eq.state**2)
    off = np.linalg.norm(g - truth) / np.linalg.norm(g)
    assert 0.3 < off <= eq.report.gradient_error <= 10 * off


def test_a_rough_state_is_warned_of():
    case = build("bratu_field")
    eq = mfdeq.solve(case.model, case.params, case.h0, rtol=1e-10)
    rough = eq.state * (1 + 1e-2 * case.random(16))
    problem = eq.problem
    off = mfdeq.Equilibrium(
        problem, rough, problem.linearize(rough), eq.solver, mfdeq.SolveReport()
    )
    with pytest.warns(mfdeq.AccuracyWarning, match="smaller rtol to mfdeq.solve"):
        off.gradient(case.loss)


def test_a_loose_linear_solver_is_warned_of():
    model = Diffusion(16)
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.Jacobi(), rtol=0.05)
    with pytest.warns(mfdeq.AccuracyWarning, match="a solver with a smaller rtol"):
        mfdeq.solve(model, model.lognormal(), solver=solver).gradient(model.loss(observations=20))


def test_a_minimum_is_not_warned_of():
    """There the terms of the gradient cancel, so that its relative error is large."""
    rng = np.random.default_rng(0)
    A = sp.csr_array(np.eye(6) + 0.1 * rng.standard_normal((6, 6)))
    model = mfdeq.from_function(lambda h, theta: A @ h + 0.1 * h**3 - theta, 6, 6, "residual")
    data = mfdeq.LeastSquares(np.arange(6), np.ones(6))
    for loss in (data, data + mfdeq.QuadraticPrior(np.eye(6), np.zeros(6))):
        F = mfdeq.ReducedFunctional(model, loss)
        with warnings.catch_warnings():
            warnings.simplefilter("error", mfdeq.AccuracyWarning)
            found = mfdeq.minimize(F, np.zeros(6), gtol=1e-9)
            eq = mfdeq.solve(model, found.params)
            eq.gradient(loss)
        assert np.linalg.norm(eq.gradient(loss)) < 1e-6


def test_products_to_an_accuracy_record_their_error():
    model = Diffusion(16)
    loss = model.loss(observations=20)
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, model.lognormal(), solver=solver)
    eq.hessian(loss).to_accuracy(1e-3) @ np.ones(model.param_size)
    assert 1e-9 < eq.report.product_error <= 1e-3
