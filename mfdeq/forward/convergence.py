"""Criteria for the convergence and the failure of a forward iteration, in no units.

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
from collections.abc import Callable
from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor, Solver
from ..models.linearization import Problem
from ..operators.operator import Operator
from ..progress import ProgressBar
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
MIN_DIGITS = 1.0  # an unknown to which rounding leaves fewer digits is zero to rounding
DIVERGENCE_RATIO = 1e4  # the iteration has diverged at this multiple of the best residual
STALL_ITERATIONS = 100  # the iteration has stalled after this many without progress
NOISE_ITERATIONS = 5  # without progress, after which the noise is measured ...
MAX_NOISE_RATIO = 1e-3  # ... where the worst residual is below this
STALL_DECREASE = 0.99  # progress is a decrease of the worst residual to less than this multiple
MAX_CHORD_STEPS = 4  # at the end of an iteration
MAX_CHORD_CONTRACTION = 0.3  # a chord step that reduces the residual less is the last
CHORD_START = 1e3  # chord steps begin when the worst residual is below this multiple of rtol ...
MAX_CHORD_START = 1e-6  # ... but not above this
RETRY_DECREASE = 0.1  # of the worst residual, after which unsuccessful chord steps are tried again
EFFECT_SAMPLES = 2  # random vectors of rounding errors in R, to find their effect on h
DEFAULT_ADVICE = (
    "Use a better start h0, try another method, or check the derivatives with mfdeq.verify"
)


class ConvergenceMonitor:
    """Monitor of a forward iteration, which decides when it has converged or failed.

    Parameters
    ----------
    problem : Problem
    solver : Solver
        The solver that sets up a factor of A for Newton's correction, where the method has none.
    rtol : float or None
        By default 1e-10 in float64; in float32 rounding is the target.
    max_iterations : int
    report : SolveReport
        Where the history and the reason are recorded.
    progress : bool, optional
        Show a progress bar.

    Attributes
    ----------
    done : bool
        Whether the iteration has converged.
    state : (N,) array
        The converged state, more accurate than the last recorded one by chord steps.
    best : (N,) array or None
        The iterate with the smallest worst residual so far.
    stall_iterations : int
        Iterations without progress after which the iteration has failed.
    A : Operator or None
        The latest linearization, which determines the terms of the equations.
    parameter_terms : (N,) array or None
        |B||theta|, whose rounding counts too if the parameters themselves are rounded.
    """

    state: Array

    def __init__(
        self,
        problem: Problem,
        solver: Solver,
        rtol: float | None,
        max_iterations: int,
        report: SolveReport,
        progress: bool = False,
    ) -> None:
        self.problem, self.solver, self.report = problem, solver, report
        self.max_iterations = count(max_iterations, "max_iterations")
        self.explicit = rtol is not None
        self.backend = backend = problem.backend
        self.xp = backend.xp
        default = DEFAULT_RTOL_FLOAT64 if backend.dtype == backend.xp.float64 else 0.0
        self.rtol = default if rtol is None else fraction(rtol, "rtol")
        # Unknowns are compared in steps of their own rounding at best.
        self.step_rtol = max(self.rtol, STEP_ROUNDINGS * backend.eps)
        self.chord_start = max(self.rtol, min(CHORD_START * self.step_rtol, MAX_CHORD_START))
        self.best: Array | None = None
        self.best_ratio = math.inf
        self.done = False
        self.stall_iterations = STALL_ITERATIONS
        self.parameter_terms: Array | None = None
        self.factor: Factor | None = None  # for Newton's correction
        self.A: Operator | None = None  # the latest linearization, that of terms
        self._state_scale = problem.state_scale()
        self._largest: Array | None = None  # |h_j| over the iterates after the first step
        self._noise: Array | None = None  # measured error of each entry of R
        self._effect: Array | None = None  # of rounding in R on each unknown
        self._last_progress = 0  # the iteration that last reduced the worst residual
        self._failed_ratio = math.inf  # the worst residual at the last unsuccessful chord steps
        self._bar = ProgressBar(report.method, "iterations", progress)

    # Sizes of unknowns and equations.

    def unknown_sizes(self, h: Array) -> Array:
        """Return the size of each unknown that counts as one, (N,).

        It is the model's `state_scale`, by default |h_j|. An unknown that has fallen below rtol
        times its largest value has that value as its size: it has converged to zero.
        """
        if self._state_scale is not None:
            return self._state_scale
        size = self.xp.abs(h)
        if self._largest is None:
            return size
        return self.xp.where(self._vanished(size), self._largest, size)

    def _vanished(self, size: Array) -> Array:
        if self._largest is None:
            return size < 0.0
        return size < self.step_rtol * self._largest

    def terms(self, h: Array, residual: Array, step: Array | None = None) -> Array:
        """Return the size of the terms of each equation, (|A||h|)_i, (N,).

        Without a linearization it is |h_i| + |f_i| for a map.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            A step whose unknowns count if they are larger than those of h, which may be zero.
        """
        xp = self.xp
        size = self.unknown_sizes(h)
        if self._state_scale is not None:
            size = xp.maximum(size, xp.abs(h))
        if step is not None:
            size = xp.maximum(size, xp.abs(step))
        if self.A is None:
            assert self.problem.is_map
            return size + xp.abs(h - residual)
        return self.A.abs_apply(size)

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
        return self.xp.where(size > 0.0, size, self.xp.ones_like(size))

    def level(
        self, h: Array, residual: Array, step: Array | None = None
    ) -> Callable[[Array], float]:
        """Return the norm of residuals in units of the terms of each equation near h.

        What is rounding does not count. It is used to compare residuals at trial states with that
        at h, and has no part in the criteria.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            As in `terms`.
        """
        xp, backend = self.xp, self.backend
        terms = xp.maximum(self.terms(h, residual, step), xp.abs(residual))
        floor = self.floor(terms)
        safe = xp.where(terms > 0.0, terms, xp.ones_like(terms))

        def norm(residual: Array) -> float:
            above = xp.maximum(xp.abs(residual) - floor, xp.zeros_like(floor))
            return backend.norm(above / safe)

        return norm

    # The two criteria.

    def _equations(self, h: Array, residual: Array) -> tuple[float, bool, bool]:
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
        xp = self.xp
        size = xp.abs(residual)
        terms = self.terms(h, residual)
        sizes, floor = self.equation_sizes(h, terms), self.floor(terms)
        # A model may ask for rounding alone by a scale of zero; the history is then of the terms.
        counted = xp.where(sizes > 0.0, sizes, terms)
        ratio = _ratio(xp, size, xp.maximum(counted, size) if sizes is terms else counted)
        i = int(xp.argmax(ratio))
        self.report.worst_equation = self.problem.equation_name(i)
        at_floor = bool(xp.all(size <= floor))
        satisfied = bool(xp.all((size <= self.rtol * sizes) | (size <= floor)))
        return float(ratio[i]), satisfied, at_floor

    def _unknowns(
        self, h: Array, residual: Array, step: Array, at_floor: bool
    ) -> tuple[float, bool, bool]:
        """Return the worst |d_j| / size, whether all unknowns are settled, and if by rounding.

        Unknowns that are zero to rounding do not count.
        """
        xp, report = self.xp, self.report
        size = self.unknown_sizes(h)
        change = xp.abs(step)
        settled = change <= self.step_rtol * size
        zero = self._vanished(xp.abs(h)) if self._state_scale is None else size <= 0.0
        by_rounding = False
        if at_floor and not bool(xp.all(settled)):
            effect = self._rounding_effect(self._errors(self.terms(h, residual), NOISE_FACTOR))
            by_rounding = True
            settled = settled | (change <= effect)
            if self._state_scale is None:
                zero = zero | (0.1**MIN_DIGITS * size <= effect)
            change = xp.maximum(change, effect)
        report.zero_unknowns = int(xp.sum(xp.astype(zero, xp.int64)))
        ratio = xp.where(zero, xp.zeros_like(size), _ratio(xp, change, size))
        j = int(xp.argmax(ratio))
        report.worst_unknown = self.problem.unknown_name(j)
        worst = float(ratio[j])
        if by_rounding and bool(xp.all(zero)):
            worst = 1.0  # no unknown has a correct digit
        return worst, bool(xp.all(settled)), by_rounding

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

    # Records of iterates.

    def record(
        self, h: Array, residual: Array, A: Operator | None = None, factor: Factor | None = None
    ) -> None:
        """Record an iterate, and update `done`.

        Parameters
        ----------
        h : (N,) array
        residual : (N,) array
            R(h), the true residual.
        A : Operator, optional
            A at h or at the last iterate; by default the monitor linearizes when it has to.
        factor : Factor, optional
            A factor of A, for Newton's correction; by default the monitor sets one up when the
            equations are satisfied.

        Raises
        ------
        ConvergenceError
            If the iteration has stalled, or reached `max_iterations`.
        """
        report, xp = self.report, self.xp
        if report.residuals and self._state_scale is None:
            size = xp.abs(h)
            self._largest = size if self._largest is None else xp.maximum(self._largest, size)
        if A is not None:
            self.A = A
        elif self.A is None and not self.problem.is_map:
            self.A = self.problem.linearize(h).A
        if factor is not None:
            self.factor = factor
        worst, satisfied, at_floor = self._equations(h, residual)
        if A is None and self.problem.is_map and not satisfied and self._near_floor(h, residual):
            self.A = self.problem.linearize(h).A
            worst, satisfied, at_floor = self._equations(h, residual)
        report.residuals.append(worst)
        self._bar.advance(text=f"worst residual {worst:.2e}, rtol {self.rtol:.1e}")
        if worst < STALL_DECREASE * self.best_ratio:
            self._last_progress = report.iterations
        if worst < self.best_ratio or self.best is None:
            self.best, self.best_ratio = h, worst
            self._best_level = self.level(h, residual)
            self._best_size = self._best_level(residual)
        elif factor is None and not (
            # A Newton step has been judged by the next correction; the terms of a state far from
            # the best one may be much larger, as are the rates of a reactor off equilibrium.
            self._best_level(residual) <= DIVERGENCE_RATIO * self._best_size
        ):
            raise self.failure("diverged: the residual has grown too far above its best")
        if worst == 0.0:
            self._finish_at_zero(h)
            return
        near = satisfied or worst <= self.chord_start
        if near and (at_floor or worst < RETRY_DECREASE * self._failed_ratio):
            self._chord_steps(h, residual, fresh=A is None)
        if not self.done:
            self._check_progress(h, residual)

    def _near_floor(self, h: Array, residual: Array) -> bool:
        """Return whether R may be rounding, which only a linearization shows."""
        floor = self.floor(self.terms(h, residual))
        return bool(self.xp.all(self.xp.abs(residual) <= FLOOR_RATIO * floor))

    def _check_progress(self, h: Array, residual: Array) -> None:
        report = self.report
        idle = report.iterations - self._last_progress
        may_be_noise = idle and idle % NOISE_ITERATIONS == 0 and self.best_ratio <= MAX_NOISE_RATIO
        if may_be_noise and self.stalled_by_noise(h, residual):
            return
        if idle >= self.stall_iterations:
            raise self.failure(f"stalled: no progress in {self.stall_iterations} iterations")
        if report.iterations >= self.max_iterations:
            raise self.failure(
                f"did not converge in {self.max_iterations} iterations (see max_iterations)"
            )

    def stalled_by_noise(self, h: Array, residual: Array, step: Array | None = None) -> bool:
        """Measure the rounding error of R, and return whether the iterate has converged to it.

        Methods call it where a step does not reduce the residual.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            The step that did not reduce the residual, by default a multiple of rounding.
        """
        if self._is_noise(h, residual, step):
            self._chord_steps(h, residual, fresh=False)
        return self.done

    def _is_noise(self, h: Array, residual: Array, step: Array | None = None) -> bool:
        """Measure the rounding error of R, and return whether R is nothing else."""
        xp = self.xp
        sizes = self.unknown_sizes(h)
        least, most = NOISE_STEP_ROUNDINGS * self.backend.eps * sizes, MAX_NOISE_STEP * sizes
        middle = least if step is None else xp.maximum(least, xp.minimum(xp.abs(step), most))
        smaller: Array | None = None
        for factor in NOISE_STEP_FACTORS:
            size = xp.minimum(factor * middle, most)
            noise = measure_noise(self.problem, h, residual, size)
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

    # States that another iteration found.

    def equations_are_satisfied(self, h: Array, residual: Array, A: Operator) -> bool:
        """Return whether every equation is satisfied, to rtol or to rounding, with A at h."""
        self.A = A
        return self._equations(h, residual)[1]

    def worst_residual(self, h: Array, residual: Array, A: Operator) -> float:
        """Return the largest |R_i| relative to the size of its equation, with A at h."""
        self.A = A
        return self._equations(h, residual)[0]

    def accepts(self, h: Array, residual: Array) -> bool:
        """Return whether a state meets both criteria as it is, and record it."""
        self.A = self.problem.linearize(h).A
        worst, satisfied, _ = self._equations(h, residual)
        self.report.residuals.append(worst)
        self.best, self.best_ratio = h, worst
        if worst == 0.0:
            self._finish_at_zero(h)
        elif satisfied or self._is_noise(h, residual):
            self._chord_steps(h, residual, fresh=True, max_steps=0)
        return self.done

    # Chord steps at the end.

    def _chord_steps(
        self, h: Array, residual: Array, fresh: bool, max_steps: int = MAX_CHORD_STEPS
    ) -> None:
        """Judge Newton's correction, and take chord steps until both criteria are met.

        Parameters
        ----------
        h, residual : (N,) arrays
        fresh : bool
            Whether to set up a factor of A at h.
        max_steps : int, optional
        """
        worst, satisfied, at_floor = self._equations(h, residual)
        begin = worst
        try:
            if fresh or self.factor is None:
                self.A = self.problem.linearize(h).A
                self.factor = self.solver.setup(self.A, self.report.forward)
                worst, satisfied, at_floor = self._equations(h, residual)
            for steps in range(max_steps + 1):
                step = self._correction(residual)
                correction, settled, by_rounding = self._unknowns(h, residual, step, at_floor)
                if satisfied and settled:
                    limited = by_rounding or correction > self.rtol
                    limited = limited or not self._within_rtol(h, residual)
                    if limited and correction > 0.1**MIN_DIGITS:
                        break  # rounding leaves no digit of any unknown
                    if max_steps:
                        h, worst = self._polished(h, residual, step, worst)
                    self._finish(h, worst, correction, "rounding" if limited else "rtol")
                    return
                following = self._chord_step(h, step, worst) if steps < max_steps else None
                if following is None:
                    break
                h, residual, worst, satisfied, at_floor = following
        except SingularStateError:
            # The equations are satisfied: uniqueness is judged at the converged state.
            if satisfied:
                self._finish(h, worst, self.backend.eps, "rounding")
                return
            raise
        self._failed_ratio = begin

    def _chord_step(
        self, h: Array, step: Array, worst: float
    ) -> tuple[Array, Array, float, bool, bool] | None:
        """Take a chord step; None if it does not reduce the residual enough."""
        h = self.problem.limited(h, h - step)
        residual, _ = self.problem.trial_residual(h)
        if residual is None:
            return None
        ratio, satisfied, at_floor = self._equations(h, residual)
        if ratio > MAX_CHORD_CONTRACTION * worst and not at_floor:
            return None
        self.report.polished = True
        return h, residual, ratio, satisfied, at_floor

    def _polished(
        self, h: Array, residual: Array, step: Array, worst: float
    ) -> tuple[Array, float]:
        """Return the state after a last chord step and its worst residual, if that is less."""
        xp = self.xp
        if bool(xp.all(xp.abs(step) <= self.backend.eps * xp.abs(h))):
            return h, worst
        following = self._chord_step(h, step, worst)
        if following is None or not following[3] or following[2] >= worst:
            return h, worst
        return following[0], following[2]

    def _within_rtol(self, h: Array, residual: Array) -> bool:
        sizes = self.equation_sizes(h, self.terms(h, residual))
        return bool(self.xp.all(self.xp.abs(residual) <= self.rtol * sizes))

    def _finish_at_zero(self, h: Array) -> None:
        eps = self.backend.eps
        self._finish(h, 0.0, eps, "rounding" if self.rtol < eps else "rtol")

    def _finish(self, h: Array, worst: float, correction: float, limited_by: str) -> None:
        self.state, self.done = h, True
        report, problem = self.report, self.problem
        report.limited_by, report.residual, report.correction = limited_by, worst, correction
        report.failures, report.last_failure = problem.failures, problem.last_failure
        by = "rounding" if limited_by == "rounding" else f"rtol = {self.rtol:.0e}"
        report.reason = (
            f"every equation to {worst:.1e} of its terms and every unknown to {correction:.1e} of "
            f"its size, limited by {by}"
        )

    def check_rtol(self) -> None:
        """Raise a `ConvergenceError` if rounding leaves fewer digits than an explicit rtol."""
        report = self.report
        reached = max(report.residual, report.correction, self.backend.eps)
        if self.explicit and reached > self.rtol:
            raise self.failure(
                f"cannot reach rtol = {self.rtol:.1e}: the rounding error of evaluating R leaves "
                f"{-math.log10(reached):.1f} digits of {report.worst_unknown}",
                "Use a larger rtol, or rtol=None for the digits that there are",
            )

    def failure(self, reason: str, advice: str = DEFAULT_ADVICE) -> ConvergenceError:
        """Make the error for a failed iteration, with the best state and the history.

        Parameters
        ----------
        reason : str
            What happened, as a clause without a subject: "stalled: ...".
        advice : str, optional
            What the user can do.

        Returns
        -------
        ConvergenceError
            The caller raises it.
        """
        report, problem = self.report, self.problem
        report.converged = False
        report.reason = reason
        report.failures, report.last_failure = problem.failures, problem.last_failure
        ratios = [f"{ratio:.1e}" for ratio in report.residuals]
        history = " ".join(ratios if len(ratios) <= 8 else [*ratios[:3], "...", *ratios[-4:]])
        failed = (
            f" The model had no value at {problem.failures} trial states; the last message: "
            f"{problem.last_failure}."
            if problem.failures
            else ""
        )
        return ConvergenceError(
            f"{problem.name}: {report.method} {reason}; the worst residual is "
            f"{self.best_ratio:.1e} of the terms of {report.worst_equation}, rtol {self.rtol:.1e} "
            f"(history {history}).{failed} {advice}",
            best=self.state if self.done else self.best,
            report=report,
        )

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()


def _ratio(xp: Any, x: Array, size: Array) -> Array:
    """Return x / size entry by entry, where 0 / 0 is 0."""
    safe = xp.where(size > 0.0, size, xp.ones_like(size))
    infinite = xp.where(x > 0.0, xp.full_like(x, math.inf), xp.zeros_like(x))
    return xp.where(size > 0.0, x / safe, infinite)
