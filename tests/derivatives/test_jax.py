"""Models and losses from JAX functions, against JAX's own Hessian of an unrolled solve."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq

jax = pytest.importorskip("jax", reason="the jax extra is not installed")
jnp = jax.numpy

N, P = 7, 4
RNG = np.random.default_rng(0)
W = 0.4 * RNG.standard_normal((N, N)) / N**0.5
SYMMETRIC = (W + W.T) / 2
U = RNG.standard_normal((N, P))
THETA = RNG.standard_normal(P)
TARGET = RNG.standard_normal(N)


def layer(W):
    return lambda h, theta: jnp.tanh(W @ h + U @ theta + 0.1 * (h * h).sum() * theta[0])


def diffusion(W):
    """(4 + h²) h + W h = U θ²: monotone; the same as a residual."""
    return lambda h, theta: (4.0 + h**2) * h + W @ h - U @ theta**2 * jnp.exp(0.1 * h.sum())


def misfit(h, theta):
    return 0.5 * ((h - TARGET) ** 2).sum() + (jnp.sin(h).sum() * theta**2).sum()


def unrolled(f, kind):
    """The state as JAX sees it: enough steps to converge, differentiated through."""

    def state(theta):
        def step(h, _):
            if kind == "map":
                return f(h, theta), None
            return h - jnp.linalg.solve(jax.jacobian(f)(h, theta), f(h, theta)), None

        return jax.lax.scan(step, jnp.zeros(N), length=40 if kind == "map" else 6)[0]

    return state


CASES = {
    "map": (layer(W), "map"),
    "symmetric map": (layer(SYMMETRIC), "map"),
    "residual": (diffusion(W), "residual"),
    "symmetric residual": (diffusion(SYMMETRIC), "residual"),
}


@functools.cache
def model_and_loss(name):
    """The same objects for all tests, so that they are compiled once."""
    f, kind = CASES[name]
    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(P), kind)
    return model, mfdeq.loss_from_jax(misfit, np.zeros(N), np.zeros(P))


@pytest.mark.parametrize("name", CASES)
def test_derivatives_match_an_unrolled_solve(name):
    (f, kind), (model, loss) = CASES[name], model_and_loss(name)
    eq = mfdeq.solve(model, THETA)
    state = unrolled(f, kind)

    def reduced(theta):
        return misfit(state(theta), theta)

    @jax.jit
    def truths(theta):
        second = jax.jacfwd(jax.jacfwd(state))(theta)
        return state(theta), jax.grad(reduced)(theta), jax.hessian(reduced)(theta), second

    h, gradient, truth, second = map(np.asarray, truths(THETA))
    close(eq.state, h, 1e-10)
    close(eq.gradient(loss), gradient, 1e-9)
    H = eq.hessian(loss)
    V = RNG.standard_normal((P, 3))
    close(H @ V, truth @ V, 1e-9)
    close(H @ V[:, 0], truth @ V[:, 0], 1e-9)
    assert (H @ V[:, :0]).shape == (P, 0)
    a, b = V[:, 0], V[:, 1]
    close(eq.second_order(a, b), second @ b @ a, 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_models_and_losses_pass_verification(name):
    model, loss = model_and_loss(name)
    verification = mfdeq.verify(model, THETA, loss)
    assert verification, str(verification)


def test_f_is_traced_once_for_all_equilibria():
    traced = []

    def f(h, theta):
        traced.append(1)
        return layer(W)(h, theta)

    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(P), "map")
    loss = mfdeq.loss_from_jax(misfit, np.zeros(N), np.zeros(P))
    counts = []
    for theta in (THETA, 1.5 * THETA, -THETA):
        H = mfdeq.solve(model, theta).hessian(loss)
        H @ np.eye(P)[0]
        H @ np.eye(P)
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2] < 20


def test_pytrees_are_converted_to_vectors_and_back():
    """A state of two parts and named parameters; the same numbers as the flat problem."""

    def f(h, theta):
        a, b = h
        both = layer(W)(jnp.concatenate([a, b.ravel()]), theta["w"].ravel())
        return both[:3], both[3:].reshape(2, 2)

    state, params = (np.zeros(3), np.zeros((2, 2))), {"w": np.zeros((2, 2))}
    model = mfdeq.from_jax(f, state, params, "map")
    flat = mfdeq.from_jax(layer(W), np.zeros(N), np.zeros(P), "map")
    assert (model.state_size, model.param_size) == (N, P)
    theta = model.flat_params({"w": THETA.reshape(2, 2)})
    np.testing.assert_array_equal(theta, THETA)
    eq, expected = mfdeq.solve(model, theta), mfdeq.solve(flat, THETA)
    close(eq.state, expected.state, 1e-12)
    a, b = model.state_tree(eq.state)
    assert (a.shape, b.shape) == ((3,), (2, 2))
    close(model.flat_state((a, b)), eq.state, 1e-15)
    assert model.params_tree(THETA)["w"].shape == (2, 2)
    loss = mfdeq.loss_from_jax(lambda h, t: (h[0] ** 2).sum() + t["w"][0, 1], state, params)
    same = mfdeq.loss_from_jax(lambda h, t: (h[:3] ** 2).sum() + t[1], np.zeros(N), np.zeros(P))
    close(eq.gradient(loss), expected.gradient(same), 1e-10)


def test_pattern_gives_matrices_for_lu_and_multigrid():
    n = 40
    stencil = sp.diags([1.0, 1.0, 1.0], [-1, 0, 1], shape=(n, n)).tocsr()

    def f(h, theta):
        padded = jnp.pad(h, 1)
        return 2 * h - padded[:-2] - padded[2:] + 0.1 * jnp.exp(theta) * h**3 - 1.0

    known = mfdeq.from_jax(
        f, np.zeros(n), np.zeros(n), "residual", sparsity=(stencil, sp.identity(n))
    )
    unknown = mfdeq.from_jax(f, np.zeros(n), np.zeros(n), "residual")
    theta = RNG.standard_normal(n)
    loss = mfdeq.LeastSquares(np.arange(n), np.zeros(n))
    H = mfdeq.solve(unknown, theta).hessian(loss)
    v = RNG.standard_normal((n, 2))
    for solver in (mfdeq.Direct(), mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())):
        eq = mfdeq.solve(known, theta, solver=solver)
        close(eq.hessian(loss) @ v, H @ v, 1e-8)
    given = known.linearize(eq.state, theta)
    assert given.d_state.array.nnz == stencil.nnz
    truth = jax.jacobian(f, argnums=(0, 1))(eq.state, theta)
    close(given.d_state.array.toarray(), truth[0], 1e-14)
    close(given.d_params.array.toarray(), truth[1], 1e-14)


def test_float32_examples_give_float32_results():
    A, B = W.astype("f4"), U.astype("f4")

    def f(h, theta):
        return jnp.tanh(A @ h + B @ theta + 0.1 * (h * h).sum() * theta[0])

    model = mfdeq.from_jax(f, np.zeros(N, "f4"), np.zeros(P, "f4"), "map")
    eq = mfdeq.solve(model, THETA.astype("f4"))
    assert eq.state.dtype == np.float32
    double = mfdeq.from_jax(layer(W), np.zeros(N), np.zeros(P), "map")
    close(eq.state, mfdeq.solve(double, THETA).state, 1e-5)


SINGLE = """
import numpy as np, mfdeq, pytest
with pytest.raises(mfdeq.ModelError, match="jax_enable_x64"):
    mfdeq.from_jax(lambda h, t: h * t, np.zeros(1), np.zeros(1), "map")
