"""Linear models whose matrices are singular: diffusion on grids, and Stokes flow."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq


def grid(n, neumann):
    ends = np.r_[1.0, np.full(n - 2, 2.0), 1.0] if neumann else np.full(n, 2.0)
    L = sp.diags([-np.ones(n - 1), ends, -np.ones(n - 1)], [-1, 0, 1])
    return sp.csr_matrix(sp.kronsum(L, L))


class Linear(mfdeq.ResidualModel):
    """A h = theta for a singular A, with the left null vectors W."""

    def __init__(self, A, W):
        self.A, self.state_size, self.param_size = A, A.shape[0], A.shape[0]
        self.W, self.dual = W, np.linalg.solve(W.T @ W, W.T)

    def balanced(self, x):
        return x - self.W @ (self.dual @ x)

    def residual(self, h, theta):
        return self.A @ h - self.balanced(theta)

    def linearize(self, h, theta):
        n = self.state_size
        B = sp.linalg.LinearOperator(
            (n, n), lambda x: -self.balanced(x), lambda y: -self.balanced(y), dtype=float
        )
        return mfdeq.Linearization(self.A, B, lambda lam: mfdeq.Curvature())


def stokes(n):
    """Return Stokes' equations on a staggered grid of n x n cells, and the mass of the pressure.

    The velocities, zero on the boundary, are numbered first. The constant of the pressure is free.
    """
    jumps = sp.diags([np.ones(n - 1), -np.ones(n - 1)], [0, -1], shape=(n, n - 1))
    eye, edge = sp.identity(n), sp.identity(n - 1)
    inner, ends = jumps.T @ jumps, np.r_[3.0, np.full(n - 2, 2.0), 3.0]
    across = sp.diags([-np.ones(n - 1), ends, -np.ones(n - 1)], [-1, 0, 1])
    K = sp.block_diag(
        [
            sp.kron(inner, eye) + sp.kron(edge, across),
            sp.kron(across, edge) + sp.kron(eye, inner),
        ]
    )
    C = -sp.hstack([sp.kron(jumps, eye), sp.kron(eye, jumps)]) / n
    return sp.bmat([[K, C.T], [C, None]], format="csr"), sp.identity(n * n, format="csr") / n**2
