"""Whether automatic derivatives are those of the function, by comparison with differences.

A function that detaches a part of its result is evaluated in one way and differentiated in another.
The product with a random direction is compared with one central difference. If they differ, points
nearby decide: a row is wrong if its differences to both sides, with two steps, agree with each
other and not with the derivative. Noise, rounding, kinks and curvature make them differ.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array, Backend
from ..errors import is_evaluation_failure
from ..operators.operator import Operator
from .nearby_points import nearby_point

RTOL = 1e-2  # relative error of a row above which it may be wrong
STEP_EXPONENT = 0.4  # of the machine epsilon: the step relative to the sizes of the variables
STEP_RATIO = 8.0  # of the two steps of differences to one side
MAX_SPREAD = 0.25  # of these differences, relative to their distance from the derivative
NOISE_FACTOR = 10.0  # rounding errors of values, in units of eps
NEARBY_POINTS = 2  # at all of which a row must be wrong

Function = Callable[[Array, Array], Array]
Point = tuple[Array, Array]


def find_wrong_rows(
    f: Function,
    jacobian: Operator,
    jacobian_at: Callable[[Array, Array], Operator],
    which: int,
    point: Point,
    sizes: Point,
) -> Array | None:
    """Return the relative errors of the rows of a Jacobian that are wrong, or None.

    Parameters
    ----------
    f : callable
        The function of (h, theta).
    jacobian : Operator
        Its Jacobian at the point.
    jacobian_at : callable
        ``jacobian_at(h, theta)`` returns its Jacobian at another point.
    which : {0, 1}
        Whether it is the derivative with respect to the state or to the parameters.
    point, sizes : pairs of (N,) and (P,) arrays
        The state and the parameters, and the sizes of their entries.

    Returns
    -------
    (N,) array or None
        The relative error of each wrong row, zero for the others; None if no row is wrong.

    Notes
    -----
    A correct derivative takes two evaluations of f and one product.
    """
    line = _Line(f, which, point, sizes, seed=41)
    if (derivative := line.product(jacobian)) is None or line.agrees(derivative):
        return None
    xp, wrong = line.backend.xp, None
    for i in range(NEARBY_POINTS):
        nearby = nearby_point(f, *point, sizes, i)
        line = _Line(f, which, nearby, sizes, seed=43 + i)
        derivative = line.product(jacobian_at(*nearby))
        errors = None if derivative is None else line.errors(derivative)
        if errors is None:
            return None
        wrong = errors if wrong is None else xp.minimum(wrong, errors)
        if not bool(xp.any(wrong > 0)):
            return None
    return wrong


class _Line:
    """The points x + t d on a line through (h, theta), with a random direction d."""

    def __init__(self, f: Function, which: int, x: Point, sizes: Point, seed: int) -> None:
        self.f, self.which, self.x = f, which, x
        self.backend = Backend.of(*x)
        size = sizes[which]
        self.direction = size * self.backend.random(size.shape[0], seed=seed)
        self.step = self.backend.eps**STEP_EXPONENT

    def product(self, jacobian: Operator) -> Array | None:
        """Return the product of a Jacobian with the direction, or None if it has none."""
        return self._finite(lambda: jacobian._apply(self.direction))

    def value(self, t: float) -> Array | None:
        """Return the value of f at a point of the line, or None if f has none there."""
        x = list(self.x)
        x[self.which] = x[self.which] + t * self.direction
        return self._finite(lambda: self.f(*x))

    def _finite(self, function: Callable[[], Array]) -> Array | None:
        with self.backend.ignore_overflow():
            try:
                value = function()
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                return None
            return value if bool(self.backend.xp.all(self.backend.xp.isfinite(value))) else None

    def agrees(self, derivative: Array) -> bool:
        """Return whether a central difference agrees with the derivative, or cannot be computed."""
        xp, t = self.backend.xp, self.step
        ahead, behind = self.value(t), self.value(-t)
        if ahead is None or behind is None:
            return True
        slope = (ahead - behind) / (2.0 * t)
        noise = NOISE_FACTOR * self.backend.eps * (xp.abs(ahead) + xp.abs(behind)) / t
        tolerance = RTOL * xp.maximum(xp.abs(slope), xp.abs(derivative))
        return not bool(xp.any(xp.abs(slope - derivative) > tolerance + noise))

    def errors(self, derivative: Array) -> Array | None:
        """Return the relative errors of the rows that are wrong, zero for the others."""
        xp = self.backend.xp
        steps = [sign * t for t in (self.step, STEP_RATIO * self.step) for sign in (1.0, -1.0)]
        base, values = self.value(0.0), [self.value(t) for t in steps]
        slopes = [
            (value - base) / t
            for value, t in zip(values, steps, strict=True)
            if value is not None and base is not None
        ]
        if len(slopes) < len(steps):
            return None
        table = xp.stack(slopes)
        spread = xp.max(table, axis=0) - xp.min(table, axis=0)
        error = xp.min(xp.abs(table - derivative), axis=0)
        size = xp.maximum(xp.max(xp.abs(table), axis=0), xp.abs(derivative))
        # A function that does not change at all may be one of rounded values.
        changes = xp.all(table != 0, axis=0)
        wrong = changes & (error > RTOL * size) & (spread < MAX_SPREAD * error)
        return xp.where(wrong, error / xp.where(wrong, size, xp.ones_like(size)), 0.0 * size)
