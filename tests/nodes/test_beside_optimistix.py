"""States, gradients and Hessian products of nodes in JAX, beside those of optimistix.

The problems are those with which optimistix tests its root finders, and random ones.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import close

import mfdeq

jax = pytest.importorskip("jax", reason="the jax extra is not installed")
optx = pytest.importorskip("optimistix", reason="optimistix is not installed")
jnp = jax.numpy


def random_map(h, theta, args):
    W, U, c = args
    return jnp.tanh(W @ h + U @ theta) + 0.2 * jnp.sin(c * h) * theta[0]


def random_problem(seed, n=6, p=4):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n, n)) * 0.4 / n**0.5,
        rng.standard_normal((n, p)),
        rng.standard_normal(n),
    )


def nonlinear_heat(h, theta, args):
    """A stationary heat equation with a source that depends on the temperature."""
    padded = jnp.pad(h, 1)
    return padded[2:] - 2.0 * h + padded[:-2] + 0.01 * jnp.exp(theta[0] * h) + theta[1] * args


def quadratic(h, theta, args):
    """A quadratic equation for each entry, without coupling."""
    return theta[0] * h**2 + h - theta[1] * args


def implicit_euler(h, theta, args):
    """A step of the implicit Euler method for a stiff system."""
    rate = jnp.stack([-theta[0] * h[0] + h[1] * h[2], theta[1] * h[0] - h[1] * h[2], h[1] ** 2])
    return h - args - 0.1 * rate


PROBLEMS = {
    "nonlinear heat": (nonlinear_heat, 9, [1.0, 0.02], np.linspace(0.0, 1.0, 9)),
    "quadratic": (quadratic, 5, [0.3, 2.0], np.arange(1.0, 6.0)),
    "implicit Euler": (implicit_euler, 3, [3.0, 2.0], np.array([1.0, 0.5, 0.2])),
}


def compared(f, kind, n, p, example):
    """The compiled values, gradients and products of mfdeq and of optimistix, of (theta, args)."""
    state = mfdeq.to_jax(mfdeq.from_jax(f, np.zeros(n), np.zeros(p), kind, args=example))
    solver = optx.Newton(rtol=1e-13, atol=1e-13)

    def peer(theta, args):
        def residual(h, at):
            return h - f(h, *at) if kind == "map" else f(h, *at)

        return optx.root_find(residual, solver, jnp.zeros(n), (theta, args)).value

    def whole(solve):
        def run(theta, args, v):
            loss = lambda theta: jnp.sum(jnp.sin(solve(theta, args)) * jnp.arange(1.0, n + 1))  # noqa: E731
            product = jax.jvp(jax.grad(loss), (theta,), (v,))[1]
            return solve(theta, args), jax.grad(loss)(theta), product

        return jax.jit(run)

    return whole(state), whole(peer)


@pytest.fixture(scope="module")
def random_programs():
    return compared(random_map, "map", 6, 4, random_problem(0))


@pytest.mark.parametrize("seed", range(20))
def test_random_problems_have_the_derivatives_of_optimistix(random_programs, seed):
    rng = np.random.default_rng(100 + seed)
    theta, v = rng.standard_normal((2, 4))
    ours, theirs = (run(theta, random_problem(seed), v) for run in random_programs)
    for x, y in zip(ours, theirs, strict=True):
        close(x, y, 1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_of_optimistix_have_its_derivatives(name):
    f, n, theta, args = PROBLEMS[name]
    ours, theirs = (
        run(np.array(theta), args, np.array([0.7, -1.3]))
        for run in compared(f, "residual", n, 2, np.zeros_like(args))
    )
    for x, y in zip(ours, theirs, strict=True):
        close(x, y, 1e-9)
