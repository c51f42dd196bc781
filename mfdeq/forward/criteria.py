"""The two criteria of convergence, in no units, and the sizes that they compare with.

A state h has converged if every equation is satisfied to rtol of the size of its own terms, and if
Newton's correction d = A^-1 R changes no unknown by more than rtol of its own size,

    |R_i| <= rtol (|A||h|)_i   and   |d_j| <= rtol |h_j|,

each or down to rounding. Neither changes if an equation is multiplied by a number, or if an unknown
is measured in other units. Rounding is 10 eps (|A||h|)_i in R_i, or what differences of R between
neighbouring states show, and what this changes in h_j.

References
----------
P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import is_
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, Backend
from ..errors import ConvergenceError
from ..linear import Factor
from ..linear.scaling import Scaling
from ..locks import cached_property
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .newton_loop import CHORD_RTOL
from .noise import measure_noise

DEFAULT_RTOL_FLOAT64 = 1e-10
FLOOR_ROUNDINGS = 10.0  # the rounding error of R_i that is allowed, in units of eps (|A||h|)_i
STEP_ROUNDINGS = 4.0  # the change of an unknown that is rounding, in units of eps |h_j|
NOISE_FACTOR = 5.0  # the error of R, in standard deviations of measured noise
# The same for a single entry of R, whose standard deviation was estimated from few samples.
MAX_NOISE_FACTOR = 20.0
NOISE_STEP_ROUNDINGS = 8.0  # the least step of a noise measurement, in units of eps |h_j|
NOISE_STEP_FACTORS = (1 / 16, 1.0, 16.0)  # multiples of the step that are tried in turn
MAX_NOISE_STEP = 1e-4  # relative to the unknowns
MAX_NOISE_GROWTH = 4.0  # of noise from one of these steps to the next
FLOOR_RATIO = 1e3  # of |R_i| to a first estimate of its rounding error, below which it is refined
# Power of eps: terms of an equation relative to the largest, in units in which the rows of A are
# alike, below which iterative solves leave terms where there should be none.
LEAST_TERMS = 2 / 3
FALL_RATIO = 0.1  # of an unknown after a correction to its value before, which may show a zero
MIN_FALLS = 2  # consecutive corrections that show it
MIN_DIGITS = 1.0  # an unknown to which rounding leaves fewer digits is zero to rounding
EFFECT_SAMPLES = 2  # random vectors of rounding errors in R, to find their effect on h


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


class Criteria:
    """The criteria of convergence for the iterates of one solve.

    Parameters
    ----------
    problem : Problem
    rtol : float or None
        By default 1e-10 in float64; in float32 rounding is the target.
    report : SolveReport
        Where the names of the worst equation and unknown are recorded.

    Attributes
    ----------
    A : Operator or None
        The latest linearization, which determines the terms of the equations.
    factor : Factor or None
        A factor of it, for Newton's correction.
    parameter_terms : (N,) array or None
        |B||theta|, whose rounding counts too if the parameters themselves are rounded.
    """

    def __init__(self, problem: Problem, rtol: float | None, report: SolveReport) -> None:
        self.problem, self.report = problem, report
        self.backend = backend = problem.backend
        self.xp = backend.xp
        default = DEFAULT_RTOL_FLOAT64 if backend.dtype == backend.xp.float64 else 0.0
        self.rtol = default if rtol is None else fraction(rtol, "rtol")
        # Unknowns are compared in steps of their own rounding at best.
        self.step_rtol = max(self.rtol, STEP_ROUNDINGS * backend.eps)
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
        self._judged: tuple[Any, ...] | None = None  # what the latest judgement depends on, and it
        self._falls: Array | None = None  # consecutive corrections of an unknown to zero
        self._noise: Array | None = None  # measured error of each entry of R
        self._effect: Array | None = None  # of rounding in R on each unknown

    @cached_property
    def _zeros(self) -> Array:
        return self.backend.zeros(self.problem.state_size)

    @cached_property
    def _ones(self) -> Array:
        return self._zeros + 1.0

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
        """Return the inverse sizes of the rows of A, in units in which its columns are alike."""
        if self._scaled is None or self._scaled[0] is not A:
            known = Scaling.from_scales(A) if A.array is None else Scaling.sums_of_operator(A)
            rows = known.rows
            self._scaled = A, self.backend.zeros(A.shape[0]) + 1.0 if rows is None else rows
        return self._scaled[1]

    # The two criteria.

    def _equations(
        self, h: Array, residual: Array, final: bool = False
    ) -> tuple[float, bool, bool]:
        """Return the worst |R_i| / size, and whether all equations are satisfied.

        Returns
        -------
        worst : float
            At most one where the sizes are those of the terms.
        satisfied : bool
            To rtol or to rounding.
        rounding : bool
            Whether all entries of R are rounding.
        """
        depends_on = h, residual, final, self.A, self._noise, self._falls, self._largest
        if self._judged is not None and all(map(is_, depends_on, self._judged)):
            return self._judged[-1]
        xp, holds = self.xp, self.backend.all
        size = xp.abs(residual)
        terms = self.terms(h, residual, final=final)
        sizes, floor = self.equation_sizes(h, terms), self.floor(terms)
        if sizes is terms:
            counted = xp.maximum(terms, size)
            ratio = size / xp.where(counted > 0.0, counted, self._ones)
        else:  # a scale of zero asks for rounding alone; the history is then of the terms
            ratio = self._ratio(size, xp.where(sizes > 0.0, sizes, terms))
        i = self.backend.argmax(ratio)
        self.report.worst_equation = self.problem.equation_name(i)
        at_floor = holds(size <= floor)
        satisfied = at_floor or holds((size <= self.rtol * sizes) | (size <= floor))
        judgement = float(ratio[i]), satisfied, at_floor
        self._judged = *depends_on, judgement
        return judgement

    def _unknowns(
        self, h: Array, residual: Array, step: Array, at_floor: bool
    ) -> tuple[float, bool, bool]:
        """Return the worst |d_j| / size, whether all unknowns are settled, and if by rounding.

        Unknowns that are zero to rounding do not count.
        """
        xp, report = self.xp, self.report
        size = self.unknown_sizes(h, final=True)
        change = xp.abs(step)
        settled = change <= self.step_rtol * size
        zero = size <= 0.0
        if self._state_scale is None and not self._is_regular(h):
            zero = zero | (self._vanished(xp.abs(h)) & self._zero(xp.abs(h)))
        by_rounding = False
        if at_floor and not self.backend.all(settled):
            effect = self._rounding_effect(
                self._errors(self.terms(h, residual, final=True), NOISE_FACTOR)
            )
            by_rounding = True
            settled = settled | (change <= effect)
            if self._state_scale is None:
                zero = zero | (0.1**MIN_DIGITS * size <= effect)
            change = xp.maximum(change, effect)
        report.zero_unknowns = self.backend.count(zero)
        ratio = self._ratio(change, size)
        if report.zero_unknowns:
            ratio = xp.where(zero, self._zeros, ratio)
        j = self.backend.argmax(ratio)
        report.worst_unknown = self.problem.unknown_name(j)
        worst = float(ratio[j])
        if by_rounding and report.zero_unknowns == self.problem.state_size:
            worst = 1.0  # no unknown has a correct digit
        return worst, self.backend.all(settled), by_rounding

    def _rounding_effect(self, floor: Array) -> Array:
        """Return what rounding errors of the size `floor` in R change in each unknown, (N,)."""
        xp, n = self.xp, floor.shape[0]
        assert self.factor is not None
        seed = 29 + len(self.report.residuals)
        signs = self.backend.random(n, EFFECT_SAMPLES, seed=seed)
        sides = xp.stack([floor, *(signs[:, j] * floor for j in range(EFFECT_SAMPLES))], axis=1)
        effects = xp.abs(self._correction(sides))
        effect = effects[:, 0] if self._effect is None else self._effect
        for j in range(EFFECT_SAMPLES + 1):
            effect = xp.maximum(effect, effects[:, j])
        self._effect = effect
        return effect

    def _correction(self, sides: Array) -> Array:
        """Solve A d = R with the factor, to a few digits."""
        assert self.factor is not None
        try:
            return self.factor.solve(sides, rtol=CHORD_RTOL)
        except ConvergenceError:
            return self.factor.approximate(sides)

    def _near_floor(self, h: Array, residual: Array) -> bool:
        """Return whether R may be rounding, which only a linearization shows."""
        floor = self.floor(self.terms(h, residual))
        return self.backend.all(self.xp.abs(residual) <= FLOOR_RATIO * floor)

    def _is_noise(self, h: Array, residual: Array, step: Array | None = None) -> bool:
        """Measure the rounding error of R, and return whether R is nothing else."""
        xp = self.xp
        sizes = self.unknown_sizes(h)
        least, most = NOISE_STEP_ROUNDINGS * self.backend.eps * sizes, MAX_NOISE_STEP * sizes
        middle = least if step is None else xp.maximum(least, xp.minimum(xp.abs(step), most))
        smaller: Array | None = None
        for factor in NOISE_STEP_FACTORS:
            size = xp.minimum(factor * middle, most)
            noise = measure_noise(self.problem, h, residual, size, self.A)
            if noise is None:
                return False
            if smaller is not None:
                # What grows with the step is no noise.
                common = xp.minimum(noise, MAX_NOISE_GROWTH * smaller)
                self._noise = common if self._noise is None else xp.maximum(common, self._noise)
                if self._equations(h, residual)[1]:
                    return True
            smaller = noise
            if bool(xp.all(size >= most)):
                break
        return False

    def _within_rtol(self, h: Array, residual: Array) -> bool:
        sizes = self.equation_sizes(h, self.terms(h, residual))
        return self.backend.all(self.xp.abs(residual) <= self.rtol * sizes)

    # States that another iteration found.

    def equations_are_satisfied(self, h: Array, residual: Array, A: Operator) -> bool:
        """Return whether every equation is satisfied, to rtol or to rounding, with A at h."""
        self.A = A
        return self._equations(h, residual)[1]

    def worst_residual(self, h: Array, residual: Array, A: Operator) -> float:
        """Return the largest |R_i| relative to the size of its equation, with A at h."""
        self.A = A
        return self._equations(h, residual)[0]

    def _ratio(self, x: Array, size: Array) -> Array:
        """Return x / size entry by entry, where 0 / 0 is 0."""
        xp, positive = self.xp, size > 0.0
        if self.backend.all(positive):
            return x / size
        infinite = xp.where(x > 0.0, xp.full_like(x, math.inf), self._zeros)
        return xp.where(positive, x / xp.where(positive, size, self._ones), infinite)
