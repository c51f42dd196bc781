"""Two optimal-control problems of the CUTE collection, with their states as equilibria."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq


class Hager1(mfdeq.ResidualModel):
    """(N - 1/2) x_i - (N + 1/2) x_(i-1) = u_i, x_0 = 1, u the parameters: linear dynamics.

    HAGER1 in CUTE, there with x_0 as an unknown.
    """

    def __init__(self, n):
        self.state_size = self.param_size = n
        self.A = sp.diags([n - 0.5, -(n + 0.5)], [0, -1], shape=(n, n)).tocsr()
        self.start = np.zeros(n)
        self.start[0] = n + 0.5

    def residual(self, x, u):
        return self.A @ x - self.start - u

    def linearize(self, x, u):
        n = self.state_size
        return mfdeq.Linearization(
            d_state=self.A,
            d_params=-sp.identity(n, format="csr"),
            curvature=lambda lam: mfdeq.Curvature(),
            second=lambda a, b: np.zeros(n),
        )

    @staticmethod
    def loss(n):
        """Return the loss x_N^2 / 2 + sum u^2 / (2 N)."""
        last = sp.csr_matrix(([1.0], ([0], [n - 1])), shape=(1, n))
        control = mfdeq.QuadraticPrior(sp.identity(n, format="csr") / n, np.zeros(n))
        return mfdeq.LeastSquares(last, np.zeros(1)) + control


class Dtoc5(mfdeq.ResidualModel):
    """y_(t+1) = y_t + (y_t^2 - x_t) / N, y_1 = 1, x_1 ... x_(N-1) the parameters.

    DTOC5 in CUTE.
    """

    def __init__(self, n):
        self.n, self.state_size, self.param_size = n, n - 1, n - 1  # y_2 ... y_N

    def initial_state(self, x):
        """Return the state for x = 1; that for x = 0 diverges."""
        return np.ones(self.state_size)

    def _before(self, y):
        return np.concatenate([[1.0], y[:-1]])

    def residual(self, y, x):
        before = self._before(y)
        return y - before - (before**2 - x) / self.n

    def linearize(self, y, x):
        n, N, before = self.n, self.state_size, self._before(y)
        lower = -(1.0 + 2.0 * before[1:] / n)
        return mfdeq.Linearization(
            d_state=sp.diags([np.ones(N), lower], [0, -1]).tocsr(),
            d_params=sp.identity(N, format="csr") / n,
            curvature=lambda lam: mfdeq.Curvature(
                state_state=sp.diags(np.concatenate([-2.0 * lam[1:] / n, [0.0]])).tocsr()
            ),
            second=lambda a, b: np.concatenate([[0.0], -2.0 * a[1][:-1] * b[1][:-1] / n]),
        )

    @staticmethod
    def loss(n):
        """Return the loss: the sum over t < N of (y_t^2 + x_t^2) / N."""
        weights = np.full(n - 1, 2.0 / n)
        weights[-1] = 0.0  # y_N is not in the sum
        of_state = mfdeq.LeastSquares(np.arange(n - 1), np.zeros(n - 1), weights)
        control = mfdeq.QuadraticPrior(2.0 / n * sp.identity(n - 1, format="csr"), np.zeros(n - 1))
        first = mfdeq.Loss(
            lambda h, theta: 1.0 / n, d_state=lambda h, theta: 0.0 * h,
            d_params=lambda h, theta: 0.0 * theta,
            curvature=lambda h, theta: mfdeq.Curvature(),
        )  # fmt: skip
        return of_state + control + first
