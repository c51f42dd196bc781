"""Newton's method for small dense problems that need none of the care of `mfdeq.solve`.

A node of a training loop is evaluated thousands of times, at states of a few dozen numbers for
which the general method takes longer than the arithmetic. This one accepts a state only by the
criteria of `mfdeq.solve` in their plainest form, and gives up on everything else: a correction that
is not halved, an unknown that converges to zero, an A that is close to singular. `mfdeq.solve`
then starts again and reports what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import scipy.linalg.lapack

from ..arrays.backend import Array, host
from ..forward.sizes import (
    DEFAULT_RTOL_FLOAT64,
    FLOOR_ROUNDINGS,
    STEP_ROUNDINGS,
    describe_target,
)
from ..report import SolveReport

MAX_DENSE_SIZE = 256  # unknowns
MAX_STEPS = 20
MAX_CONTRACTION = 0.5  # of Newton's corrections, from one to the next
FREE_STEPS = 2  # at the start, where the sizes of the unknowns are not known yet
MIN_DIGITS = 3.0  # of every unknown, if rounding is the target
SOLVE_ROUNDINGS = 1e3  # of a relative residual
LAPACK = {
    "d": (
        scipy.linalg.lapack.dgetrf,
        scipy.linalg.lapack.dgetrs,
        scipy.linalg.lapack.dgecon,
    ),
    "f": (
        scipy.linalg.lapack.sgetrf,
        scipy.linalg.lapack.sgetrs,
        scipy.linalg.lapack.sgecon,
    ),
}

Linearize = Callable[[Array], tuple[Array, Array]]


class QuickEquilibrium:
    """A state with the LU of its dense A.

    Parameters
    ----------
    state : (N,) array
    A : (N, N) array
    factor : pair of arrays
        The LU of A and its pivots.
    report : SolveReport
    """

    def __init__(
        self, state: Array, A: Array, factor: tuple[Any, Any], report: SolveReport
    ) -> None:
        self.state, self.A, self.factor, self.report = state, A, factor, report
        self._getrs = LAPACK[A.dtype.char][1]
        self._norm = float(host.abs(A).max()) * A.shape[0]
        self._accurate = SOLVE_ROUNDINGS * float(host.finfo(A.dtype).eps)

    def solve(self, b: Array, adjoint: bool) -> Array | None:
        """Solve A x = b or A' x = b for (N,) or (N, k) arrays; None if the residual is too large.

        Parameters
        ----------
        b : (N,) or (N, k) array
        adjoint : bool
        """
        x, _ = self._getrs(*self.factor, b, trans=int(adjoint))
        residual = b - (self.A.T if adjoint else self.A) @ x
        size = host.abs(b).max(initial=0.0) + self._norm * host.abs(x).max(initial=0.0)
        if not host.abs(residual).max(initial=0.0) <= self._accurate * size:
            return None
        self.report.linear.add(
            solves=not adjoint, adjoint_solves=adjoint, columns=1 if b.ndim == 1 else b.shape[1]
        )
        return x


def quick_newton(linearize: Linearize, h: Array, rtol: float | None) -> QuickEquilibrium | None:
    """Return the equilibrium that undamped steps reach from a start, or None.

    Parameters
    ----------
    linearize : callable
        ``linearize(h)`` returns R, (N,), and A, (N, N), both possibly not finite.
    h : (N,) array
        The start.
    rtol : float or None
        As in `mfdeq.solve`.

    Returns
    -------
    QuickEquilibrium or None
        None if a correction after the second is more than half of the one before, or if a criterion
        is not met.
    """
    getrf, getrs, gecon = LAPACK[h.dtype.char]
    eps = float(host.finfo(h.dtype).eps)
    default = DEFAULT_RTOL_FLOAT64 if h.dtype == host.float64 else 0.0
    target = default if rtol is None else rtol
    step_rtol = max(target, STEP_ROUNDINGS * eps)
    report = SolveReport(method="newton", solver="Direct (dense LU)")
    last = math.inf
    for iteration in range(MAX_STEPS):
        R, A = linearize(h)
        report.evaluations += 1
        sizes = host.abs(h)
        terms, size = host.abs(A) @ sizes, host.abs(R)
        if not math.isfinite(float(terms.sum()) + float(size.sum())):
            return None
        report.residuals.append(_largest_ratio(size, host.maximum(terms, size)))
        lu, pivots, failed = getrf(A)
        if failed:
            return None
        report.forward.add(setups=1, solves=1, columns=1)
        step, _ = getrs(lu, pivots, R)
        change = host.abs(step)
        floor = FLOOR_ROUNDINGS * eps * terms
        at_floor = bool((size <= floor).all())
        settled = bool((change <= step_rtol * sizes).all())
        satisfied = at_floor or bool((size <= host.maximum(target * terms, floor)).all())
        if satisfied and (settled or (at_floor and rtol is None)):
            report.correction = _largest_ratio(change, sizes)
            if not (settled or report.correction <= 10.0**-MIN_DIGITS):
                return None
            norm = float(host.abs(A).sum(axis=0).max(initial=0.0))
            if not gecon(lu, norm)[0] > eps**0.5:
                return None
            _complete(report, target, settled and report.correction <= target)
            return QuickEquilibrium(h, A, (lu, pivots), report)
        largest = host.maximum(sizes, change)
        norm = float((change / host.where(largest > 0.0, largest, 1.0)).max())
        if iteration >= FREE_STEPS and not norm <= MAX_CONTRACTION * last and not settled:
            return None
        last, h = norm, h - step
    return None


def _largest_ratio(size: Array, scale: Array) -> float:
    return float((size / host.where(scale > 0.0, scale, 1.0)).max(initial=0.0))


def _complete(report: SolveReport, rtol: float, reached: bool) -> None:
    report.converged, report.uniqueness = True, "judged"
    report.residual = report.residuals[-1]
    report.limited_by = "rtol" if reached else "rounding"
    report.reason = (
        f"every equation to {report.residual:.1e} of its terms and every unknown to "
        f"{report.correction:.1e} of its size, limited by "
        f"{describe_target(rtol if reached else 0.0)}"
    )
