"""The two criteria of convergence, in no units.

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
from operator import is_
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Solver
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .newton_loop import CHORD_RTOL
from .noise import measure_noise
from .sizes import MIN_FALLS, Sizes

NOISE_FACTOR = 5.0  # the error of R, in standard deviations of measured noise
NOISE_STEP_ROUNDINGS = 8.0  # the least step of a noise measurement, in units of eps |h_j|
NOISE_STEP_FACTORS = (1 / 16, 1.0, 16.0)  # multiples of the step that are tried in turn
MAX_NOISE_STEP = 1e-4  # relative to the unknowns
MAX_NOISE_GROWTH = 4.0  # of noise from one of these steps to the next
FLOOR_RATIO = 1e3  # of |R_i| to a first estimate of its rounding error, below which it is refined
MIN_DIGITS = 1.0  # an unknown to which rounding leaves fewer digits is zero to rounding
SINGULAR_ROUNDINGS = 100.0  # |A x| beside |A| |x|, in rounding units, where x is a null vector
EFFECT_SAMPLES = 2  # random vectors of rounding errors in R, to find their effect on h


class Criteria(Sizes):
    """The criteria of convergence for the iterates of one solve.

    Parameters
    ----------
    problem : Problem
    rtol : float or None
        By default 1e-10 in float64; in float32 rounding is the target.
    report : SolveReport
        Where the names of the worst equation and unknown are recorded.
    """

    solver: Solver  # of Newton's corrections

    def __init__(self, problem: Problem, rtol: float | None, report: SolveReport) -> None:
        super().__init__(problem, rtol)
        self.report = report
        self._judged: tuple[Any, ...] | None = None  # what the latest judgement depends on, and it
        self._change = math.nan  # the worst |d_j| / size in the latest judgement of the unknowns
        self._effect: Array | None = None  # of rounding in R on each unknown

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
        self._change = worst = float(ratio[j])
        if by_rounding and report.zero_unknowns == self.problem.state_size:
            worst = 1.0  # no unknown has a correct digit
        return worst, self.backend.all(settled), by_rounding

    def shortfall(self, worst: float) -> str:
        """Say which criterion a state has not met, whose worst residual is known."""
        if worst <= self.rtol and self._change > self.rtol:
            return (
                f"every equation is satisfied to {worst:.1e} of its terms, but one more Newton "
                f"step would change {self.report.worst_unknown} by {self._change:.1e} of its size"
            )
        return f"the worst residual is {worst:.1e} of the terms of {self.report.worst_equation}"

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

    def _is_singular(self) -> bool:
        """Return whether the solution for random sides is a null vector of A to rounding."""
        assert self.A is not None
        b = self.backend.random(self.A.shape[0], seed=41)
        terms = self.A.abs_apply(self._correction(b))
        return self.backend.all(self.xp.abs(b) <= SINGULAR_ROUNDINGS * self.backend.eps * terms)

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

    def _reaches_rtol(self, h: Array, residual: Array, correction: float) -> bool:
        """Return whether R and the largest correction are within rtol, not only at rounding."""
        if correction > self.rtol:
            return False
        sizes = self.equation_sizes(h, self.terms(h, residual))
        return self.backend.all(self.xp.abs(residual) <= self.rtol * sizes)

    # States that another iteration found.

    def _step_beside_zeros(self, h: Array, residual: Array) -> Array | None:
        """Return Newton's correction at a state that is known by itself, and find its zeros.

        Two corrections show which unknowns are zero, as in an iteration, or one that leaves nothing
        but rounding. There they are compared with their largest values, which a state by itself
        does not show: the root mean square of all unknowns takes their place, in units in which the
        columns of A are of similar size; one if that is zero. None if there is no correction.
        """
        assert self.A is not None
        xp, eps, size = self.xp, self.backend.eps, self.xp.abs(h)
        try:
            self.factor = self.solver.setup(self.A, self.report.forward)
            columns = self.factor.working.scaling.columns
            units = self._ones if columns is None else columns
            typical = self.backend.norm(size / units) / size.shape[0] ** 0.5
            largest = xp.maximum(size, (typical if typical > eps else 1.0) * units)
            self.assume_sizes(largest)
            step = self._refined_correction(residual)
            self._watch_zeros(h, step)
            following = self.problem.limited(h, h - step)
            after, _ = self.problem.trial_residual(following)
            if after is None:
                return None
            falls = self._falls
            self._watch_zeros(following, self._refined_correction(after))
        except (ConvergenceError, SingularStateError):
            return None
        assert falls is not None
        least = eps**2 * largest  # what rounding of corrections may leave of a zero
        falls_to_least = ((falls > 0.0) | (size <= least)) & (xp.abs(following) <= least)
        zero = self._zero(size) | falls_to_least
        self._falls = MIN_FALLS * xp.astype(zero, self.backend.dtype)
        self.assume_sizes(xp.where(zero, largest, size))
        return step

    def _refined_correction(self, residual: Array) -> Array:
        """Solve A d = R, and refine d such that its small entries have a few digits."""
        assert self.A is not None
        step = self._correction(residual)
        return step + self._correction(residual - self.A._apply(step))

    def equations_are_satisfied(self, h: Array, residual: Array, A: Operator) -> bool:
        """Return whether every equation is satisfied, to rtol or to rounding, with A at h."""
        self.A = A
        return self._equations(h, residual)[1]

    def worst_residual(self, h: Array, residual: Array, A: Operator) -> float:
        """Return the largest |R_i| relative to the size of its equation, with A at h."""
        self.A = A
        return self._equations(h, residual)[0]

    def _beside_zeros(self, h: Array, worst: float, shown: bool) -> tuple[Array, float] | None:
        """Return h with zeros for unknowns that have vanished, if the worst residual is no larger.

        Parameters
        ----------
        h : (N,) array
        worst : float
            The worst residual at h that is allowed.
        shown : bool
            Whether corrections must have shown these unknowns to be zero. Those at a multiple root
            take away a fixed part of the unknown, and never do.

        Returns
        -------
        The state and its worst residual, or None.
        """
        if self._state_scale is not None or self._is_regular(h):
            return None
        size = self.xp.abs(h)
        zero = self._vanished(size)
        if shown:
            zero = zero & self._zero(size)
        state = self.xp.where(zero, self._zeros, h)
        residual, _ = self.problem.trial_residual(state)
        if residual is None:
            return None
        found, satisfied, _ = self._equations(state, residual)
        if found > worst or not satisfied:
            return None
        self.report.zero_unknowns = self.backend.count(zero)
        return state, found

    def _ratio(self, x: Array, size: Array) -> Array:
        """Return x / size entry by entry, where 0 / 0 is 0."""
        xp, positive = self.xp, size > 0.0
        if self.backend.all(positive):
            return x / size
        infinite = xp.where(x > 0.0, xp.full_like(x, math.inf), self._zeros)
        return xp.where(positive, x / xp.where(positive, size, self._ones), infinite)
