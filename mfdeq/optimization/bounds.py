"""Bounds on the parameters: projections and active sets.

The active set is that of Bertsekas: the parameters near a bound that steepest descent would cross.
Distances to a bound are relative to the size of the parameter, so that they have no units.

References
----------
D. P. Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..arrays.backend import Array, Backend, native
from ..errors import ArgumentError
from ..models.vectors import flatten_params

# Parameters closer to a bound than this, relative to their size, may be near it.
NEAR_DISTANCE = 1e-3


class Bounds:
    """The bounds lower <= theta <= upper.

    Parameters
    ----------
    backend : Backend
    size : int
        P.
    pair : pair of (P,) arrays, numbers or None, or None
        The pair (lower, upper); None means no bound.
    model : Model, optional
        The model whose pytrees of parameters are accepted as well.
    """

    def __init__(self, backend: Backend, size: int, pair: Any, model: Any = None) -> None:
        self.backend, self.model = backend, model
        try:
            sides = (None, None) if pair is None else tuple(pair)
        except TypeError:
            sides = ()
        if len(sides) != 2:
            raise ArgumentError(
                "bounds: expected a pair (lower, upper), each an array, a number or None, got "
                f"{reprlib.repr(pair)}"
            )
        self.lower: Array | None
        self.upper: Array | None
        self.lower, self.upper = (
            None if x is None else self._side(x, size, name)
            for x, name in zip(sides, ("lower bound", "upper bound"), strict=True)
        )
        lower, upper = self.lower, self.upper
        if lower is not None and upper is not None and bool(backend.xp.any(lower > upper)):
            raise ArgumentError(
                "bounds: expected lower <= upper, got a lower bound above the upper one"
            )

    def _side(self, x: Any, size: int, name: str) -> Array:
        backend, x = self.backend, native(flatten_params(self.model, x, name))
        if isinstance(x, Real) or getattr(x, "shape", None) == ():
            x = backend.zeros(size) + float(x)
        side = backend.check_array(x, (size,), name, ArgumentError, finite=False)
        if bool(backend.xp.any(backend.xp.isnan(side))):
            raise ArgumentError(f"{name}: expected numbers, got NaN. Use infinity for no bound")
        return side

    @property
    def unbounded(self) -> bool:
        """Whether there are no bounds."""
        return self.lower is None and self.upper is None

    def project(self, theta: Array) -> Array:
        """Return the nearest point within the bounds."""
        xp = self.backend.xp
        if self.lower is not None:
            theta = xp.maximum(theta, self.lower)
        return theta if self.upper is None else xp.minimum(theta, self.upper)

    def projected_gradient(self, theta: Array, g: Array) -> Array:
        """Return the gradient, less what points out of the bounds; zero at a stationary point.

        An entry that points outwards decreases with the distance to the bound near it.
        """
        xp = self.backend.xp
        for bound, outwards in self._sides(g):
            near = NEAR_DISTANCE * self._sizes(theta, bound)
            inside = abs(theta - bound)
            share = xp.where(inside < near, inside / xp.where(near > 0.0, near, near + 1.0), 1.0)
            g = xp.where(outwards, share * g, g)
        return g

    def active_set(self, theta: Array, g: Array, progress: float = 1.0) -> ActiveSet:
        """Return the parameters near a bound that a step of steepest descent would cross.

        Parameters
        ----------
        theta, g : (P,) arrays
        progress : float, optional
            The norm of the gradient relative to that at the start. The distance decreases with it:
            near a solution, only parameters at a bound are active.
        """
        backend, xp = self.backend, self.backend.xp
        if self.unbounded:
            return ActiveSet(None, None)
        active, distance = theta != theta, xp.zeros_like(theta)
        for bound, outwards in self._sides(g):
            near = min(1.0, progress) * NEAR_DISTANCE * self._sizes(theta, bound)
            here = outwards & (abs(theta - bound) <= near)
            distance = xp.where(here, bound - theta, distance)
            active = active | here
        return ActiveSet(xp.astype(~active, backend.dtype), distance)

    def _sides(self, g: Array) -> list[tuple[Array, Array]]:
        """Return each bound, with a mask of the entries that descent moves towards it."""
        sides = (self.lower, g > 0), (self.upper, g < 0)
        return [(bound, outwards) for bound, outwards in sides if bound is not None]

    def _sizes(self, theta: Array, bound: Array) -> Array:
        """Return the sizes of the parameters: the width of the bounds, or else their values."""
        xp = self.backend.xp
        sizes = xp.maximum(abs(theta), xp.where(xp.isfinite(bound), abs(bound), 0.0 * theta))
        if self.lower is None or self.upper is None:
            return sizes
        width = self.upper - self.lower
        return xp.where(xp.isfinite(width), width, sizes)


@dataclass(frozen=True)
class ActiveSet:
    """The active parameters, which a step moves to their bounds, and the free ones.

    Attributes
    ----------
    mask : (P,) array or None
        1 for a free parameter, 0 for an active one; None if all are free.
    distance : (P,) array or None
        The signed distance from an active parameter to its bound; 0 for a free one.
    """

    mask: Array | None
    distance: Array | None

    def free(self, x: Array) -> Array:
        """Return x with zeros for the active parameters."""
        return x if self.mask is None else self.mask * x

    def to_bounds(self, theta: Array) -> Array:
        """Return theta with the active parameters moved to their bounds."""
        return theta if self.distance is None else theta + self.distance
