"""A tiny model and loss, any part of which can be replaced by a wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import eye_array
from scipy.sparse.linalg import LinearOperator

import mfdeq

N, P = 3, 2
_rng = np.random.default_rng(0)
W = 0.3 * _rng.standard_normal((N, N))
U = _rng.standard_normal((N, P))
THETA = np.array([0.3, -0.2])
V = np.array([[1.0, 0.5, -2.0], [0.7, -1.0, 0.2]])


class _Parts:
    """A toy model: ``Toy(map=spoil)`` has a map that returns spoil(correct value)."""

    state_size, param_size = N, P
    sign = 1.0

    def __init__(self, **spoil):
        self.spoil = spoil

    def part(self, name, right):
        return self.spoil[name](right) if name in self.spoil else right

    def tanh(self, h, theta):
        return np.tanh(W @ h + U @ theta)

    def initial_state(self, theta):
        return self.part("initial_state", np.zeros(N))

    def residual_scale(self, h, theta):
        return self.part("residual_scale", 1.0)

    def linearize(self, h, theta):
        part, y = self.part, self.tanh(h, theta)
        first, second = self.sign * (1 - y**2), -2 * self.sign * y * (1 - y**2)
        d_state = first[:, None] * W + (0 if self.sign > 0 else np.eye(N))

        def curvature(lam):
            D = (second * lam)[:, None]
            blocks = {
                "params_params": U.T @ (D * U),
                "state_params": W.T @ (D * U),
                "state_state": W.T @ (D * W),
            }
            blocks = {name: part(name, block) for name, block in blocks.items()}
            return part("curvature", mfdeq.Curvature(**blocks))

        def product(a, b):
            return part("second", second * (W @ a[1] + U @ a[0]) * (W @ b[1] + U @ b[0]))

        return part(
            "linearize",
            mfdeq.Linearization(
                d_state=part("d_state", d_state),
                d_params=part("d_params", first[:, None] * U),
                curvature=part("curvature field", curvature),
                second=part("second field", product),
            ),
        )


class Toy(_Parts, mfdeq.FixedPointModel):
    """h = tanh(W h + U theta)."""

    def map(self, h, theta):
        return self.part("map", self.tanh(h, theta))


class ToyResidual(_Parts, mfdeq.ResidualModel):
    """The same as h - tanh(W h + U theta) = 0."""

    sign = -1.0

    def residual(self, h, theta):
        return self.part("residual", h - self.tanh(h, theta))


class Diagonal(mfdeq.FixedPointModel):
    """h = h / 2 + theta; by default too large for dense matrices."""

    def __init__(self, size=5000):
        self.state_size = self.param_size = size

    def map(self, h, theta):
        return 0.5 * h + theta

    def linearize(self, h, theta):
        eye = eye_array(h.shape[0], format="csr")
        return mfdeq.Linearization(0.5 * eye, eye, curvature=lambda lam: mfdeq.Curvature())

    def solve(self):
        return mfdeq.solve(self, np.ones(self.param_size))


def toy_loss(**spoil):
    """Σ h³ + Σ theta² + h_0 theta_1."""
    return mfdeq.Loss(**toy_loss_functions(**spoil))


def toy_loss_functions(**spoil):
    """Return the functions of the toy loss, by the names of their keywords."""

    def part(name, right):
        return spoil[name](right) if name in spoil else right

    def curvature(h, theta):
        blocks = {
            "params_params": 2 * np.eye(P),
            "state_params": np.eye(N)[:, :1] * np.eye(P)[1],
            "state_state": np.diag(6 * h),
        }
        blocks = {name: part(name, block) for name, block in blocks.items()}
        return part("curvature", mfdeq.Curvature(**blocks))

    return {
        "value": lambda h, theta: part("value", (h**3).sum() + (theta**2).sum() + h[0] * theta[1]),
        "d_state": lambda h, theta: part("d_state", 3 * h**2 + theta[1] * np.eye(N)[0]),
        "d_params": lambda h, theta: part("d_params", 2 * theta + h[0] * np.eye(P)[1]),
        "curvature": curvature,
    }


def by_product(blocks=False, a_theta=lambda x: x, a_h=lambda x: x):
    """Return a function that replaces a Curvature of blocks by its product, with wrong results."""

    def convert(K):
        def apply(u, z):
            upper = K.params_params @ u + K.state_params.T @ z
            return a_theta(upper), a_h(K.state_params @ u + K.state_state @ z)

        return mfdeq.Curvature(apply=apply, blocks=True) if blocks else apply

    return convert


def operator(matrix, **spoil):
    """Return a LinearOperator of a matrix; `spoil` replaces products by name, or removes them."""
    products = {
        "matvec": lambda x: matrix @ x,
        "rmatvec": lambda y: matrix.T @ y,
        "matmat": lambda X: matrix @ X,
        "rmatmat": lambda Y: matrix.T @ Y,
    }

    def spoiled(name, function):
        if name not in spoil:
            return function
        return None if spoil[name] is None else lambda x: spoil[name](function(x))

    given = {name: spoiled(name, function) for name, function in products.items()}
    return LinearOperator(matrix.shape, dtype=spoil.get("dtype", matrix.dtype), **given)


def solve_toy(kind=Toy, **spoil):
    return mfdeq.solve(kind(**spoil), THETA)


def without(field):
    """Return a function that removes a field from a Linearization."""
    return lambda given: replace(given, **{field: None})
