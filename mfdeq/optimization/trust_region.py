"""Newton's method in a trust region, with steps by conjugate gradients.

The quadratic model g'p + p'Hp / 2 is minimized by truncated conjugate gradients (see
`truncated_cg`), within a ball in the norm of the inverse of the preconditioner.

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

from ..arrays.backend import Array
from ..equilibrium.reduced_hessian import ReducedCurvature, ReducedHessian
from .bounds import ActiveSet
from .method import Iterate, Method, Setting
from .minimize_report import Step
from .truncated_cg import forcing_term, steihaug

# The ratios below are those of the actual to the predicted decrease of the loss.
MIN_RATIO = 1e-4  # a step is accepted above this ratio
GROWTH_RATIO, SHRINKAGE_RATIO = 0.75, 0.25  # the region grows above, or shrinks below these ratios
GROWTH_FACTOR, SHRINKAGE_FACTOR = 2.0, 0.25  # factors of the radius
BOUNDARY_SHARE = 0.8  # the region grows only after a step of this length, relative to the radius
# A model with a relative prediction error below the first limit is kept, unless the error of the
# other one is smaller by the second factor.
MAX_PREDICTION_ERROR, SWITCHING_ERROR_RATIO = 0.25, 0.02
MIN_RADIUS = 1e-14  # relative to the length of the parameters
LOSS_ROUNDING_FACTOR = 100.0  # smaller changes of the loss, in units of its eps, are rounding


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
        self.H: ReducedHessian | None = None  # at the last point

    def forget(self) -> None:
        """Drop the Hessian at the last point."""
        self.H = None

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """Take or reject one step; return None if the radius has become too small."""
        objective, bounds = self.setting.objective, self.setting.bounds
        backend, theta, value, g = bounds.backend, at.theta, at.value, at.gradient
        norm, eps = backend.norm, backend.eps
        if at.radius is not None and at.radius <= MIN_RADIUS * max(norm(theta), 1.0):
            return None
        H = objective.hessian(theta) if self.H is None else self.H
        model, other = (H.gauss_newton, H) if at.gauss_newton else (H, H.gauss_newton)
        active = bounds.active_set(theta, g)
        forcing = forcing_term(at.forcing, at.gradient_norm, at.previous_norm, self.setting.target)
        path = steihaug(
            backend,
            _restrict_to_free(
                active, functools.partial(objective.product, model, accuracy=forcing)
            ),
            _restrict_to_free(active, self.setting.precondition),
            active.free(g),
            at.radius,
            forcing,
            self.setting.max_products,
        )

        def predicted_decrease(by: ReducedCurvature, step: Array) -> float:
            Hs = objective.product(by, step, forcing)
            return -float(backend.xp.vecdot(g, step) + 0.5 * backend.xp.vecdot(step, Hs))

        trial = theta + path.step
        decrease = path.decrease
        if not bounds.unbounded:
            trial = bounds.project(active.to_bounds(trial))
            if norm(trial - theta - path.step) > eps * norm(trial - theta):  # projected
                decrease = predicted_decrease(model, trial - theta)
        new = objective.value(trial)
        noise = LOSS_ROUNDING_FACTOR * eps * abs(value)
        trial_g, gauss_newton = None, at.gauss_newton
        if new < math.inf and abs(value - new) <= noise and decrease <= noise:
            # The change of the loss is rounding: compare gradients instead.
            trial_g = objective.gradient(trial)
            better = norm(bounds.projected_gradient(trial, trial_g)) < at.gradient_norm
            ratio = 1.0 if better else 0.0
            gauss_newton = self.gauss_newton
        else:
            ratio = (value - new) / decrease if decrease > 0.0 else -1.0
            fits = abs(ratio - 1.0) <= MAX_PREDICTION_ERROR
            if new < math.inf and not self.gauss_newton and (gauss_newton or not fits):
                error, other_error = (
                    abs(value - new - predicted)
                    for predicted in (decrease, predicted_decrease(other, trial - theta))
                )
                if other_error <= (SWITCHING_ERROR_RATIO * error if fits else error):
                    gauss_newton = not gauss_newton
        radius = _next_radius(ratio, path.length, path.radius)
        how = f"{path.how}, Gauss-Newton" if at.gauss_newton else path.how
        if ratio > MIN_RATIO:
            g = objective.gradient(trial) if trial_g is None else trial_g
            size = norm(bounds.projected_gradient(trial, g))
            self.H = objective.hessian(trial)
            step = Step(new, size, norm(trial - theta), path.products, how)
            taken = Iterate(trial, new, g, size, at.gradient_norm, forcing, radius, gauss_newton)
            return taken, step
        objective.report.rejected += 1
        self.H = H
        how = "rejected: no equilibrium" if new == math.inf else f"rejected: {how}"
        same = replace(at, forcing=forcing, radius=radius, gauss_newton=gauss_newton)
        return same, Step(value, at.gradient_norm, 0.0, path.products, how)


def _next_radius(ratio: float, length: float, radius: float) -> float:
    """Return the next radius, by the ratio of actual to predicted decrease of the loss."""
    if ratio < SHRINKAGE_RATIO:
        return SHRINKAGE_FACTOR * min(radius, length or radius)
    if ratio > GROWTH_RATIO and length >= BOUNDARY_SHARE * radius:
        return GROWTH_FACTOR * radius
    return radius


def _restrict_to_free(
    active: ActiveSet, product: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """Restrict a symmetric product to the free parameters."""
    return lambda x: active.free(product(active.free(x)))
