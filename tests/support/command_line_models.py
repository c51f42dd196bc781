"""Models and losses that the tests of the command line name as module:expression."""

import numpy as np

import mfdeq

THETA = np.array([0.3, -0.2])


class Cosine(mfdeq.FixedPointModel):
    state_size = param_size = 2

    def __init__(self, factor=1.0):
        self.factor = factor

    def map(self, h, theta):
        return np.cos(h) + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.diag(-self.factor * np.sin(h)),
            np.eye(2),
            curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(-lam * np.cos(h))),
            second=lambda a, b: -np.cos(h) * a[1] * b[1],
        )


class WithoutEquilibrium(Cosine):
    def map(self, h, theta):
        return h + 1.0

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.eye(2), np.zeros((2, 2)))


class ReturnsNaN(Cosine):
    def map(self, h, theta):
        return h * np.nan


def make(n):
    return Cosine(n)


wrong = Cosine(1.1)
LOSS = mfdeq.LeastSquares(np.arange(2), THETA)
WRONG_LOSS = mfdeq.Loss(lambda h, t: (h**2).sum(), lambda h, t: h)
number = 3
