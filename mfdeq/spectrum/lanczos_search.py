"""Lanczos iteration until the wanted pairs have converged, including repeated eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import ConvergenceError
from ..progress import share_of_decrease
from .checkpoint import EigenCheckpoint
from .counted_operator import CountedOperator
from .eigenpairs import (
    ROUNDING_FACTOR,
    Eigenpairs,
    largest_residual,
    nearest_orthonormal,
    pairs_from_vectors,
    pairs_with_bounds,
    pairs_with_sampled_bounds,
    residual_tolerance,
)
from .lanczos import Lanczos, select_wanted

METHOD_NAME = "Lanczos"
# Tolerance of residuals by the recurrence, as a share of the tolerance of true residuals.
RECURRENCE_SHARE = 0.5
# For more pairs and exact products, true products are computed with random combinations only.
MAX_PAIRS_WITH_TRUE_PRODUCTS = 8
# Allowed difference of an exact or a relaxed product from that in a checkpoint, relative to ||H||.
SAME_PRODUCT_RTOL, SAME_RELAXED_PRODUCT_RTOL = 1e-6, 0.1
# The eigenvalues of T are computed again after as many steps as the residuals take to reach the
# tolerance if their logarithms decrease twice as fast as in the last steps, or by twice this in
# each step.
MIN_DECREASE = math.log(2.0)
MAX_WAIT_SHARE = 0.25  # of the size of the basis: the most steps without these eigenvalues
# The attributes that a checkpoint stores.
STATE_FIELDS = ("norm", "final", "tol", "wait", "since", "excess")


class LanczosSearch:
    """A search for the k wanted pairs, which computes true residuals at the end.

    An invariant space has zero residuals but may lack copies of repeated eigenvalues. The wanted
    pairs of an invariant space are accepted once the search from a further random start has found
    no others.

    Parameters
    ----------
    begin : callable
        ``begin()`` returns a new Lanczos process.
    H : CountedOperator
    k : int
    which : str
    rtol : float
        The tolerance relative to the largest of the values, or to the smallest if
        `relative_to_each`.
    max_products : int
    checkpoint : EigenCheckpoint
        The checkpoint, whose unfinished search is continued if there is one.
    relative_to_each : bool, optional
    final : bool, optional
        Whether the search starts from the vectors of a first, rough search.
    """

    def __init__(
        self,
        begin: Callable[[], Lanczos],
        H: CountedOperator,
        k: int,
        which: str,
        rtol: float,
        max_products: int,
        checkpoint: EigenCheckpoint,
        relative_to_each: bool = False,
        final: bool = False,
    ) -> None:
        self.H, self.k, self.which, self.rtol = H, k, which, rtol
        self.max_products, self.checkpoint = max_products, checkpoint
        self.relative_to_each, self.final = relative_to_each, final
        self.values_at_breakdown: Any = None  # the wanted values when V was last invariant
        self.norm, self.tol = 0.0, 0.0
        self.wait, self.since = 0, 0  # steps until the next eigenvalues of T, and since the last
        self.excess = math.inf  # the logarithm of the worst residual relative to its tolerance
        if checkpoint.search is None:
            self.lanczos = begin()
        else:
            self._restore(checkpoint.search)

    @property
    def checkpoint_state(self) -> dict[str, Any]:
        """The Lanczos process and the state of the search, for a checkpoint."""
        return {
            "lanczos": self.lanczos.checkpoint_state,
            "values_at_breakdown": self.values_at_breakdown,
            **{name: getattr(self, name) for name in STATE_FIELDS},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        H, checkpoint = self.H, self.checkpoint
        with checkpoint.decoding():
            self.lanczos = Lanczos.from_checkpoint(H.backend, H, H.metric, state["lanczos"])
            self.values_at_breakdown = state["values_at_breakdown"]
            for name in STATE_FIELDS:
                setattr(self, name, state[name])
        relaxed = H.relaxed and not self.final
        rtol = SAME_RELAXED_PRODUCT_RTOL if relaxed else SAME_PRODUCT_RTOL
        tol = rtol * self.norm + 10 * self.lanczos.asymmetry
        H.exponent = self.lanczos.exponent
        checkpoint.restore_operators(H, self.lanczos.product_mismatch(H.product), tol)
        checkpoint.search = None

    def run(self) -> Eigenpairs:
        """Iterate until the residuals by the recurrence reach the tolerance."""
        lanczos, H, k, which = self.lanczos, self.H, self.k, self.which
        if lanczos.size == lanczos.locked:
            lanczos.expand()
        while True:
            if self._due:
                values, Y, residuals = lanczos.ritz()
                wanted = select_wanted(values, min(k, values.shape[0]), which)
                self.norm = max(self.norm, float(abs(values).max()))
                self.tol = tol = self._tolerance(abs(values[wanted]))
                converged = residuals[wanted] <= tol
                if lanczos.residual_bound <= tol and not (lanczos.invariant or lanczos.spans_all):
                    # This start is exhausted, but another may find copies of the eigenvalues.
                    lanczos.continue_at_random(lanczos.width)
                    values, Y, residuals = lanczos.ritz()
                    converged = residuals[wanted] <= tol
                enough = len(wanted) == k
                no_copies_left = enough and self._no_copies_left(values[wanted], tol)
                worst = float(residuals[wanted].max()) if enough else self.norm
                share = share_of_decrease(self.norm, worst, tol)
                H.show_progress(f"{int(converged.sum())} of {k} pairs", share)
                if converged.all() and (no_copies_left or lanczos.spans_all):
                    return self._pairs(values[wanted], Y[:, wanted], True)
                if H.count >= self.max_products:
                    raise self._not_converged(values[wanted[converged]], Y[:, wanted[converged]])
                H.set_accuracy(tol, worst, self.norm, k)
                least = self._least_tolerance(values[wanted])
                lanczos.orthogonality.set_tolerance(tol, least, self.norm)
                self._set_wait(worst)
                if lanczos.invariant:
                    lanczos.lock(k, which)
                elif lanczos.full:
                    lanczos.restart(k, which)
            lanczos.expand()
            lanczos.exponent = H.exponent
            self.wait, self.since = self.wait - 1, self.since + 1
            self.checkpoint.save_search(H.count, lambda: self.checkpoint_state)

    @property
    def _due(self) -> bool:
        """Whether to compute the eigenvalues of T after this step."""
        lanczos, H = self.lanczos, self.H
        return (
            self.wait <= 0
            or lanczos.full
            or lanczos.invariant
            or lanczos.spans_all
            or lanczos.residual_bound <= self.tol
            or H.count >= self.max_products
        )

    def _set_wait(self, worst: float) -> None:
        """Set the number of steps in which the worst residual may reach the tolerance."""
        ratio = worst / self.tol if self.tol > 0.0 else math.inf
        excess = math.log(ratio) if 0.0 < ratio < math.inf else 0.0
        decrease = (self.excess - excess) / max(1, self.since)
        fastest = 2.0 * (max(decrease, MIN_DECREASE) if decrease < math.inf else MIN_DECREASE)
        self.excess, self.since = excess, 0
        # Relaxed products follow the residuals, and locked vectors are exceptions.
        each = self.H.relaxed or self.lanczos.locked or self.lanczos.invariant
        self.wait = 0 if each else int(min(excess / fastest, MAX_WAIT_SHARE * self.lanczos.size))

    def _least_tolerance(self, values: Any) -> float:
        """Return a bound on the tolerance in all later steps, of wanted Ritz values, ascending.

        The outermost Ritz values, and the k-th largest in magnitude, only move outwards.
        """
        if self.relative_to_each:
            enough = self.which == "LM" and len(values) == self.k
            size = float(abs(values).min()) if enough else 0.0
        else:
            upper, lower = float(values[-1]), -float(values[0])
            both = max(upper, lower)
            size = {"LM": both, "BE": both, "LA": upper, "SA": lower}[self.which]
        return RECURRENCE_SHARE * self.rtol * max(size, 0.0)

    def _tolerance(self, sizes: Any) -> float:
        """Return the tolerance of residuals by the recurrence, at least rounding of H."""
        scale = float(sizes.min() if self.relative_to_each else sizes.max())
        floor = ROUNDING_FACTOR * self.H.backend.eps * self.norm
        tol = RECURRENCE_SHARE * max(self.rtol * scale, floor)
        # Residuals below the error of the products have no meaning. Relaxed products control it.
        return tol if self.H.relaxed else max(tol, self.lanczos.asymmetry)

    def _no_copies_left(self, values: Any, tol: float) -> bool:
        """Return whether a random start has found no further copies of these values."""
        if not self.lanczos.invariant:
            return self.lanczos.no_copies_left(self.k, self.which, tol)
        before, self.values_at_breakdown = self.values_at_breakdown, values
        return before is not None and abs(values - before).max() <= tol

    def _pairs(self, values: Any, Y: Any, converged: bool) -> Eigenpairs:
        """Return the pairs with vectors V Y: all k, or the converged ones if the search failed."""
        lanczos, H = self.lanczos, self.H
        lanczos.exponent = H.exponent
        vectors = lanczos.vectors(Y)
        orthonormal = nearest_orthonormal(H.metric, vectors)
        if orthonormal is None:
            pairs = pairs_from_vectors(H, vectors, self.norm, METHOD_NAME)
        elif converged and not H.relaxed and Y.shape[1] > MAX_PAIRS_WITH_TRUE_PRODUCTS:
            next_block = lanczos.next_duals, lanczos.couplings(Y)
            dual = orthonormal if H.metric.is_identity else lanczos.duals(Y)
            pairs = pairs_with_sampled_bounds(
                H, orthonormal, dual, values, *next_block, self.norm, METHOD_NAME
            )
            if largest_residual(pairs) > residual_tolerance(pairs, self.rtol):
                pairs = pairs_from_vectors(H, vectors, self.norm, METHOD_NAME)
        elif H.metric.is_identity:
            product, error = H.with_error(orthonormal)
            pairs = pairs_with_bounds(
                H, orthonormal, orthonormal, product, error, self.norm, METHOD_NAME
            )
        else:
            pairs = pairs_from_vectors(H, vectors, self.norm, METHOD_NAME)
        pairs.krylov, pairs.report.converged = lanczos, converged
        return pairs

    def _not_converged(self, values: Any, Y: Any) -> ConvergenceError:
        best = self._pairs(values, Y, False)
        return ConvergenceError(
            f"eigsh: {Y.shape[1]} of {self.k} eigenpairs converged to rtol = {self.rtol:.1e} in "
            f"{self.H.count} products. Raise max_products or rtol, or reduce k. To continue, pass "
            "the error's `best` as resume=. Clustered eigenvalues at this end of the spectrum "
            "converge slowly",
            best=best,
            report=best.report,
        )
