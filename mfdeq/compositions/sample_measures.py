"""How well the equations of each sample hold, in one pass by compiled loops where these pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import dense_blocks
from ..arrays.backend import Array, host


@dataclass(frozen=True)
class SampleMeasures:
    """The residuals and corrections of each sample, in their units.

    Attributes
    ----------
    at_floor : (samples,) array of bool
        Whether no residual exceeds what rounding and noise leave.
    satisfied : (samples,) array of bool
        Whether every residual is within this or the tolerance.
    settled : (samples,) array of bool
        Whether every correction is within its tolerance.
    within : (samples,) array of bool
        Whether every residual is within the tolerance, or the precision if that is larger.
    ratios, corrections : (samples,) arrays
        The worst residual and the largest correction, relative to their units.
    """

    at_floor: Array
    satisfied: Array
    settled: Array
    within: Array
    ratios: Array
    corrections: Array


def measure(
    xp: Any,
    R: Array,
    D: Array,
    *,
    terms: Array,
    scale: Array,
    sizes: Array,
    floor: Array,
    rtols: tuple[float, float, float],
) -> SampleMeasures:
    """Measure residuals and corrections, (samples, n) arrays.

    Parameters
    ----------
    xp : module
        The array namespace.
    R, D : (samples, n) arrays
        Residuals and corrections.
    terms, scale, sizes, floor : (samples, n) arrays
        The sizes of the terms of each equation, the units of residuals and of corrections, and the
        residuals that rounding and noise leave. Where a unit of a residual is zero, it is the size
        of the terms or of the residual itself.
    rtols : three floats
        The tolerances of residuals and of corrections, and that of `SampleMeasures.within`.
    """
    if dense_blocks.loops_pay(R, *R.shape):
        from ..arrays import sample_loops

        flags, worst = host.empty((len(R), 4), bool), host.empty((len(R), 2), R.dtype)
        given = (host.ascontiguousarray(x, R.dtype) for x in (R, D, terms, scale, sizes, floor))
        dense_blocks.run(sample_loops.measure, *given, host.asarray(rtols, R.dtype), flags, worst)
        return SampleMeasures(*flags.T, *worst.T)
    size, change = xp.abs(R), xp.abs(D)
    low = size <= floor
    unit = xp.where(scale > 0.0, scale, xp.maximum(terms, size))
    return SampleMeasures(
        xp.all(low, axis=1),
        xp.all((size <= rtols[0] * scale) | low, axis=1),
        xp.all(change <= rtols[1] * sizes, axis=1),
        xp.all(size <= rtols[2] * scale, axis=1),
        xp.max(ratio(xp, size, unit), axis=1),
        xp.max(ratio(xp, change, sizes), axis=1),
    )


class Level:
    """The norms of the residuals of samples, in units of the terms of each equation."""

    def __init__(self, xp: Any, terms: Array, floor: Array) -> None:
        self.xp, self.floor = xp, floor
        self.weights = 1.0 / xp.where(terms > 0.0, terms, xp.ones_like(terms))

    def __call__(self, R: Array) -> Array:
        """Return the norm for each sample."""
        xp = self.xp
        if dense_blocks.loops_pay(R, *R.shape):
            from ..arrays import sample_loops

            given = (host.ascontiguousarray(x, R.dtype) for x in (R, self.floor, self.weights))
            found = host.empty(len(R), R.dtype)
            dense_blocks.run(sample_loops.levels, *given, found)
            return found
        above = xp.maximum(xp.abs(R) - self.floor, xp.zeros_like(R))
        return norms(xp, above * self.weights)


def norms(xp: Any, x: Array) -> Array:
    """Return the norm of each row."""
    return xp.sqrt(xp.sum(x * x, axis=1))


def ratio(xp: Any, x: Array, size: Array) -> Array:
    """Return x / size entry by entry, where 0 / 0 is 0."""
    if bool(xp.all(size > 0.0)):
        return x / size
    safe = xp.where(size > 0.0, size, xp.ones_like(size))
    infinite = xp.where(x > 0.0, xp.full_like(x, float("inf")), xp.zeros_like(x))
    return xp.where(size > 0.0, x / safe, infinite)
