"""One run of `minimize`: its iterations, stopping criteria and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.equilibrium import Equilibrium
from ..errors import ConvergenceError, MfdeqError, ModelError, SingularStateError
from ..files.checkpoints import Checkpoint, other_run_error
from .bounds import Bounds
from .method import Iterate, Method
from .minimize_report import MinimizeReport, Step
from .objective import Objective
from .reduced_functional import ReducedFunctional
from .truncated_cg import MAX_FORCING_TERM

# The loss is taken as unbounded below after a decrease by this multiple of its size at the start.
UNBOUNDED_FACTOR = 1e15
SAME_LOSS_RTOL = 1e-6  # allowed difference from the loss in a checkpoint, relative to the start


@dataclass(frozen=True)
class Stop:
    """The reason why a run has ended, and advice for an error."""

    reason: str
    advice: str = "; continue from its params, use a larger gtol, or pass a preconditioner"
    failure: MfdeqError | None = None


class Minimization:
    """One run of `minimize`.

    Parameters
    ----------
    functional : ReducedFunctional
    objective : Objective
    checkpoint : Checkpoint or None

    Attributes
    ----------
    at : Iterate
        The last point.
    eq : Equilibrium
        The equilibrium at the last point.
    method : Method
        The method, which is set after the start.
    """

    at: Iterate
    eq: Equilibrium
    method: Method

    def __init__(
        self, functional: ReducedFunctional, objective: Objective, checkpoint: Checkpoint | None
    ) -> None:
        self.functional, self.objective, self.checkpoint = functional, objective, checkpoint
        self._method_state: Any = None

    @property
    def report(self) -> MinimizeReport:
        """The report of the run so far."""
        return self.objective.report

    def start(self, theta: Array, bounds: Bounds, radius: float | None) -> None:
        """Start at theta, which must have an equilibrium."""
        objective = self.objective
        value = objective.value(theta)
        if value == math.inf:
            value = self.functional.value(theta)
            raise ModelError(f"the loss at theta0: expected a finite number, got {value}")
        g = objective.gradient(theta)
        size = bounds.backend.norm(bounds.projected_gradient(theta, g))
        self.at = Iterate(theta, value, g, size, size, MAX_FORCING_TERM, radius)
        self._append(Step(value, size, 0.0, 0, "start"))
        self.eq = self.functional.equilibrium(theta)

    def restore(self, backend: Backend, saved: dict[str, Any]) -> None:
        """Restore the run from a checkpoint, which must be of this functional."""
        assert self.checkpoint is not None
        at, report, to_device = saved["at"], saved["report"], backend.from_host
        arrays = {name: to_device(at[name]) for name in ("theta", "gradient")}
        self.at = Iterate(**{**at, **arrays})
        steps = [Step(**step) for step in report["steps"]]
        self.objective.continue_from(MinimizeReport(**{**report, "steps": steps}))
        self.checkpoint.continue_from(len(steps))
        self._method_state = saved["method"]
        path = self.checkpoint.path
        try:
            self._solve_again(to_device(saved["state"]))
        except (ConvergenceError, SingularStateError) as error:
            raise other_run_error(
                path, f"there is no equilibrium at the saved point: {error}"
            ) from error
        value = self.functional.loss.value(self.eq.state, self.eq.params)
        tol = SAME_LOSS_RTOL * max(abs(self.at.value), abs(steps[0].value))
        if not abs(value - self.at.value) <= tol:
            raise other_run_error(
                path, f"the loss at the saved point is {value}, expected {self.at.value}"
            )

    def run(
        self,
        target: float,
        max_iterations: int,
        callback: Callable[[Array, Step], Any] | None,
    ) -> Stop:
        """Iterate until the gradient reaches its target or another stopping criterion holds."""
        if self._method_state is not None:
            self.method.restore(self._method_state)
        try:
            while True:
                stop = self._stop(target, max_iterations, callback)
                if stop is None:
                    stop = self._advance()
                if stop is not None:
                    break
        except MfdeqError as error:
            stop = Stop(f"{type(error).__name__}: {error}", failure=error)
        self.objective.update_report()
        return stop

    def _stop(
        self, target: float, max_iterations: int, callback: Callable[[Array, Step], Any] | None
    ) -> Stop | None:
        """Return the reason to stop at this point, if any; write a checkpoint if one is due."""
        steps, at = self.report.steps, self.at
        converged = at.gradient_norm <= target
        if self.checkpoint is not None and self.checkpoint.due(len(steps), converged):
            self._save(self.checkpoint)
        if converged:
            return Stop(f"|gradient| {at.gradient_norm:.2e} <= {target:.2e}")
        size = max(abs(steps[0].value), steps[0].gradient_norm, 1.0)
        if steps[0].value - at.value > UNBOUNDED_FACTOR * size:
            reason = f"the loss decreases without bound, to {at.value:.1e} so far"
            return Stop(reason, "; add bounds or a prior")
        if callback is not None and self._stopped_by(callback, steps[-1]):
            return Stop("the callback returned True", "")
        if len(steps) > max_iterations:
            return Stop(f"max_iterations = {max_iterations} was reached")
        return None

    def _advance(self) -> Stop | None:
        """Take one iteration."""
        result = self.method.advance(self.at)
        if result is None:
            return Stop("no step decreases the loss: rounding, or wrong derivatives")
        self.at, step = result
        self._append(step)
        if step.length:
            self.eq = self.functional.equilibrium(self.at.theta)  # cached
        return None

    def _stopped_by(self, callback: Callable[[Array, Step], Any], step: Step) -> bool:
        backend = Backend.of(self.at.theta)
        with backend.user_call("the callback"):
            stop = bool(callback(self.at.theta, step))
        return backend.any_rank(stop)

    def _append(self, step: Step) -> None:
        self.objective.update_report()
        step.solves, step.seconds = self.report.solves, self.report.seconds
        self.report.steps.append(step)

    def _save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and continue as if from it."""
        self.objective.update_report()
        state = {
            "at": vars(self.at),
            "state": self.eq.state,
            "method": self.method.checkpoint_state,
            "report": asdict(self.report),
        }
        checkpoint.write(len(self.report.steps), state)
        self.method.forget()
        self._solve_again(self.eq.state)

    def _solve_again(self, state: Array) -> None:
        """Solve for the equilibrium at the last point, from `state` alone."""
        self.functional.forget(state)
        self.eq = self.functional.equilibrium(self.at.theta)
