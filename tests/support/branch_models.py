"""Models whose branches of equilibria are known: Bratu's equation, and normal forms."""

import numpy as np
from support.case_models import Bratu, SpectralBratu
from support.closed_forms import chebyshev_laplacian, five_point_laplacian

import mfdeq

FOLD = 3.51383071912516  # of Bratu's equation in one dimension


def bratu(n=24):
    """Return Bratu's equation in one dimension, discretized by collocation."""
    return SpectralBratu(
        np, np.float64, laplacian=chebyshev_laplacian(n), spread=np.ones((n - 1, 1))
    )


def square(n):
    """Return Bratu's equation in two dimensions, discretized by the five-point formula."""
    return Bratu(np, np.float64, laplacian=five_point_laplacian(n), spread=np.ones((n * n, 1)))


class Normal(mfdeq.ResidualModel):
    """A normal form in the first unknown, a linear equation in the second."""

    state_size, param_size = 2, 1

    def __init__(self, form, in_state, in_theta):
        self.form, self.in_state, self.in_theta = form, in_state, in_theta

    def residual(self, h, theta):
        return np.array([-self.form(h[0], theta[0]), h[1] - h[0] - 1.0])

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            d_state=np.array([[-self.in_state(h[0], theta[0]), 0.0], [-1.0, 1.0]]),
            d_params=np.array([[-self.in_theta(h[0], theta[0])], [0.0]]),
        )


PITCHFORK = Normal(lambda x, r: r * x - x**3, lambda x, r: r - 3 * x**2, lambda x, r: x)
TRANSCRITICAL = Normal(lambda x, r: r * x - x**2, lambda x, r: r - 2 * x, lambda x, r: x)
SADDLE = Normal(lambda x, r: r - x**2, lambda x, r: -2 * x, lambda x, r: 1.0)
