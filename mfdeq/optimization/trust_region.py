"""Newton's method in a trust region, with steps by conjugate gradients.

The quadratic model g'p + p'Hp / 2 is minimized by truncated conjugate gradients (see
`truncated_cg`), within a ball in the norm of the inverse of the preconditioner, which is the
metric of the parameters by default.

H is the Gauss-Newton part of the Hessian while that predicts the loss well, since far from a
minimum it is positive semidefinite where the Hessian is not. Then it is the Hessian, for quadratic
convergence. The next step uses the matrix that would have predicted the last step better.

References
----------
T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization", 1983.
P. L. Toint, "Towards an efficient sparsity exploiting Newton method for minimization", 1981.
A. R. Conn, N. I. M. Gould and P. L. Toint, "Trust-Region Methods", 2000. J. E. Dennis, D. M. Gay
and R. E. Welsch, "An adaptive nonlinear least-squares algorithm", 1981, section 4 (switching
between the two models).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array
from ..equilibrium.reduced_operator import ReducedOperator
from .bounds import ActiveSet
from .method import LOSS_ROUNDING_FACTOR, Iterate, Method, Setting
from .minimize_report import Step
from .truncated_cg import CGStep, forcing_term, steihaug

# The ratios below are those of the actual to the predicted decrease of the loss.
MIN_RATIO = 1e-4  # a step is accepted above this ratio
GROWTH_RATIO, SHRINKAGE_RATIO = 0.75, 0.25  # the region grows above, or shrinks below these ratios
GROWTH_FACTOR, SHRINKAGE_FACTOR = 2.0, 0.25  # factors of the radius
BOUNDARY_SHARE = 0.8  # the region grows only after a step of this length, relative to the radius
# A model with a relative prediction error below the first limit is kept, unless the error of the
# other one is smaller by the second factor.
MAX_PREDICTION_ERROR, SWITCHING_ERROR_RATIO = 0.25, 0.02
MIN_RADIUS = 1e-14  # relative to the largest radius so far


class TrustRegion(Method):
    """Steps in a trust region, whose radius is adapted to the accuracy of the quadratic model.

    Parameters
    ----------
    setting : Setting
    gauss_newton : bool
        Whether the model always uses the Gauss-Newton part.
    """

    def __init__(self, setting: Setting, gauss_newton: bool) -> None:
        self.setting, self.gauss_newton = setting, gauss_newton
        self.H: Any = None  # the Hessian at the last point
        self.largest_radius = 0.0

    @property
    def checkpoint_state(self) -> Any:
        """The largest radius so far."""
        return self.largest_radius

    def restore(self, state: Any) -> None:
        """Restore the state from a checkpoint."""
        self.largest_radius = state

    def forget(self) -> None:
        """Drop the Hessian at the last point."""
        self.H = None

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """Take or reject one step; return None if the radius has become too small."""
        setting, objective, bounds = self.setting, self.setting.objective, self.setting.bounds
        backend, theta, value, g = bounds.backend, at.theta, at.value, at.gradient
        xp = backend.xp
        if at.radius is not None and at.radius <= MIN_RADIUS * self.largest_radius:
            return None
        H = self._hessian(theta) if self.H is None else self.H
        progress = at.gradient_norm / setting.scale if setting.scale > 0.0 else 1.0
        active = bounds.active_set(theta, g, progress)
        forcing = forcing_term(at.forcing, at.gradient_norm, at.previous_norm, setting.target)

        def model_step(model: ReducedOperator) -> CGStep:
            product = functools.partial(objective.product, model, accuracy=forcing)
            return steihaug(
                backend,
                _restrict_to_free(active, product),
                _restrict_to_free(active, setting.precondition),
                active.free(g),
                at.radius,
                forcing,
                setting.max_products,
            )

        def predicted_decrease(by: ReducedOperator, step: Array) -> float:
            Hs = objective.product(by, step, forcing)
            return -(backend.dot(g, step) + 0.5 * backend.dot(step, Hs))

        path = None if at.gauss_newton else objective.attempt(model_step, H)
        if path is None:
            at = replace(at, gauss_newton=True)
            path = model_step(H.gauss_newton)
        model, other = (H.gauss_newton, H) if at.gauss_newton else (H, H.gauss_newton)
        differ = model is not other  # they are the same where no part is known
        trial = theta + path.step
        decrease = path.decrease
        if not bounds.unbounded:
            trial = bounds.project(active.to_bounds(trial))
            if bool(xp.any(trial != theta + path.step)):
                decrease = predicted_decrease(model, trial - theta)
        new = objective.value(trial)
        failure = objective.failure
        noise = LOSS_ROUNDING_FACTOR * backend.eps * abs(value)
        trial_g, gauss_newton = None, at.gauss_newton
        if new < math.inf and abs(value - new) <= noise and decrease <= noise:
            # The change of the loss is rounding: compare gradients instead.
            trial_g, failure = objective.gradient(trial), objective.failure
            better = (
                trial_g is not None and setting.gradient_norm(trial, trial_g) < at.gradient_norm
            )
            ratio = 1.0 if better else 0.0
            gauss_newton = self.gauss_newton
        else:
            ratio = (value - new) / decrease if decrease > 0.0 else -1.0
            fits = abs(ratio - 1.0) <= MAX_PREDICTION_ERROR
            may_switch = differ and not self.gauss_newton and (gauss_newton or not fits)
            if new < math.inf and may_switch:
                other_decrease = objective.attempt(predicted_decrease, other, trial - theta)
                if other_decrease is not None:
                    error = abs(value - new - decrease)
                    other_error = abs(value - new - other_decrease)
                    if other_error <= (SWITCHING_ERROR_RATIO * error if fits else error):
                        gauss_newton = not gauss_newton
        how = f"{path.how}, Gauss-Newton" if at.gauss_newton and differ else path.how
        if ratio > MIN_RATIO:
            if trial_g is None:
                trial_g, failure = objective.gradient(trial), objective.failure
            if trial_g is not None:
                self.H, failure = objective.attempt(self._hessian, trial), objective.failure
                if self.H is not None:
                    radius = self._next_radius(ratio, path)
                    size = setting.gradient_norm(trial, trial_g)
                    length = setting.norm.length(trial - theta)
                    taken = Iterate(
                        trial, new, trial_g, size, at.gradient_norm, forcing, radius, gauss_newton
                    )
                    return taken, Step(new, size, length, path.products, how)
            ratio = -math.inf
        objective.report.rejected += 1
        self.H = H
        radius = self._next_radius(ratio, path)
        same = replace(at, forcing=forcing, radius=radius, gauss_newton=gauss_newton)
        how = f"rejected: {failure or how}"
        return same, Step(value, at.gradient_norm, 0.0, path.products, how)

    def _hessian(self, theta: Array) -> Any:
        """Return the Hessian, for the Gauss-Newton method without curvatures of the model."""
        F = self.setting.objective.functional
        if self.gauss_newton:
            return F.hessian_at(F.equilibrium(theta), evaluate=False)
        return F.hessian(theta)

    def _next_radius(self, ratio: float, path: CGStep) -> float:
        """Return the next radius, by the ratio of actual to predicted decrease of the loss."""
        self.largest_radius = max(self.largest_radius, path.radius)
        if ratio < SHRINKAGE_RATIO:
            return SHRINKAGE_FACTOR * min(path.radius, path.length or path.radius)
        if ratio > GROWTH_RATIO and path.length >= BOUNDARY_SHARE * path.radius:
            return GROWTH_FACTOR * path.radius
        return path.radius


def _restrict_to_free(
    active: ActiveSet, product: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """Restrict a symmetric product to the free parameters."""
    return lambda x: active.free(product(active.free(x)))
