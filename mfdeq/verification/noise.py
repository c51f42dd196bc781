"""The noise of a function, measured by its values at neighbouring points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from ..arrays.backend import Array, Backend

POINTS = 7  # on a line, at equal distances
ORDERS = (3, 4, 5)  # of the differences, in which a smooth part is negligible
STEP_ROUNDINGS = 2.0**10  # smallest distance of the points, in eps
NOISE_SAFETY_FACTOR = 3.0  # noise at other points may be this much larger


class Noise:
    """The noise of each entry of a function, as far as it has been measured.

    Attributes
    ----------
    size : (n,) array
        The noise of the nearest points: three times its standard deviation, or twice the resolution
        of the values.
    largest : (n,) array
        The largest noise on any scale. It is larger than `size` where an inner iteration takes the
        same number of steps at all of the nearest points, and also where the function is not smooth
        on that scale.
    seen : (n,) bool array
        Whether an entry has changed at all.
    """

    def __init__(self, backend: Backend, base: Array) -> None:
        self.backend, self.base = backend, base
        self.size = self.largest = backend.xp.zeros_like(base)
        self.seen = self.size > 0

    def measure(self, function: Callable[[float], Array | None]) -> None:
        """Measure the noise along a line.

        Parameters
        ----------
        function : callable
            ``function(t)`` returns an (n,) array, or None where there is no value. It changes by
            about its own size from t = 0 to t = 1.

        Notes
        -----
        The standard deviation follows from differences of order k by σ² = (k!)² / (2k)! mean
        (Δᵏf)². The least estimate of the orders 3 to 5 is taken, which a smooth part affects least.
        The distances of the points are 1e3 eps, eps^(1/2) and eps^(1/4).

        References
        ----------
        J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM Journal on Scientific
        Computing 33 (2011).
        """
        xp, eps = self.backend.xp, self.backend.eps
        for step in (STEP_ROUNDINGS * eps, eps**0.5, eps**0.25):
            values = [self.base]
            for j in range(1, POINTS):
                value = function(j * step)
                if value is None:
                    break
                values.append(value)
            self.add_values(values)
            if len(values) == POINTS:
                deviation = NOISE_SAFETY_FACTOR * _deviation(self.backend, values)
                smallest = step == STEP_ROUNDINGS * eps
                near = xp.maximum(self.size, deviation)
                # Rounding may be the same at all of the nearest points.
                self.size = xp.where((self.size > 0) & (not smallest), self.size, near)
                self.largest = xp.maximum(self.largest, deviation)

    def add_values(self, values: Sequence[Array]) -> None:
        """Use values at any points, in their order on a line.

        If an entry has exactly the same value at neighbouring points, its values are multiples of
        the rounding error of its largest term, which are no closer to each other than that.
        """
        xp = self.backend.xp
        same, resolution = self.size < 0, xp.zeros_like(self.size)
        for left, right in itertools.pairwise(values):
            gap = xp.abs(right - left)
            same = same | (gap == 0)
            smaller = (gap > 0) & ((resolution == 0) | (gap < resolution))
            resolution = xp.where(smaller, gap, resolution)
        self.seen = self.seen | (resolution > 0)
        resolution = xp.where(same, 2.0 * resolution, xp.zeros_like(resolution))
        self.size = xp.maximum(self.size, resolution)
        self.largest = xp.maximum(self.largest, resolution)


def _deviation(backend: Backend, values: list[Array]) -> Array:
    """Return the least standard deviation of noise by differences of several orders."""
    xp = backend.xp
    least: Array | None = None
    for order in range(1, max(ORDERS) + 1):
        values = [right - left for left, right in itertools.pairwise(values)]
        if order not in ORDERS:
            continue
        share = math.factorial(order) ** 2 / math.factorial(2 * order) / len(values)
        squares = sum((value * value for value in values[1:]), values[0] * values[0])
        deviation = xp.sqrt(share * squares)
        least = deviation if least is None else xp.minimum(least, deviation)
    assert least is not None
    return least
