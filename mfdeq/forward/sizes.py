"""The sizes of unknowns and equations, in no units, that the criteria of convergence compare with.

An unknown has the size |h_j|, an equation that of its terms, (|A||h|)_i. Both scale with the units
of the unknown or the equation. Rounding is 10 eps (|A||h|)_i in R_i, or what differences of R
between neighbouring states show.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import fraction
from ..arrays.backend import Array, Backend
from ..linear import Factor
from ..linear.scaling import Scaling
from ..locks import cached_property
from ..models.problem import Problem
from ..operators.operator import Operator

DEFAULT_RTOL_FLOAT64 = 1e-10
FLOOR_ROUNDINGS = 10.0  # the rounding error of R_i that is allowed, in units of eps (|A||h|)_i
STEP_ROUNDINGS = 4.0  # the change of an unknown that is rounding, in units of eps |h_j|
# The error of an entry of R, in standard deviations of its noise, estimated from few samples.
MAX_NOISE_FACTOR = 20.0
# Power of eps: terms of an equation relative to the largest, in units in which the rows of A are
# of similar size, below which iterative solves leave terms where there should be none.
LEAST_TERMS = 2 / 3
FALL_RATIO = 0.1  # of an unknown after a correction to its value before, which may show a zero
MIN_FALLS = 2  # consecutive corrections that show it


@dataclass
class Level:
    """A norm of residuals in units of the terms of each equation, ||W max(|R| - floor, 0)||.

    Attributes
    ----------
    weights : (N,) array
        W, the inverse of the size of the terms.
    floor : (N,) array
        The rounding error of each entry of R.
    zeros : (N,) array
        Zeros, which every evaluation needs.
    """

    backend: Backend
    weights: Array
    floor: Array
    zeros: Array

    def __call__(self, residual: Array) -> float:
        """Return the norm of a residual."""
        xp = self.backend.xp
        above = xp.maximum(xp.abs(residual) - self.floor, self.zeros)
        return self.backend.norm(above * self.weights)


def describe_target(rtol: float) -> str:
    """Name an accuracy that is aimed at; a relative one of zero is that of rounding."""
    return f"rtol = {rtol:.2g}" if rtol > 0.0 else "rounding"


class Sizes:
    """The sizes of unknowns and equations at the iterates of one solve.

    Parameters
    ----------
    problem : Problem
    rtol : float or None
        By default 1e-10 in float64; in float32 rounding is the target.

    Attributes
    ----------
    A : Operator or None
        The latest linearization, which determines the terms of the equations.
    factor : Factor or None
        A factor of it, for Newton's correction.
    parameter_terms : (N,) array or None
        |B||theta|, whose rounding counts too if the parameters themselves are rounded.
    """

    def __init__(self, problem: Problem, rtol: float | None) -> None:
        self.problem, self.backend = problem, problem.backend
        self.xp = problem.backend.xp
        default = DEFAULT_RTOL_FLOAT64 if self.backend.dtype == self.xp.float64 else 0.0
        self.rtol = default if rtol is None else fraction(rtol, "rtol")
        # Unknowns are compared in steps of their own rounding at best.
        self.step_rtol = max(self.rtol, STEP_ROUNDINGS * self.backend.eps)
        self.A: Operator | None = None
        self.factor: Factor | None = None
        self.parameter_terms: Array | None = None
        self._state_scale = problem.state_scale()
        self._largest: Array | None = None  # |h_j| over the iterates after the first step
        # The latest h, the largest sizes, and |h|, if no unknown of h may be converging to zero.
        self._regular: tuple[Array, Array | None, Array] | None = None
        self._latest_terms: tuple[Operator, Array, Array] | None = None  # A, sizes and |A| sizes
        self._largest_terms: Array | None = None  # of the equations, over the iterates
        self._here: tuple[Operator | None, Array, Array] | None = None  # A, h and the terms there
        self._scaled: tuple[Operator, Array] | None = None  # the latest A, and its row scales
        self._falls: Array | None = None  # consecutive corrections of an unknown to zero
        self._noise: Array | None = None  # measured error of each entry of R

    @cached_property
    def _zeros(self) -> Array:
        return self.backend.zeros(self.problem.state_size)

    @cached_property
    def _ones(self) -> Array:
        return self._zeros + 1.0

    @property
    def target(self) -> str:
        """The accuracy that is aimed at, in words."""
        return describe_target(self.rtol)

    # Sizes of unknowns and equations.

    def assume_sizes(self, sizes: Array) -> None:
        """Take sizes of the unknowns as their largest values so far, (N,)."""
        self._largest = sizes

    def unknown_sizes(self, h: Array, final: bool = False) -> Array:
        """Return the size of each unknown that counts as one, (N,).

        It is the model's `state_scale`, by default |h_j|. An unknown that has fallen below rtol
        times its largest value may be converging to zero, and has that value as its size. In the
        `final` judgement this holds only for those that Newton's corrections show to be zero.
        """
        if self._state_scale is not None:
            return self._state_scale
        if self._is_regular(h):
            assert self._regular is not None
            return self._regular[2]
        size = self.xp.abs(h)
        small = self._vanished(size)
        if final:
            small = small & self._zero(size)
        return self.xp.where(small, self._largest, size)

    def _is_regular(self, h: Array) -> bool:
        """Return whether no unknown has fallen far below its largest value, and keep |h|."""
        latest = self._regular
        if latest is not None and latest[0] is h and latest[1] is self._largest:
            return True
        size = self.xp.abs(h)
        if self._largest is not None and self.backend.any(self._vanished(size)):
            return False
        self._regular = h, self._largest, size
        return True

    def _zero(self, size: Array) -> Array:
        """Return which unknowns are zero, to judge by consecutive corrections."""
        if self._falls is None:
            return size == 0.0
        return (size == 0.0) | (self._falls >= MIN_FALLS)

    def _watch_zeros(self, h: Array, step: Array) -> None:
        """Count the consecutive corrections that leave nothing of each unknown.

        They take it nearly to zero, or are larger than what is left of it, which is rounding.
        """
        xp = self.xp
        size, change = xp.abs(h), xp.abs(step)
        falls = xp.abs(h - step) <= FALL_RATIO * size
        if self._largest is not None:
            falls = falls | ((size <= self.backend.eps * self._largest) & (change >= size))
        if not self.backend.any(falls):
            self._falls = self._zeros
            return
        one = xp.astype(falls, self.backend.dtype)
        self._falls = one if self._falls is None else one * (self._falls + 1.0)

    def _vanished(self, size: Array) -> Array:
        if self._largest is None:
            return size < 0.0
        return size < self.step_rtol * self._largest

    def terms(
        self, h: Array, residual: Array, step: Array | None = None, final: bool = False
    ) -> Array:
        """Return the size of the terms of each equation, (|A||h|)_i, (N,).

        Without a linearization it is |h_i| + |f_i| for a map.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            A step whose unknowns count if they are larger than those of h, which may be zero.
        final : bool, optional
            As in `unknown_sizes`.
        """
        xp = self.xp
        size = self.unknown_sizes(h, final)
        if self._state_scale is not None:
            size = xp.maximum(size, xp.abs(h))
        if step is not None:
            size = xp.maximum(size, xp.abs(step))
        if self.A is None:
            assert self.problem.is_map
            return size + xp.abs(h - residual)
        latest = self._latest_terms
        if latest is None or latest[0] is not self.A or latest[1] is not size:
            latest = self._latest_terms = self.A, size, self.A.abs_apply(size)
        return latest[2]

    def equation_sizes(self, h: Array, terms: Array) -> Array:
        """Return the size of each equation that counts as one: `residual_scale`, or its terms."""
        given = self.problem.residual_scale(h)
        return terms if given is None else given

    def floor(self, terms: Array) -> Array:
        """Return the rounding error that is allowed in each entry of R, (N,)."""
        return self._errors(terms, MAX_NOISE_FACTOR)

    def _errors(self, terms: Array, noise_factor: float) -> Array:
        if self.parameter_terms is not None:
            terms = terms + self.parameter_terms
        floor = FLOOR_ROUNDINGS * self.backend.eps * terms
        return floor if self._noise is None else floor + noise_factor * self._noise

    def step_sizes(self, h: Array, step: Array) -> Array:
        """Return positive sizes of the unknowns for the comparison of steps, max(|h|, |step|)."""
        size = self.xp.maximum(self.unknown_sizes(h), self.xp.abs(step))
        return self.xp.where(size > 0.0, size, self._ones)

    def level(
        self,
        h: Array,
        residual: Array,
        step: Array | None = None,
        trial: Array | None = None,
    ) -> Level:
        """Return the norm of residuals in units of the terms of each equation.

        They are the largest terms at any iterate so far, or near h, so that an equation whose terms
        vanish for a while does not outweigh the others. What is rounding does not count. The level
        compares residuals at trial states with that at h, and has no part in the criteria. The
        terms at h, an iterate, are remembered for later levels.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            As in `terms`.
        trial : (N,) array, optional
            The residual after a first step: an equation whose terms vanish at the start, such as
            that of a reaction at rest, may have large ones there.
        """
        xp = self.xp
        size = xp.abs(residual)
        terms = self._terms_here(h, residual)
        if step is not None:
            terms = xp.maximum(self.terms(h, residual, step, final=True), size)
        floor = self.floor(terms)
        terms = xp.maximum(terms, self._largest_terms)
        if trial is not None:
            terms = xp.maximum(terms, xp.abs(trial))
        if self.factor is not None and self.factor.iterative:
            rows = self._row_scales(self.factor.working.A)
            least = self.backend.eps**LEAST_TERMS * xp.max(rows * terms)
            terms = xp.maximum(terms, least / rows)
        safe = xp.where(terms > 0.0, terms, self._ones)
        return Level(self.backend, 1.0 / safe, floor, self._zeros)

    def _terms_here(self, h: Array, residual: Array) -> Array:
        """Return the terms at an iterate, once for all levels of a line search."""
        if self._here is None or self._here[0] is not self.A or self._here[1] is not h:
            terms = self.terms(h, residual, final=True)
            here = self.xp.maximum(terms, self.xp.abs(residual))
            largest = self._largest_terms
            self._largest_terms = here if largest is None else self.xp.maximum(here, largest)
            self._here = self.A, h, here
        return self._here[2]

    def _row_scales(self, A: Operator) -> Array:
        """Return the inverse sizes of the rows of A, in units in which A is balanced."""
        if self._scaled is None or self._scaled[0] is not A:
            known = Scaling.from_scales(A) if A.array is None else Scaling.sums_of_operator(A)
            rows = known.rows
            self._scaled = A, self.backend.zeros(A.shape[0]) + 1.0 if rows is None else rows
        return self._scaled[1]
