"""How near A is to singular, and how many digits a solution with it can have.

The smallest singular value and its vectors, A v = sigma u and A' u = sigma v, are computed by
inverse iteration with the factor. Near a fold v is the null vector of A. A perturbation dA changes
A^-1 u = v / sigma by -A^-1 dA v / sigma, and along v itself by the share -u' dA v / sigma. That
share is what the digits are judged by, with |dA| <= eps |A| entry by entry for rounding. It is at
most eps ||A|| / sigma and, unlike that, does not change with the units of the equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array
from ..errors import NearSingularWarning, warn
from ..linear import Factor
from ..linear.factor import MIN_DIGITS, rounding_digits, singular_error
from ..models.linearization import CheckedLinearization

STATE_ERROR_RTOL = 1e-3  # relative residual of the solve for the error of the state
MAX_SOLVE_PAIRS = 3  # of inverse iteration; a pair is one solve with A and one with its adjoint
SIGMA_RTOL = 0.1  # relative change of sigma in one solve, below which the iteration stops
RANDOM_SHARE = 0.1  # of a random vector that is added to a given start
WARNING_DIGITS_SHARE = 1 / 3  # of the dtype's digits: with fewer left, there is a warning


@dataclass(frozen=True)
class SmallestSingular:
    """The smallest singular value of A and its vectors (see `Equilibrium.smallest_singular`).

    Attributes
    ----------
    value : float
        sigma, an estimate from above in the units of A. It is usually right to a few percent where
        A is near singular; where no singular value is much smaller than the others it may be too
        large by a small factor.
    left, right : (N,) arrays
        The singular vectors u and v of unit length, A' u = sigma v. Near a fold `right` is the
        direction in which the state turns back.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 2, 2, "residual")
    >>> eq = mfdeq.solve(model, np.array([1e-6, 1.0]), np.ones(2))  # A = diag(0.002, 2)
    >>> smallest = eq.smallest_singular
    >>> print(f"{smallest.value:.4f}", abs(smallest.right).round(2))
    0.0020 [1. 0.]
    """

    value: float
    left: Array
    right: Array


def smallest_singular(factor: Factor, start: Array | None = None) -> SmallestSingular:
    """Compute the smallest singular value of A and its vectors, by inverse iteration.

    Parameters
    ----------
    factor : Factor
        Of A.
    start : (N,) array, optional
        The left singular vector of a nearby A, which saves half of the solves.
    """
    backend, n = factor.backend, factor.A.shape[0]
    # A random vector's component along one direction is 1/sqrt(N) of its length: to see a near
    # null vector the solve must resolve that.
    rtol = max(factor.rtol, min(1e-3, 0.1 / math.sqrt(n)))
    u = backend.random(n, seed=11)
    u = u / backend.norm(u)
    if start is not None:
        # Keep a random part: the start may be orthogonal to the singular vector.
        u = start + RANDOM_SHARE * u
        u = u / backend.norm(u)
    sigma = math.inf
    for _ in range(MAX_SOLVE_PAIRS):
        v, along = _direction(factor.solve(u, rtol=rtol), backend.norm)
        u, back = _direction(factor.solve_adjoint(v, rtol=rtol), backend.norm)
        converged = back > (1.0 - SIGMA_RTOL) * min(sigma, along)
        sigma = back
        if converged:
            break
    return SmallestSingular(sigma, u, v)


def _direction(x: Array, norm: Callable[[Array], float]) -> tuple[Array, float]:
    """Return x / |x| and 1 / |x|."""
    size = norm(x)
    return (x / size, 1.0 / size) if size > 0.0 else (x, math.inf)


def digits_left(
    factor: Factor,
    smallest: SmallestSingular,
    linearized: CheckedLinearization,
    h: Array,
    residual: Callable[[Array], Array],
) -> float:
    """Compute how many decimal digits a solution of A x = b can have.

    Parameters
    ----------
    factor : Factor
        Of A at h.
    smallest : SmallestSingular
        Of A.
    linearized : CheckedLinearization
        The model at h.
    h : (N,) array
        The state.
    residual : callable
        ``residual(h)`` evaluates R.

    Returns
    -------
    float
        What rounding in A and the error of the state leave, the fewer of the two.

    Warns
    -----
    NearSingularWarning
        If rounding leaves less than a third of the dtype's digits.

    Raises
    ------
    SingularStateError
        If less than one digit is left.
    """
    x, w = smallest.right, smallest.left / smallest.value
    rounding = rounding_digits(factor.A, x, w)
    if rounding < MIN_DIGITS:
        raise singular_error(rounding, "to working precision")
    change, least = state_changes(factor, linearized, h, residual, x, w)
    state = -math.log10(max(change, factor.backend.eps))
    if state < MIN_DIGITS:
        raise singular_error(
            state,
            f"to the accuracy of the state, whose error changes A^-1 by {change:.1g} of itself "
            "(a smaller rtol in mfdeq.solve may still do)",
        )
    # Warn by what a tighter solve would leave: a state that was meant to be rough is no fold.
    possible = min(rounding, -math.log10(max(least, factor.backend.eps)))
    if possible < WARNING_DIGITS_SHARE * (total := -math.log10(factor.backend.eps)):
        warn(
            f"the state operator A is nearly singular: rounding leaves {possible:.1f} of "
            f"{total:.1f} digits in a solution of A x = b (smallest singular value "
            f"{smallest.value:.1e}). Derivatives here have no more digits: move the parameters "
            "away from the fold, or ask for the errors of derivatives (with_error, rtol=)",
            NearSingularWarning,
        )
    return min(rounding, state)


def state_changes(
    factor: Factor,
    linearized: CheckedLinearization,
    h: Array,
    residual: Callable[[Array], Array],
    x: Array,
    w: Array,
) -> tuple[float, float]:
    """Estimate by how much the error of the state changes A along its singular vectors.

    The change is |w' (A(h - e) - A(h)) x|, where e = A^-1 (R + rounding of R) is the error of the
    state. To first order it is w' f''[(0, e), (0, x)] = e' K x, by the curvature K of w'f. Where
    the model gives none, the contraction of a Newton step stands for it: ||R(h - e)|| / ||R|| is a
    quarter at a double root.

    Returns
    -------
    change : float
        For the error of the state.
    least : float
        For the error that rounding alone would leave.
    """
    backend = factor.backend
    xp = backend.xp
    R, rounding = residual(h), backend.eps * xp.sign(w) * factor.A.abs_apply(h)
    e = factor.solve(xp.stack([R, rounding], axis=1), rtol=STATE_ERROR_RTOL)
    if linearized.linearization.curvature is None:
        noise = 10 * backend.norm(rounding)
        left = max(backend.norm(residual(h - e[:, 0])) - noise, 0.0)
        return (left / (backend.norm(R) + noise) if left > 0 else 0.0), 0.0
    along = linearized.curvature(w).state_state._apply(x)
    of_residual, of_rounding = (abs(float(xp.vecdot(e[:, i], along))) for i in range(2))
    return of_residual + of_rounding, of_rounding
