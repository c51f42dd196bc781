"""Zeros of functions along a step of a curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..arrays.backend import Array
from ..errors import is_evaluation_failure
from ..locks import ignore_warnings
from .curve import Curve
from .point import Point

MAX_ROOT_STEPS = 60  # of the secant method
ROOT_RTOL = 1e-9  # accuracy of a root, relative to the step
ROOT_RATIO = 1e-3  # a function that stays above this share of its end values has a pole
GUESS_POINTS = 3  # known points, through which a polynomial predicts others
# Distance of such points from each other, relative to that from what they predict, so that the
# polynomial magnifies their errors by little.
GUESS_SPACING = 0.2
# Distances from a point where A is singular, relative to the step.
SINGULAR_OFFSETS = 0.0, 1e-10, -1e-10, 1e-7, -1e-7, 1e-5, -1e-5

Value = TypeVar("Value")


@dataclass(frozen=True)
class Step:
    """A step of a curve, whose points are at distances s along the tangent at its start.

    Attributes
    ----------
    curve : Curve
    here : Point
    ds : float
        The length.
    there : Point
        The point at its end.
    """

    curve: Curve
    here: Point
    ds: float
    there: Point
    _known: list[tuple[float, Point]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        here, there = self.here, self.there
        chord = there.state - here.state, there.t - here.t
        end = self.curve.dot(*chord, here.tangent, here.slope)
        self._known.extend([(0.0, here), (end, there)])

    def evaluate(
        self, s: float, function: Callable[[Point], Value]
    ) -> tuple[float, Point, Value] | None:
        """Evaluate a function at a distance s, or close to it if A is singular there.

        Return the distance, the point and the value, or None if there is no point.
        """
        for offset in SINGULAR_OFFSETS:
            try:
                at = s + offset * self.ds
                with ignore_warnings():  # of digits that are lost, as A is nearly singular here
                    point = self.curve.correct_near(*self._guess(at), self.here, self.ds)
                    self._known.append((at, point))
                    return at, point, function(point)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
        return None

    def _guess(self, s: float) -> tuple[Array, float]:
        """Predict (h, t) at a distance s by the polynomial through the nearest known points.

        Close to a crossing, where another branch is as near, the tangent at the start of the step
        predicts points that Newton's method takes to that branch, if it converges at all.
        """
        chosen: list[tuple[float, Point]] = []
        for place, point in sorted(self._known, key=lambda known: abs(known[0] - s)):
            apart = GUESS_SPACING * abs(place - s)
            if all(abs(place - other) > apart for other, _ in chosen):
                chosen.append((place, point))
        h, t = 0.0 * self.here.state, 0.0
        for i, (place, point) in enumerate(chosen[:GUESS_POINTS]):
            weight = 1.0
            for other, _ in chosen[:i] + chosen[i + 1 : GUESS_POINTS]:
                weight *= (s - other) / (place - other)
            h, t = h + weight * point.state, t + weight * point.t
        return h, t

    def root(
        self,
        ends: tuple[float, float],
        values: tuple[float, float],
        function: Callable[[Point], float],
    ) -> tuple[float, Point] | None:
        """Locate a zero of a function by bracketed secants (the Illinois method).

        Return its distance and the point, or None if the change of sign is a pole.
        """
        (low, high), (at_low, at_high) = ends, values
        best: tuple[float, float, Point] | None = None
        for _ in range(MAX_ROOT_STEPS):
            secant = (low * at_high - high * at_low) / (at_high - at_low)
            evaluated = self.evaluate(secant, function)
            if evaluated is None:
                break
            s, point, value = evaluated
            if best is None or abs(value) < best[0]:
                best = abs(value), s, point
            if value * at_high < 0.0:
                low, at_low = high, at_high
            else:
                at_low *= 0.5
            high, at_high = s, value
            if abs(high - low) <= ROOT_RTOL * self.ds or value == 0.0:
                break
            if s != secant:
                break  # A is singular at the root itself
        if best is None or not best[0] <= ROOT_RATIO * max(map(abs, values)):
            return None
        return best[1], best[2]
