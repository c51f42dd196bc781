"""How many wanted eigenvalues were missed, by counts of eigenvalues below a shift.

By Sylvester's law of inertia, the pivots of H - s M show how many eigenvalues are below s. The
wanted eigenvalues fill one or two intervals up to the last value found. Those beyond it by more
than its error bound are counted, and so are the values found there.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import array_on_host
from ..equilibrium.lagrangian_system import ShiftedInverse, solver_for
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..operators.operator import Operator
from ..priors.metric import Metric
from .eigenpairs import Eigenpairs

# Distance of a count from a value: multiples of its error bound, of its distance from the shift (or
# from zero), and of ||H|| times a power of eps, so that H minus the shift is far from singular.
BOUND_FACTOR, MARGIN, ROUNDING_EXPONENT = 2.0, 1e-6, 2.0 / 3.0

Interval = tuple[float, float]


def precision_entries(metric: Metric | None) -> Any:
    """Return the sparse matrix of M for the Lagrangian system; None for the identity."""
    if metric is None or metric.is_identity:
        return None
    return solver_for(metric.backend).assemble(metric, "M")


def count_missed(
    H: Operator, pairs: Eigenpairs, which: str, sigma: float | None, inverse: Any
) -> int | None:
    """Count the wanted eigenvalues of H that were missed.

    Parameters
    ----------
    H : ReducedOperator or operator with entries, (P, P)
    pairs : Eigenpairs
        The pairs found.
    which : {"LM", "LA", "SA", "BE"}
    sigma : float or None
        The shift, if `which` refers to 1 / (mu - sigma).
    inverse : ShiftedInverse or None
        The inverse with the shift `sigma`, whose count is used.

    Returns
    -------
    int or None
        None if a count is unreliable.
    """
    values = array_on_host(pairs.values).astype("float64")
    bounds = array_on_host(pairs.error_bounds).astype("float64")
    rounding = H.backend.eps**ROUNDING_EXPONENT * pairs.report.norm
    origin = 0.0 if sigma is None else sigma
    margins = BOUND_FACTOR * bounds + MARGIN * abs(values - origin) + rounding
    intervals = wanted_intervals(values, margins, which, sigma)
    M = precision_entries(pairs.precision)
    counts = {-math.inf: 0, math.inf: H.shape[0]}
    missed = 0
    for interval in intervals:
        low, high = interval
        if not low < high:
            continue
        for end in interval:
            if end in counts:
                continue
            known = inverse is not None and end == inverse.sigma
            try:
                at: ShiftedInverse = (
                    inverse if known else solver_for(H.backend).shifted_inverse(H, end, M)
                )
            except (SingularStateError, ArgumentError):  # the end is an eigenvalue, or no matrices
                return None
            if at.below is None:
                return None
            counts[end] = at.below
        missed += counts[high] - counts[low] - int(((low < values) & (values < high)).sum())
    return missed if missed >= 0 else None


def wanted_intervals(
    values: Any, margins: Any, which: str, sigma: float | None = None
) -> list[Interval]:
    """Return the intervals that contain only wanted eigenvalues.

    Parameters
    ----------
    values, margins : (k,) host arrays
        The wanted values, ascending. The ends of the intervals keep these distances from them.
    which : {"LM", "LA", "SA", "BE"}
    sigma : float, optional

    Notes
    -----
    The transformed values 1 / (mu - sigma) decrease from sigma to infinity, and again from minus
    infinity to sigma. The largest ones belong to the eigenvalues from sigma upwards, and then to
    those from minus infinity upwards.
    """

    def clear(end: float, direction: int) -> float:
        """Move an end in a direction until it is at a distance from all values."""
        for i in range(len(values))[::direction]:
            if abs(end - values[i]) <= margins[i]:
                end = float(values[i]) + direction * 1.000001 * float(margins[i])
        return end

    k = len(values)
    if sigma is None:
        least = abs(values).min()
        below = k // 2
        if which == "LM":
            return [(-math.inf, clear(-least, -1)), (clear(least, 1), math.inf)]
        if which == "SA":
            return [(-math.inf, clear(values[-1], -1))]
        if which == "LA":
            return [(clear(values[0], 1), math.inf)]
        low = [(-math.inf, clear(values[below - 1], -1))] if below else []
        return [*low, (clear(values[below], 1), math.inf)]
    radius = abs(values - sigma).max()
    if which == "LM":
        return [(clear(sigma - radius, 1), clear(sigma + radius, -1))]
    # The values in the order of 1 / (mu - sigma), the largest first.
    above, under = values[values > sigma], values[values < sigma]
    descending = [*above, *under]
    ascending = [*under[::-1], *above[::-1]]
    intervals = []
    for order, count, upwards in (
        (descending, {"LA": k, "BE": k - k // 2}.get(which, 0), True),
        (ascending, {"SA": k, "BE": k // 2}.get(which, 0), False),
    ):
        if not count:
            continue
        last = order[count - 1]
        near = last > sigma if upwards else last < sigma
        if upwards:
            end = clear(last, -1)
            intervals += [(sigma, end)] if near else [(sigma, math.inf), (-math.inf, end)]
        else:
            end = clear(last, 1)
            intervals += [(end, sigma)] if near else [(-math.inf, sigma), (end, math.inf)]
    return intervals


def check_none_missed(pairs: Eigenpairs) -> None:
    """Raise a `ConvergenceError` if a count has shown that wanted eigenvalues are missing."""
    report = pairs.report
    if report.missed:
        report.converged = False
        raise ConvergenceError(
            f"eigsh: {report.missed} of the wanted eigenvalues are missing among the "
            f"{len(pairs.error_bounds)} pairs found, by inertia counts. Pass complete=True, a "
            "larger block or k, or another v0",
            best=pairs,
            report=report,
        )
