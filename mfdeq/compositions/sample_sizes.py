"""By what the residuals and corrections of samples are measured, as in `forward.criteria`."""

from __future__ import annotations

from ..arrays.backend import Array
from ..arrays.noise import noise_deviation
from ..forward.sizes import FALL_RATIO, FLOOR_ROUNDINGS, MAX_NOISE_FACTOR, MIN_FALLS
from .sample_steps import SampleEvaluations

NOISE_STEP, NOISE_POINTS, NOISE_DEGREE = 1e-7, 7, 3  # relative step, and the line, of a measurement


class SampleSizes:
    """The sizes of unknowns, and what rounding and noise leave in residuals.

    Parameters
    ----------
    evaluations : SampleEvaluations
    given : (N,) array or None
        The sizes of unknowns that the model states.
    step_rtol : float
        The tolerance of corrections.

    Attributes
    ----------
    noise : (samples, n) array or None
        The deviation of residuals by noise, where it has been measured.
    """

    def __init__(
        self, evaluations: SampleEvaluations, given: Array | None, step_rtol: float
    ) -> None:
        self.evaluations, self.backend = evaluations, evaluations.backend
        self.xp, self.step_rtol = self.backend.xp, step_rtol
        self.given = None if given is None else evaluations.rows(given)
        self.largest: Array | None = None  # |h_j| over the iterates after the first step
        self.falls: Array | None = None  # corrections in a row by which an unknown fell
        self.noise: Array | None = None
        self._known: tuple[Array, Array] | None = None  # states and their sizes, until they change

    def of_terms(self, H: Array) -> Array:
        """Return the sizes for the terms of equations, which are at least those of the unknowns."""
        sizes = self.of(H)
        return sizes if self.given is None else self.xp.maximum(sizes, self.xp.abs(H))

    def of(self, H: Array) -> Array:
        """Return the sizes of the unknowns: one that has fallen to zero has its largest value."""
        if self.given is not None:
            return self.given
        if self._known is None or self._known[0] is not H:
            size = self.xp.abs(H)
            if self.largest is not None:
                zero = self.zero(H)
                if self.backend.any(zero):
                    size = self.xp.where(zero, self.largest, size)
            self._known = H, size
        return self._known[1]

    def zero(self, H: Array) -> Array:
        """Return which unknowns have converged to zero, as consecutive corrections show."""
        size = self.xp.abs(H)
        if self.largest is None or self.falls is None:
            return size < 0.0
        small = size < self.step_rtol * self.largest
        if not self.backend.any(small):
            return small
        return small & ((size == 0.0) | (self.falls >= MIN_FALLS))

    def watch_corrections(self, H: Array, D: Array) -> None:
        """Count the corrections in a row by which unknowns fell."""
        xp, size = self.xp, self.xp.abs(H)
        falls = xp.abs(H - D) <= FALL_RATIO * size
        if self.largest is not None:
            tiny = size <= self.backend.eps * self.largest
            falls = falls | (tiny & (xp.abs(D) >= size))
        before = xp.zeros_like(size) if self.falls is None else self.falls
        self.falls = xp.where(falls, before + 1.0, xp.zeros_like(size))
        self._known = None

    def watch_states(self, H: Array) -> None:
        """Take note of the states after a step."""
        size = self.xp.abs(H)
        self.largest = size if self.largest is None else self.xp.maximum(self.largest, size)
        self._known = None

    def floor(self, terms: Array) -> Array:
        """Return the residuals that rounding and noise leave."""
        floor = FLOOR_ROUNDINGS * self.backend.eps * terms
        return floor if self.noise is None else floor + MAX_NOISE_FACTOR * self.noise

    def without_noise(self, ratios: Array) -> Array:
        """Return in which samples no noise has been measured."""
        return (0.0 * ratios if self.noise is None else self.xp.max(self.noise, axis=1)) == 0.0

    def measure_noise(self, which: Array, H: Array) -> None:
        """Measure the noise of residuals near H, in the given samples."""
        xp, evaluations = self.xp, self.evaluations
        signs = xp.sign(evaluations.rows(self.backend.random(H.size, seed=23)))
        step = NOISE_STEP * self.of(H) * signs
        points = range(NOISE_POINTS)
        values = [evaluations.flat(evaluations.residuals(H + t * step)) for t in points]
        deviation = noise_deviation(self.backend, values, points, [NOISE_DEGREE])
        least = xp.full_like(deviation, self.backend.smallest_normal)
        noise = evaluations.rows(xp.maximum(deviation, least))
        self.noise = xp.where(
            which[:, None], noise, 0.0 * noise if self.noise is None else self.noise
        )
