"""Newton's method in a trust region, its steps by conjugate gradients.

The quadratic model g'p + p'Hp / 2 is minimized along a path of conjugate gradients (see
`truncated_cg`), within a ball in the norm of the preconditioner's inverse.

H of the model is the Gauss-Newton part as long as that predicts the loss, for far from a minimum
it is positive where the Hessian is not; then it is the Hessian, which alone converges
quadratically. The next step takes the one that would have predicted the last step better.

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

# A step is taken where the loss falls by more than this share of the predicted decrease.
MIN_RATIO = 1e-4
# The region grows above the first share, if the step is about as long as it; below the second it
# shrinks.
GROWTH_RATIO, SHRINKAGE_RATIO = 0.75, 0.25
GROWTH, SHRINKAGE = 2.0, 0.25
NEAR_BOUNDARY = 0.8  # of the radius, how long a step must be for the region to grow
# A model whose prediction is off by no more than this share of itself is kept, unless the error of
# the other one is the second share of its own.
MAX_PREDICTION_ERROR, MUCH_SMALLER_ERROR = 0.25, 0.02
MIN_RADIUS = 1e-14  # of the length of the parameters
# Times eps of the loss, a change of the loss that is rounding.
LOSS_ROUNDING_FACTOR = 100.0


class TrustRegion(Method):
    """Steps in a region that grows and shrinks with how well the model predicts the loss.

    Parameters
    ----------
    setting : Setting
    gauss_newton : bool
        Whether the model is the Gauss-Newton part throughout.
    """

    def __init__(self, setting: Setting, gauss_newton: bool) -> None:
        self.setting, self.gauss_newton = setting, gauss_newton
        self.H: ReducedHessian | None = None  # at the last point

    def forget(self) -> None:
        """Take the Hessian from the functional again."""
        self.H = None

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """One step, taken or rejected; None where the region has shrunk to nothing."""
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
            _on_free(active, functools.partial(objective.product, model, accuracy=forcing)),
            _on_free(active, self.setting.precondition),
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
        if not bounds.none:
            trial = bounds.project(active.to_bounds(trial))
            if norm(trial - theta - path.step) > eps * norm(trial - theta):  # projected
                decrease = predicted_decrease(model, trial - theta)
        new = objective.value(trial)
        noise = LOSS_ROUNDING_FACTOR * eps * abs(value)
        trial_g, gauss_newton = None, at.gauss_newton
        if new < math.inf and abs(value - new) <= noise and decrease <= noise:
            # The loss is flat to rounding: the gradient decides.
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
                if other_error <= (MUCH_SMALLER_ERROR * error if fits else error):
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
    """The radius after a step of that length, by the ratio of actual to predicted decrease."""
    if ratio < SHRINKAGE_RATIO:
        return SHRINKAGE * min(radius, length or radius)
    if ratio > GROWTH_RATIO and length >= NEAR_BOUNDARY * radius:
        return GROWTH * radius
    return radius


def _on_free(active: ActiveSet, product: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A symmetric product restricted to the free parameters."""
    return lambda x: active.free(product(active.free(x)))
