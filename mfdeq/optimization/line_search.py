"""Line searches by the Armijo or the Wolfe conditions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..arrays.backend import Array
from .directions import Direction
from .method import LOSS_ROUNDING_FACTOR, Iterate, Method, Setting
from .minimize_report import Step
from .truncated_cg import forcing_term

# Constants of the Wolfe conditions, for the decrease of the loss and for the slope.
ARMIJO_CONSTANT, WOLFE_CONSTANT = 1e-4, 0.9
MAX_HALVINGS = 40
MAX_TRIALS = 30  # of a search by the Wolfe conditions
TRIALS_BEFORE_ROUNDING = 4  # rejected steps, after which the error of the gradient is measured
BACKTRACKING_FACTOR = 0.1  # factor of the step length if the loss is not finite
EXPANSION_FACTOR = 3.0  # factor of the length of a step that is too short
PARABOLA_RANGE = 0.1, 0.9  # allowed range of the minimum of a parabola in a bracket


class LineSearch(Method):
    """Steps of a line search along a descent direction.

    Parameters
    ----------
    setting : Setting
    direction : Direction
    """

    def __init__(self, setting: Setting, direction: Direction) -> None:
        self.setting, self.direction = setting, direction

    @property
    def checkpoint_state(self) -> Any:
        """The state of the direction, for a checkpoint."""
        return self.direction.checkpoint_state

    def restore(self, state: Any) -> None:
        """Restore the state of the direction."""
        self.direction.restore(state)

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """Take one step; return None if no step decreases the loss, or the gradient is rounding."""
        objective, direction = self.setting.objective, self.direction
        forcing = forcing_term(at.forcing, at.gradient_norm, at.previous_norm, self.setting.target)
        p, inner, how = direction(at.theta, at.gradient, forcing)
        search = wolfe_search if direction.needs_wolfe else armijo_search
        trial = search(self.setting, at, p)
        if trial is None:
            return None
        objective.report.rejected += trial.rejected
        step = trial.theta - at.theta
        direction.update(step, trial.gradient - at.gradient)
        norm, length = self.setting.norm(trial.gradient), self.setting.norm.length(step)
        new = Iterate(trial.theta, trial.value, trial.gradient, norm, at.gradient_norm, forcing)
        return new, Step(trial.value, norm, length, inner, how)


class Trial(NamedTuple):
    """The accepted point of a line search, and the number of rejected ones."""

    theta: Array
    value: float
    gradient: Array
    rejected: int


def armijo_search(setting: Setting, at: Iterate, p: Array) -> Trial | None:
    """Shorten the step along p until it satisfies the Armijo condition.

    If the change of the loss is rounding, the gradient must be smaller instead. A step to a point
    where the loss or its gradient fails is too long. Return None if p is not a descent direction,
    if no step is accepted, or if the gradient is no larger than its error.

    References
    ----------
    L. Armijo, "Minimization of functions having Lipschitz continuous first partial derivatives",
    1966.
    """
    objective, backend, value = setting.objective, setting.backend, at.value
    slope, t = backend.dot(at.gradient, p), 1.0
    if not slope < 0.0:
        return None
    noise = LOSS_ROUNDING_FACTOR * backend.eps * abs(value)
    for rejected in range(MAX_HALVINGS):
        if rejected == TRIALS_BEFORE_ROUNDING and setting.at_rounding(at):
            return None
        trial = at.theta + t * p
        new = objective.value(trial)
        decreases = new <= value + ARMIJO_CONSTANT * t * slope
        if decreases or abs(new - value) <= noise:
            trial_g = objective.gradient(trial)
            if trial_g is None:
                new = math.inf
            elif decreases or setting.norm(trial_g) < at.gradient_norm:
                return Trial(trial, new, trial_g, rejected)
        # Shrink faster if the loss is not finite: without curvature, the length of p is arbitrary.
        t *= 0.5 if new < math.inf else BACKTRACKING_FACTOR
    return None


def wolfe_search(setting: Setting, at: Iterate, p: Array) -> Trial | None:
    """Find a step along p that satisfies the Wolfe conditions.

    The step is bracketed between one that is too short and one that is too long, as by Lewis and
    Overton, but with parabolas in place of bisection. A step to a point where the loss or its
    gradient fails is too long. Return None if p is not a descent direction, if no step is accepted,
    or if the gradient is no larger than its error.

    References
    ----------
    A. S. Lewis and M. L. Overton, "Nonsmooth optimization via quasi-Newton methods", 2013, section
    2.6.
    """
    objective, backend, value = setting.objective, setting.backend, at.value
    start = backend.dot(at.gradient, p)
    if not start < 0.0:
        return None
    low, at_low, slope = 0.0, value, start
    high, t, rejected = math.inf, 1.0, 0
    best: Trial | None = None
    noise = LOSS_ROUNDING_FACTOR * backend.eps * abs(value)
    for _ in range(MAX_TRIALS):
        if best is None and rejected == TRIALS_BEFORE_ROUNDING and setting.at_rounding(at):
            return None
        trial = at.theta + t * p
        new, trial_g = objective.value(trial), None
        if new <= value + ARMIJO_CONSTANT * t * start + (noise if best is None else 0.0):
            trial_g = objective.gradient(trial)
            new = math.inf if trial_g is None else new
        if trial_g is None:
            high, rejected = t, rejected + 1
            t = low + (high - low) * _parabola_minimum(new - at_low, slope * (high - low))
            continue
        best, new_slope = Trial(trial, new, trial_g, rejected), backend.dot(trial_g, p)
        if new_slope >= WOLFE_CONSTANT * start:
            return best
        low, at_low, slope = t, new, new_slope
        t = 0.5 * (low + high) if high < math.inf else EXPANSION_FACTOR * low
    return best


def _parabola_minimum(rise: float, slope: float) -> float:
    """Return the minimizer of the parabola with p(0) = 0, p'(0) = slope and p(1) = rise."""
    least, most = PARABOLA_RANGE
    if not rise < math.inf:
        return least
    return min(most, max(least, -0.5 * slope / (rise - slope)))
