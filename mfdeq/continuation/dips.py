"""Where a function with one sign at both ends of a step may change it twice in between.

Two folds, two crossings or two Hopf points within one step change neither the direction of t nor
the sign of det M nor the number of unstable eigenvalues. A parabola through the values at the last
three points, or a cubic through t and its slopes at both ends, shows where to look for them: where
it comes near zero. One more point of the curve there decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DIP_SHARE = 0.25  # of the smaller end value: how near zero a function must come
MIN_SHARE = 0.02  # of a step: the distance of the place from both ends


@dataclass(frozen=True)
class Before:
    """Values at the point before the last one.

    Attributes
    ----------
    t : float
        That of the last point, which tells whether this is about the step before.
    distance : float
        The length of the step between the two.
    smallest : float
        The smallest singular value of G.
    unstable : int or None
    levels : list of float
        Those of the last unstable eigenvalue and of the first stable one, if both are known.
    """

    t: float
    distance: float
    smallest: float
    unstable: int | None
    levels: list[float]


def dip_of_parabola(before: float, distance: float, ends: tuple[float, float], ds: float) -> Any:
    """Return the share of a step where a function may change its sign twice, or None.

    Parameters
    ----------
    before : float
        The value at a distance before the step.
    distance, ds : float
        That distance, and the length of the step.
    ends : pair of float
        The values at both ends.
    """
    first, last = ends
    if not (first * last > 0.0 and before * first > 0.0):
        return None
    rise, fall = (last - first) / ds, (first - before) / distance
    bend = (rise - fall) / (ds + distance)
    slope = rise - bend * ds
    return _lowest((first, slope * ds, bend * ds**2), ends)


def dip_of_slope(slopes: tuple[float, float], chord: float) -> Any:
    """Return the share of a step where dt/ds may change its sign twice, or None.

    Parameters
    ----------
    slopes : pair of float
        dt/ds at both ends, with s along the tangent at the first.
    chord : float
        The mean of dt/ds over the step.
    """
    a, b = slopes
    if not a * b > 0.0:
        return None
    return _lowest((a, -2.0 * (2.0 * a + b - 3.0 * chord), 3.0 * (a + b - 2.0 * chord)), slopes)


def _lowest(q: tuple[float, float, float], ends: tuple[float, float]) -> float | None:
    """Return where in 0..1 the parabola q0 + q1 x + q2 x² is near zero or beyond, or None."""
    sign = 1.0 if ends[0] > 0.0 else -1.0
    if not sign * q[2] > 0.0:
        return None
    x = -q[1] / (2.0 * q[2])
    value = sign * (q[0] + 0.5 * q[1] * x)
    inside = MIN_SHARE <= x <= 1.0 - MIN_SHARE
    return x if inside and value <= DIP_SHARE * min(abs(ends[0]), abs(ends[1])) else None
