"""Every source of derivatives gives the same ones: by hand, JAX, PyTorch, a plain function, mixed.

One nonlinear model is written for each source, as a map and as a residual, with a symmetric and an
unsymmetric A. The source of `support.complex_step_source` is one that somebody adds.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from support.cases import close
from support.complex_step_source import from_complex_step, loss_from_complex_step

import mfdeq

N, P, K = 7, 5, 3
RNG = np.random.default_rng(0)
THETA, V = 0.3 * RNG.standard_normal(P), RNG.standard_normal((P, K))
W, U = RNG.standard_normal((N, N)), RNG.standard_normal((N, P))
W = {"symmetric": 0.25 * (W + W.T) / N**0.5, "not symmetric": 0.5 * W / N**0.5}
LOSS = mfdeq.LeastSquares(np.arange(N), np.linspace(0, 1, N))
SOURCES = ("from_jax", "from_torch", "from_function", "mixed", "differences", "added source")
# Relative, of first and of second derivatives.
ACCURACY = {
    "from_function": (1e-12, 1e-8),
    "mixed": (1e-12, 1e-8),
    "differences": (1e-7, 1e-5),
    "added source": (1e-12, 1e-10),
}


def function_of(W, kind, xp=np, array=np.asarray):
    """h = tanh(W h + U theta²) + theta_0 h²/8 or, as a residual, with the sides exchanged."""
    W, U_ = array(W), array(U)

    def f(h, theta):
        out = xp.tanh(W @ h + U_ @ theta**2) + theta[0] * h**2 / 8
        return out if kind == "map" else h - out

    return f


def hand_written(W, kind):
    f, base = function_of(W, kind), mfdeq.FixedPointModel if kind == "map" else mfdeq.ResidualModel
    sign = 1.0 if kind == "map" else -1.0

    def linearize(self, h, theta):
        t = np.tanh(W @ h + U @ theta**2)
        d, dd = 1 - t**2, -2 * t * (1 - t**2)
        S = 2 * U * theta  # of the argument by theta
        e = np.eye(P)[0]

        def curvature(lam):
            lam = sign * lam
            pp = S.T @ ((lam * dd)[:, None] * S) + np.diag(2 * U.T @ (lam * d))
            sp = W.T @ ((lam * dd)[:, None] * S) + np.outer(lam * h / 4, e)
            ss = W.T @ ((lam * dd)[:, None] * W) + np.diag(lam * theta[0] / 4)
            return mfdeq.Curvature(pp, sp, ss)

        def second(a, b):
            (u, y), (v, z) = a, b
            both = dd * (S @ u + W @ y) * (S @ v + W @ z) + d * (2 * U @ (u * v))
            return sign * (both + h * (u[0] * z + v[0] * y) / 4 + theta[0] * y * z / 4)

        J = d[:, None] * W + np.diag(theta[0] * h / 4)
        B = d[:, None] * S + np.outer(h**2 / 8, e)
        return mfdeq.Linearization(
            J if kind == "map" else np.eye(N) - J, sign * B, curvature, second
        )

    members = {"state_size": N, "param_size": P, "linearize": linearize}
    members["map" if kind == "map" else "residual"] = lambda self, h, theta: f(h, theta)
    return type("ByHand", (base,), members)()


def model_from_source(source, W, kind):
    if source == "from_function":
        return mfdeq.from_function(function_of(W, kind), N, P, kind)
    if source == "differences":
        return mfdeq.from_function(function_of(W, kind), N, P, kind, step=6e-6)
    if source == "mixed":
        hand, linearize = hand_written(W, kind), type(hand_written(W, kind)).linearize

        def first_only(self, h, theta):
            given = linearize(self, h, theta)
            return mfdeq.Linearization(given.d_state, given.d_params)

        hand = type("FirstOnly", (type(hand),), {"linearize": first_only})()
        return mfdeq.mixed(hand, mfdeq.from_function(function_of(W, kind), N, P, kind))
    h = np.zeros(N)
    if source == "added source":
        return from_complex_step(function_of(W, kind), h, THETA, kind)
    if source == "from_jax":
        pytest.importorskip("jax", reason="the jax extra is not installed")
        jnp = importlib.import_module("jax.numpy")
        return mfdeq.from_jax(function_of(W, kind, jnp, jnp.asarray), h, THETA, kind)
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    return mfdeq.from_torch(function_of(W, kind, torch, torch.as_tensor), h, THETA, kind)


@pytest.mark.parametrize("kind", ["map", "residual"])
@pytest.mark.parametrize("of", W)
@pytest.mark.parametrize("source", SOURCES)
def test_source_matches_hand_written_derivatives(source, of, kind):
    first, second = ACCURACY.get(source, (1e-12, 1e-12))
    truth = mfdeq.solve(hand_written(W[of], kind), THETA, rtol=1e-13)
    eq = mfdeq.equilibrium_at(model_from_source(source, W[of], kind), THETA, truth.state)
    w = np.random.default_rng(1).standard_normal(N)  # the same in any order of the tests
    for name in ("state_operator", "param_operator", "sensitivity"):
        found, expected = getattr(eq, name), getattr(truth, name)
        close(found @ np.eye(found.shape[1]), expected @ np.eye(found.shape[1]), first)
        close(found.H @ w, expected.H @ w, first)
    close(eq.gradient(LOSS), truth.gradient(LOSS), first)
    H, expected = eq.hessian(LOSS), truth.hessian(LOSS)
    close(H @ V, expected @ V, second)
    close(H.dynamics @ V[:, 0], expected.dynamics @ V[:, 0], second)
    close(eq.component_hessian(w) @ V, truth.component_hessian(w) @ V, second)
    close(eq.curvature(w).toarray(), truth.curvature(w).toarray(), second)
    close(eq.second_order(V[:, 0], V[:, 1]), truth.second_order(V[:, 0], V[:, 1]), second)
    slice_, of_truth = eq.second_order_slice(V[:, 2]), truth.second_order_slice(V[:, 2])
    close(slice_ @ V[:, 0], of_truth @ V[:, 0], second)
    close(slice_.H @ w, of_truth.H @ w, second)


@pytest.mark.parametrize("kind", ["map", "residual"])
@pytest.mark.parametrize("of", W)
def test_hand_written_derivatives_pass_verification(of, kind):
    assert mfdeq.verify(hand_written(W[of], kind), THETA, LOSS)


def test_loss_of_an_added_source_matches_least_squares():
    def misfit(h, theta):
        return 0.5 * ((h - np.linspace(0, 1, N)) ** 2).sum() + 0.0 * theta.sum()

    eq = mfdeq.solve(hand_written(W["symmetric"], "map"), THETA)
    loss = loss_from_complex_step(misfit, np.zeros(N), THETA)
    assert loss.value(eq.state, THETA) == pytest.approx(LOSS.value(eq.state, THETA), rel=1e-12)
    close(eq.gradient(loss), eq.gradient(LOSS), 1e-12)
    close(eq.hessian(loss) @ V, eq.hessian(LOSS) @ V, 1e-10)
