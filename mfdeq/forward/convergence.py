"""The monitor of a forward iteration: when it has converged or failed, and its last steps.

When the equations are nearly satisfied, the monitor judges Newton's correction, and takes chord
steps until both criteria are met (see `criteria`).
"""

from __future__ import annotations

import math

from ..arguments import count
from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor, Solver
from ..models.problem import Problem
from ..operators.operator import Operator
from ..progress import ProgressBar, share_of_decrease
from ..report import SolveReport
from .advice import DEFAULT_ADVICE, describe_stop_at_bounds
from .criteria import MIN_DIGITS, Criteria

DIVERGENCE_RATIO = 1e4  # the iteration has diverged at this multiple of the best residual
STALL_ITERATIONS = 100  # in which an iteration has stalled if ...
STALL_DECREASE = 0.9  # ... they reduce the worst residual less: ten digits would take 20,000
NOISE_ITERATIONS = 5  # without progress, or 10, 20, 40, ..., after which the noise is measured ...
MAX_NOISE_RATIO = 1e-3  # ... where the worst residual is below this
NOISE_DECREASE = 0.99  # progress is a decrease of the worst residual to less than this multiple
MAX_CHORD_STEPS = 4  # at the end of an iteration
MAX_CHORD_CONTRACTION = 0.3  # a chord step that reduces the residual less is the last
CHORD_START = 1e3  # chord steps begin when the worst residual is below this multiple of rtol ...
MAX_CHORD_START = 1e-6  # ... but not above this
RETRY_DECREASE = 0.1  # of the worst residual, after which unsuccessful chord steps are tried again


