"""The inverse problems that the benchmarks time."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq

from .systems import along, faces, lognormal


class Diffusion(mfdeq.ResidualModel):
    """-div(exp(theta) grad h) = 1 on n cells each way, h = 0 at the rim, theta per cell.

    With D the differences over all faces and M the average of the two cells of a face,
    R = D' diag(exp(M theta)) D h - q. N = P = n ** dimension.
    """

    def __init__(self, n: int, dimension: int = 2) -> None:
        self.n, self.dimension = n, dimension
        self.state_size = self.param_size = n**dimension
        d, m = faces(n)
        axes = range(dimension)
        self.D = sp.vstack([along(axis, d, n, dimension) for axis in axes]).tocsr() * (n + 1)
        self.M = sp.vstack([along(axis, m, n, dimension) for axis in axes]).tocsr()
        self.Dt, self.Mt = self.D.T.tocsr(), self.M.T.tocsr()

    def residual(self, h, theta):
        return self.Dt @ (np.exp(self.M @ theta) * (self.D @ h)) - 1.0

    def linearize(self, h, theta):
        k, g = np.exp(self.M @ theta), self.D @ h

        def curvature(lam):
            weight = k * (self.D @ lam)
            return mfdeq.Curvature(
                params_params=(self.Mt @ sp.diags(weight * g) @ self.M).tocsr(),
                state_params=(self.Dt @ sp.diags(weight) @ self.M).tocsr(),
            )

        def second(a, b):
            (u, z), (v, y) = a, b
            mu, mv = self.M @ u, self.M @ v
            return self.Dt @ (k * (mu * mv * g + mu * (self.D @ y) + mv * (self.D @ z)))

        return mfdeq.Linearization(
            d_state=(self.Dt @ sp.diags(k) @ self.D).tocsr(),
            d_params=(self.Dt @ sp.diags(k * g) @ self.M).tocsr(),
            curvature=curvature,
            second=second,
        )

    def lognormal(self, sigma: float = 1.0, seed: int = 0) -> np.ndarray:
        """A smooth random log-coefficient."""
        return sigma * lognormal((self.n,) * self.dimension, seed).ravel()

    def loss(self, observations: int = 500, seed: int = 1) -> mfdeq.LeastSquares:
        """Point observations of the state."""
        index = np.random.default_rng(seed).choice(self.state_size, observations, replace=False)
        return mfdeq.LeastSquares(np.sort(index), np.zeros(observations), 1e4)
