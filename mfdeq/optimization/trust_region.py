"""Newton's method in a trust region, its steps by conjugate gradients (Steihaug 1983, Toint 1981).

The model g'p + p'Hp / 2 is minimized along the path of conjugate gradients, which starts downhill
and is followed until the model's gradient is small enough, the path leaves the region, or meets a
direction along which the Hessian bends down. The region is a ball in the norm of the
preconditioner's inverse, in which that path is one of growing length (Conn, Gould and Toint 2000,
section 7.5.1).

H of the model is the Gauss-Newton part as long as that foretells the loss, for far from a minimum
it bends up where the Hessian does not; then the Hessian, which alone converges quadratically. The
one that would have foretold the last step better is taken (Dennis, Gay and Welsch 1981, section 4).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.reduced_hessian import ReducedCurvature, ReducedHessian
from .bounds import Bounds
from .objective import LOOSEST, Iterate, Objective, Step

ACCEPTED = 1e-4  # of the decrease that the model promises, for a step to be taken
GOOD, POOR = 0.75, 0.25  # of it, where the region grows and shrinks
GROWTH, SHRINKAGE = 2.0, 0.25
FITTING = 0.25  # of the decrease, by which a model that is kept may be wrong,
FAR_BETTER = 0.02  # unless the other's error is so much of its own
FIRST = 10.0  # steps of steepest descent that the first region holds
SMALLEST = 1e-14  # radius, of the length of the parameters, at which nothing is left to try
ROUNDING = 100.0  # times rounding of the loss, below which a decrease says nothing


@dataclass(frozen=True)
class Path:
    """Where a path of conjugate gradients has ended.

    Attributes
    ----------
    step : (P,) array
    decrease : float
        Of the model.
    length, radius : float
        In the norm of the region, and that of the region.
    how : str
    products : int
    """

    step: Array
    decrease: float
    length: float
    radius: float
    how: str
    products: int


def steihaug(
    backend: Backend,
    product: Callable[[Array], Array],
    precondition: Callable[[Array], Array],
    g: Array,
    radius: float | None,
    rtol: float,
    most: int,
) -> Path:
    """The step of a trust region.

    Parameters
    ----------
    backend : Backend
    product, precondition : callable
        Products with the Hessian, and with what is near its inverse, symmetric and definite.
    g : (P,) array
        The gradient.
    radius : float or None
        Infinite for a direction to search along; None is a few steps of steepest descent, each
        as long as it is best.
    rtol : float
        What the model's gradient falls to, in the norm of the preconditioner.
    most : int
        Products.
    """

    def dot(x: Array, y: Array) -> float:
        return float(backend.xp.vecdot(x, y))

    p, r = backend.zeros(*g.shape), g
    z = precondition(r)
    d, rz = -z, dot(r, z)
    start, pp, pd, dd = rz, 0.0, 0.0, rz  # p'Mp, p'Md and d'Md, M the preconditioner's inverse
    how, j = "ran out of products", 0

    while j < most and rz > 0.0:
        Hd = product(d)
        j += 1
        curvature = dot(d, Hd)
        alpha = rz / curvature if curvature > 0.0 else math.inf
        if radius is None:
            radius = math.sqrt(dd) * (FIRST * alpha if curvature > 0.0 else 1.0)
        longer = pp + 2.0 * alpha * pd + alpha * alpha * dd
        if radius == math.inf and not longer < math.inf:  # a line search: what is convex so far
            p = p if j > 1 else d
            how = "up to negative curvature"
            break
        if not longer < radius * radius:  # infinite along a direction that bends down
            tau = (-pd + math.sqrt(max(pd * pd + dd * (radius * radius - pp), 0.0))) / dd
            p, r, pp = p + tau * d, r + tau * Hd, radius * radius
            how = "to the boundary" if curvature > 0.0 else "along negative curvature"
            break
        p, r, pp = p + alpha * d, r + alpha * Hd, longer
        z = precondition(r)
        new = dot(r, z)
        if new <= rtol * rtol * start:
            how = "inside"
            break
        beta, rz = new / rz, new
        d = beta * d - z
        pd, dd = beta * (pd + alpha * dd), new + beta * beta * dd
    # r = g + H p, so that p'Hp needs no further product.
    decrease = -0.5 * (dot(g, p) + dot(r, p))
    return Path(p, decrease, math.sqrt(max(pp, 0.0)), radius or 0.0, how, j)


class TrustRegion:
    """Steps that are as long as the model was good for.

    Parameters
    ----------
    objective : Objective
    bounds : Bounds
    precondition : callable
    inner : int
        Products of one step at most.
    wanted : float
        The norm of the gradient that is asked for.
    gauss_newton : bool
        Whether the model is the Gauss-Newton part throughout.
    """

    memory: Any = None  # all is in the iterate

    def __init__(
        self,
        objective: Objective,
        bounds: Bounds,
        precondition: Callable[[Array], Array],
        inner: int,
        wanted: float,
        gauss_newton: bool,
    ) -> None:
        self.objective, self.bounds, self.precondition = objective, bounds, precondition
        self.inner, self.wanted, self.gauss_newton = inner, wanted, gauss_newton
        self.H: ReducedHessian | None = None  # of the last step that was taken

    def forget(self) -> None:
        """Take the Hessian from the functional again."""
        self.H = None

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """One step, taken or rejected; None where the region has shrunk to nothing."""
        objective, bounds = self.objective, self.bounds
        backend, theta, value, g, size = bounds.backend, at.theta, at.value, at.gradient, at.size
        norm, eps = backend.norm, backend.eps
        if at.radius is not None and at.radius <= SMALLEST * max(norm(theta), 1.0):
            return None
        H = objective.hessian(theta) if self.H is None else self.H
        model, other = (H.gauss_newton, H) if at.gauss_newton else (H, H.gauss_newton)
        held = bounds.held(theta, g)
        free = _free(backend, held)
        forcing = eisenstat_walker(at.forcing, size, at.previous, self.wanted)
        path = steihaug(
            backend,
            _within(free, functools.partial(objective.product, model, accuracy=forcing)),
            _within(free, self.precondition),
            free(g),
            at.radius,
            forcing,
            self.inner,
        )

        def foretold(by: ReducedCurvature, step: Array) -> float:
            Hs = objective.product(by, step, forcing)
            return -float(backend.xp.vecdot(g, step) + 0.5 * backend.xp.vecdot(step, Hs))

        trial = theta + path.step
        decrease = path.decrease
        if held is not None:
            trial = bounds.project(trial + held[1])
            if norm(trial - theta - path.step) > eps * norm(trial - theta):  # it was bent
                decrease = foretold(model, trial - theta)
        new = objective.value(trial)
        noise, trial_g, gauss_newton = ROUNDING * eps * abs(value), None, at.gauss_newton
        if new < math.inf and abs(value - new) <= noise and decrease <= noise:
            # The loss is flat to rounding: what tells is the gradient.
            trial_g = objective.gradient(trial)
            better = norm(bounds.projected_gradient(trial, trial_g)) < size
            ratio = 1.0 if better else 0.0
            gauss_newton = self.gauss_newton
        else:
            ratio = (value - new) / decrease if decrease > 0.0 else -1.0
            fits = abs(ratio - 1.0) <= FITTING
            if new < math.inf and not self.gauss_newton and (gauss_newton or not fits):
                error, others = (
                    abs(value - new - promise)
                    for promise in (decrease, foretold(other, trial - theta))
                )
                if others <= (FAR_BETTER * error if fits else error):
                    gauss_newton = not gauss_newton
        radius = path.radius
        if ratio < POOR:
            radius = SHRINKAGE * min(radius, path.length or radius)
        elif ratio > GOOD and path.length >= 0.8 * radius:
            radius *= GROWTH
        how = f"{path.how}, Gauss-Newton" if at.gauss_newton else path.how
        if ratio > ACCEPTED:
            g = objective.gradient(trial) if trial_g is None else trial_g
            there = norm(bounds.projected_gradient(trial, g))
            self.H = objective.hessian(trial)
            step = Step(new, there, norm(trial - theta), path.products, how)
            return Iterate(trial, new, g, there, size, forcing, radius, gauss_newton), step
        objective.report.rejected += 1
        self.H = H
        how = "rejected: no equilibrium" if new == math.inf else f"rejected: {how}"
        stayed = replace(at, forcing=forcing, radius=radius, gauss_newton=gauss_newton)
        return stayed, Step(value, size, 0.0, path.products, how)


def eisenstat_walker(last: float, size: float, previous: float, wanted: float) -> float:
    """The accuracy that a step deserves, no more than the last one to what is wanted needs."""
    forcing = 0.9 * (size / previous) ** 2 if size < previous else LOOSEST
    if 0.9 * last**2 > 0.1:
        forcing = max(forcing, 0.9 * last**2)
    return min(LOOSEST, max(forcing, 0.5 * wanted / size))


def _free(backend: Backend, held: tuple[Array, Array] | None) -> Callable[[Array], Array]:
    if held is None:
        return lambda x: x
    keep = backend.xp.astype(~held[0], backend.dtype)
    return lambda x: keep * x


def _within(free: Callable[[Array], Array], of: Callable[[Array], Array]) -> Callable:
    """A symmetric product on the parameters that are free."""
    return lambda x: free(of(free(x)))
