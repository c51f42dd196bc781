"""The iterations of a minimization, up to its end, and what of them a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.equilibrium import Equilibrium
from ..errors import ConvergenceError, MfdeqError, SingularStateError
from ..files.checkpoints import Checkpoint, other_run
from .bounds import Bounds
from .functional import ReducedFunctional
from .objective import Iterate, Method, MinimizeReport, Objective, Step

ENDLESS = 1e15  # times the loss and the gradient at the start: a fall that finds no minimum
SAME = 1e-6  # of the loss at the start, within which that at a checkpoint must be found again


@dataclass(frozen=True)
class Stop:
    """Why a run has ended."""

    reason: str
    failure: MfdeqError | None = None
    advice: str = "; go on from its params, loosen gtol, or give a preconditioner"


class Run:
    """One minimization.

    Parameters
    ----------
    functional : ReducedFunctional
    objective : Objective
    file : Checkpoint or None

    Attributes
    ----------
    at : Iterate
    eq : Equilibrium
        There.
    method : Method
        Set once the start is known.
    """

    at: Iterate
    eq: Equilibrium
    method: Method

    def __init__(
        self, functional: ReducedFunctional, objective: Objective, file: Checkpoint | None
    ) -> None:
        self.functional, self.objective, self.file = functional, objective, file
        self._memory: Any = None

    @property
    def report(self) -> MinimizeReport:
        """What was done so far."""
        return self.objective.report

    def start(self, theta: Array, bounds: Bounds, radius: float | None) -> None:
        """From the beginning."""
        self.at, step = self.objective.start(theta, bounds, radius)
        self._take(step)
        self.eq = self.functional.equilibrium(theta)

    def go_on(self, backend: Backend, saved: dict[str, Any]) -> None:
        """From a checkpoint, if it is of this functional."""
        assert self.file is not None
        at, report, put = saved["at"], saved["report"], backend.from_host
        self.at = Iterate(**{**at, **{name: put(at[name]) for name in ("theta", "gradient")}})
        steps = [Step(**step) for step in report["steps"]]
        self.objective.go_on(MinimizeReport(**{**report, "steps": steps}))
        self.file.went_on(len(steps))
        self._memory = saved["memory"]
        try:
            self._begin_at(put(saved["state"]))
        except (ConvergenceError, SingularStateError) as error:
            raise other_run(self.file.path, f"no equilibrium is found there: {error}") from error
        value = self.functional.loss.value(self.eq.state, self.eq.params)
        if not abs(value - self.at.value) <= SAME * max(abs(self.at.value), abs(steps[0].value)):
            raise other_run(self.file.path, f"its loss is {self.at.value}, {value} is found there")

    def to_the_end(
        self, target: float, most: int, callback: Callable[[Array, Step], Any] | None
    ) -> Stop:
        """Iterate until the gradient is at its target, or why not."""
        report = self.report
        if self._memory is not None:
            self.method.memory = self._memory
        try:
            while True:
                step, converged = report.steps[-1], self.at.size <= target
                if self.file is not None and self.file.due(len(report.steps), converged):
                    self._keep(self.file)
                if converged:
                    return self._stop(f"|gradient| {self.at.size:.2e} <= {target:.2e}")
                first = report.steps[0]
                size = max(abs(first.value), first.gradient_norm, 1.0)
                if first.value - self.at.value > ENDLESS * size:
                    reason = f"the loss falls without end, to {self.at.value:.1e} so far"
                    return replace(self._stop(reason), advice="; give bounds or a prior")
                if callback is not None and self._says(callback, step):
                    return replace(self._stop("the callback said so"), advice="")
                if len(report.steps) > most:
                    return self._stop(f"{most} iterations were not enough")
                found = self.method.advance(self.at)
                if found is None:
                    return self._stop(
                        "no step lowers the loss: rounding, or derivatives that are not the loss's"
                    )
                self.at, step = found
                self._take(step)
                if step.length:
                    self.eq = self.functional.equilibrium(self.at.theta)  # the last solved for
        except MfdeqError as error:
            return self._stop(f"{type(error).__name__}: {error}", error)

    def _says(self, callback: Callable[[Array, Step], Any], step: Step) -> bool:
        backend = Backend.of(self.at.theta)
        with backend.user_call("the callback"):
            stop = bool(callback(self.at.theta, step))
        return backend.any_rank(stop)

    def _take(self, step: Step) -> None:
        self.objective.count()
        step.solves, step.seconds = self.report.solves, self.report.seconds
        self.report.steps.append(step)

    def _stop(self, reason: str, failure: MfdeqError | None = None) -> Stop:
        self.objective.count()
        return Stop(reason, failure)

    def _keep(self, file: Checkpoint) -> None:
        """Write a checkpoint, and go on as from it."""
        self.objective.count()
        state = {
            "at": vars(self.at),
            "state": self.eq.state,
            "memory": self.method.memory,
            "report": asdict(self.report),
        }
        file.write(len(self.report.steps), state)
        self.method.forget()
        self._begin_at(self.eq.state)

    def _begin_at(self, state: Array) -> None:
        self.functional.forget(state)
        self.eq = self.functional.equilibrium(self.at.theta)
