"""Reduced functionals with known minima and Hessians: any loss of h = theta."""

import numpy as np
import scipy.sparse as sp

import mfdeq


class IdentityModel(mfdeq.FixedPointModel):
    """h = theta, so that the loss is a function of the parameters."""

    def __init__(self, n=3):
        self.state_size = self.param_size = n

    def map(self, h, theta):
        return theta + 0.0 * h

    def linearize(self, h, theta):
        n = self.state_size
        zero, eye = sp.csr_matrix((n, n)), sp.identity(n, format="csr")
        return mfdeq.Linearization(zero, eye, curvature=lambda lam: mfdeq.Curvature())


# sum of cos h + h^2 / 20: concave around zero, with minima on either side.
WAVY_LOSS = mfdeq.Loss(
    lambda h, theta: float(np.sum(np.cos(h) + h**2 / 20)),
    d_state=lambda h, theta: -np.sin(h) + h / 10,
    curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.diags(-np.cos(h) + 0.1).tocsr()),
)


def wavy_functional(n=3):
    """Return the functional sum(cos theta + theta^2 / 20) of n parameters."""
    return mfdeq.ReducedFunctional(IdentityModel(n), WAVY_LOSS)
