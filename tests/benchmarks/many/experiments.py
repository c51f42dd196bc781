"""Many sources over one conductivity: one A for all, and one for each."""

from __future__ import annotations

import functools
import time
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import mfdeq

from .comparison import Comparison


class Earth:
    """-div(exp(theta) grad h) + 0.1 h on a grid of cells: D' diag(w k) D + 0.1."""

    def __init__(self, n: int, patches: int = 8) -> None:
        self.n, self.N = n, n * n
        d = sp.diags([np.ones(n), -np.ones(n)], [0, -1], shape=(n + 1, n)).tocsr()
        eye = sp.identity(n)
        self.D = sp.vstack([sp.kron(d, eye), sp.kron(eye, d)]).tocsr()  # zero beyond the ends
        self.Dt = self.D.T.tocsr()
        cells = abs(self.Dt).T
        mean = sp.diags(1.0 / np.asarray(cells.sum(axis=1)).ravel()) @ cells  # of a face's cells
        which = np.minimum(np.arange(n) * patches // n, patches - 1)
        patch = (which[:, None] * patches + which[None, :]).ravel()
        coarse = sp.csr_matrix((np.ones(self.N), (np.arange(self.N), patch)))
        self.E = (mean @ coarse).tocsr()  # log conductivity of faces, from theta
        self.P = coarse.shape[1]
        self._last: tuple = (None, None, None)

    def __getstate__(self):
        return {**self.__dict__, "_last": (None, None, None)}

    def at(self, theta):
        """The conductivity of the faces and the matrix, kept for the last theta."""
        if self._last[0] is None or not np.array_equal(self._last[0], theta):
            k = np.exp(self.E @ theta)
            A = (self.Dt @ sp.diags(k) @ self.D + 0.1 * sp.identity(self.N)).tocsr()
            self._last = theta.copy(), k, A
        return self._last[1:]


class Source(mfdeq.ResidualModel):
    """The potential of one source."""

    def __init__(self, earth: Earth, cell: int) -> None:
        self.earth, self.cell = earth, cell
        self.state_size, self.param_size = earth.N, earth.P

    def residual(self, h, theta):
        out = self.earth.at(theta)[1] @ h
        out[self.cell] -= 1.0
        return out

    def linearize(self, h, theta):
        D, Dt, E = self.earth.D, self.earth.Dt, self.earth.E
        k, A = self.earth.at(theta)
        flux = k * (D @ h)

        def forward(u):
            return Dt @ ((flux if u.ndim == 1 else flux[:, None]) * (E @ u))

        def adjoint(y):
            return E.T @ ((flux if y.ndim == 1 else flux[:, None]) * (D @ y))

        B = spla.LinearOperator(
            (A.shape[0], E.shape[1]),
            matvec=forward,
            rmatvec=adjoint,
            matmat=forward,
            rmatmat=adjoint,
            dtype=A.dtype,
        )

        def curvature(lam):
            of_lam = k * (D @ lam)
            both = (D @ lam) * flux

            def apply(u, z):
                Eu = E @ u
                if u.ndim == 1:
                    return E.T @ (both * Eu + of_lam * (D @ z)), Dt @ (of_lam * Eu)
                c, b = of_lam[:, None], both[:, None]
                return E.T @ (b * Eu + c * (D @ z)), Dt @ (c * Eu)

            return mfdeq.Curvature(apply=apply, blocks=True)

        return mfdeq.Linearization(A, B, curvature)


class Setup:
    """Sources and sensors over one earth, or over one each."""

    def __init__(self, n: int, sources: int, earths: int) -> None:
        rng = np.random.default_rng(0)
        self.earths = [Earth(n) for _ in range(earths)]
        for i, earth in enumerate(self.earths[1:], 1):  # other matrices of the same pattern
            earth.E = earth.E * (1.0 + 0.01 * i)
        self.cells = rng.choice(n * n, sources, replace=False)
        self.sensors = rng.choice(n * n, 64, replace=False)
        self.data = 0.1 * rng.random((64, sources))
        self.theta = 0.3 * rng.standard_normal(self.earths[0].P)
        self.v = rng.standard_normal(self.earths[0].P)
        self.results: list = []

    def functionals(self, **options) -> list:
        return [
            mfdeq.ReducedFunctional(
                Source(self.earths[e % len(self.earths)], int(cell)),
                mfdeq.LeastSquares(self.sensors, self.data[:, e]),
                solver=mfdeq.Direct(),
                **options,
            )
            for e, cell in enumerate(self.cells)
        ]

    def ours(self, executor=None):
        """State, gradient and product of the sum."""
        for earth in self.earths:
            earth._last = (None, None, None)
        F = mfdeq.SumFunctional(self.functionals(), executor=executor)
        self.results[:1] = [
            (F.value(self.theta), F.gradient(self.theta), F.hessp(self.theta, self.v))
        ]

    def singles(self):
        """The same, of one functional after another."""
        totals = [0.0, 0.0, 0.0]
        for earth in self.earths:
            earth._last = (None, None, None)
        for F in self.functionals():
            parts = F.value(self.theta), F.gradient(self.theta), F.hessp(self.theta, self.v)
            totals = [total + part for total, part in zip(totals, parts, strict=True)]
        self.check(totals)

    def by_hand(self):
        """One splu, and blocks of right-hand sides for all sources."""
        earth, theta, v = self.earths[0], self.theta, self.v
        D, Dt, E = earth.D, earth.Dt, earth.E
        k = np.exp(E @ theta)
        A = (Dt @ sp.diags(k) @ D + 0.1 * sp.identity(earth.N)).tocsc()
        lu = spla.splu(A, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        b = np.zeros((earth.N, len(self.cells)))
        b[self.cells, np.arange(len(self.cells))] = 1.0
        h = lu.solve(b)
        misfit = h[self.sensors] - self.data
        side = np.zeros_like(b)
        side[self.sensors] = misfit
        lam = lu.solve(side, "T")
        Dh, Dl, Ev = D @ h, D @ lam, E @ v
        gradient = -E.T @ (k * (Dh * Dl).sum(axis=1))
        z = -lu.solve(Dt @ ((k * Ev)[:, None] * Dh))
        Dz = D @ z
        side = np.zeros_like(b)
        side[self.sensors] = z[self.sensors]
        w = lu.solve(side - Dt @ ((k * Ev)[:, None] * Dl), "T")
        product = -E.T @ (k * (Dl * Dh).sum(axis=1) * Ev + k * (Dl * Dz + Dh * (D @ w)).sum(axis=1))
        self.check((0.5 * float((misfit**2).sum()), gradient, product))

    def check(self, expected) -> None:
        """Compare with the last results of the library."""
        for mine, theirs in zip(self.results[0], expected, strict=True):
            off = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
            assert off < 1e-7, f"relative difference {off:.1e}"


def comparisons(small: bool):
    """Yield the rows of this table."""
    n, sources = (40, 8) if small else (182, 128)
    one = Setup(n, sources, 1)
    yield Comparison(f"{sources} sources, N = {n * n:,}, one A", one.ours, one.by_hand, 1.3)
    n, sources = (40, 4) if small else (182, 16)
    each = Setup(n, sources, sources)
    title = f"{sources} sources, N = {n * n:,}, different A"
    yield Comparison(title, each.ours, each.singles, 1.15, "one after another")
    with futures.ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        both = functools.partial(each.ours, pool)
        title += ", two processes"
        yield Comparison(title, both, each.ours, 0.6, "in one", clock=time.perf_counter)
