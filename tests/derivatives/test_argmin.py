"""Minimizers of a scalar function, whose gradient is the residual."""

from __future__ import annotations

import numpy as np
import pytest
from support.autodiff import library
from support.cases import close

import mfdeq
from mfdeq.operators.operator import SelfAdjoint

N, P = 6, 4
RNG = np.random.default_rng(0)
ROOT = RNG.standard_normal((N, N)) / N**0.5
A, U = ROOT @ ROOT.T + np.eye(N), RNG.standard_normal((N, P))
THETA = 0.5 * RNG.standard_normal(P)
LOSS = mfdeq.LeastSquares(np.arange(N), np.ones(N))
V = RNG.standard_normal((P, 2))


def energy(xp, array):
    A_, U_ = array(A), array(U)

    def f(h, theta):
        return h @ (A_ @ h) / 2 + (h**4).sum() / 4 * (1 + theta[0] ** 2) - h @ xp.sin(U_ @ theta)

    return f


def gradient(h, theta):
    return A @ h + (1 + theta[0] ** 2) * h**3 - np.sin(U @ theta)


def create(source, f=None, **options):
    f = f or energy(*library(source))
    return getattr(mfdeq, source)(f, np.zeros(N), np.zeros(P), "argmin", **options)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
@pytest.mark.parametrize("solver", ["auto", mfdeq.Krylov("cg"), mfdeq.Krylov("gmres")])
def test_derivatives_match_those_of_the_gradient(source, solver):
    model, given = create(source), mfdeq.from_function(gradient, N, P, "residual")
    eq, truth = mfdeq.solve(model, THETA, solver=solver), mfdeq.solve(given, THETA)
    close(eq.state, truth.state, 1e-9)
    close(eq.gradient(LOSS), truth.gradient(LOSS), 1e-8)
    close(eq.sensitivity @ V, truth.sensitivity @ V, 1e-8)
    close(eq.hessian(LOSS) @ V, truth.hessian(LOSS) @ V, 1e-6)
    close(eq.second_order(*V.T), truth.second_order(*V.T), 1e-6)
    close(eq.state_operator.H @ eq.state, eq.state_operator @ eq.state, 1e-14)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_models_of_minimizers_pass_verification(source):
    assert mfdeq.verify(create(source), THETA, LOSS)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_the_derivative_is_known_to_be_symmetric(source):
    d_state = create(source).linearize(np.ones(N), THETA).d_state
    assert isinstance(d_state, SelfAdjoint)
    assert d_state.known_symmetric


def test_conjugate_gradients_are_chosen_by_default():
    xp, _ = library("from_jax")
    n = 3000  # too many to assemble the matrix by products

    def f(h, theta):
        return (h**2).sum() + (xp.diff(h) ** 2).sum() / 2 + (h**4).sum() / 4 - h @ theta

    model = mfdeq.from_jax(f, np.zeros(n), np.zeros(n), "argmin")
    eq = mfdeq.solve(model, np.linspace(-1, 1, n))
    eq.gradient(mfdeq.LeastSquares(np.arange(n), np.zeros(n)))
    assert any("CG" in line or "cg" in line for line in map(str, eq.report.choices))


def test_a_pattern_gives_a_matrix():
    jnp = library("from_jax")[0]
    n = 40
    model = mfdeq.from_jax(
        lambda h, t: (jnp.exp(t) * jnp.diff(h, prepend=0.0) ** 2).sum() / 2 - h.sum(),
        np.zeros(n),
        np.zeros(n),
        "argmin",
        sparsity="detect",
    )
    eq = mfdeq.solve(model, np.zeros(n), solver=mfdeq.Direct())
    assert eq.state_operator.array.nnz == 3 * n - 2
    close(eq.state, np.cumsum(np.arange(n, 0, -1.0)), 1e-10)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_pytrees_are_states_of_minimizers(source):
    xp, _ = library(source)

    def f(h, theta):
        return ((h["a"] - theta["a"]) ** 2).sum() + ((h["b"] - xp.exp(theta["b"])) ** 2).sum()

    example = {"a": np.zeros(2), "b": np.zeros((2, 2))}
    model = getattr(mfdeq, source)(f, example, example, "argmin")
    theta = {"a": np.array([1.0, 2.0]), "b": np.log(np.array([[1.0, 2.0], [3.0, 4.0]]))}
    found = model.state_tree(mfdeq.solve(model, theta).state)
    close(np.asarray(found["b"]), np.exp(theta["b"]), 1e-10)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_a_function_that_is_not_scalar_is_refused(source):
    library(source)
    with pytest.raises(mfdeq.ModelError, match="expected it to return a real number"):
        create(source, lambda h, theta: h)


def test_sources_without_it_refuse_the_kind():
    with pytest.raises(mfdeq.ArgumentError, match="kind"):
        mfdeq.from_function(gradient, N, P, "argmin")
