"""Models and losses from PyTorch functions, against derivatives of an unrolled solve."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

N, P = 7, 4
RNG = np.random.default_rng(0)
W = 0.4 * RNG.standard_normal((N, N)) / N**0.5
SYMMETRIC = (W + W.T) / 2
U = torch.tensor(RNG.standard_normal((N, P)))
THETA = RNG.standard_normal(P)
TARGET = torch.tensor(RNG.standard_normal(N))


def layer(W):
    W = torch.tensor(W)
    return lambda h, theta: torch.tanh(W @ h + U @ theta + 0.1 * (h * h).sum() * theta[0])


def diffusion(W):
    W = torch.tensor(W)
    return lambda h, theta: (4.0 + h**2) * h + W @ h - U @ theta**2 * torch.exp(0.1 * h.sum())


def misfit(h, theta):
    return 0.5 * ((h - TARGET) ** 2).sum() + (torch.sin(h).sum() * theta**2).sum()


def unrolled(f, kind):
    def state(theta):
        h = torch.zeros(N, dtype=torch.float64)
        for _ in range(40 if kind == "map" else 6):
            if kind == "map":
                h = f(h, theta)
            else:
                h = h - torch.linalg.solve(torch.func.jacfwd(f)(h, theta), f(h, theta))
        return h

    return state


CASES = {
    "map": (layer(W), "map"),
    "symmetric map": (layer(SYMMETRIC), "map"),
    "residual": (diffusion(W), "residual"),
    "symmetric residual": (diffusion(SYMMETRIC), "residual"),
}


def test_blocks_of_a_loss_of_the_state_match_their_columns():
    f, kind = CASES["map"]
    model = mfdeq.from_torch(f, np.zeros(N), np.zeros(P), kind)
    loss = mfdeq.loss_from_torch(lambda h, theta: (h**4).sum(), np.zeros(N), np.zeros(P))
    H = mfdeq.solve(model, THETA).hessian(loss)
    V = RNG.standard_normal((P, P + 2))
    columns = np.stack([H @ v for v in V.T], axis=1)
    np.testing.assert_allclose(H @ V, columns, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_match_an_unrolled_solve(name):
    f, kind = CASES[name]
    model = mfdeq.from_torch(f, np.zeros(N), np.zeros(P), kind)
    loss = mfdeq.loss_from_torch(misfit, np.zeros(N), np.zeros(P))
    eq = mfdeq.solve(model, THETA)
    state, theta = unrolled(f, kind), torch.tensor(THETA)
    close(eq.state, state(theta).numpy(), 1e-10)

    def reduced(theta):
        return misfit(state(theta), theta)

    close(eq.gradient(loss), torch.func.grad(reduced)(theta).numpy(), 1e-9)
    H, truth = eq.hessian(loss), torch.func.jacfwd(torch.func.jacrev(reduced))(theta).numpy()
    V = RNG.standard_normal((P, 3))
    close(H @ V, truth @ V, 1e-9)
    close(H @ V[:, 0], truth @ V[:, 0], 1e-9)
    assert (H @ V[:, :0]).shape == (P, 0)
    second = torch.func.jacfwd(torch.func.jacfwd(state))(theta).numpy()
    close(eq.second_order(V[:, 0], V[:, 1]), second @ V[:, 1] @ V[:, 0], 1e-9)
    found = mfdeq.verify(model, THETA, loss)
    assert found, found
    assert eq.report.derivatives["curvature"] == "PyTorch"


def test_pytrees_are_converted_to_vectors_and_back():
    def f(h, theta):
        a, b = h
        both = layer(W)(torch.cat([a, b.reshape(-1)]), theta["w"].reshape(-1))
        return both[:3], both[3:].reshape(2, 2)

    state, params = (np.zeros(3), torch.zeros(2, 2, dtype=torch.float64)), {"w": np.zeros((2, 2))}
    model = mfdeq.from_torch(f, state, params, "map")
    flat = mfdeq.from_torch(layer(W), np.zeros(N), np.zeros(P), "map")
    theta = model.flat_params({"w": THETA.reshape(2, 2)})
    np.testing.assert_array_equal(theta, THETA)
    eq, expected = mfdeq.solve(model, theta), mfdeq.solve(flat, THETA)
    close(eq.state, expected.state, 1e-12)
    a, b = model.state_tree(eq.state)
    assert (tuple(a.shape), tuple(b.shape)) == ((3,), (2, 2))
    close(model.flat_state((a, b)), eq.state, 1e-15)
    assert model.params_tree(THETA)["w"].shape == (2, 2)


def test_detected_patterns_give_matrices():
    n = 40

    def f(h, theta):
        padded = torch.nn.functional.pad(h, (1, 1))
        return 2 * h - padded[:-2] - padded[2:] + 0.1 * torch.exp(theta) * h**3 - 1.0

    model = mfdeq.from_torch(f, np.zeros(n), np.zeros(n), "residual", sparsity="detect")
    theta = RNG.standard_normal(n)
    eq = mfdeq.solve(model, theta, solver=mfdeq.Direct())
    truth = torch.func.jacfwd(f)(torch.tensor(eq.state), torch.tensor(theta)).numpy()
    assert sp.issparse(eq.state_operator.array)
    assert eq.state_operator.array.nnz == 3 * n - 2
    close(eq.state_operator.array.toarray(), truth, 1e-14)


def test_float32_examples_give_float32_results():
    A, B = torch.tensor(W, dtype=torch.float32), U.float()

    def f(h, theta):
        return torch.tanh(A @ h + B @ theta + 0.1 * (h * h).sum() * theta[0])

    model = mfdeq.from_torch(f, np.zeros(N, "f4"), np.zeros(P, "f4"), "map")
    eq = mfdeq.solve(model, THETA.astype("f4"))
    assert eq.state.dtype == np.float32
    double = mfdeq.from_torch(layer(W), np.zeros(N), np.zeros(P), "map")
    close(eq.state, mfdeq.solve(double, THETA).state, 1e-5)


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
        ((lambda h, t: h, [], np.zeros(2), "map"), "state of mfdeq.from_torch"),
        ((lambda h, t: h, np.zeros(3), np.zeros(2, complex), "map"), "params of mfdeq.from_torch"),
        ((lambda h, t: h, np.zeros(3), "theta", "map"), "params of mfdeq.from_torch"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(mfdeq.MfdeqError, match=message):
        mfdeq.from_torch(*arguments)
