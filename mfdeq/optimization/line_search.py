"""Steps along a direction downhill, by Armijo's or Wolfe's conditions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..arrays.backend import Array, Backend
from .directions import Direction
from .method import Iterate, Method, Setting
from .minimize_report import Step
from .objective import Objective
from .truncated_cg import forcing_term

# Of the slope at the start: by how much the loss must fall, and to what the slope must flatten.
ARMIJO, WOLFE = 1e-4, 0.9
# Times eps of the loss, a change of the loss that is rounding.
LOSS_ROUNDING_FACTOR = 100.0
MAX_HALVINGS = 40
MAX_TRIALS = 30  # of a search by Wolfe's conditions
BACKTRACK = 0.1  # of a step to where there is no loss, that is tried next
EXPANSION = 3.0  # of a step that is too short
PARABOLA_RANGE = 0.1, 0.9  # of a bracket, in which the minimum of a parabola is taken


class LineSearch(Method):
    """Steps along a direction downhill, until none lowers the loss.

    Parameters
    ----------
    setting : Setting
    direction : Direction
    """

    def __init__(self, setting: Setting, direction: Direction) -> None:
        self.setting, self.direction = setting, direction

    @property
    def checkpoint_state(self) -> Any:
        """What the direction has learned."""
        return self.direction.checkpoint_state

    def restore(self, state: Any) -> None:
        """Take over what the direction had learned."""
        self.direction.restore(state)

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """One step; None where none lowers the loss."""
        objective, backend, direction = self.setting.objective, self.setting.backend, self.direction
        forcing = forcing_term(at.forcing, at.gradient_norm, at.previous_norm, self.setting.target)
        p, inner, how = direction(at.theta, at.gradient, forcing)
        search = wolfe_search if direction.needs_wolfe else armijo_search
        trial = search(objective, backend, at.theta, at.value, at.gradient, p)
        if trial is None:
            return None
        objective.report.rejected += trial.rejected
        step = trial.theta - at.theta
        direction.learn(step, trial.gradient - at.gradient)
        norm = backend.norm(trial.gradient)
        new = Iterate(trial.theta, trial.value, trial.gradient, norm, at.gradient_norm, forcing)
        return new, Step(trial.value, norm, backend.norm(step), inner, how)


class Trial(NamedTuple):
    """A point that a line search has accepted, and how many it has rejected."""

    theta: Array
    value: float
    gradient: Array
    rejected: int


def armijo_search(
    objective: Objective, backend: Backend, theta: Array, value: float, g: Array, p: Array
) -> Trial | None:
    """Shorten the step along p until the loss has fallen enough (Armijo's condition).

    Where the loss is flat to rounding, the gradient must be smaller instead. None where p is not
    downhill or no step is accepted.

    References
    ----------
    L. Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives",
    1966.
    """
    slope, t = float(backend.xp.vecdot(g, p)), 1.0
    if not slope < 0.0:
        return None
    noise, size = LOSS_ROUNDING_FACTOR * backend.eps * abs(value), backend.norm(g)
    for rejected in range(MAX_HALVINGS):
        trial = theta + t * p
        new = objective.value(trial)
        if new <= value + ARMIJO * t * slope:
            return Trial(trial, new, objective.gradient(trial), rejected)
        if abs(new - value) <= noise:
            trial_g = objective.gradient(trial)
            if backend.norm(trial_g) < size:
                return Trial(trial, new, trial_g, rejected)
        # Along a direction of no curvature the length is arbitrary: there the step shrinks faster.
        t *= 0.5 if new < math.inf else BACKTRACK
    return None


def wolfe_search(
    objective: Objective, backend: Backend, theta: Array, value: float, g: Array, p: Array
) -> Trial | None:
    """Find a step along p that lowers the loss and flattens its slope (Wolfe's conditions).

    The step is searched between one too short and one too long, as Lewis and Overton do but by
    parabolas in place of bisection. Where there is no equilibrium, the step is too long. None where
    p is not downhill or no step is accepted.

    References
    ----------
    A. S. Lewis and M. L. Overton, "Nonsmooth optimization via quasi-Newton methods", 2013, section
    2.6.
    """
    start = float(backend.xp.vecdot(g, p))
    if not start < 0.0:
        return None
    low, at_low, slope = 0.0, value, start
    high, t, rejected = math.inf, 1.0, 0
    best: Trial | None = None
    noise = LOSS_ROUNDING_FACTOR * backend.eps * abs(value)
    for _ in range(MAX_TRIALS):
        trial = theta + t * p
        new = objective.value(trial)
        if new > value + ARMIJO * t * start + (noise if best is None else 0.0):
            high, rejected = t, rejected + 1
            t = low + (high - low) * _parabola_minimum(new - at_low, slope * (high - low))
            continue
        trial_g = objective.gradient(trial)
        best, new_slope = Trial(trial, new, trial_g, rejected), float(backend.xp.vecdot(trial_g, p))
        if new_slope >= WOLFE * start:
            return best
        low, at_low, slope = t, new, new_slope
        t = 0.5 * (low + high) if high < math.inf else EXPANSION * low
    return best


def _parabola_minimum(rise: float, slope: float) -> float:
    """Where the parabola through 0 with that slope there, and that rise at 1, is lowest."""
    least, most = PARABOLA_RANGE
    if not rise < math.inf:
        return least
    return min(most, max(least, -0.5 * slope / (rise - slope)))
