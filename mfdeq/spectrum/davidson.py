"""Smallest eigenpairs by a preconditioner where nothing factorizes: generalized Davidson.

The space V is extended by M r, the preconditioned residuals of the Ritz pairs that have not yet
converged, and T = V'HV taken in all of it. At a restart the best Ritz vectors stay, and beside them
those of one step before, as conjugate gradients keep their last direction (GD+k: Stathopoulos and
Saad 1998; Stathopoulos 2007).
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..errors import ConvergenceError
from ..linear.krylov.columns import orthonormal
from ..operators.operator import Operator
from .eigenpairs import FLOOR, Eigenpairs, bounded, orthonormal_in
from .kept import Kept
from .lanczos import chosen
from .products import Products
from .search import RECURRED, SAME

KEPT = ("V", "HV", "before", "norm")
MORE = 4  # Ritz vectors kept at a restart beside those that are wanted


class Davidson:
    """A basis V, R-orthonormal, its duals R V, and H V.

    Parameters
    ----------
    H : Products
    M : Operator
        Near (H - mu R)^-1 of the wanted mu; symmetric and positive definite.
    start : (n, b) array
    most : int
        Vectors of V.

    Attributes
    ----------
    values, residuals : host arrays
        Of the k wanted Ritz pairs, ascending.
    norm : float
        The largest magnitude of a Ritz value so far.
    """

    def __init__(self, H: Products, M: Operator, start: Array, k: int, most: int) -> None:
        self.H, self.M, self.k, self.most = H, M, k, most
        self.norm = 0.0
        self.V, self.dual = orthonormal_in(H.metric, start)
        self.HV = H(self.V)
        self.before: Any = None  # what the wanted were in V a step ago
        self._solve()

    def _solve(self) -> None:
        small = array_on_host(self.V.T @ self.HV)
        values, self.Y = host.linalg.eigh(0.5 * (small + small.T))
        self.all_values = values
        self.norm = max(self.norm, float(abs(values).max()))
        wanted = chosen(values, min(self.k, values.shape[0]), "SA")
        self.values, self.wanted = values[wanted], self.Y[:, wanted]
        backend = self.H.backend
        Y = backend.coefficients(self.wanted)
        self.off = self.HV @ Y - (self.dual @ Y) * backend.coefficients(self.values)
        self.residuals = array_on_host(self.H.metric.dual_norms(self.off))

    @property
    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        dual = None if self.H.metric.is_identity else self.dual
        return {name: getattr(self, name) for name in KEPT} | {"dual": dual}

    @classmethod
    def recalled(cls, H: Products, M: Operator, k: int, most: int, kept: Kept) -> Davidson:
        """The one that a checkpoint has kept."""
        found, put, memory = cls.__new__(cls), H.backend.from_host, kept.search
        assert memory is not None
        found.H, found.M, found.k, found.most = H, M, k, most
        found.before, found.norm = memory["before"], memory["norm"]
        found.V, found.HV = put(memory["V"]), put(memory["HV"])
        found.dual = found.V if memory["dual"] is None else put(memory["dual"])
        found._solve()
        first = found.V[:, :1]
        off = H.metric.dual_norms(H.H._apply(first) - found.HV[:, :1])
        off = off + found.norm * H.metric.dual_norms(H.metric.apply(first) - found.dual[:, :1])
        kept.go_on(H, float(array_on_host(off)[0]), SAME * found.norm)
        return found

    @property
    def vectors(self) -> Array:
        """The wanted Ritz vectors."""
        return self.V @ self.H.backend.coefficients(self.wanted)

    def extend(self, tol: float, width: int) -> bool:
        """Take in the preconditioned residuals of the first of what is left; False if nothing."""
        backend, metric = self.H.backend, self.H.metric
        left = host.nonzero(self.residuals > tol)[0][:width]
        which = backend.xp.asarray(left, dtype=backend.xp.int64, device=backend.device)
        if self.V.shape[1] + left.shape[0] > self.most:
            self._restart()
        t = self.M._apply(backend.xp.take(self.off, which, axis=1))
        t = t / backend.column_norms(t)
        for _ in range(2):
            t = t - self.V @ (self.dual.T @ t)
        t, _ = orthonormal(backend, t)
        if t.shape[1] == 0:
            return False
        t, dual = orthonormal_in(metric, t)
        concat = backend.xp.concat
        new = self.H(t)
        self.before = host.concatenate(
            [self.wanted, host.zeros((t.shape[1], self.wanted.shape[1]))]
        )
        self.V, self.dual = concat([self.V, t], axis=1), concat([self.dual, dual], axis=1)
        self.HV = concat([self.HV, new], axis=1)
        self._solve()
        return True

    def _restart(self) -> None:
        """Keep the best Ritz vectors, and of the wanted those a step ago."""
        best = self.Y[:, : min(self.k + MORE, self.Y.shape[1])]
        if self.before is not None:
            more = self.before - best @ (best.T @ self.before)
            sizes = host.linalg.norm(more, axis=0)
            more = host.linalg.qr(more[:, sizes > 1e-8] / sizes[sizes > 1e-8])[0]
            best = host.linalg.qr(host.concatenate([best, more], axis=1))[0]
        Y = self.H.backend.coefficients(best)
        self.V, self.dual, self.HV = self.V @ Y, self.dual @ Y, self.HV @ Y
        self.wanted = best.T @ self.wanted
        self.Y, self.before = best.T @ self.Y, None


def smallest(
    H: Products,
    M: Operator,
    start: Array,
    k: int,
    most: int,
    rtol: float,
    limit: int,
    kept: Kept,
) -> Eigenpairs:
    """The k smallest eigenpairs, with true residuals.

    Parameters
    ----------
    H, M, start, k, most
        As of `Davidson`; more columns are added to the start where it has fewer than k.
    rtol : float
    limit : int
        Products.
    kept : Kept
    """
    width, backend = start.shape[1], H.backend
    if width < k:
        start = backend.xp.concat(
            [start, backend.random(start.shape[0], k - width, seed=17)], axis=1
        )
    most = max(most, 3 * k + 2 * width)
    if kept.search is None:
        search = Davidson(H, M, M._apply(start), k, most)
    else:
        search = Davidson.recalled(H, M, k, most, kept)
    while True:
        floor = FLOOR * backend.eps * search.norm
        tol = RECURRED * max(rtol * float(abs(search.values).max()), floor)
        done = search.residuals <= tol
        if done.all():
            return bounded(H, search.vectors, search.norm, "Davidson")
        if H.count >= limit or not search.extend(tol, width):
            best = bounded(H, search.vectors, search.norm, "Davidson")
            best.report.converged = False
            raise ConvergenceError(
                f"eigsh: {int(done.sum())} of {k} smallest eigenpairs converged to rtol = "
                f"{rtol:.1e} in {H.count} products. Raise max_products or rtol, or give a better "
                "preconditioner: a LowRank of more pairs",
                best=best,
                report=best.report,
            )
        kept.step(H.count, lambda: search.memory)
