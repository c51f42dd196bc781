"""How near A is to singular, and how many digits that leaves: rounding in A, the state's error.

The least singular value and its vectors, A v = sigma u and A' u = sigma v, are from inverse
iterations with the factor. Near a fold v is its null vector. A perturbation dA changes A^-1 u = v /
sigma by -A^-1 dA v / sigma, along v itself by -u' dA v / sigma of it: that is what is judged, since
rounding is |dA| <= eps |A| entry by entry. It is at most eps ||A|| / sigma and, other than that,
the same whatever the units of the equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array
from ..errors import NearSingularWarning, warn
from ..linear import Factor
from ..linear.factor import FEWEST, rounding_digits, singular
from ..models.linearization import Linearized

STATE_RTOL = 1e-3  # inner tolerance of a correction of the state that is only looked at
MOST_PAIRS = 3  # of solves with A and its adjoint
SETTLED = 0.1  # relative change of sigma from one solve to the next
FEW = 1 / 3  # of the digits of the dtype: with fewer left, a warning


@dataclass(frozen=True)
class SmallestSingular:
    """The least singular value of A and its vectors.

    Attributes
    ----------
    value : float
        From above, in the units of A; usually to a few percent.
    left, right : (N,) arrays
        u and v of unit length, A' u = value v.
    """

    value: float
    left: Array
    right: Array


def smallest_singular(factor: Factor, start: Array | None = None) -> SmallestSingular:
    """The least singular value of A with its vectors, by inverse iterations with the factor.

    Parameters
    ----------
    factor : Factor
        Of A.
    start : (N,) array, optional
        The left vector of a nearby A, which saves half of the solves.
    """
    backend, n = factor.backend, factor.A.shape[0]
    # A random vector's component along one direction is 1/sqrt(N) of it: to see a near null
    # vector the solve must resolve that.
    rtol = max(factor.rtol, min(1e-3, 0.1 / math.sqrt(n)))
    u = backend.random(n, seed=11)
    u = u / backend.norm(u)
    if start is not None:  # beside what it may have nothing of
        u = start + SETTLED * u
        u = u / backend.norm(u)
    sigma = math.inf
    for _ in range(MOST_PAIRS):
        v, along = _direction(factor.solve(u, rtol=rtol), backend.norm)
        u, back = _direction(factor.solve_adjoint(v, rtol=rtol), backend.norm)
        settled = back > (1.0 - SETTLED) * min(sigma, along)
        sigma = back
        if settled:
            break
    return SmallestSingular(sigma, u, v)


def _direction(x: Array, norm: Callable[[Array], float]) -> tuple[Array, float]:
    """x / |x| and 1 / |x|."""
    size = norm(x)
    return (x / size, 1.0 / size) if size > 0.0 else (x, math.inf)


def digits_left(
    factor: Factor,
    smallest: SmallestSingular,
    linearized: Linearized,
    h: Array,
    residual: Callable[[Array], Array],
) -> float:
    """Decimal digits that a solution of A x = b can have, at most.

    Parameters
    ----------
    factor : Factor
        Of A at h.
    smallest : SmallestSingular
        Of A.
    linearized : Linearized
        The model at h.
    h : (N,) array
        The state.
    residual : callable
        R of a state.

    Warns
    -----
    NearSingularWarning
        If less than a third of the dtype's digits is left.

    Raises
    ------
    SingularStateError
        If less than one digit is left.
    """
    x, w = smallest.right, smallest.left / smallest.value
    rounding = rounding_digits(factor.A, x, w)
    if rounding < FEWEST:
        raise singular(rounding, "to working precision")
    given, least = state_changes(factor, linearized, h, residual, x, w)
    state = -math.log10(max(given, factor.backend.eps))
    if state < FEWEST:
        raise singular(
            state,
            f"to the accuracy of the state, whose error changes A^-1 by {given:.1g} of itself "
            "(a smaller rtol in mfdeq.solve may still do)",
        )
    # What a tighter solve would leave: a state that was meant to be rough is no fold.
    possible = min(rounding, -math.log10(max(least, factor.backend.eps)))
    if possible < FEW * (total := -math.log10(factor.backend.eps)):
        warn(
            f"the state operator A is nearly singular: rounding leaves {possible:.1f} of "
            f"{total:.1f} digits in a solution of A x = b (least singular value "
            f"{smallest.value:.1e}). Derivatives here have no more: move away from the fold, or "
            "ask for their errors (with_error, rtol=)",
            NearSingularWarning,
        )
    return min(rounding, state)


def state_changes(
    factor: Factor,
    linearized: Linearized,
    h: Array,
    residual: Callable[[Array], Array],
    x: Array,
    w: Array,
) -> tuple[float, float]:
    """|w' (A(h - e) - A(h)) x|, e being the error of the state, and of one that rounding leaves.

    e is A^-1 (R + rounding of R), or A^-1 of the latter alone. To first order the change is
    w' f''[(0, e), (0, x)] = e' K x, by the curvature of w'f. Where the model gives none, the
    contraction of a Newton step stands for it: ||R(h - e)|| / ||R|| is a quarter at a double root.
    """
    backend = factor.backend
    xp = backend.xp
    R, rounding = residual(h), backend.eps * xp.sign(w) * factor.A.abs_apply(h)
    e = factor.solve(xp.stack([R, rounding], axis=1), rtol=STATE_RTOL)
    if linearized.given.curvature is None:
        noise = 10 * backend.norm(rounding)
        left = max(backend.norm(residual(h - e[:, 0])) - noise, 0.0)
        return (left / (backend.norm(R) + noise) if left > 0 else 0.0), 0.0
    along = linearized.curvature(w).state_state._apply(x)
    of_residual, of_rounding = (abs(float(xp.vecdot(e[:, i], along))) for i in range(2))
    return of_residual + of_rounding, of_rounding
