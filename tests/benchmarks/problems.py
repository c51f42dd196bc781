"""The inverse problems that the benchmarks time."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq


class Diffusion(mfdeq.ResidualModel):
    """-div(exp(theta) grad h) = 1 on n x n cells, h = 0 at the rim, theta per cell: N = P = n².

    With D the differences over all faces and M the average of the two cells of a face,
    R = D' diag(exp(M theta)) D h - q.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.state_size = self.param_size = n * n
        d, m = _faces(n)
        eye = sp.identity(n, format="csr")
        self.D = sp.vstack([sp.kron(d, eye), sp.kron(eye, d)]).tocsr() * (n + 1)
        self.M = sp.vstack([sp.kron(m, eye), sp.kron(eye, m)]).tocsr()
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
        from scipy.ndimage import gaussian_filter

        white = np.random.default_rng(seed).standard_normal((self.n, self.n))
        field = gaussian_filter(white, self.n / 32, mode="nearest")
        return (sigma * field / field.std()).ravel()

    def loss(self, observations: int = 500, seed: int = 1) -> mfdeq.LeastSquares:
        """Point observations of the state."""
        index = np.random.default_rng(seed).choice(self.state_size, observations, replace=False)
        return mfdeq.LeastSquares(np.sort(index), np.zeros(observations), 1e4)


def _faces(n: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Differences and averages over the n + 1 faces of n cells, zero outside."""
    lower = sp.eye(n + 1, n, k=0, format="csr")
    upper = sp.eye(n + 1, n, k=-1, format="csr")
    average = 0.5 * (abs(lower) + abs(upper))
    # The rim's faces have the coefficient of their one cell.
    average = sp.diags(1.0 / np.asarray(average.sum(axis=1)).ravel()) @ average
    return (lower - upper).tocsr(), average.tocsr()
