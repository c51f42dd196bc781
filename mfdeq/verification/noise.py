"""The noise of a function, measured by its values at neighbouring points."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ..arrays.backend import Array, Backend
from ..arrays.noise import noise_deviation, values_on_line

POINTS = 7  # on a line, at equal distances
DEGREES = (2, 3, 4)  # of the smooth part of the values
STEP_ROUNDINGS = 2.0**10  # smallest distance of the points, in eps
NOISE_SAFETY_FACTOR = 3.0  # noise at other points may be this much larger
MULTIPLE_ROUNDINGS = 8.0  # of the values, by which differences of multiples may not be multiples
MULTIPLE_RTOL = 1e-6  # of the quantum, by which they may not be
MAX_MULTIPLE = 2.0**20  # multiples above this are not tested


class Noise:
    """The noise of each entry of a function, as far as it has been measured.

    Attributes
    ----------
    size : (n,) array
        The noise of the nearest points: three times its standard deviation, or twice the quantum of
        the values.
    largest : (n,) array
        The largest noise on any scale. It is larger than `size` where an inner iteration takes the
        same number of steps at all of the nearest points, and also where the function is not smooth
        on that scale.
    seen : (n,) bool array
        Whether an entry has changed at all.
    """

    def __init__(self, backend: Backend, base: Array) -> None:
        zero = backend.xp.zeros_like(base)
        self.backend, self.base = backend, base
        self._deviation = self._largest_deviation = zero
        self._gap = zero  # the least difference of neighbouring values that is not zero
        self._constant = zero != 0  # whether neighbouring values have been the same
        self._multiples = zero == 0  # whether all differences are multiples of the gap

    @property
    def size(self) -> Array:
        """The noise of the nearest points."""
        return self.backend.xp.maximum(self._deviation, self._quantum_noise)

    @property
    def largest(self) -> Array:
        """The largest noise on any scale."""
        return self.backend.xp.maximum(self._largest_deviation, self._quantum_noise)

    @property
    def seen(self) -> Array:
        """Whether an entry has changed at all."""
        return self._gap > 0

    @property
    def _quantum_noise(self) -> Array:
        quantized = self._constant & self._multiples
        return self.backend.xp.where(quantized, 2.0 * self._gap, 0.0 * self._gap)

    def measure(self, function: Callable[[float], Array | None]) -> None:
        """Measure the noise along a line.

        Parameters
        ----------
        function : callable
            ``function(t)`` returns an (n,) array, or None where there is no value. It changes by
            about its own size from t = 0 to t = 1.

        Notes
        -----
        The least estimate of `noise_deviation` with polynomials of the degrees 2 to 4 is taken,
        which a smooth part affects least.
        The distances of the points are 1e3 eps, eps^(1/2), eps^(1/4) and eps^(1/8) / 4. The last
        shows the rounding of terms that hardly change.
        """
        xp, eps, points = self.backend.xp, self.backend.eps, range(POINTS)
        for step in (STEP_ROUNDINGS * eps, eps**0.5, eps**0.25, eps**0.125 / 4):
            at = [j * step for j in points[1:]]
            values = [self.base, *values_on_line(function, at)]
            self.add_values(values)
            if len(values) == POINTS:
                deviation = noise_deviation(self.backend, values, points, DEGREES)
                deviation = NOISE_SAFETY_FACTOR * deviation
                # Far away a function may grow beyond all bounds.
                deviation = xp.where(xp.isfinite(deviation), deviation, 0.0 * self._deviation)
                # Rounding may be the same at all of the nearest points.
                known = self._deviation > 0
                self._deviation = xp.where(known, self._deviation, deviation)
                self._largest_deviation = xp.maximum(self._largest_deviation, deviation)

    def add_values(self, values: Sequence[Array]) -> None:
        """Use values at any points, in their order on a line.

        If neighbouring values of an entry are exactly the same, and all others differ by multiples
        of one number, this is the rounding error of its largest term, and values are no closer to
        each other than that. Beyond a kink a function may be constant as well, but the differences
        of its other values are no multiples.
        """
        xp, zero = self.backend.xp, 0.0 * self._gap
        gaps = [xp.abs(right - left) for left, right in itertools.pairwise(values)]
        gap, size = self._gap, zero
        for value in values:
            size = xp.maximum(size, xp.abs(value))
        for step in gaps:
            self._constant = self._constant | (step == 0)
            gap = xp.where((step > 0) & ((gap == 0) | (step < gap)), step, gap)
        safe = xp.where(gap > 0, gap, zero + 1.0)
        with self.backend.ignore_overflow():  # by a gap of a subnormal number
            allowed = MULTIPLE_RTOL + MULTIPLE_ROUNDINGS * self.backend.eps * size / safe
            for difference in (self._gap, *gaps):
                ratio = difference / safe
                is_multiple = xp.abs(ratio - xp.round(ratio)) <= allowed
                self._multiples = self._multiples & (is_multiple | (ratio > MAX_MULTIPLE))
        self._gap = gap
