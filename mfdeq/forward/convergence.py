"""Criteria for the convergence and the failure of a forward iteration.

An iteration has converged if ||R|| <= max(rtol s, floor); the length of a step is no criterion. The
scale s is the model's `residual_scale`, by default ||R|| at the model's own start (not at h0, so
that a warm start does not tighten the target). The floor 10 eps || |A||h| || is an estimate of the
rounding error in R.
"""

from __future__ import annotations

from ..arguments import count, fraction
from ..arrays.backend import Array
from ..errors import ConvergenceError, ModelError
from ..models.linearization import Problem
from ..operators.operator import Operator
from ..progress import ProgressBar
from ..report import SolveReport

DEFAULT_RTOL_FLOAT64 = 1e-10
FLOOR_ROUNDINGS = 10.0  # the floor, in rounding units of || |A||h| ||
MAX_FLOOR_RATIO = 100.0  # above this multiple of an estimated floor, ||R|| is not at the floor
DIVERGENCE_RATIO = 1e4  # the iteration has diverged at this multiple of the smallest ||R||
STALL_ITERATIONS = 100  # the iteration has stalled after this many without progress
STALL_DECREASE = 0.99  # progress is a decrease of the smallest ||R|| to less than this multiple
DEFAULT_ADVICE = (
    "Use a better start h0, try another method, or check the derivatives with mfdeq.verify"
)


class ConvergenceMonitor:
    """Monitor of ||R||, which decides when an iteration has converged or failed.

    Parameters
    ----------
    problem : Problem
    rtol : float or None
        By default 1e-10 in float64; in float32 the floor is the target.
    max_iterations : int
    report : SolveReport
        Where the history and the reason are recorded.
    progress : bool, optional
        Show a progress bar.

    Attributes
    ----------
    done : bool
        Whether the last recorded iterate has converged.
    best : (N,) array or None
        The iterate with the smallest ||R|| so far, which is `best_norm`.
    """

    def __init__(
        self,
        problem: Problem,
        rtol: float | None,
        max_iterations: int,
        report: SolveReport,
        progress: bool = False,
    ) -> None:
        self.problem, self.report = problem, report
        self.max_iterations = count(max_iterations, "max_iterations")
        self.explicit = rtol is not None
        backend = problem.backend
        default = DEFAULT_RTOL_FLOAT64 if backend.dtype == backend.xp.float64 else 0.0
        self.rtol = default if rtol is None else fraction(rtol, "rtol")
        self.best: Array | None = None
        self.best_norm = float("inf")
        self.done = False
        self._last_progress = 0  # the iteration that last reduced ||R||
        self._bar = ProgressBar(report.method, "iterations", progress)

    def set_scale(self, h: Array) -> None:
        """Set the scale s from the model, or from ||R|| at the model's default start."""
        problem = self.problem
        sizes = problem.residual_scale(h)
        scale = None if sizes is None else float(problem.backend.xp.max(sizes))
        if scale is None:
            scale = problem.trial_residual(problem.initial_state())[1]
        if scale == float("inf"):
            raise ModelError(
                f"{problem.name}.{problem.model.function_name} holds NaN or infinity at the "
                "model's default start, where the scale of the residual is measured: define "
                "initial_state(theta), with a start where the model is defined, or "
                "residual_scale(h, theta)"
            )
        self.report.scale = scale
        self._set_target(0.0)

    def set_floor(self, A: Operator, h: Array) -> None:
        """Set the floor to 10 eps || |A||h| ||, with A at h."""
        backend = self.problem.backend
        self._set_target(FLOOR_ROUNDINGS * backend.eps * backend.norm(A.abs_apply(h)))

    def _set_target(self, floor: float) -> None:
        report = self.report
        report.floor = floor
        report.target = max(self.rtol * report.scale, floor)
        report.limited_by = "rtol" if report.target > floor else "floor"

    def reached(self, h: Array, norm: float) -> bool:
        """Return whether ||R|| at h has reached its target."""
        report, backend = self.report, self.problem.backend
        if not norm < float("inf"):
            return False
        if norm <= self.rtol * report.scale:
            return True
        # The floor at h takes a linearization, so compute it only if ||R|| is near an estimate: the
        # floor of an earlier iterate, or the floor for |A| of size one.
        estimate = max(report.floor, 10 * backend.eps * (report.scale + backend.norm(h)))
        if norm > MAX_FLOOR_RATIO * estimate:
            return False
        self.set_floor(self.problem.linearize(h).A, h)
        return norm <= report.target

    def record(self, h: Array, norm: float) -> None:
        """Record an iterate, and update `done`.

        Parameters
        ----------
        h : (N,) array
        norm : float
            ||R(h)||, of the true residual.

        Raises
        ------
        ConvergenceError
            If the iteration has diverged or stalled, or reached `max_iterations`.
        """
        report = self.report
        report.residuals.append(norm)
        self._bar.advance(text=f"||R|| {norm:.2e}, target {report.target:.1e}")
        if norm < STALL_DECREASE * self.best_norm:
            self._last_progress = report.iterations
        if norm < self.best_norm:
            self.best, self.best_norm = h, norm
        self.done = self.reached(h, norm)
        if self.done:
            return
        if not norm <= DIVERGENCE_RATIO * self.best_norm or not norm < float("inf"):
            raise self.failure(f"diverged: ||R|| grew from {self.best_norm:.2e} to {norm:.2e}")
        if report.iterations - self._last_progress >= STALL_ITERATIONS:
            raise self.failure(f"stalled: no progress in {STALL_ITERATIONS} iterations")
        if report.iterations >= self.max_iterations:
            raise self.failure(
                f"did not converge in {self.max_iterations} iterations (see max_iterations)"
            )

    def check_rtol(self) -> None:
        """Raise a `ConvergenceError` if an explicit rtol is below the rounding floor."""
        report = self.report
        if self.explicit and self.rtol * report.scale < report.floor:
            least = report.floor / report.scale if report.scale > 0 else float("inf")
            raise self.failure(
                f"cannot reach rtol={self.rtol:.1e}: the rounding error of evaluating R sets a "
                f"floor of {report.floor:.2e}, {least:.1e} of the scale {report.scale:.1e}",
                "Use a larger rtol or rtol=None, or define residual_scale(h, theta), the scale "
                "that rtol is relative to",
            )

    def failure(self, reason: str, advice: str = DEFAULT_ADVICE) -> ConvergenceError:
        """Make the error for a failed iteration, with the best state and the history.

        Parameters
        ----------
        reason : str
            What happened, as a clause without a subject: "diverged: ...".
        advice : str, optional
            What the user can do.

        Returns
        -------
        ConvergenceError
            The caller raises it.
        """
        self.report.converged = False
        self.report.reason = reason
        norms = [f"{norm:.2e}" for norm in self.report.residuals]
        history = " ".join(norms if len(norms) <= 8 else [*norms[:3], "...", *norms[-4:]])
        return ConvergenceError(
            f"{self.problem.name}: {self.report.method} {reason}; best ||R|| "
            f"{self.best_norm:.2e}, target {self.report.target:.2e} (history {history}). {advice}",
            best=self.best,
            report=self.report,
        )

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
