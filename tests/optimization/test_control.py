"""Optimal control reaches the optimum of a full-space Newton method, which is known to be one."""

from __future__ import annotations

import numpy as np
import pytest
from support.chain_problems import Dtoc2, Dtoc4, Dtoc6, full_space_newton, hager2, hager4

import mfdeq

OPTIMA = {
    "HAGER2, N = 5000": (lambda: hager2(5000), 0.432082250835),
    "HAGER4, N = 1000": (lambda: hager4(1000), 2.794244193084),
    "DTOC2, N = 10": (lambda: Dtoc2(10), 0.485982541334),
    "DTOC2, N = 100": (lambda: Dtoc2(100), 0.4880482055),
    "DTOC4, N = 5000": (lambda: Dtoc4(5000), 2.868538212484),
    "DTOC6, N = 1001": (lambda: Dtoc6(1001), 17176.451441087),
}
METHODS = [
    pytest.param(name, method, marks=[pytest.mark.slow] if "000" in name else [])
    for name in OPTIMA
    for method in ("newton", "newton-cg")
    if method == "newton-cg" or not name.startswith("HAGER4")  # its controls have a bound
]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_the_optimum_is_that_of_a_full_space_newton_method(name, method):
    """Agree to ten digits, at a point whose Hessian is shown to be definite.

    The printed optima of DTOC2, DTOC4 and DTOC6 have fewer digits. DTOC2 has several stationary
    points: the full-space method, which may reach any, starts near the one found.
    """
    make, optimum = OPTIMA[name]
    problem = make()
    F, start = problem.functional(), np.zeros(problem.P)
    bounds = (None, problem.upper) if np.isfinite(problem.upper) else None
    found = mfdeq.minimize(F, start, method, gtol=1e-10, max_iterations=200, bounds=bounds)
    near = name.startswith("DTOC2")
    u = found.params + 1e-3 * np.cos(np.arange(problem.P)) if near else start
    u, x = full_space_newton(problem, u, F.equilibrium(u).state)
    expected = problem.cost(x, u)
    assert abs(problem.constraints(x, u)).max() < 1e-10
    assert abs(expected / optimum - 1) < 1e-10
    assert abs(found.value / expected - 1) < 1e-10
    np.testing.assert_allclose(found.params, u, atol=1e-3)
    assert found.definite is True


@pytest.mark.parametrize("make", [lambda: hager4(12), lambda: Dtoc2(6), lambda: Dtoc4(8), Dtoc6])
def test_definitions_have_the_derivatives_that_they_state(make):
    problem = make() if make is not Dtoc6 else Dtoc6(9)
    theta = 0.3 * np.sin(np.arange(problem.P))
    assert mfdeq.verify(problem.model(), theta, problem.loss())


def test_the_curvature_by_jax_gives_the_same_newton_steps():
    """DTOC6 as functions of JAX, whose matrices are all detected."""
    jax = pytest.importorskip("jax")
    jnp, n = jax.numpy, 1001

    def residual(y, u):
        return y - jnp.concatenate([jnp.zeros(1), y[:-1]]) - jnp.exp(u)

    def cost(y, u):
        before = jnp.concatenate([jnp.zeros(1), y[:-1]])
        return 0.5 * ((before + jnp.exp(u)) ** 2 + u**2).sum()

    example = np.zeros(n - 1)
    model = mfdeq.from_jax(residual, example, example, "residual", sparsity="detect")
    F = mfdeq.ReducedFunctional(model, mfdeq.loss_from_jax(cost, example, example))
    found = mfdeq.minimize(F, example, "newton", gtol=1e-9)
    assert abs(found.value / OPTIMA["DTOC6, N = 1001"][1] - 1) < 1e-10
    assert found.definite is True
