"""Sizes of variables and the noise of a function, from which steps of differences follow.

A difference along variable j with the step t has an error of about noise/t + t²|f'''|/6. Both
parts are known only relative to the length over which f bends. By default this is the variable's
own size |x_j|, whatever its units. The noise of every entry of f is measured by a few values on a
line, from which a smooth part is removed [1]_, so that functions with tolerances inside or with
cancelling terms get longer steps [2]_.

References
----------
.. [1] J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM Journal on Scientific
   Computing 33 (2011), 1292-1314.
.. [2] P. E. Gill, W. Murray, M. A. Saunders and M. H. Wright, "Computing forward-difference
   intervals for numerical optimization", SIAM Journal on Scientific and Statistical Computing 4
   (1983), 310-321.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..arrays.noise import noise_deviation, values_on_line
from ..errors import ArgumentError

# Points on a line, at irregular distances, from whose values the noise is estimated.
NOISE_POINTS = (-3.0, -2.236, -0.927, 0.0, 1.382, 2.058, 3.0)
NOISE_DEGREE = 2  # of the smooth part of the values
MIN_MOVES = 0.5  # share of neighbouring points at which an entry that changes is different
MIN_CHANGE = 1e3  # change along the line, in units of the noise, that makes the noise visible


@dataclass(frozen=True)
class StepRule:
    """The step sizes of finite differences.

    Parameters
    ----------
    relative_step : float, optional
        The step relative to the sizes of the variables. By default it follows from the noise.
    scale : pair of floats or arrays, optional
        Sizes of the state and of the parameters, by default those of the point.
    """

    relative_step: float | None = None
    scale: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        step, scale = self.relative_step, self.scale
        if step is not None and not (isinstance(step, float) and 0.0 < step < 1.0):
            raise ArgumentError(f"step: expected a float between 0 and 1, or None, got {step!r}")
        if scale is not None and not (isinstance(scale, (tuple, list)) and len(scale) == 2):
            raise ArgumentError(
                f"scale: expected a pair (state scale, parameter scale), got {type(scale).__name__}"
            )

    @property
    def is_fixed(self) -> bool:
        """Whether the user chose the steps."""
        return self.relative_step is not None or self.scale is not None


def variable_sizes(
    backend: Backend, x: Array, scale: Any, default: Array | None, name: str
) -> tuple[Array, Array]:
    """Return the sizes of the entries of x, and whether each is known.

    Parameters
    ----------
    backend : Backend
    x : (n,) array
    scale : float or array or None
        The sizes that the user passed.
    default : (n,) array or None
        The sizes of entries that are zero, where they are known.
    name : str
        The name of `scale` in error messages.

    Returns
    -------
    sizes : (n,) array
        The scale, or the magnitudes of the entries. Entries that are zero have the root mean square
        of the others, or 1.
    known : (n,) array of bool
        False for zero entries without a scale.
    """
    xp = backend.xp
    if scale is not None:
        sizes = backend.check_array(scale, None, name, ArgumentError)
        if sizes.shape not in ((), x.shape):
            raise ArgumentError(
                f"{name}: expected a number or an array of shape {tuple(x.shape)}, got shape "
                f"{tuple(sizes.shape)}"
            )
        if not bool(xp.all(sizes > 0)):
            raise ArgumentError(f"{name}: expected positive numbers, got {float(xp.min(sizes))}")
        sizes = sizes + 0.0 * x
        return sizes, sizes > 0
    sizes = xp.abs(x)
    if default is not None:
        sizes = xp.where(sizes > 0, sizes, default)
    known = sizes > 0
    if backend.all(known):
        return sizes, known
    others = math.sqrt(max(backend.count(known), 1))
    fallback = (backend.norm(sizes) / others) or 1.0
    return xp.where(known, sizes, xp.asarray(fallback, dtype=x.dtype, device=backend.device)), known


def measure_noise(
    backend: Backend, evaluate: Callable[[float], Array | None]
) -> tuple[Array, Array, bool] | None:
    """Estimate the noise of each entry of a function from its values on a line.

    Parameters
    ----------
    backend : Backend
    evaluate : callable
        ``evaluate(t)`` returns the values at a point of the line; None where there are none. For
        |t| <= 3 a smooth function is a polynomial of degree two, up to rounding.

    Returns
    -------
    noise : (N,) array
        The standard deviation of the noise, at least half a rounding unit of the values.
    visible : (N,) array of bool
        Whether the function changes along the line by much more than that. Otherwise its noise may
        be larger at a distance.
    resolved : bool
        Whether the values change from point to point. Otherwise the points are too close.

    None is returned in their place if the function has no value at one of the points.

    Notes
    -----
    The noise is what the best parabola leaves (see `noise_deviation`). The points are irregular,
    since values that are rounded to multiples of a number may change by the same multiple between
    equidistant points, as if they were exact.
    """
    xp = backend.xp
    values = values_on_line(evaluate, NOISE_POINTS)
    if len(values) < len(NOISE_POINTS):
        return None
    table = xp.stack(values)
    floor = 0.5 * backend.eps * xp.max(xp.abs(table), axis=0)
    change = xp.abs(table[-1, ...] - table[0, ...])
    moves = xp.astype(table[1:, ...] != table[:-1, ...], backend.dtype)
    changing = xp.max(moves, axis=0)
    points = len(NOISE_POINTS)
    resolved = float(xp.sum(moves)) >= MIN_MOVES * (points - 1) * float(xp.sum(changing)) > 0.0
    noise = xp.maximum(noise_deviation(backend, values, NOISE_POINTS, [NOISE_DEGREE]), floor)
    return noise, change > MIN_CHANGE * noise, resolved


def typical_noise(backend: Backend, noise: Array, largest: Array) -> Array:
    """Return the noise of entries, at least a part of what is typical of all of them.

    The noise of one entry, from a few values, may be small by chance. Entries may have different
    units, so that each is compared with `largest`, the larger of two noises of it.
    """
    xp = backend.xp
    positive = (largest > 0) & xp.isfinite(largest)
    if not bool(xp.any(positive)):
        return noise
    ratio = xp.sort(noise[positive] / largest[positive])
    median = float(ratio[ratio.shape[0] // 2])
    return xp.maximum(noise, median * largest)
