"""A source of derivatives outside the package, for analytic functions of numpy arrays.

First derivatives are by complex steps, second ones by integrals over a circle in the complex plane;
both are exact to rounding. It shows everything that a new `DerivativeSource` consists of.
"""

import numpy as np

from mfdeq.derivatives.automatic import model_from
from mfdeq.derivatives.automatic_loss import loss_from
from mfdeq.derivatives.source import DerivativeSource, JacobianProducts, TreeLayout

COMPLEX_STEP = 1e-150  # its square is below rounding
RADIUS, ANGLES = 0.1, np.exp(2j * np.pi * np.arange(16) / 16)  # of the circle


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
    columns = [function(x + 1j * COMPLEX_STEP * e).imag / COMPLEX_STEP for e in np.eye(x.size)]
    return np.stack(columns, axis=1)


def second_derivative(function, x, a, b):
    """Return function''(x)[a, b] by Cauchy's formula, for a and b of length one."""

    def along(d):
        values = [function(x + RADIUS * w * d) for w in ANGLES]
        return 2 * np.tensordot(ANGLES**-2, values, 1).real / (len(ANGLES) * RADIUS**2)

    return (along(a + b) - along(a - b)) / 4


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
        def products(J):
            return JacobianProducts(lambda x: J @ x, lambda y: J.T @ y)

        return (
            lambda h, theta: products(jacobian(lambda h: function(h, theta), h)),
            lambda h, theta: products(jacobian(lambda theta: function(h, theta), theta)),
        )

    def second_derivative(self, function):
        def second(h, theta, a, b):
            x, P = np.concatenate([theta, h]), theta.size
            a, b = np.concatenate(a), np.concatenate(b)
            lengths = np.linalg.norm(a), np.linalg.norm(b)
            units = a / lengths[0], b / lengths[1]
            value = second_derivative(lambda x: function(x[P:], x[:P]), x, *units)
            return lengths[0] * lengths[1] * value

        return second

    def curvature(self, scalar):
        def curvature(h, theta, lam):
            x, P = np.concatenate([theta, h]), theta.size

            def function(x):
                return scalar(x[P:], x[:P], lam)

            units = np.eye(x.size)
            K = np.array([[second_derivative(function, x, a, b) for b in units] for a in units])

            def product(dtheta, dh):
                out = K @ np.concatenate([dtheta, dh])
                return out[:P], out[P:]

            return product

        return curvature
