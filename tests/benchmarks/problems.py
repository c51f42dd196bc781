"""The inverse problems that the benchmarks time, on numpy's arrays or on cupy's."""

from __future__ import annotations

import importlib

import numpy as np
import scipy.sparse as sp

import mfdeq

from .systems import along, faces, lognormal, wind


class Diffusion(mfdeq.ResidualModel):
    """-div(exp(theta) grad h) = 1 on n cells each way, h = 0 at the rim, theta per cell.

    With D the differences over all faces and M the average of the two cells of a face,
    R = D' diag(exp(M theta)) D h - q. N = P = n ** dimension.
    """

    W = None  # what is added to A, whatever theta
    source = 1.0  # q

    def __init__(self, n: int, dimension: int = 2, xp=np) -> None:
        self.n, self.dimension, self.xp = n, dimension, xp
        self.sparse = importlib.import_module("scipy.sparse" if xp is np else "cupyx.scipy.sparse")
        self.state_size = n**dimension
        d, m = self.faces()
        axes = range(dimension)
        D = sp.vstack([along(axis, d, n, dimension) for axis in axes]).tocsr() * (n + 1)
        M = sp.vstack([along(axis, m, n, dimension) for axis in axes]).tocsr() @ self.cells()
        self.param_size = M.shape[1]
        self.D, self.M, self.Dt, self.Mt = map(self.moved, (D, M, D.T.tocsr(), M.T.tocsr()))

    def faces(self):
        """Differences and averages over the faces of the cells along one side."""
        return faces(self.n)

    def moved(self, matrix):
        """A matrix of the host's where the arrays are."""
        return matrix if self.xp is np else self.sparse.csr_matrix(matrix)

    def cells(self):
        """The values of the cells from theta, (N, P)."""
        return sp.identity(self.state_size, format="csr")

    def diag(self, x):
        return self.sparse.diags(x, format="csr")

    def residual(self, h, theta):
        r = self.Dt @ (self.xp.exp(self.M @ theta) * (self.D @ h)) - self.source
        return r if self.W is None else r + self.W @ h

    def linearize(self, h, theta):
        k, g = self.xp.exp(self.M @ theta), self.D @ h
        A = (self.Dt @ self.diag(k) @ self.D).tocsr()

        def curvature(lam):
            weight = k * (self.D @ lam)
            return mfdeq.Curvature(
                params_params=(self.Mt @ self.diag(weight * g) @ self.M).tocsr(),
                state_params=(self.Dt @ self.diag(weight) @ self.M).tocsr(),
            )

        def second(a, b):
            (u, z), (v, y) = a, b
            mu, mv = self.M @ u, self.M @ v
            return self.Dt @ (k * (mu * mv * g + mu * (self.D @ y) + mv * (self.D @ z)))

        return mfdeq.Linearization(
            d_state=A if self.W is None else A + self.W,
            d_params=(self.Dt @ self.diag(k * g) @ self.M).tocsr(),
            curvature=curvature,
            second=second,
        )

    def lognormal(self, sigma: float = 1.0, seed: int = 0):
        """A smooth random log-coefficient."""
        side = round(self.param_size ** (1 / self.dimension))
        return self.xp.asarray(sigma * lognormal((side,) * self.dimension, seed).ravel())

    def loss(self, observations: int = 500, seed: int = 1) -> mfdeq.LeastSquares:
        """Point observations of the state."""
        index = np.random.default_rng(seed).choice(self.state_size, observations, replace=False)
        observed, data = self.xp.asarray(np.sort(index)), self.xp.zeros(observations)
        return mfdeq.LeastSquares(observed, data, 1e4)


class Insulated(Diffusion):
    """The same without flux through the rim: A is singular, and q has mean zero."""

    def __init__(self, n: int, dimension: int = 2, xp=np) -> None:
        super().__init__(n, dimension, xp)
        q = np.random.default_rng(2).standard_normal(self.state_size)
        self.source = xp.asarray(q - q.mean())

    def faces(self):
        return tuple(matrix[1:-1] for matrix in faces(self.n))

    def constrained(self) -> mfdeq.ResidualModel:
        """The model whose state has mean zero."""
        mean = self.xp.zeros(self.state_size) + 1.0 / self.state_size
        return mfdeq.constrain(self, mfdeq.LinearConstraint(mean))


class Convection(Diffusion):
    """The same in a recirculating wind, upwind: W h is added, and A is not symmetric.

    theta per two by two cells: P = N / 4.
    """

    def __init__(self, n: int, xp=np, peclet: float = 10.0) -> None:
        super().__init__(n, 2, xp)
        self.W = self.moved(wind(n, peclet) * (n + 1) ** 2)

    def cells(self):
        pairs = sp.kron(sp.identity(self.n // 2), np.ones((2, 1)), format="csr")
        return sp.kron(pairs, pairs, format="csr")
