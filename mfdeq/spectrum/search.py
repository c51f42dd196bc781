"""Lanczos until the pairs that are wanted have converged, as far as the recurrence tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import ConvergenceError
from .eigenpairs import FLOOR, Eigenpairs, allowed, bounded, sampled, worst
from .kept import Kept
from .lanczos import Lanczos, chosen
from .products import Products

RECURRED = 0.5  # of the tolerance, which residuals by the recurrence reach before true ones are
MANY = 8  # pairs, beyond which their products are sampled where those of the basis are exact
SAME, ROUGHLY = 1e-6, 0.1  # of the norm, within which products and relaxed ones are the same


class Search:
    """A search for the k pairs that `which` means, with true residuals at its end.

    An invariant space has residuals of zero, and may lack copies of repeated eigenvalues: what is
    wanted counts as found there once a search from a random start has brought nothing new. The
    tolerance is relative to the largest of the values, or to the least if `each` is to have it.

    Parameters
    ----------
    begin : callable
        Makes the Lanczos process.
    H : Products
    k : int
    which : str
    rtol : float
    limit : int
        Products.
    kept : Kept
    each : bool, optional
    last : bool, optional
        Whether this one is what a rough one before it has led to.
    """

    def __init__(
        self,
        begin: Callable[[], Lanczos],
        H: Products,
        k: int,
        which: str,
        rtol: float,
        limit: int,
        kept: Kept,
        each: bool = False,
        last: bool = False,
    ) -> None:
        self.H, self.k, self.which, self.rtol, self.limit = H, k, which, rtol, limit
        self.kept, self.each, self.last = kept, each, last
        self.before: Any = None  # the values that were wanted when V broke down last
        self.norm = 0.0
        if kept.search is None:
            self.lanczos = begin()
        else:
            self._go_on(kept.search)

    @property
    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "lanczos": self.lanczos.memory,
            "before": self.before,
            "norm": self.norm,
            "last": self.last,
        }

    def _go_on(self, memory: dict[str, Any]) -> None:
        H, kept = self.H, self.kept
        lanczos = Lanczos.recalled(H.backend, H, H.metric, memory["lanczos"])
        self.lanczos, self.before = lanczos, memory["before"]
        self.norm, self.last = memory["norm"], memory["last"]
        share = ROUGHLY if H.relaxed and not self.last else SAME
        kept.go_on(H, lanczos.strayed(H.H._apply), share * self.norm + 10 * lanczos.asymmetry)
        kept.search = None

    def run(self) -> Eigenpairs:
        """The pairs whose residuals by the recurrence reach the tolerance, with true residuals."""
        lanczos, H, k, which, rtol = self.lanczos, self.H, self.k, self.which, self.rtol
        if not lanczos.size:
            lanczos.expand()
        while True:
            values, Y, residuals = lanczos.ritz()
            wanted = chosen(values, min(k, values.shape[0]), which)
            sizes, self.norm = abs(values[wanted]), max(self.norm, float(abs(values).max()))
            scale = float(sizes.min() if self.each else sizes.max())
            # Rounding of H is a floor, and the whole space has nothing left.
            tol = RECURRED * max(rtol * scale, FLOOR * H.backend.eps * self.norm)
            if not H.relaxed:  # residuals below what the products are off by mean nothing
                tol = max(tol, lanczos.asymmetry)
            converged = residuals[wanted] <= tol
            if lanczos.left <= tol and not (lanczos.invariant or lanczos.complete):
                # Nothing more will come of this start, but copies may from another.
                lanczos.begin_again(lanczos.width)
                values, Y, residuals = lanczos.ritz()
                converged = residuals[wanted] <= tol
            enough = len(wanted) == k
            if enough and lanczos.invariant:
                known = self.before is not None and abs(values[wanted] - self.before).max() <= tol
                self.before = values[wanted]
            else:
                known = enough and lanczos.searched(k, which, tol)
            if converged.all() and (known or lanczos.complete):
                return self._found(Y[:, wanted], True)
            if H.count >= self.limit:
                raise self._exhausted(Y[:, wanted[converged]])
            H.allow(tol, float(residuals[wanted].max()) if enough else self.norm, self.norm, k)
            if lanczos.invariant:
                lanczos.lock(k, which)
            elif lanczos.full:
                lanczos.restart(k, which)
            lanczos.expand()
            self.kept.step(H.count, lambda: self.memory)

    def _found(self, Y: Any, reached: bool) -> Eigenpairs:
        """The pairs of V Y, all that were wanted or the best of a search that has failed."""
        lanczos, H = self.lanczos, self.H
        vectors, pairs = lanczos.vectors(Y), None
        if reached and not H.relaxed and Y.shape[1] > MANY:
            pairs = sampled(H, vectors, *lanczos.images(Y), self.norm, "Lanczos")
        if pairs is None or worst(pairs) > allowed(pairs, self.rtol):
            pairs = bounded(H, vectors, self.norm, "Lanczos")
        pairs.krylov, pairs.report.converged = lanczos, reached
        return pairs

    def _exhausted(self, Y: Any) -> ConvergenceError:
        best = self._found(Y, False)
        return ConvergenceError(
            f"eigsh: {Y.shape[1]} of {self.k} eigenpairs converged to rtol = {self.rtol:.1e} in "
            f"{self.H.count} products. Raise max_products (with resume=, the error's `best`, "
            "nothing is computed again) or rtol, or ask for fewer; eigenvalues that crowd "
            "at this end of the spectrum converge slowly",
            best=best,
            report=best.report,
        )
