"""Derivatives of from_torch and from_jax are compared with differences of the function."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import mfdeq

THETA = np.array([0.3, -0.5, 0.7])


def torch_cuts():
    torch = pytest.importorskip("torch")

    def no_grad(h, p):
        with torch.no_grad():
            rate = p**2
        return 0.5 * torch.tanh(h) + rate

    return {
        "detach": ("parameters", lambda h, p: 0.5 * torch.tanh(h) + p.detach() * p),
        "numpy": (
            "parameters",
            lambda h, p: 0.5 * torch.tanh(h) + torch.as_tensor(np.exp(p.detach().numpy())),
        ),
        "no_grad": ("parameters", no_grad),
        "item": ("parameters", lambda h, p: 0.5 * torch.tanh(h) + p * p[0].item()),
        "detached_state": ("state", lambda h, p: 0.5 * torch.tanh(h.detach()) + p),
    }


def jax_cuts():
    jax = pytest.importorskip("jax")
    stop, tanh = jax.lax.stop_gradient, jax.numpy.tanh
    return {
        "stop_gradient": ("parameters", lambda h, p: 0.5 * tanh(h) + p * stop(p)),
        "stopped_state": ("state", lambda h, p: 0.5 * tanh(stop(h)) + p),
    }


def gradient(create, f, params=THETA, dtype=np.float64):
    model = create(f, np.zeros(3, dtype), params, "map")
    params = model.flat_params(params).astype(dtype)
    loss = mfdeq.Loss(lambda h, theta: float(h @ h), d_state=lambda h, theta: 2 * h)
    return model, mfdeq.solve(model, params, np.full(3, 0.1, dtype)).gradient(loss)


def check_warns(create, cut, function, dtype):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", mfdeq.AccuracyWarning)
        model, _ = gradient(create, function, THETA.astype(dtype), dtype)
        mfdeq.solve(model, (1.1 * THETA).astype(dtype)).sensitivity.toarray()  # no second warning
    caught = [w for w in caught if w.category is mfdeq.AccuracyWarning]
    assert len(caught) == 1
    message = str(caught[0].message)
    assert f"with respect to the {cut} is not that of f" in message
    assert "in 3 of 3 equations" in message
    assert "mfdeq.verify" in message
    assert ("detach()" if create is mfdeq.from_torch else "stop_gradient") in message


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["detach", "numpy", "no_grad", "item", "detached_state"])
def test_derivatives_that_torch_cuts_are_warned_of(name, dtype):
    check_warns(mfdeq.from_torch, *torch_cuts()[name], dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["stop_gradient", "stopped_state"])
def test_derivatives_that_jax_cuts_are_warned_of(name, dtype):
    check_warns(mfdeq.from_jax, *jax_cuts()[name], dtype)


def test_one_equation_of_many_that_is_cut_is_named():
    torch = pytest.importorskip("torch")

    def f(h, p):
        return torch.cat([(0.5 * torch.cos(h) + p)[:2], (0.5 * torch.cos(h) + p.detach())[2:]])

    with pytest.warns(mfdeq.AccuracyWarning, match="in equation 2, and in 1 of 3 equations"):
        gradient(mfdeq.from_torch, f)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_correct_derivatives_do_not_warn(library, dtype):
    """A warning is an error in these tests."""
    xp = pytest.importorskip("torch" if library == "torch" else "jax.numpy")
    create = {"torch": mfdeq.from_torch, "jax": mfdeq.from_jax}[library]
    params = {"a": THETA.astype(dtype), "b": np.full(3, 0.2, dtype)}
    gradient(create, lambda h, p: 0.5 * xp.tanh(h) * p["b"] + p["a"] ** 2, params, dtype)
    gradient(create, lambda h, p: 0.5 * xp.cos(h) + xp.exp(p), THETA.astype(dtype), dtype)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_kinks_do_not_warn(library, scale):
    """A network of relu and abs, also at zero, where its kinks are at the point itself."""
    xp = pytest.importorskip("torch" if library == "torch" else "jax.numpy")
    create = {"torch": mfdeq.from_torch, "jax": mfdeq.from_jax}[library]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        W = [xp.asarray(0.2 * rng.standard_normal((20, 20))) for _ in range(3)]

        def f(h, p, W=W):
            first = W[0] @ h + p
            second = W[1] @ xp.where(first > 0, first, 0 * first) + xp.abs(p)
            return W[2] @ (xp.where(second > 0, second, 0.1 * second) + xp.abs(h))

        model = create(f, np.zeros(20), np.zeros(20), "map")
        h, theta = (scale * rng.standard_normal(20) for _ in range(2))
        assert model.linearize(h, theta).d_params is not None


def test_functions_without_values_nearby_do_not_raise():
    torch = pytest.importorskip("torch")

    def f(h, p):
        if float(p[0]) != THETA[0] or float(h.abs().max()) > 0.6:
            raise mfdeq.DomainError("only one value")
        return 0.5 * torch.cos(h) + 0.1 * p.detach()

    model = mfdeq.from_torch(f, np.full(3, 0.3), THETA, "map")
    model.linearize(np.full(3, 0.3), THETA).d_params._apply(np.ones(3))


def test_noise_of_the_function_does_not_warn():
    """Noise of 1e-6 hides the differences of a correct derivative."""
    torch = pytest.importorskip("torch")

    class Noise(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x + 1e-6 * torch.sin(1e12 * x)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, y):
            return y

        @staticmethod
        def jvp(ctx, v):
            return v.clone()

    for seed in range(5):
        theta = np.random.default_rng(seed).standard_normal(3)
        model = mfdeq.from_torch(
            lambda h, p: Noise.apply(0.5 * torch.cos(h) + p), theta, theta, "map"
        )
        assert model.linearize(theta, theta).d_params is not None


def test_the_comparison_takes_four_evaluations_once():
    torch = pytest.importorskip("torch")
    values = []

    def f(h, p):
        values.append((h.tolist(), p.tolist()))
        return 0.5 * torch.cos(h) + p**2

    model = mfdeq.from_torch(f, THETA, THETA, "map")
    for k in range(3):
        h = THETA + k
        del values[:]
        model.linearize(h, THETA).d_params  # noqa: B018
        elsewhere = [x for x in values if x != (h.tolist(), THETA.tolist())]
        assert len(elsewhere) == (4 if k == 0 else 0)
