"""One run of `minimize`: its iterations, stopping criteria and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import (
    ConvergenceError,
    MfdeqError,
    ModelError,
    SingularStateError,
    is_evaluation_failure,
)
from ..files.checkpoints import Checkpoint, other_run_error
from ..progress import ProgressBar, share_of_decrease
from .bounds import Bounds
from .functional import Functional
from .method import LOSS_ROUNDING_FACTOR, Iterate, Method
from .metrics import GradientNorm
from .minimize_report import MinimizeReport, Step
from .objective import Objective
from .truncated_cg import MAX_FORCING_TERM

# The loss is taken as unbounded below after a decrease by this multiple of its size at the start,
# or of its first decrease.
UNBOUNDED_FACTOR = 1e15
# The gradient is rounding if it is below this multiple of its change at a neighbouring point, where
# the parameters differ by this many roundings.
MAX_ROUNDING_RATIO = 10.0
NEIGHBOUR_ROUNDINGS = 4.0
STAGNANT_STEPS = 3  # with a change of the loss by rounding, after which the error is measured
SAME_LOSS_RTOL = 1e-6  # allowed difference from the loss in a checkpoint, relative to the start


@dataclass(frozen=True)
class Stop:
    """The reason why a run has ended, and advice for an error."""

    reason: str
    advice: str = "; continue from its params, use a larger gtol, or pass a preconditioner"
    failure: Exception | None = None
    limited_by: str = ""


class Minimization:
    """One run of `minimize`.

    Parameters
    ----------
    functional : Functional
    objective : Objective
    bounds : Bounds
    norm : GradientNorm
        The norm of gradients, in the metric.
    checkpoint : Checkpoint or None

    Attributes
    ----------
    at : Iterate
        The last point.
    eq : Equilibrium or SumEquilibrium
        The equilibrium at the last point.
    method : Method
        The method, which is set after the start.
    """

    at: Iterate
    eq: Any
    method: Method

    def __init__(
        self,
        functional: Functional,
        objective: Objective,
        bounds: Bounds,
        norm: GradientNorm,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.functional, self.objective, self.checkpoint = functional, objective, checkpoint
        self.bounds, self.norm = bounds, norm
        self.scale = 0.0
        self._method_state: Any = None
        self.gradient_error = math.inf  # as measured last
        self._judged: tuple[Array, bool] | None = None  # the last point, and whether it is rounding
        self._stagnant = 0  # steps in a row that changed the loss by rounding only
        self._failures = 0  # trial points without a value before them

    @property
    def report(self) -> MinimizeReport:
        """The report of the run so far."""
        return self.objective.report

    def start(self, theta: Array, radius: float | None) -> None:
        """Start at theta, which must have an equilibrium."""
        functional = self.functional
        value = functional.evaluate(theta)
        if not math.isfinite(value):
            raise ModelError(f"the loss at theta0: expected a finite number, got {value}")
        self.report.gradients += 1
        g = functional.evaluate_gradient(theta)
        self.eq = functional.equilibrium(theta)
        size = self.norm(self.bounds.projected_gradient(theta, g))
        # Near a minimum the gradient says nothing about the size of gradients. The two terms that
        # cancel there do: the one of theta itself, and the one by way of the state.
        free = self.bounds.active_set(theta, g).free
        d_params = functional.partial_gradient(self.eq)
        terms = self.norm(free(d_params)), self.norm(free(g - d_params))
        self.scale = max(size, min(terms))
        self.at = Iterate(theta, value, g, size, size, MAX_FORCING_TERM, radius)
        self._append(Step(value, size, 0.0, 0, "start"))

    def restore(self, backend: Backend, saved: dict[str, Any]) -> None:
        """Restore the run from a checkpoint, which must be of this functional."""
        assert self.checkpoint is not None
        with self.checkpoint.decoding():
            at, report, to_device = saved["at"], saved["report"], backend.from_host
            arrays = {name: to_device(at[name]) for name in ("theta", "gradient")}
            self.at = Iterate(**{**at, **arrays})
            steps = [Step(**step) for step in report["steps"]]
            self.objective.continue_from(MinimizeReport(**{**report, "steps": steps}))
            self.checkpoint.continue_from(len(steps))
            self._method_state, self.scale = saved["method"], saved["scale"]
            self._stagnant, state = saved["stagnant"], to_device(saved["state"])
            self._failures = saved["failures"]
        path = self.checkpoint.path
        try:
            self._solve_again(state)
        except (ConvergenceError, SingularStateError) as error:
            raise other_run_error(
                path, f"there is no equilibrium at the saved point: {error}"
            ) from error
        value = self.functional.value_at(self.eq)
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
        bar: ProgressBar,
    ) -> Stop:
        """Iterate until the gradient reaches its target or another stopping criterion holds."""
        if self._method_state is not None:
            assert self.checkpoint is not None
            with self.checkpoint.decoding():
                self.method.restore(self._method_state)
        try:
            while True:
                self._show_progress(bar, target)
                stop = self._stop(target, max_iterations, callback)
                if stop is None:
                    stop = self._advance()
                if stop is not None:
                    break
        except ModelError as error:  # a mistake in the user's functions
            if not is_evaluation_failure(error):
                raise
            stop = Stop(f"{type(error).__name__}: {error}", failure=error)
        except MfdeqError as error:
            stop = Stop(f"{type(error).__name__}: {error}", failure=error)
        self.objective.update_report()
        return stop

    def _show_progress(self, bar: ProgressBar, target: float) -> None:
        steps, at = self.report.steps, self.at
        share = share_of_decrease(steps[0].gradient_norm, at.gradient_norm, target)
        text = f"loss {at.value:.5g}, |gradient| {at.gradient_norm:.1e}, target {target:.1e}"
        bar.show(len(steps) - 1, text, share)

    def _stop(
        self, target: float, max_iterations: int, callback: Callable[[Array, Step], Any] | None
    ) -> Stop | None:
        """Return the reason to stop at this point, if any; write a checkpoint if one is due."""
        steps, at = self.report.steps, self.at
        converged = at.gradient_norm <= target
        if self.checkpoint is not None and self.checkpoint.due(len(steps), converged):
            self._save(self.checkpoint)
        if converged:
            reason = f"|gradient| {at.gradient_norm:.2e} <= {target:.2e}"
            return Stop(reason, limited_by="gtol")
        first = next((step.value for step in steps if step.length), at.value)
        size = max(abs(steps[0].value), steps[0].value - first)
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
        stagnates = self._stagnant >= STAGNANT_STEPS and self.at_rounding(self.at)
        before = self.at.value
        try:
            result = None if stagnates else self.method.advance(self.at)
        except Exception as error:
            if isinstance(error, MfdeqError) or not is_evaluation_failure(error):
                raise
            return Stop(f"{type(error).__name__}: {error}", failure=error)
        if result is None and self.at_rounding(self.at):
            reason = (
                f"|gradient| {self.at.gradient_norm:.2e} is the error of the gradient, as measured "
                "at a neighbouring point"
            )
            return Stop(reason, limited_by="rounding")
        if result is not None and not result[1].length and not result[1].how.startswith("rejected"):
            result = None  # the step is too short to change the parameters
        if result is None and self.report.failures > self._failures:
            reason = f"no step decreases the loss where it has a value: {self.report.last_failure}"
            return Stop(reason, "; add bounds that leave out where it has none")
        if result is None:
            return Stop("no step decreases the loss: rounding, or wrong derivatives")
        self.at, step = result
        noise = LOSS_ROUNDING_FACTOR * self.bounds.backend.eps * abs(before)
        self._stagnant = self._stagnant + 1 if abs(self.at.value - before) <= noise else 0
        if not self._stagnant:
            self._failures = self.report.failures
        self._append(step)
        if step.length:
            self.eq = self.functional.equilibrium(self.at.theta)  # cached
        return None

    def at_rounding(self, at: Iterate) -> bool:
        """Measure whether the gradient at an iterate is no larger than its error.

        The gradient is computed at a neighbouring point, whose parameters differ by rounding and
        whose state differs by the tolerance of the solves. The difference contains the errors of
        the state, of the adjoint and of the loss, and the rounding of the parameters.
        """
        if self._judged is not None and self._judged[0] is at.theta:
            return self._judged[1]
        backend, functional, state = self.bounds.backend, self.functional, self.eq.state

        def perturb(x: Array, rtol: float, seed: int) -> Array:
            signs = backend.xp.sign(backend.random(x.shape[0], seed=seed))
            return x + rtol * (1.0 + signs) * x

        theta = self.bounds.project(perturb(at.theta, NEIGHBOUR_ROUNDINGS * backend.eps, 3))
        state = perturb(state, functional.state_rtol(backend), 4)
        g = self.objective.attempt(functional.gradient_at, theta, state)
        free = self.bounds.active_set(at.theta, at.gradient, 0.0).free
        error = 0.0 if g is None else self.norm(free(g - at.gradient))
        self.gradient_error = MAX_ROUNDING_RATIO * error
        self._judged = at.theta, at.gradient_norm <= self.gradient_error
        return self._judged[1]

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
            "scale": self.scale,
            "stagnant": self._stagnant,
            "failures": self._failures,
            "report": asdict(self.report),
        }
        checkpoint.write(len(self.report.steps), state)
        self.method.forget()
        self._solve_again(self.eq.state)

    def _solve_again(self, state: Array) -> None:
        """Solve for the equilibrium at the last point, from `state` alone."""
        self.functional.forget(state)
        self.eq = self.functional.equilibrium(self.at.theta)
