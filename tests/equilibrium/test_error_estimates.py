"""Error estimates are near the true errors, and requested accuracies are reached.

The problems are those of the examples, with states, adjoints and inner solves of many accuracies.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from support.cases import close

import mfdeq
from mfdeq.equilibrium.solve import reused_solver

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
TOLERANCES = [1e-2, 1e-4, 1e-6, 1e-8]


def diffusion():
    model = Diffusion(24)
    return model, model.lognormal(), model.loss(observations=50)


def bratu():
    from bratu import Bratu

    model = Bratu(31)
    return model, np.array([5.0]), model.height()


def groundwater():
    from groundwater import Groundwater, load_terrain

    model = Groundwater(load_terrain(40))
    observed = np.arange(0, model.state_size, 7)
    theta = np.full(model.param_size, np.log(1e-5))
    return model, theta, mfdeq.LeastSquares(observed, model.surface[observed])


def layer():
    rng = np.random.default_rng(0)
    N, P = 60, 40
    W, U = 0.4 * rng.standard_normal((N, N)) / N**0.5, rng.standard_normal((N, P)) / P**0.5
    model = mfdeq.from_function(lambda h, t: np.tanh(W @ h + U @ t), N, P, "map")
    return model, rng.standard_normal(P), mfdeq.LeastSquares(np.arange(N), np.ones(N))


CG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
GMRES = mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG())
PROBLEMS = {
    "diffusion": (diffusion, CG),
    "bratu": (bratu, CG),
    "groundwater": (groundwater, GMRES),
    "layer": (layer, mfdeq.Krylov("gmres")),
}
CACHE = {}


def problem(name):
    """Return model, theta, loss, iterative solver, exact equilibrium and a direction by name."""
    if name not in CACHE:
        make, solver = PROBLEMS[name]
        if name in ("bratu", "groundwater"):
            pytest.importorskip("matplotlib", reason="the examples need the extra plot")
        model, theta, loss = make()
        exact = mfdeq.solve(model, theta, solver=mfdeq.Direct()).polish()
        v = np.random.default_rng(3).standard_normal(model.param_size)
        CACHE[name] = model, theta, loss, solver, exact, v
    return CACHE[name]


def perturbed(exact, off, solver):
    """Return an equilibrium whose state has a relative error `off`, due to a residual."""
    e = exact.factor.solve(np.random.default_rng(1).standard_normal(exact.state.shape[0]))
    h = exact.state + off * np.linalg.norm(exact.state) * e / np.linalg.norm(e)
    given = exact.problem.linearize(h)
    return mfdeq.Equilibrium(exact.problem, h, given, reused_solver(solver), mfdeq.SolveReport())


def check_estimate(found, error, truth):
    off, estimate, size = (np.linalg.norm(x) for x in (found - truth, error, truth))
    assert off <= estimate + 1e-12 * size
    # Derivatives by finite differences are no more accurate than the last term.
    assert estimate <= 10 * off + 1e-9 * size
    return off / size


@pytest.mark.parametrize("inner", TOLERANCES)
@pytest.mark.parametrize("off", [1e-4, 1e-6, 1e-8, 0.0])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_estimates_are_one_to_ten_times_the_true_error(name, direct, off, inner):
    _, _, loss, solver, exact, v = problem(name)
    eq = perturbed(exact, off, mfdeq.Direct() if direct else solver)
    g, error = eq.gradient_with_error(loss, rtol=inner)
    worst = check_estimate(g, error, exact.gradient(loss))
    product, error = eq.hessian(loss).with_error(v, rtol=inner)
    check_estimate(product, error, exact.hessian(loss) @ v)
    assert worst > 1e-12 or off == 0.0, "there was no error to estimate"


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_and_inexact_products_are_the_same_formula(name):
    """With the same inner solves they give the same numbers."""
    _, _, loss, _, exact, v = problem(name)
    H, rtol = exact.hessian(loss), exact.factor.rtol
    for x in (v, np.stack([v, -2 * v], axis=1)):
        close(H.apply_inexact(x, rtol), H @ x, 1e-13)
        close(H.with_error(x)[0], H @ x, 1e-13)
    close(exact.gradient_with_error(loss)[0], exact.gradient(loss), 1e-13)


@pytest.mark.parametrize("rtol", TOLERANCES)
@pytest.mark.parametrize("off", [1e-3, 1e-7])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_requested_accuracy_is_reached(name, off, rtol):
    """The accuracy of the state does not matter, and a lower accuracy costs less."""
    _, _, loss, solver, exact, v = problem(name)
    eq = perturbed(exact, 1e-5 if name == "groundwater" else off, solver)
    g, truth = eq.gradient(loss, rtol=rtol), exact.gradient(loss)
    assert np.linalg.norm(g - truth) <= eq.report.gradient_error * np.linalg.norm(truth)
    assert eq.report.gradient_error <= rtol
    H, truth = eq.hessian(loss).to_accuracy(rtol), exact.hessian(loss) @ v
    for x, expected in (
        (v, truth),
        (np.stack([v, 2 * v], axis=1), np.stack([truth, 2 * truth], 1)),
    ):
        assert np.linalg.norm(H @ x - expected) <= rtol * np.linalg.norm(expected)
    for part in ("gauss_newton", "dynamics"):
        found = getattr(eq.hessian(loss), part).to_accuracy(rtol) @ v
        expected = getattr(exact.hessian(loss), part) @ v
        assert np.linalg.norm(found - expected) <= rtol * np.linalg.norm(expected)
    component = eq.component_hessian(3).to_accuracy(rtol) @ v
    expected = exact.component_hessian(3) @ v
    assert np.linalg.norm(component - expected) <= rtol * np.linalg.norm(expected)


def test_less_accuracy_costs_less():
    _, theta, loss, solver, _, _ = problem("diffusion")
    model, taken = problem("diffusion")[0], []
    for rtol in (1e-2, 1e-8):
        eq = mfdeq.solve(model, theta, solver=solver)
        _ = eq.factor
        before = eq.report.linear.iterations
        eq.gradient(loss, rtol=rtol)
        taken.append(eq.report.linear.iterations - before)
    assert taken[0] < 0.6 * taken[1]


def test_a_reduced_functional_has_the_requested_accuracy():
    model, theta, loss, solver, exact, v = problem("diffusion")
    F = mfdeq.ReducedFunctional(model, loss, accuracy=1e-3, solver=solver)
    g, truth = F.gradient(theta), exact.gradient(loss)
    assert 1e-9 < np.linalg.norm(g - truth) / np.linalg.norm(truth) <= 1e-3
    product, truth = F.hessp(theta, v), exact.hessian(loss) @ v
    assert 1e-9 < np.linalg.norm(product - truth) / np.linalg.norm(truth) <= 1e-3


def test_an_unreachable_accuracy_is_an_error_with_the_best_result():
    _, _, loss, solver, exact, v = problem("diffusion")
    eq = perturbed(exact, 1e-6, solver)
    for compute in (
        lambda: eq.gradient(loss, rtol=1e-16),
        lambda: eq.hessian(loss).to_accuracy(1e-16) @ v,
    ):
        with pytest.raises(mfdeq.ConvergenceError) as caught:
            compute()
        assert caught.value.best is not None


def test_finite_differences_limit_the_accuracy():
    def f(h, theta):
        h, theta = np.asarray(h, dtype=float), np.asarray(theta, dtype=float)
        return h + 0.1 * h**3 - np.exp(theta)

    model = mfdeq.from_function(f, 20, 20, "residual", sparsity=(sp.identity(20),) * 2)
    eq = mfdeq.solve(model, np.linspace(0, 1, 20))
    loss = mfdeq.LeastSquares(np.arange(20), np.zeros(20))
    with pytest.raises(
        mfdeq.ConvergenceError, match="limited by the accuracy of the state or of the derivatives"
    ):
        eq.gradient(loss, rtol=1e-13)
    eq.gradient(loss, rtol=1e-7)
    assert 1e-13 < eq.report.gradient_error < 1e-7


@pytest.mark.parametrize("rtol", [0.0, 1.0, "tight"])
def test_tolerances_outside_zero_to_one_are_refused(rtol):
    _, _, loss, _, exact, _ = problem("diffusion")
    with pytest.raises(mfdeq.ArgumentError, match="rtol of gradient"):
        exact.gradient(loss, rtol=rtol)
    with pytest.raises(mfdeq.ArgumentError, match="rtol of to_accuracy"):
        exact.hessian(loss).to_accuracy(rtol)