model = mfdeq.from_jax(lambda h, t: 0.5 * h + t, np.zeros(1, "f4"), np.zeros(1, "f4"), "map")
with pytest.raises(mfdeq.ModelError, match="jax_enable_x64"):
    mfdeq.solve(model, np.ones(1))
eq = mfdeq.solve(model, np.ones(1, "f4"))
assert abs(eq.state[0] - 2) < 1e-5
loss = mfdeq.loss_from_jax(lambda h, t: (h ** 2).sum(), np.zeros(1, "f4"), np.zeros(1, "f4"))
assert abs((eq.hessian(loss) @ np.ones(1, "f4"))[0] - 8) < 1e-4
"""


def test_float64_examples_need_jax_enable_x64():
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    subprocess.run([sys.executable, "-c", SINGLE], check=True, env=environment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (lambda h, t: h[:-1], np.zeros(3), np.zeros(2), "map"),
            r"expected .*\(3,\).* got \(\(2,\)",
        ),
        (
            (lambda h, t: (h, h), np.zeros(3), np.zeros(2), "map"),
            r"expected it to return .* got \(\(\(3,\)",
        ),
        ((lambda h, t: h, np.zeros(3), np.zeros(2), "fixed point"), "'map', 'residual'"),
        (("tanh", np.zeros(3), np.zeros(2), "map"), "expected a function, got str"),
        ((lambda h, t: h, [], np.zeros(2), "map"), "state of mfdeq.from_jax"),
        ((lambda h, t: h, np.zeros(3), np.zeros(2, complex), "map"), "params of mfdeq.from_jax"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(mfdeq.MfdeqError, match=message):
        mfdeq.from_jax(*arguments)


@pytest.mark.parametrize("sparsity", [sp.identity(3), (sp.identity(2), None), (1, 2, 3), "x"])
def test_wrong_patterns_raise(sparsity):
    with pytest.raises(mfdeq.ArgumentError, match="sparsity"):
        mfdeq.from_jax(lambda h, t: h, np.zeros(3), np.zeros(2), "map", sparsity=sparsity)


def test_params_of_a_wrong_size_raise():
    model = mfdeq.from_jax(lambda h, t: h * t, np.zeros(2), np.zeros(2), "map")
    with pytest.raises(mfdeq.ModelError):
        mfdeq.solve(model, np.zeros(3))


# Whole solves compiled by JAX, where the products are.

SKEW = 0.6 * RNG.standard_normal((N, N)) / N**0.5
DEFINITE = SYMMETRIC @ SYMMETRIC.T + np.eye(N)


def linear_model(A, kind, dtype="f8"):
    """A h = theta[0] + ... as a model, A by its products."""
    A = jnp.asarray(A.astype(dtype))
    sign = 1.0 if kind == "residual" else -1.0
    shift = (lambda h: 0.0) if kind == "residual" else (lambda h: h)
    state, params = np.zeros(N, dtype), np.zeros(N, dtype)
    return mfdeq.from_jax(lambda h, t: sign * (A @ h - t) + shift(h), state, params, kind)


KRYLOV = {
    "cg": (DEFINITE, mfdeq.Krylov("cg")),
    "gmres": (np.eye(N) + SKEW, mfdeq.Krylov("gmres")),
    "restarted": (np.eye(N) + SKEW, mfdeq.Krylov("gmres", restart=4)),
}


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    [
        ("cg", "residual", "f8"),
        ("cg", "map", "f4"),
        ("gmres", "residual", "f4"),
        ("gmres", "map", "f8"),
        ("restarted", "residual", "f8"),
    ],
)
def test_compiled_solves_reach_their_tolerance(name, kind, dtype, monkeypatch):
    A, solver = KRYLOV[name]
    eq = mfdeq.equilibrium_at(
        linear_model(A, kind, dtype), np.zeros(N, dtype), np.zeros(N, dtype), solver=solver
    )
    factor = solver.setup(eq.state_operator)
    monkeypatch.setattr(mfdeq.linear.krylov.factors.BlockFactor, "_block", None)  # not called
    B = np.random.default_rng(1).standard_normal((N, 5)).astype(dtype)  # in any order of the tests
    B[:, 1], B[:, 3], B[:, 4] = 0.0, 1e-8 * B[:, 2], A[:, 0]
    for solve, side in ((factor.solve, A), (factor.solve_adjoint, A.T)):
        for b in (B, B[:, 0], B[:, 1], B[:, :1], B[:, :0]):
            x = solve(b)
            assert (x.shape, x.dtype) == (b.shape, b.dtype)
            off = np.linalg.norm(b - side @ x.astype("f8"), axis=0)
            allowed = (1.01e-10 if dtype == "f8" else 3e-5) * np.linalg.norm(b, axis=0)
            assert np.all(off <= allowed)
    counts = factor.counts
    assert 0 < counts.iterations <= (8 if name != "restarted" else 30) * 6 + counts.refinements * N


def test_compiled_solves_that_fail_say_why():
    def setup(A, solver):
        model, zero = linear_model(A, "residual"), np.zeros(N)
        return solver.setup(model.linearize(zero, zero).d_state)

    b = np.ones(N)
    with pytest.raises(mfdeq.ConvergenceError, match="not positive definite"):
        setup(np.diag([-1.0, 1, 2, 3, 4, 5, 6]), mfdeq.Krylov("cg")).solve(b)
    stopped = mfdeq.Krylov("gmres", max_iterations=3)
    with pytest.raises(mfdeq.ConvergenceError, match="ran out of iterations") as caught:
        setup(np.eye(N) + SKEW, stopped).solve(b)
    assert caught.value.report.iterations == 3
    assert "pass sparsity='detect', or a pattern, to mfdeq.from_jax" in str(caught.value)
    assert "mfdeq.Direct()" not in str(caught.value)  # it needs the entries
    shift = np.roll(np.eye(N), 1, axis=0)
    with pytest.raises(mfdeq.ConvergenceError, match=r"residuals 1.0e\+00"):
        setup(shift, mfdeq.Krylov("gmres", restart=4)).solve(np.eye(N)[0])
    close(setup(shift, mfdeq.Krylov("gmres")).solve(np.eye(N)[0]), shift.T[:, 0], 1e-14)
    singular = np.diag([0.0, 1, 2, 3, 4, 5, 6])
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        setup(singular, mfdeq.Krylov("gmres")).solve(b)


def test_compiled_solves_are_compiled_once_for_all_equilibria():
    traced = []

    def f(h, theta):
        traced.append(1)
        return layer(W)(h, theta)

    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(P), "map")
    counts = []
    for theta in (THETA, 0.5 * THETA, -THETA):
        eq = mfdeq.solve(model, theta, solver=mfdeq.Krylov("gmres"))
        eq.inverse @ np.ones(N)
        eq.inverse @ np.ones((N, 3))
        counts.append(len(traced))
    assert counts[0] == counts[2]


@pytest.mark.parametrize("sparsity", ["detect", (None, "detect"), ("detect", None)])
def test_detected_patterns_give_matrices(sparsity):
    n = 30

    def f(h, theta):
        padded = jnp.pad(h, 1)
        return 2 * h - padded[:-2] - padded[2:] + 0.1 * jnp.exp(theta) * h**3 - 1.0

    model = mfdeq.from_jax(f, np.zeros(n), np.zeros(n), "residual", sparsity=sparsity)
    at = model.linearize(np.zeros(n), np.zeros(n))  # where df/dtheta is zero
    h, theta = RNG.standard_normal(n), RNG.standard_normal(n)
    at, truth = model.linearize(h, theta), jax.jacobian(f, argnums=(0, 1))(h, theta)
    for op, expected, given in zip(
        (at.d_state, at.d_params),
        truth,
        sparsity if sparsity != "detect" else 2 * ["detect"],
        strict=True,
    ):
        assert op.has_entries == (given == "detect")
        close(op @ np.eye(n), expected, 1e-14)
        if given == "detect":
            assert op.array.nnz == np.count_nonzero(expected)


def test_detection_scales_to_a_large_model():
    """N = P = 100,000: nothing of either size squared is formed."""
    n = 100_000

    def f(h, theta):
        padded = jnp.pad(h, 1)
        return 3 * h - padded[:-2] - padded[2:] + 0.1 * jnp.exp(theta) * h**3 - 1.0

    model = mfdeq.from_jax(f, np.zeros(n), np.zeros(n), "residual", sparsity="detect")
    eq = mfdeq.solve(model, 0.1 * RNG.standard_normal(n))
    loss = mfdeq.LeastSquares(np.arange(0, n, 7), np.zeros(n // 7 + 1))
    H, v = eq.hessian(loss), RNG.standard_normal(n)
    close(H @ (v - 1.0), (H @ np.stack([v, np.ones(n)], axis=1)) @ [1.0, -1.0], 1e-9)
