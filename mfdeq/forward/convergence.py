"""When a forward iteration is done, and when it is not going to be.

Converged means ||R|| <= max(rtol s, floor), never a short step. s is the model's
`residual_scale`, by default ||R|| at the model's own start (not at h0, so that a warm start
does not tighten the target); floor = c eps || |A||h| || is what rounding leaves of R.
"""

from __future__ import annotations

from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array
from ..errors import ConvergenceError, ModelError
from ..models.linearization import Problem
from ..operators.operator import Operator
from ..report import SolveReport

ROUNDING = 10.0  # c of the floor
NEAR = 100.0  # times the floor: where ||R|| is, the floor is worth computing anew
DIVERGED = 1e4  # growth of ||R|| over the best so far that is called divergence
ADVICE = "Start nearer (h0), try another method, or check the derivatives with mfdeq.verify"
PATIENCE = 100  # iterations without 1 % of progress that are called a stall


class Monitor:
    """Records ||R||, shows it, and decides.

    Parameters
    ----------
    problem : Problem
    rtol : float or None
        None asks for 1e-10 in float64 and for the floor in float32.
    max_iterations : int
    report : SolveReport
    progress : bool
        Show a progress bar.
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
        default = 1e-10 if backend.dtype == backend.xp.float64 else 0.0
        self.rtol = default if rtol is None else fraction(rtol, "rtol")
        self.best: Array | None = None
        self.best_norm = float("inf")
        self.done = False
        self._progress_made = 0
        self._bar = _bar(report.method) if progress else None

    def set_scale(self, h: Array) -> None:
        """s, from the model or from ||R|| at its default start."""
        problem = self.problem
        scale = problem.scale(h)
        if scale is None:
            scale = problem.trial_residual(problem.start())[1]
        if scale == float("inf"):
            raise ModelError(
                f"{problem.name}.{problem.model.written} holds NaN or infinity at the model's "
                "default start, which sets the scale of the residual: give the model an "
                "initial_state(theta) where it is defined, or a residual_scale(h, theta)"
            )
        self.report.scale = scale
        self._set_target(0.0)

    def set_floor(self, A: Operator, h: Array) -> None:
        """The floor c eps || |A||h| || from A at h."""
        backend = self.problem.backend
        self._set_target(ROUNDING * backend.eps * backend.norm(A.abs_apply(h)))

    def _set_target(self, floor: float) -> None:
        report = self.report
        report.floor = floor
        report.target = max(self.rtol * report.scale, floor)
        report.limited_by = "rtol" if report.target > floor else "floor"

    def reached(self, h: Array, norm: float) -> bool:
        """Whether ||R|| is at its target; near the floor, the floor at this very h."""
        report, backend = self.report, self.problem.backend
        if not norm < float("inf"):
            return False
        if norm <= self.rtol * report.scale:
            return True
        # The floor of an earlier iterate, or before there is one what it is like for |A| of 1.
        guess = max(report.floor, 10 * backend.eps * (report.scale + backend.norm(h)))
        if norm > NEAR * guess:
            return False
        self.set_floor(self.problem.linearize(h).A, h)
        return norm <= report.target

    def record(self, h: Array, norm: float) -> None:
        """Take note of one iterate.

        Raises
        ------
        ConvergenceError
            On divergence, on a stall, and after `max_iterations`.
        """
        report = self.report
        report.residuals.append(norm)
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(f"||R|| {norm:.2e}, target {report.target:.1e}")
        if norm < 0.99 * self.best_norm:
            self._progress_made = report.iterations
        if norm < self.best_norm:
            self.best, self.best_norm = h, norm
        self.done = self.reached(h, norm)
        if self.done:
            return
        if not norm <= DIVERGED * self.best_norm or not norm < float("inf"):
            raise self.failure(f"diverged: ||R|| grew from {self.best_norm:.2e} to {norm:.2e}")
        if report.iterations - self._progress_made >= PATIENCE:
            raise self.failure(f"stalled: no progress in {PATIENCE} iterations")
        if report.iterations >= self.max_iterations:
            raise self.failure(
                f"did not converge in {self.max_iterations} iterations (max_iterations allows more)"
            )

    def check_rtol(self) -> None:
        """Raise `ConvergenceError` where an explicit rtol is below what rounding allows."""
        report = self.report
        if self.explicit and self.rtol * report.scale < report.floor:
            least = report.floor / report.scale if report.scale > 0 else float("inf")
            raise self.failure(
                f"cannot reach rtol={self.rtol:.1e}: the rounding error of evaluating R, "
                f"{report.floor:.2e}, is the floor, {least:.1e} of the scale {report.scale:.1e}",
                "Ask for no less than that, leave rtol=None, or give the model the "
                "residual_scale(h, theta) that rtol is relative to",
            )

    def failure(self, reason: str, advice: str = ADVICE) -> ConvergenceError:
        """The error that says `reason`, with the best state and the history."""
        self.report.converged = False
        self.report.reason = reason
        shown = [f"{norm:.2e}" for norm in self.report.residuals]
        path = " ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-4:]])
        return ConvergenceError(
            f"{self.problem.name}: {self.report.method} {reason}; best ||R|| "
            f"{self.best_norm:.2e}, target {self.report.target:.2e} (history {path}). " + advice,
            best=self.best,
            report=self.report,
        )

    def close(self) -> None:
        """Finish the progress bar."""
        if self._bar is not None:
            self._bar.close()


def _bar(title: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(desc=title, unit=" iterations")
