"""Truncated conjugate gradients for Newton steps, and their forcing terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, Backend

FIRST_RADIUS_FACTOR = 10.0  # first radius, in steps of steepest descent
MAX_FORCING_TERM = 0.2


@dataclass(frozen=True)
class CGStep:
    """A step by truncated conjugate gradients.

    Attributes
    ----------
    step : (P,) array
    decrease : float
        The decrease of the quadratic model.
    length, radius : float
        The length of the step and the radius of the trust region, in the norm of the inverse of the
        preconditioner.
    how : str
        The reason why the iteration ended.
    products : int
        The number of products with the Hessian.
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
    max_products: int,
) -> CGStep:
    """Minimize the model g'p + p'Hp / 2 in a trust region by conjugate gradients.

    The iteration ends if the gradient of the model is small enough, if an iterate is outside the
    region, or at a direction of negative curvature. The region is a ball in the norm of the inverse
    of the preconditioner, in which the length of the iterates increases.

    Parameters
    ----------
    backend : Backend
    product, precondition : callable
        Products with the Hessian and with an approximate inverse, which is symmetric and positive
        definite.
    g : (P,) array
        The gradient.
    radius : float or None
        The radius of the region; infinity for a search direction. By default ten steps of steepest
        descent, each to the minimum of the model.
    rtol : float
        The tolerance of the gradient of the model relative to its start, in the norm of the
        preconditioner.
    max_products : int
        The largest number of products with the Hessian.

    References
    ----------
    T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization",
    1983. A. R. Conn, N. I. M. Gould and P. L. Toint, "Trust-Region Methods", 2000, section 7.5.1.
    """

    def dot(x: Array, y: Array) -> float:
        return backend.dot(x, y)

    p, r = backend.zeros(*g.shape), g
    z = precondition(r)
    d, rz = -z, dot(r, z)
    # pp, pd, dd are p'Mp, p'Md and d'Md, where M is the inverse of the preconditioner.
    start, pp, pd, dd = rz, 0.0, 0.0, rz
    how, j = "ran out of products", 0

    while j < max_products and rz > 0.0:
        Hd = product(d)
        j += 1
        curvature = dot(d, Hd)
        alpha = rz / curvature if curvature > 0.0 else math.inf
        if radius is None:
            radius = math.sqrt(dd) * (FIRST_RADIUS_FACTOR * alpha if curvature > 0.0 else 1.0)
        next_pp = pp + 2.0 * alpha * pd + alpha * alpha * dd
        if radius == math.inf and not next_pp < math.inf:
            # For a line search, return the last convex iterate or the first direction.
            p = p if j > 1 else d
            how = "up to negative curvature"
            break
        if not next_pp < radius * radius:  # along negative curvature, next_pp is not finite
            tau = (-pd + math.sqrt(max(pd * pd + dd * (radius * radius - pp), 0.0))) / dd
            p, r, pp = p + tau * d, r + tau * Hd, radius * radius
            how = "to the boundary" if curvature > 0.0 else "along negative curvature"
            break
        p, r, pp = p + alpha * d, r + alpha * Hd, next_pp
        z = precondition(r)
        next_rz = dot(r, z)
        if next_rz <= rtol * rtol * start:
            how = "inside"
            break
        beta, rz = next_rz / rz, next_rz
        d = beta * d - z
        pd, dd = beta * (pd + alpha * dd), next_rz + beta * beta * dd
    # r = g + H p, so that p'Hp needs no further product.
    decrease = -0.5 * (dot(g, p) + dot(r, p))
    return CGStep(p, decrease, math.sqrt(max(pp, 0.0)), radius or 0.0, how, j)


def forcing_term(last: float, gradient_norm: float, previous_norm: float, target: float) -> float:
    """Return the forcing term, the relative accuracy of the next step.

    It is 0.9 times the square of the last reduction of the gradient, but at least 0.9 times the
    square of the last term if that is above 0.1, and no smaller than a last step to the target
    requires (Eisenstat and Walker, choice 2).

    References
    ----------
    S. C. Eisenstat and H. F. Walker, "Choosing the forcing terms in an inexact Newton method",
    1996.
    """
    if gradient_norm < previous_norm:
        forcing = 0.9 * (gradient_norm / previous_norm) ** 2
    else:
        forcing = MAX_FORCING_TERM
    if 0.9 * last**2 > 0.1:
        forcing = max(forcing, 0.9 * last**2)
    return min(MAX_FORCING_TERM, max(forcing, 0.5 * target / gradient_norm))
