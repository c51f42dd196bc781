"""The smallest singular value of A and its vectors, A v = sigma u and A' u = sigma v.

They are computed by inverse iteration with the factor. At a fold v is the null vector of A.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, array_on_host, host
from ..errors import SingularStateError
from ..linear import Factor
from ..linear.checked_solve import MAX_ROUNDING_SHARE, leaves_equation
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..linear.scaling import Scaling

MAX_SOLVE_PAIRS = 3  # in inverse iteration: solves with A and its adjoint in turn
MAX_EXACT_SIZE = 50  # unknowns up to which all singular values are computed with a direct factor
EXACT_RTOL = 1e-3  # of the inverse from which they are computed
LATER_RTOL = 1e-3  # relative residual of the solves in inverse iteration but the first
JUDGING_RTOL = 0.01  # the same of the second one, after which the iteration may end
SIGMA_RTOL = 0.1  # the iteration stops when sigma changes by less than this in one solve
RESOLVED_COMPONENT = 0.003  # of the usual component of a random vector along a null vector
RANDOM_SHARE = 0.1  # length of the random vector that is added to a given start of length one
WARNING_DIGITS_SHARE = 1 / 3  # share of the dtype's digits below which there is a warning


@dataclass(frozen=True)
class SmallestSingular:
    """The smallest singular value of A and its vectors (see `Equilibrium.smallest_singular`).

    Attributes
    ----------
    value : float
        sigma, an upper estimate in the units of A. It is usually accurate to a few percent if A is
        nearly singular; if no singular value is much smaller than the others, it may be too large
        by a small factor.
    left, right : (N,) arrays
        The singular vectors u and v of unit length, A' u = sigma v. Near a fold, `right` is the
        direction of the branch.

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


def smallest_singular(
    factor: Factor, start: Array | None = None, scaling: Scaling | None = None
) -> SmallestSingular:
    """Compute the smallest singular value of A and its vectors, by inverse iteration.

    Parameters
    ----------
    factor : Factor
        A factor of A.
    start : (N,) array, optional
        The left singular vector of a nearby A, with which the iteration takes half as many solves.
    scaling : Scaling, optional
        Find the smallest singular value of the scaled A, and return its vectors for A, u = rows u~
        and v = columns v~ of unit length, with the value u'A v.

    Raises
    ------
    SingularStateError
        If solutions leave residuals as large as their right-hand sides, as with a singular A.
    """
    return _iterate(factor, start, Scaling() if scaling is None else scaling, judging=False)[0]


def judge_smallest_singular(
    factor: Factor, start: Array | None, scaling: Scaling
) -> tuple[SmallestSingular, bool]:
    """Compute the smallest singular value as `smallest_singular` does, but no further than needed.

    The iteration ends after its first pair of solves if what they show excludes that A is nearly
    singular, however small the component of the random start along its weakest direction is. The
    value may then be too large by a small factor.

    Parameters
    ----------
    factor, start, scaling
        As of `smallest_singular`.

    Returns
    -------
    smallest : SmallestSingular
    converged : bool
        False if the iteration ended early.
    """
    return _iterate(factor, start, scaling, judging=True)


def _iterate(
    factor: Factor, start: Array | None, scaling: Scaling, judging: bool
) -> tuple[SmallestSingular, bool]:
    backend, n = factor.backend, factor.A.shape[0]
    if n <= MAX_EXACT_SIZE and not factor.iterative and (exact := _exact(factor, scaling)):
        return exact, True
    # The component of a random vector along one direction is about 1/sqrt(N) of its length, and one
    # vector in 400 has less than 0.003 of that. The first solve must resolve it to find a near null
    # vector; the others start with what that has found.
    least_component = RESOLVED_COMPONENT / math.sqrt(n)
    first_rtol = max(factor.rtol, min(LATER_RTOL, least_component))
    rtol, judging_rtol = (max(factor.rtol, least) for least in (LATER_RTOL, JUDGING_RTOL))
    u = backend.random(n, seed=11)
    u = u / backend.norm(u)
    if start is not None:
        start = scaling.divide_rows(start)
        # Add a random part: the start may be orthogonal to the singular vector.
        u = start / backend.norm(start) + RANDOM_SHARE * u
        u = u / backend.norm(u)
    sigma = math.inf
    for pair in range(MAX_SOLVE_PAIRS):
        judges = judging and pair == 0
        v, along = _solve(factor, scaling, u, rtol if pair else first_rtol, adjoint=False)
        u, back = _solve(factor, scaling, v, judging_rtol if judges else rtol, adjoint=True)
        converged = back > (1.0 - SIGMA_RTOL) * min(sigma, along)
        sigma = back
        # With few unknowns two numbers may agree by chance.
        if converged and (pair > 0 or n > MAX_EXACT_SIZE):
            break
        if judges and n > MAX_EXACT_SIZE:
            # |A^-T A^-1 u| is at least the component of the start divided by sigma squared, unless
            # the second solve does not resolve the component of v, which is along / sigma times it.
            component = least_component if start is None else RANDOM_SHARE * least_component
            lower = min(math.sqrt(component * along * back), component * along / judging_rtol)
            found = _unscaled(factor, scaling, sigma, u, v)
            if _is_regular(factor, found, sigma / lower):
                return found, False
    return _unscaled(factor, scaling, sigma, u, v), True


