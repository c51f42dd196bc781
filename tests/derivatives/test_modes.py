"""Functions of JAX and PyTorch that lack forward, reverse or second derivatives."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq

N = 5
THETA = np.linspace(-0.5, 1.0, N)
LOSS = mfdeq.LeastSquares(np.arange(N), np.linspace(0, 1, N))
V = np.random.default_rng(0).standard_normal((N, 3))


@pytest.fixture(scope="module")
def jax():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    return jax


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the torch extra is not installed")


def activation(jax, backward):
    """tanh with a custom derivative in reverse mode only."""
    tanh = jax.custom_vjp(jax.numpy.tanh)
    tanh.defvjp(lambda x: (jax.numpy.tanh(x), x), backward)
    return tanh


def reference(kind="map", sparsity=None):
    def f(h, theta):
        g = np.tanh(0.5 * h + 0.2 * np.roll(h, 1) + theta)
        return g if kind == "map" else h - g

    return mfdeq.from_function(f, N, N, kind)


def check_against_reference(model, kind="map"):
    """Compare all derivatives, as products with vectors and with blocks."""
    eq, truth = mfdeq.solve(model, THETA), mfdeq.solve(reference(kind), THETA)
    close(eq.state, truth.state, 1e-9)
    close(eq.gradient(LOSS), truth.gradient(LOSS), 1e-8)
    close(eq.sensitivity @ V, truth.sensitivity @ V, 1e-8)
    close(eq.state_operator @ V[:, 0], truth.state_operator @ V[:, 0], 1e-8)
    close(eq.sensitivity.H @ V, truth.sensitivity.H @ V, 1e-8)
    return eq, truth


def check_second_order(eq, truth):
    H, expected = eq.hessian(LOSS), truth.hessian(LOSS)
    close(H @ V, expected @ V, 1e-6)
    close(H @ V[:, 0], expected @ V[:, 0], 1e-6)
    close(eq.second_order(V[:, 0], V[:, 1]), truth.second_order(V[:, 0], V[:, 1]), 1e-6)


def jax_model(jax, tanh, kind="map", **options):
    jnp = jax.numpy

    def f(h, theta):
        g = tanh(0.5 * h + 0.2 * jnp.roll(h, 1) + theta)
        return g if kind == "map" else h - g

    return mfdeq.from_jax(f, np.zeros(N), np.zeros(N), kind, **options)


def torch_model(torch, tanh, kind="map"):
    def f(h, theta):
        g = tanh(0.5 * h + 0.2 * torch.roll(h, 1) + theta)
        return g if kind == "map" else h - g

    return mfdeq.from_torch(f, np.zeros(N), np.zeros(N), kind)


@pytest.mark.parametrize("sparsity", [None, "detect"])
@pytest.mark.parametrize("kind", ["map", "residual"])
def test_custom_vjp_has_all_derivatives(jax, kind, sparsity):
    tanh = activation(jax, lambda x, g: (g * (1 - jax.numpy.tanh(x) ** 2),))
    model = jax_model(jax, tanh, kind, sparsity=sparsity)
    check_second_order(*check_against_reference(model, kind))


def test_compiled_solves_work_without_forward_mode(jax):
    tanh = activation(jax, lambda x, g: (g * (1 - jax.numpy.tanh(x) ** 2),))
    eq = mfdeq.solve(jax_model(jax, tanh), THETA, solver=mfdeq.Krylov("gmres"))
    close(eq.gradient(LOSS), mfdeq.solve(reference(), THETA).gradient(LOSS), 1e-8)


def test_a_callback_in_reverse_mode_gives_first_derivatives(jax):
    """The Jacobian is assembled by rows, and second derivatives are refused in words."""

    def backward(x, g):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        result = jax.pure_callback(
            lambda x, g: np.asarray(g) * (1 - np.tanh(np.asarray(x)) ** 2),
            shape,
            x,
            g,
            vmap_method="sequential",
        )
        return (result,)

    eq, _ = check_against_reference(jax_model(jax, activation(jax, backward)))
    with pytest.raises(mfdeq.ModelError, match="neither forward nor reverse"):
        eq.hessian(LOSS) @ V[:, 0]
    with pytest.raises(mfdeq.ModelError, match="neither forward nor reverse"):
        eq.second_order(V[:, 0], V[:, 1])


def test_a_loop_without_reverse_mode_gives_first_derivatives(jax):
    """The Jacobian is assembled by columns."""

    def tanh(x):
        def step(pair):
            return pair[0] + 1, jax.numpy.tanh(x)

        return jax.lax.while_loop(lambda pair: pair[0] < 2, step, (0, 0.0 * x))[1]

    eq, _ = check_against_reference(jax_model(jax, tanh))
    with pytest.raises(mfdeq.ModelError, match="neither forward nor reverse"):
        eq.hessian(LOSS) @ V[:, 0]


def test_an_assembly_of_a_large_jacobian_is_refused(jax, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("mfdeq.derivatives.jacobian"), "MAX_ASSEMBLED_SIZE", 4
    )

    def f(h, theta):
        return jax.lax.while_loop(lambda y: y.sum() > 1e9, lambda y: y / 2, 0.5 * h + theta)

    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(N), "map")
    with pytest.raises(mfdeq.ModelError, match=r"no reverse mode .* 5 products in forward"):
        mfdeq.solve(model, THETA)


def test_a_derivative_that_is_not_linear_is_refused(jax):
    tanh = activation(jax, lambda x, g: (jax.numpy.clip(g, -0.1, 0.1),))
    with pytest.raises(mfdeq.ModelError, match="is not linear"):
        mfdeq.solve(jax_model(jax, tanh), THETA).gradient(LOSS)


# PyTorch.


def torch_function(torch, name):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        slope = 1 - torch.tanh(x) ** 2
        return g * (torch.tensor(slope.detach().numpy()) if name == "by numpy" else slope)

    if name == "once differentiable":
        backward = torch.autograd.function.once_differentiable(backward)
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Tanh", (torch.autograd.Function,), members).apply


@pytest.mark.parametrize("kind", ["map", "residual"])
def test_functions_without_forward_mode_have_all_derivatives(torch, kind):
    model = torch_model(torch, torch_function(torch, "twice differentiable"), kind)
    check_second_order(*check_against_reference(model, kind))


@pytest.mark.parametrize("name", ["once differentiable", "by numpy"])
def test_functions_with_one_derivative_have_first_derivatives(torch, name):
    eq, _ = check_against_reference(torch_model(torch, torch_function(torch, name)))
    with pytest.raises(mfdeq.ModelError, match="neither forward nor reverse"):
        eq.hessian(LOSS) @ V[:, 0]


def test_losses_without_forward_mode_have_hessians(torch):
    tanh = torch_function(torch, "twice differentiable")
    found, expected = (
        mfdeq.loss_from_torch(lambda h, t, f=f: (f(h) ** 2 * t).sum(), np.zeros(N), np.zeros(N))
        for f in (tanh, torch.tanh)
    )
    eq = mfdeq.solve(reference(), THETA)
    close(eq.gradient(found), eq.gradient(expected), 1e-12)
    close(eq.hessian(found) @ V, eq.hessian(expected) @ V, 1e-12)


def test_attention_has_all_derivatives(torch):
    def f(h, theta):
        x = torch.tanh(h + theta).reshape(1, 3, 4)
        attended = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        return 0.5 * torch.tanh(attended).reshape(-1)

    model = mfdeq.from_torch(f, np.zeros(12), np.zeros(12), "map")
    loss = mfdeq.LeastSquares(np.arange(12), np.ones(12))
    found = mfdeq.verify(model, np.linspace(0, 1, 12), loss, np.ones(12))
    assert found, found
    eq = mfdeq.solve(model, np.linspace(0, 1, 12), np.ones(12))
    assert eq.report.derivatives["curvature"] == "PyTorch"


def test_modules_of_the_parametrized_kind_have_all_derivatives(torch):
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 4)).double().eval()
    model = mfdeq.from_torch(
        lambda h, theta: torch.tanh(0.8 * layer(h.reshape(1, 4)).reshape(-1) + theta),
        np.zeros(4),
        np.zeros(4),
        "map",
    )
    found = mfdeq.verify(model, THETA[:4], mfdeq.LeastSquares(np.arange(4), np.ones(4)))
    assert found, found


def test_blocks_work_where_vmap_does_not(torch):
    def f(h, theta):
        shifted = torch.zeros(N, dtype=h.dtype)
        shifted[1:] = 0.5 * h[:-1]  # in place, which vmap refuses
        return torch.tanh(shifted + theta)

    def same(h, theta):
        return torch.tanh(torch.nn.functional.pad(0.5 * h[:-1], (1, 0)) + theta)

    eq, truth = (
        mfdeq.solve(mfdeq.from_torch(g, np.zeros(N), np.zeros(N), "map"), THETA) for g in (f, same)
    )
    close(eq.sensitivity @ V, truth.sensitivity @ V, 1e-12)
    close(eq.sensitivity.H @ V, truth.sensitivity.H @ V, 1e-12)
    close(eq.hessian(LOSS) @ V, truth.hessian(LOSS) @ V, 1e-10)


def test_a_detected_pattern_is_assembled_without_forward_mode(torch):
    tanh = torch_function(torch, "twice differentiable")
    n = 30
    model = mfdeq.from_torch(
        lambda h, t: h - tanh(0.3 * h + 0.3 * torch.roll(h, 1) + t),
        np.zeros(n),
        np.zeros(n),
        "residual",
        sparsity="detect",
    )
    eq = mfdeq.solve(model, np.linspace(0, 1, n), solver=mfdeq.Direct())
    assert sp.issparse(eq.state_operator.array)
    assert eq.state_operator.array.nnz == 2 * n
