"""A nonlinear chain with handwritten derivatives, to compare sources of derivatives with."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq

N, P = 12, 5
RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((N, P)) / P
THETA = RNG.standard_normal(P)
V = RNG.standard_normal((P, 3))
LOSS = mfdeq.LeastSquares(np.arange(N), np.linspace(0, 1, N))


def chain(h, theta, mix=MIX):
    """Return the residual of 4 h - h_left h_right / 4 + h^3 exp(mix theta) = 1."""
    left, right = np.roll(h, 1), np.roll(h, -1)
    left, right = left * (np.arange(N) > 0), right * (np.arange(N) < N - 1)
    return 4 * h - left * right / 4 + h**3 * np.exp(mix @ theta) - 1.0


class HandWrittenChain(mfdeq.ResidualModel):
    """The chain with its derivatives by hand."""

    state_size, param_size = N, P

    def __init__(self, mix=MIX):
        self.mix = sp.csr_matrix(mix)

    def residual(self, h, theta):
        return chain(h, theta, self.mix)

    def linearize(self, h, theta):
        e = np.exp(self.mix @ theta)
        inner = np.concatenate([[0.0], h, [0.0]])
        left, right = inner[:-2], inner[2:]
        diagonals = [-right[1:] / 4, 4 + 3 * h**2 * e, -left[:-1] / 4]

        def curvature(lam):
            sides = sp.diags([-lam[1:-1] / 4] * 2, [-2, 2], shape=(N, N))
            return mfdeq.Curvature(
                self.mix.T @ sp.diags(lam * h**3 * e) @ self.mix,
                sp.diags(3 * lam * h**2 * e) @ self.mix,
                sp.diags(6 * lam * h * e) + sides,
            )

        def second(a, b):
            (u, y), (v, z) = a, b
            u, v = self.mix @ u, self.mix @ v
            pad = [np.concatenate([[0.0], x, [0.0]]) for x in (y, z)]
            sides = pad[0][:-2] * pad[1][2:] + pad[0][2:] * pad[1][:-2]
            cube = 6 * h * y * z + 3 * h**2 * (u * z + v * y) + h**3 * u * v
            return cube * e - sides / 4

        return mfdeq.Linearization(
            sp.diags(diagonals, [-1, 0, 1]), sp.diags(h**3 * e) @ self.mix, curvature, second
        )
