"""Loops over the rows of (samples, n) arrays, by numba, one pass for what takes numpy many.

Import this module only where they are called. Each function works on the rows from `start` to
`stop`, so that several threads can share them, and the result for a row does not depend on the
others. NaN counts as by numpy: no comparison with it holds, and a maximum with it is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import FAST_SUMS, njit

Array = Any


@njit
def quotient(x: float, unit: float) -> float:
    """Return x / unit, where 0 / 0 is 0."""
    if unit > 0.0:
        return x / unit
    return np.inf if x > 0.0 else 0.0


@njit
def larger(x: float, y: float) -> float:
    """Return the larger number, or NaN if one of them is that."""
    return y if y > x or y != y else x


@njit
def measure(
    R: Array,
    D: Array,
    terms: Array,
    scale: Array,
    sizes: Array,
    floor: Array,
    rtols: Array,
    flags: Array,
    worst: Array,
    start: int,
    stop: int,
) -> None:
    """Compute the fields of `compositions.sample_measures.SampleMeasures` for each row.

    `rtols` are the tolerances of residuals, of corrections, and of residuals or rounding. The
    columns of `flags` and `worst` are the fields of type bool and float.
    """
    rtol, step_rtol, rounding_rtol = rtols
    zero = R.dtype.type(0)
    for s in range(start, stop):
        at_floor = satisfied = settled = within = True
        residual = correction = zero
        for j in range(R.shape[1]):
            size, change, unit = abs(R[s, j]), abs(D[s, j]), scale[s, j]
            low = size <= floor[s, j]
            at_floor &= low
            satisfied &= low or size <= rtol * unit
            within &= size <= rounding_rtol * unit
            settled &= change <= step_rtol * sizes[s, j]
            if not unit > zero:
                unit = larger(terms[s, j], size)
            residual = larger(residual, quotient(size, unit))
            correction = larger(correction, quotient(change, sizes[s, j]))
        flags[s, 0], flags[s, 1], flags[s, 2], flags[s, 3] = at_floor, satisfied, settled, within
        worst[s, 0], worst[s, 1] = residual, correction


@njit(fastmath=FAST_SUMS)
def levels(R: Array, floor: Array, weights: Array, norms: Array, start: int, stop: int) -> None:
    """Compute the norm of max(|R| - floor, 0) weights for each row."""
    zero = R.dtype.type(0)
    for s in range(start, stop):
        total = zero
        for j in range(R.shape[1]):
            above = abs(R[s, j]) - floor[s, j]
            above = zero if above <= zero else above * weights[s, j]
            total += above * above
        norms[s] = np.sqrt(total)