def _is_regular(factor: Factor, found: SmallestSingular, too_large: float) -> bool:
    """Return whether A leaves many digits even if sigma is too large by a factor."""
    digits = rounding_digits(factor.A, found.right, found.left / found.value)
    total = -math.log10(factor.backend.eps)
    return digits - math.log10(too_large) > WARNING_DIGITS_SHARE * total + MIN_DIGITS


def _solve(
    factor: Factor, scaling: Scaling, b: Array, rtol: float, adjoint: bool
) -> tuple[Array, float]:
    """Return x / |x| and 1 / |x|, where x solves the scaled system for b of unit length."""
    norm, A = factor.backend.norm, factor.A
    if adjoint:
        b = scaling.divide_columns(b)
        x = factor.solve_adjoint(b, rtol=rtol)
        left = scaling.multiply_columns(b - A._apply_adjoint(x))
        scaled = scaling.divide_rows(x)
    else:
        b = scaling.divide_rows(b)
        x = factor.solve(b, rtol=rtol)
        left = scaling.multiply_rows(b - A._apply(x))
        scaled = scaling.divide_columns(x)
    if not norm(left) <= MAX_ROUNDING_SHARE:  # True for NaN
        operator = A.H if adjoint else A  # type: ignore[attr-defined]
        if leaves_equation(factor, operator, x, b, adjoint):
            raise singular_state_error(0.0, "to working precision")
    return _direction(scaled, norm)


def _exact(factor: Factor, scaling: Scaling) -> SmallestSingular | None:
    """Compute the smallest singular value from the scaled inverse, by one block.

    None if the inverse is not accurate enough.
    """
    backend, n = factor.backend, factor.A.shape[0]
    norm = backend.norm
    eye = backend.eye(n, n)
    with backend.ignore_overflow():
        X = factor.approximate(scaling.divide_rows(eye))
        X, left = scaling.divide_columns(X), scaling.multiply_rows(factor.A._apply(X))
        if not norm(eye - left) <= EXACT_RTOL:  # True for NaN
            return None
    right, inverse, left = host.linalg.svd(array_on_host(X))
    u, v = (backend.from_host(x.copy(), n) for x in (left[0], right[:, 0]))
    return _unscaled(factor, scaling, 1.0 / float(inverse[0]), u, v)


def _unscaled(
    factor: Factor, scaling: Scaling, sigma: float, u: Array, v: Array
) -> SmallestSingular:
    norm = factor.backend.norm
    u, v = scaling.multiply_rows(u), scaling.multiply_columns(v)
    lengths = norm(u), norm(v)
    return SmallestSingular(sigma / (lengths[0] * lengths[1]), u / lengths[0], v / lengths[1])


def _direction(x: Array, norm: Callable[[Array], float]) -> tuple[Array, float]:
    """Return x / |x| and 1 / |x|."""
    size = norm(x)
    return (x / size, 1.0 / size) if size > 0.0 else (x, math.inf)


def singular_state_error(digits: float, how: str) -> SingularStateError:
    """Return the error for a state operator that leaves fewer than `MIN_DIGITS` digits."""
    return SingularStateError(
        f"the state operator A is singular {how} ({digits:.1f} digits left): the state is at a "
        "fold, or the model leaves a component of it undetermined (no boundary condition, no "
        "drain). Move the parameters away from the fold, start where the state is determined, or "
        "pin the free component",
        digits=digits,
    )
