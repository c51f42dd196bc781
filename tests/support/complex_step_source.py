"""A source of derivatives of its own: dense Jacobians by the complex step, of analytic functions.

It shows all that a new `DerivativeSource` consists of; h and theta stay numpy arrays.
"""

import numpy as np

from mfdeq.derivatives.automatic import loss_from, model_from
from mfdeq.derivatives.source import DerivativeSource, JacobianProducts, TreeLayout

TINY = 1e-150  # whose square is below rounding
STEP = 6e-6  # of differences of derivatives


def from_complex_step(f, state, params, kind, *, sparsity=None):
    return model_from(ComplexStepSource(), f, state, params, kind, sparsity)


def loss_from_complex_step(L, state, params):
    return loss_from(ComplexStepSource(), L, state, params)


class ArrayLayout(TreeLayout):
    """An array of any shape."""

    def __init__(self, array):
        self.example = np.asarray(array, dtype=float)
        self.size = self.example.size

    def to_tree(self, vector):
        return vector.reshape(self.example.shape)

    def to_vector(self, tree):
        return tree.reshape(-1)

    def describe(self, tree):
        return tree.shape, str(tree.dtype)


def jacobian(function, x):
    columns = [function(x + 1j * TINY * e).imag / TINY for e in np.eye(x.size)]
    return np.stack(columns, axis=1) if columns else np.zeros((0, 0))


def difference(function, x, direction):
    return (function(x + STEP * direction) - function(x - STEP * direction)) / (2 * STEP)


class ComplexStepSource(DerivativeSource):
    name, caller = "complex step", "from_complex_step"

    def layout(self, tree, name):
        return ArrayLayout(tree)

    def describe_output(self, f, state, params):
        out = f(state, params)
        return out.shape, str(out.dtype)

    def to_library(self, *arrays):
        return list(arrays)

    def from_library(self, backend, x):
        return np.array(x)

    def value(self, function):
        return function

    def gradient(self, scalar):
        def gradient(h, theta):
            return (
                jacobian(lambda h: scalar(h, theta).reshape(1), h)[0],
                jacobian(lambda theta: scalar(h, theta).reshape(1), theta)[0],
            )

        return gradient

    def jacobians(self, function):
        def jacobians(h, theta):
            J = jacobian(lambda h: function(h, theta), h)
            B = jacobian(lambda theta: function(h, theta), theta)
            return [JacobianProducts(lambda x, A=A: A @ x, lambda y, A=A: A.T @ y) for A in (J, B)]

        return jacobians

    def second_derivative(self, function):
        def along(x, a, P):
            shifted = x + 1j * TINY * a
            return function(shifted[P:], shifted[:P]).imag / TINY

        def second_derivative(h, theta, a, b):
            x, P = np.concatenate([theta, h]), theta.size
            a, b = np.concatenate(a), np.concatenate(b)
            return difference(lambda x: along(x, a, P), x, b)

        return second_derivative

    def curvature(self, scalar):
        def curvature(h, theta, lam):
            x, P = np.concatenate([theta, h]), theta.size

            def gradient(x):
                return jacobian(lambda x: scalar(x[P:], x[:P], lam).reshape(1), x)[0]

            K = np.stack([difference(gradient, x, e) for e in np.eye(x.size)], axis=1)

            def product(dtheta, dh):
                out = K @ np.concatenate([dtheta, dh])
                return out[:P], out[P:]

            return product

        return curvature
