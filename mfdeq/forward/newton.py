"""Newton's method with inexact solves, and a line search in no units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError, is_evaluation_failure
from ..linear import Factor, Solver
from ..locks import cached_property
from ..models.problem import Problem
from ..operators.operator import Operator
from .advice import advise_where_undefined
from .convergence import ConvergenceMonitor
from .newton_loop import Iterate, newton_loop
from .protocol import ForwardMethod
from .sizes import Level

MIN_FORCING = 1e-3  # least relative residual of one linear solve
MAX_FORCING = 0.1  # largest relative residual of a linear solve; that of the first step
FORCING_FACTOR = 0.9  # gamma of Eisenstat and Walker's choice 2
MAX_SOLVES = 3  # of one linear system, each for what the last one has left
SUFFICIENT_DECREASE = 1e-4  # constant of the Armijo condition on the level
MIN_CONTRACTION = 0.25  # constant of the restricted monotonicity test
MAX_TRIALS = 30  # of one step in the line search ...
MAX_HALVINGS = 10  # ... after so many of which it is quartered: to 1e-15, as beside a singular A
MIN_LENGTH = 1e-6  # of a step that leads to a state where the model has no derivatives
NOISE_TRIALS = 8  # after which noise is measured where the step is small
SMALL_STEP = 0.1  # relative to the unknowns; the noise is measured after smaller steps only
TINY_STEP = 1e-3  # the same where a whole step has been accepted
SLOW_DECREASE = 0.5  # of the level by a whole step, which may be due to noise
SHORT_LENGTH = 1 / 16  # of a step; the iteration has stalled if ...
MAX_SHORT_STEPS = 8  # ... so many short steps in a row ...
SHORT_DECREASE = 0.99  # ... have reduced the level together to no less than this multiple
RECENT_RESIDUALS = 2  # of earlier iterates, with which a trial residual is compared too ...
MAX_IDLE = 10  # ... unless so many iterations have made no progress, as in a cycle


class Newton(ForwardMethod):
    """Newton's method for R(h) = 0, globalized by a line search.

    Notes
    -----
    A step d solves A d = R to a relative residual of 0.9 (l_k / l_{k-1})² (Eisenstat and Walker,
    choice 2), but at most 0.1. The level l of a residual is its norm in units of the terms of each
    equation, |A| max(|h|, |t d|) or the largest |A||h| so far, without what is rounding; the
    residual of the linear solve is measured in the same units. A step is halved until the level is
    less than the largest of the last three (the nonmonotone Armijo condition [3]_; of the last one
    alone, if the iteration may be in a cycle), or until the
    next correction A^-1 R(h - t d), with the A of this step, is smaller than d in the sizes of the
    unknowns, max(|h|, |d|) (the restricted monotonicity test [2]_). Neither depends on the units of
    equations and unknowns.

    References
    ----------
    .. [1] S. C. Eisenstat and H. F. Walker, Choosing the forcing terms in an inexact Newton method,
       SIAM J. Sci. Comput. 17 (1996).

    .. [2] P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).

    .. [3] L. Grippo, F. Lampariello and S. Lucidi, A nonmonotone line search technique for Newton's
       method, SIAM J. Numer. Anal. 23 (1986).
    """

    max_iterations = 100

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        residual = problem.residual(h)
        monitor.record(h, residual)
        steps = _InexactSteps(problem, solver, monitor)
        newton_loop(
            _Iterate(h, residual),
            steps.solve,
            steps.advance,
            lambda iterate, taken: monitor.done,
            monitor.max_iterations,
        )


@dataclass(frozen=True)
class _Iterate(Iterate):
    """An iterate, with the step that led to it."""

    origin: _Step | None = None


@dataclass
class _Step:
    """A Newton step from h, and the units in which it is judged.

    Attributes
    ----------
    h, residual, correction : (N,) arrays
    factor : Factor
    monitor : ConvergenceMonitor
    level : Level
        The norm of a residual in units of the terms of each equation.
    before : float
        The norm of `residual`.
    is_first : bool
        Whether h is the start, so that terms are known at one state only.
    length : float
        The fraction of the correction that was taken.
    decrease : float
        The level after the step, relative to the level before it.
    undefined : int
        The number of longer steps to states where the model has no value.
    """

    h: Array
    residual: Array
    correction: Array
    factor: Factor
    monitor: ConvergenceMonitor
    level: Level
    before: float
    is_first: bool
    length: float = 1.0
    decrease: float = 1.0
    undefined: int = 0
    _first_level: Level | None = None

    def level_after(self, length: float, residual: Array) -> Level:
        """Return the level for a comparison with the residual after a fraction of the step."""
        level = self.monitor.level
        if not self.is_first:
            whole = length == 1.0
            return self.level if whole else level(self.h, self.residual, length * self.correction)
        if self._first_level is None:  # with the terms after the longest step that has any
            self._first_level = level(self.h, self.residual, self.correction, residual)
        return self._first_level

    def contracts(self, residual: Array, largest: float) -> bool:
        """Return whether ||A^-1 R|| <= largest ||d|| in units of the unknowns, for a trial R."""

        def small(correction: Array) -> bool:
            return self.factor.backend.norm(correction / self.sizes) <= largest * self.size

        correction = self.factor._approximate(residual, False)
        if not small(correction):
            return False  # a cheap test, which fails for most of the steps that are too long
        if not self.factor.iterative:
            return True
        left = residual - self.factor.A._apply(correction)
        if self.level(left) <= MAX_FORCING * self.level(residual):
            return True  # the correction is as accurate as that of the solve below
        try:
            return small(self.factor.solve(residual, rtol=MAX_FORCING, weights=self.level.weights))
        except (ConvergenceError, SingularStateError):
            return False

    @cached_property
    def sizes(self) -> Array:
        """The sizes of the unknowns, max(|h|, |d|), (N,)."""
        return self.monitor.step_sizes(self.h, self.correction)

    @cached_property
    def size(self) -> float:
        """The norm of the correction in units of the unknowns."""
        return self.factor.backend.norm(self.correction / self.sizes)

    def is_within(self, share: float) -> bool:
        """Return whether the correction changes no unknown by more than a share of its size."""
        xp = self.factor.backend.xp
        change, size = xp.abs(self.correction), xp.abs(self.h)
        return bool(xp.all((change <= share * size) | (change == 0.0)))


class _InexactSteps:
    """Inexact Newton steps with a line search."""

    def __init__(self, problem: Problem, solver: Solver, monitor: ConvergenceMonitor) -> None:
        self.problem, self.solver, self.monitor = problem, solver, monitor
        self.forcing = MAX_FORCING
        self.recent_residuals: list[Array] = []
        # Lengths and decreases of the latest steps, if all were short.
        self.short_steps: list[tuple[float, float]] = []

    def solve(self, iterate: _Iterate) -> _Step | None:
        """Solve A d = R inexactly, with A at the iterate.

        Returns None where A is singular and R is rounding error.
        """
        monitor = self.monitor
        A, iterate = self._linearize(iterate)
        h, residual = iterate.h, iterate.residual
        if iterate.origin is not None:
            self.forcing = _forcing(self.forcing, iterate.origin.decrease, monitor)
        monitor.A = A
        if not self.problem.backend.norm(residual) < math.inf:
            raise monitor.failure("diverged: the norm of the residual overflows")
        try:
            monitor.factor = factor = self.solver.setup(A, monitor.report.forward)
            correction, level, before = self._correction(A, factor, h, residual)
        except (ConvergenceError, SingularStateError) as error:
            if isinstance(error, SingularStateError) and monitor.stalled_by_noise(h, residual):
                return None
            error.best, error.report = monitor.best, monitor.report
            monitor.report.reason = f"a Newton step could not be computed: {error}"
            raise
        first = iterate.origin is None
        return _Step(h, residual, correction, factor, monitor, level, before, first)

    def _correction(
        self, A: Operator, factor: Factor, h: Array, residual: Array
    ) -> tuple[Array, Level, float]:
        """Solve A d = R until the linear residual is small in the units of the level.

        Otherwise d need not be a direction of descent. The units depend on the size of d. The level
        of R is returned, too.
        """
        monitor, backend = self.monitor, self.problem.backend

        def judge(correction: Array) -> tuple[Level, Array, float, float]:
            level = monitor.level(h, residual, correction)
            left = residual - A._apply(correction)
            return level, left, level(residual), level(left)

        with backend.ignore_overflow():  # of the approximation
            correction = factor._approximate(residual, False)
            if not backend.norm(correction) < math.inf:
                correction = 0.0 * residual  # a user's product is not given infinities
            level, left, size, remaining = judge(correction)
        for solves in range(MAX_SOLVES + 1):
            if solves == 0 and not remaining <= size:  # the factor of a matrix that was different
                level, correction, left = monitor.level(h, residual), 0.0 * h, residual
                remaining = size = level(residual)
            if remaining <= self.forcing * size or solves == MAX_SOLVES:
                if solves == 0:  # one application of the factor has solved for the step
                    counts = monitor.report.forward  # of this iteration alone
                    counts.solves, counts.columns = counts.solves + 1, counts.columns + 1
                break
            rtol = min(max(self.forcing * size / remaining, MIN_FORCING), MAX_FORCING)
            correction = correction + self._solve(factor, left, rtol, level)
            with backend.ignore_overflow():
                level, left, size, remaining = judge(correction)
        return correction, level, size

    def _solve(self, factor: Factor, b: Array, rtol: float, level: Level) -> Array:
        """Solve A x = b in the units of the level, or in those of A where that fails.

        An equation whose terms are rounding has no units.
        """
        try:
            return factor.solve(b, rtol=rtol, weights=level.weights)
        except (ConvergenceError, SingularStateError):
            return factor.solve(b, rtol=rtol)

    def _linearize(self, iterate: _Iterate) -> tuple[Operator, _Iterate]:
        """Linearize at the iterate, or nearer to the last where the model has no derivatives."""
        while True:
            try:
                return self.problem.linearize(iterate.h).A, iterate
            except Exception as error:
                origin = iterate.origin
                if origin is None or not is_evaluation_failure(error):
                    raise
                if origin.length < MIN_LENGTH:
                    raise  # no state near the last one has derivatives
                where = f"{self.problem.name}.linearize"
                self.problem.record_failure(f"{type(error).__name__} in {where}: {error}")
                iterate = self._search(origin, 0.5 * origin.length)

    def advance(self, iterate: _Iterate, step: _Step | None) -> _Iterate | None:
        """Take the step, and record the new iterate; None where R is rounding error."""
        monitor = self.monitor
        if step is None:
            return None
        following = self._search(step)
        if monitor.done:
            return None
        self.recent_residuals = [*self.recent_residuals, step.residual][-RECENT_RESIDUALS:]
        monitor.record(following.h, following.residual, monitor.A, step.factor)
        slow = step.decrease > SLOW_DECREASE and step.length == 1.0 and step.is_within(TINY_STEP)
        if slow and not monitor.done:
            monitor.stalled_by_noise(following.h, following.residual, step.correction)
        self._watch_lengths(step)
        return following

    def _watch_lengths(self, step: _Step) -> None:
        """Raise a `ConvergenceError` if steps have become too short to lead anywhere.

        Beyond a fold A tends to a singular matrix, and steps that are accepted to nothing.
        """
        # Not those that the edge of the domain has shortened.
        short = step.length <= SHORT_LENGTH and not step.undefined
        last = (step.length, step.decrease)
        self.short_steps = [*self.short_steps, last][-MAX_SHORT_STEPS:] if short else []
        if len(self.short_steps) < MAX_SHORT_STEPS or self.monitor.done:
            return
        lengths, decreases = zip(*self.short_steps, strict=True)
        # Those that become longer leave a state where A is nearly singular.
        if math.prod(decreases) > SHORT_DECREASE and lengths[-1] <= lengths[0]:
            raise self._stalled(f"{MAX_SHORT_STEPS} consecutive steps were shortened to nothing; ")

    def _search(self, step: _Step, length: float = 1.0) -> _Iterate:
        """Search along a step for an acceptable state.

        At the noise of R, the monitor is done instead.
        """
        problem = self.problem
        undefined = 0
        for trial in range(MAX_TRIALS):
            h = problem.limited(step.h, step.h - length * step.correction)
            residual, norm = problem.trial_residual(h)
            if residual is None:
                undefined += 1
            else:
                level = step.level_after(length, residual)
                before = step.before if level is step.level else level(step.residual)
                after, decrease = level(residual), SUFFICIENT_DECREASE * length * before
                accepted = after <= before - decrease or (
                    self.monitor.idle <= MAX_IDLE
                    and any(after <= level(r) - decrease for r in self.recent_residuals)
                )
                if not accepted and norm < math.inf:
                    accepted = step.contracts(residual, 1.0 - MIN_CONTRACTION * length)
                if accepted:
                    step.length, step.decrease = length, after / before if before else 0.0
                    step.undefined = undefined
                    return _Iterate(h, residual, step)
            may_be_noise = trial == NOISE_TRIALS and not undefined
            if (
                may_be_noise
                and step.is_within(SMALL_STEP)
                and self.monitor.stalled_by_noise(step.h, step.residual, step.correction)
            ):
                return _Iterate(step.h, step.residual, step)
            length *= 0.5 if trial < MAX_HALVINGS else 0.25
        if not undefined and self.monitor.stalled_by_noise(step.h, step.residual, step.correction):
            return _Iterate(step.h, step.residual, step)
        where = f"{problem.name}.{problem.model.function_name}"
        if undefined == MAX_TRIALS:
            raise self.monitor.failure(
                f"stalled along the Newton step: all {undefined} trial steps gave no value in "
                f"{where}",
                advise_where_undefined(problem),
            )
        counted = f"{undefined} of {MAX_TRIALS} trial steps gave no value in {where}; "
        raise self._stalled(counted if undefined else "")

    def _stalled(self, observed: str) -> ConvergenceError:
        return self.monitor.failure(
            f"stalled: no decrease of the residual along the Newton step ({observed}a fold, no "
            "solution for these parameters, or a wrong d_state)"
        )


def _forcing(last: float, decrease: float, monitor: ConvergenceMonitor) -> float:
    """Choose the relative residual of the next linear solve (Eisenstat and Walker, choice 2)."""
    forcing = FORCING_FACTOR * decrease**2 if decrease < 1.0 else MAX_FORCING
    if FORCING_FACTOR * last**2 > 0.1:  # the safeguard against a sudden drop
        forcing = max(forcing, FORCING_FACTOR * last**2)
    # The last step need not be more accurate than the target requires.
    worst = monitor.report.residuals[-1]
    least = 0.1 * monitor.step_rtol / worst if worst > 0.0 else MAX_FORCING
    return min(MAX_FORCING, max(forcing, least))