class ConvergenceMonitor(Criteria):
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
        super().__init__(problem, rtol, report)
        self.solver = solver
        self.max_iterations = count(max_iterations, "max_iterations")
        self.explicit = rtol is not None
        self.chord_start = max(self.rtol, min(CHORD_START * self.step_rtol, MAX_CHORD_START))
        self.best: Array | None = None
        self.best_ratio = math.inf
        self.done = False
        self.stall_iterations = STALL_ITERATIONS
        self._latest: Array | None = None  # the latest iterate
        self._last_decrease = 0  # the iteration that last reduced the worst residual at all
        self._last_progress = 0, math.inf  # that which last reduced it enough, and to what
        self._failed_ratio = math.inf  # the worst residual at the last unsuccessful chord steps
        self._bar = ProgressBar(report.method, "iterations", progress)

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
        self._latest = h
        share = share_of_decrease(report.residuals[0], worst, self.rtol)
        self.show_progress(f"worst residual {worst:.2e}, target {self.target}", share)
        if worst < NOISE_DECREASE * self.best_ratio:
            self._last_decrease = report.iterations
        if worst < STALL_DECREASE * self._last_progress[1]:
            self._last_progress = report.iterations, worst
        if worst < self.best_ratio or self.best is None:
            self.best, self.best_ratio = h, worst
            if factor is None:
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

    def show_progress(self, text: str, share: float) -> None:
        """Show the number of iterations, a text and the share of the work that is done."""
        self._bar.show(self.report.iterations, text, share)

    @property
    def idle(self) -> int:
        """The number of iterations since the last one that reduced the worst residual."""
        return self.report.iterations - self._last_decrease

    def _check_progress(self, h: Array, residual: Array) -> None:
        report = self.report
        multiple, rest = divmod(self.idle, NOISE_ITERATIONS)
        measured = rest == 0 and multiple.bit_count() == 1  # each time after twice as many
        if measured and self.best_ratio <= MAX_NOISE_RATIO and self.stalled_by_noise(h, residual):
            return
        stalled = report.iterations - self._last_progress[0] >= self.stall_iterations
        if stalled or report.iterations >= self.max_iterations:
            if (root := self._beside_zeros(h, 0.0, shown=False)) is not None:
                return self._finish_at_zero(root[0])
            if stalled:
                raise self.failure(f"stalled: no progress in {self.stall_iterations} iterations")
            raise self.failure(
                f"did not converge in {self.max_iterations} iterations (see max_iterations)"
            )

    def stalled_by_noise(self, h: Array, residual: Array, step: Array | None = None) -> bool:
        """Measure the rounding error of R, where a step did not reduce it, and end if R is that.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array, optional
            The step that did not reduce the residual, by default a multiple of rounding.
        """
        if self._is_noise(h, residual, step):
            self._chord_steps(h, residual, fresh=False)
        return self.done

    # States that another iteration found.

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
        elif (step := self._step_beside_zeros(h, residual)) is not None:
            self._finish_if_settled(h, residual, step)
        return self.done

    def accepts_after(
        self, h: Array, residual: Array, step: Array, A: Operator, factor: Factor
    ) -> bool:
        """Return whether a state meets both criteria as it is, by a known correction.

        Parameters
        ----------
        h, residual : (N,) arrays
        step : (N,) array
            Newton's correction at h, A^-1 R.
        A : Operator
            A at h.
        factor : Factor
            A factor of it.
        """
        self.A, self.factor = A, factor
        worst, _, _ = self._equations(h, residual, final=True)
        self.report.residuals.append(worst)
        self.best, self.best_ratio = h, worst
        if worst == 0.0:
            self._finish_at_zero(h)
        else:
            self._finish_if_settled(h, residual, step)
        return self.done

    def _finish_if_settled(self, h: Array, residual: Array, step: Array) -> None:
        """End at a state that meets both criteria, by Newton's correction there."""
        worst, satisfied, at_floor = self._equations(h, residual, final=True)
        if satisfied:
            correction, settled, by_rounding = self._unknowns(h, residual, step, at_floor)
            limited = by_rounding or not self._reaches_rtol(h, residual, correction)
            if settled and not (limited and correction > 0.1**MIN_DIGITS):
                self.finish(h, worst, correction, "rounding" if limited else "rtol")

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
                self._watch_zeros(h, step)
                _, satisfied, at_floor = self._equations(h, residual, final=True)
                correction, settled, by_rounding = self._unknowns(h, residual, step, at_floor)
                if satisfied and settled:
                    limited = by_rounding or not self._reaches_rtol(h, residual, correction)
                    if limited and correction > 0.1**MIN_DIGITS:
                        if self._is_singular():
                            raise SingularStateError("A is singular to working precision")
                        if self._noise is None:
                            break  # rounding leaves no digit, of a state that may be a zero
                    if max_steps:
                        h, worst = self._polished(h, residual, step, worst)
                    self.finish(h, worst, correction, "rounding" if limited else "rtol")
                    return
                following = self._chord_step(h, step, worst) if steps < max_steps else None
                if following is None:
                    break
                h, residual, worst, satisfied, at_floor = following
        except SingularStateError:
            # The equations are satisfied: uniqueness is judged at the converged state.
            if satisfied:
                self.finish(h, worst, self.backend.eps, "rounding")
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
        if self.report.zero_unknowns and (found := self._beside_zeros(h, worst, shown=True)):
            return found
        if self.backend.all(abs(step) <= self.backend.eps * abs(h)):
            return h, worst
        following = self._chord_step(h, step, worst)
        if following is None or not following[3] or following[2] >= worst:
            return h, worst
        return following[0], following[2]

    def _finish_at_zero(self, h: Array) -> None:
        limited_by = "rounding" if self.rtol < self.backend.eps else "rtol"
        self.finish(h, 0.0, self.backend.eps, limited_by)

    def finish(self, h: Array, worst: float, correction: float, limited_by: str) -> None:
        """End the iteration at a state that meets both criteria, and complete the report.

        Methods call it that judge the criteria themselves, for each part of a state.

        Parameters
        ----------
        h : (N,) array
        worst : float
            The largest |R_i| relative to the size of its equation.
        correction : float
            The largest Newton correction of an unknown relative to its size.
        limited_by : {"rtol", "rounding"}
        """
        self.state, self.done = h, True
        report, problem = self.report, self.problem
        report.limited_by, report.residual, report.correction = limited_by, worst, correction
        report.failures, report.last_failure = problem.failures, problem.last_failure
        by = "rounding" if limited_by == "rounding" else self.target
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
                f"cannot reach rtol = {self.rtol:.2g}: the rounding error of evaluating R leaves "
                f"{-math.log10(reached):.1f} digits of {report.worst_unknown or 'every unknown'}",
                "Use a larger rtol, or rtol=None for the digits that there are",
            )

    def failure(
        self, reason: str, advice: str = DEFAULT_ADVICE, subject: str = ""
    ) -> ConvergenceError:
        """Return the error for a failed iteration, with the best state and the history.

        Parameters
        ----------
        reason : str
            What happened, as a clause without a subject: "stalled: ...".
        advice : str, optional
            What the user can do.
        subject : str, optional
            What it happened to, by default the method.
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
        stopped = ""
        if not self.done and self._latest is not None:
            correction = None if self.factor is None else self._correction
            stopped = describe_stop_at_bounds(problem, self._latest, correction)
        return ConvergenceError(
            f"{problem.name}: {subject or report.method} {reason}; "
            f"{self.shortfall(self.best_ratio)}, where the target is "
            f"{self.target} "
            f"(history {history}).{failed}{stopped} {advice}",
            best=self.state if self.done else self.best,
            report=report,
        )

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
