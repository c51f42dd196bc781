"""Bounds on the parameters: projections, and which parameters a step may move."""

from __future__ import annotations

import reprlib
from numbers import Real
from typing import Any

from ..arrays.backend import Array, Backend, native
from ..errors import ArgumentError

NEAR = 1e-8  # of the range of the parameters, within which one counts as at its bound


class Bounds:
    """lower <= theta <= upper; None is no bound.

    Parameters
    ----------
    backend : Backend
    size : int
    given : pair of (P,) arrays, numbers or None, or None
    """

    def __init__(self, backend: Backend, size: int, given: Any) -> None:
        self.backend = backend
        try:
            pair = (None, None) if given is None else tuple(given)
        except TypeError:
            pair = ()
        if len(pair) != 2:
            raise ArgumentError(
                f"bounds is {reprlib.repr(given)}; a pair (lower, upper) was expected, each an "
                "array, a number or None"
            )
        self.lower: Array | None
        self.upper: Array | None
        self.lower, self.upper = (
            None if x is None else self._side(x, size, name)
            for x, name in zip(pair, ("lower bound", "upper bound"), strict=True)
        )
        lower, upper = self.lower, self.upper
        if lower is not None and upper is not None and bool(backend.xp.any(lower > upper)):
            raise ArgumentError("a lower bound is above its upper bound")

    def _side(self, x: Any, size: int, name: str) -> Array:
        backend, x = self.backend, native(x)
        if isinstance(x, Real) or getattr(x, "shape", None) == ():
            x = backend.zeros(size) + float(x)
        found = backend.checked(x, (size,), name, ArgumentError, finite=False)
        if bool(backend.xp.any(backend.xp.isnan(found))):
            raise ArgumentError(f"{name} holds NaN; give infinity where there is none")
        return found

    @property
    def none(self) -> bool:
        """Whether there are none."""
        return self.lower is None and self.upper is None

    def project(self, theta: Array) -> Array:
        """The nearest point within the bounds."""
        xp = self.backend.xp
        if self.lower is not None:
            theta = xp.maximum(theta, self.lower)
        return theta if self.upper is None else xp.minimum(theta, self.upper)

    def projected_gradient(self, theta: Array, g: Array) -> Array:
        """theta - P(theta - g): zero at a stationary point; g itself without bounds."""
        return g if self.none else theta - self.project(theta - g)

    def held(self, theta: Array, g: Array) -> tuple[Array, Array] | None:
        """The parameters (True) that a descent would take through a near bound, and the way there.

        None without bounds.
        """
        if self.none:
            return None
        xp = self.backend.xp
        # As near as the step to stationarity is long: near a solution, only those at a bound.
        near = min(1.0, self.backend.norm(self.projected_gradient(theta, g)))
        near = max(near * NEAR**0.5, NEAR)
        held, way = theta != theta, xp.zeros_like(theta)
        for bound, outwards in ((self.lower, g > 0), (self.upper, g < 0)):
            if bound is not None:
                here = outwards & (abs(theta - bound) <= near)
                way = xp.where(here, bound - theta, way)
                held = held | here
        return held, way
