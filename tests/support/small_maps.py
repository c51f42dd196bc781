"""Fixed-point models of two unknowns whose equilibria are known in closed form."""

import numpy as np
from scipy.sparse.linalg import LinearOperator

import mfdeq


class Line(mfdeq.FixedPointModel):
    """h = a h + theta, with all optional methods of a model."""

    state_size = param_size = 2

    def __init__(self, slope=0.5, start=None, scale=None):
        self.slope, self.start, self.scale = slope, start, scale

    def map(self, h, theta):
        return self.slope * h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.slope * np.eye(2), np.eye(2), lambda lam: mfdeq.Curvature())

    def initial_state(self, theta):
        return self.start

    def residual_scale(self, h, theta):
        return self.scale


class Products(Line):
    """A map that returns its Jacobian by products only."""

    def linearize(self, h, theta):
        J = LinearOperator(
            (2, 2), matvec=lambda x: self.slope * x, rmatvec=lambda y: self.slope * y, dtype=float
        )
        return mfdeq.Linearization(J, np.eye(2))


class Tanh(mfdeq.FixedPointModel):
    """h = tanh(h)/2 + theta, without second derivatives."""

    state_size = param_size = 2

    def map(self, h, theta):
        return 0.5 * np.tanh(h) + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.diag(0.5 / np.cosh(h) ** 2), np.eye(2))
