"""The smallest singular value of A, and the number of accurate digits in solutions with A.

The smallest singular value and its vectors, A v = sigma u and A' u = sigma v, are computed by
inverse iteration with the factor. At a fold v is the null vector of A. A perturbation dA changes
A^-1 u = v / sigma by -A^-1 dA v / sigma, whose component along v is -u' dA v / sigma, relative to
A^-1 u. The number of digits is computed from this component, with |dA| <= eps |A| entry by entry
for rounding. It is at most eps ||A|| / sigma but, unlike that, does not depend on the units of the
equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, array_on_host, host
from ..errors import ConvergenceError, NearSingularWarning, SingularStateError, warn
from ..linear import Factor
from ..linear.checked_solve import LOOSE_RTOL, MAX_ROUNDING_SHARE, leaves_equation
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..linear.scaling import Scaling
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem

CONTRACTION_STEP = 1e-5  # relative to the state, at which R shows its curvature
NEGLIGIBLE_CHANGE = 1e-6  # of A^-1 due to the error of the state, relative
STATE_ERROR_RTOL = 1e-3  # relative residual of the solve for the error of the state
MAX_SOLVE_PAIRS = 3  # in inverse iteration: solves with A and its adjoint in turn
MAX_EXACT_SIZE = 50  # unknowns up to which all singular values are computed with a direct factor
EXACT_RTOL = 1e-3  # of the inverse from which they are computed
SIGMA_RTOL = 0.1  # the iteration stops when sigma changes by less than this in one solve
RESOLVED_COMPONENT = 0.003  # of the usual component of a random vector along a null vector
RANDOM_SHARE = 0.1  # length of the random vector that is added to a given start of length one
SMALL_CHANGE_ROUNDINGS = 1e3  # changes of A below which they may be rounding
MAGNIFICATION = 16.0  # of rounding errors of the state, in the estimate of what they change
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
    backend, n = factor.backend, factor.A.shape[0]
    scaling = Scaling() if scaling is None else scaling
    if n <= MAX_EXACT_SIZE and not factor.iterative and (exact := _exact(factor, scaling)):
        return exact
    # The component of a random vector along one direction is about 1/sqrt(N) of its length, and one
    # vector in 400 has less than 0.003 of that. The first solve must resolve it to find a near null
    # vector; the others start with what that has found.
    rtol = max(factor.rtol, min(1e-3, MAX_ROUNDING_SHARE / math.sqrt(n)))
    first_rtol = max(factor.rtol, min(1e-3, RESOLVED_COMPONENT / math.sqrt(n)))
    u = backend.random(n, seed=11)
    u = u / backend.norm(u)
    if start is not None:
        start = scaling.divide_rows(start)
        # Add a random part: the start may be orthogonal to the singular vector.
        u = start / backend.norm(start) + RANDOM_SHARE * u
        u = u / backend.norm(u)
    sigma = math.inf
    for pair in range(MAX_SOLVE_PAIRS):
        v, along = _solve(factor, scaling, u, rtol if pair else first_rtol, adjoint=False)
        u, back = _solve(factor, scaling, v, rtol, adjoint=True)
        converged = back > (1.0 - SIGMA_RTOL) * min(sigma, along)
        sigma = back
        # With few unknowns two numbers may agree by chance.
        if converged and (pair > 0 or n > MAX_EXACT_SIZE):
            break
    return _unscaled(factor, scaling, sigma, u, v)


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


def digits_left(
    factor: Factor,
    smallest: SmallestSingular,
    linearized: CheckedLinearization,
    h: Array,
    problem: Problem,
    scaling: Scaling,
) -> float:
    """Estimate the number of accurate decimal digits in a solution of A x = b.

    Parameters
    ----------
    factor : Factor
        A factor of A at h.
    smallest : SmallestSingular
        The smallest singular value of A.
    linearized : CheckedLinearization
        The linearization at h.
    h : (N,) array
        The state.
    problem : Problem
        The model, which is evaluated and linearized near h.
    scaling : Scaling
        Of `smallest`.

    Returns
    -------
    float
        The smaller number of digits of two: for rounding in A, and for the error of the state.

    Warns
    -----
    NearSingularWarning
        If rounding leaves less than a third of the digits of the dtype.

    Raises
    ------
    SingularStateError
        If less than one digit is left.
    """
    x, w = smallest.right, smallest.left / smallest.value
    rounding = rounding_digits(factor.A, x, w)
    if rounding < MIN_DIGITS:
        raise singular_state_error(rounding, "to working precision")
    change, least, along = state_changes(factor, linearized, h, problem, x, w, scaling)
    state = -math.log10(max(change, factor.backend.eps))
    if state < MIN_DIGITS:
        error = singular_state_error(
            state,
            "to the accuracy of the state, whose error changes A^-1 by a relative "
            f"{change:.1g} (a smaller rtol in mfdeq.solve may help)",
        )
        error.right = along
        raise error
    # Do not warn of a fold because the state is rough: count the digits after a tighter solve.
    possible = min(rounding, -math.log10(max(least, factor.backend.eps)))
    if possible < WARNING_DIGITS_SHARE * (total := -math.log10(factor.backend.eps)):
        warn(
            f"the state operator A is nearly singular: rounding leaves {possible:.1f} of "
            f"{total:.1f} digits in a solution of A x = b (smallest singular value "
            f"{smallest.value:.1e}). Derivatives here have no more accurate digits: move the "
            "parameters away from the fold, or estimate the errors of derivatives (with_error, "
            "rtol=)",
            NearSingularWarning,
        )
    return min(rounding, state)


def _contraction(factor: Factor, h: Array, problem: Problem, R: Array, e: Array) -> float:
    """Return the contraction of a Newton step of the length of e: A^-1 R''[e, e] relative to e.

    R is evaluated at a larger distance t e, where rounding does not hide its curvature.
    """
    xp = factor.backend.xp
    size = xp.abs(h)
    size = xp.where(size > 0.0, size, xp.full_like(size, math.inf))
    relative = float(xp.max(xp.abs(e) / size))
    if not 0.0 < relative < CONTRACTION_STEP:
        return 0.0 if relative == 0.0 else math.inf
    t = CONTRACTION_STEP / relative
    after, _ = problem.trial_residual(h - t * e)
    if after is None:
        return math.inf
    step = _solve_roughly(factor, after - R + t * factor.A._apply(e))
    return 2.0 * float(xp.max(xp.abs(step) / size)) / (CONTRACTION_STEP * t)


def state_changes(
    factor: Factor,
    linearized: CheckedLinearization,
    h: Array,
    problem: Problem,
    x: Array,
    w: Array,
    scaling: Scaling,
) -> tuple[float, float, Array]:
    """Estimate the change of A along its singular vectors due to the error of the state.

    The change is |w' (A(h - e) - A(h)) x|, where e = A^-1 (R + rounding of R) is the error of the
    state. Where Newton's method contracts fast, its contraction is returned instead. Otherwise the
    estimate takes one more linearization, and a second one if the change is not small; no second
    derivatives are evaluated. A scaling may have hidden that an equation loses all its terms at a
    fold: then the change of A^-1 along e, |A^-1 (A(h - e) - A(h)) e| / |e|, counts as well. If the
    model has no value at h - e, the contraction of a Newton step, ||R(h - e)|| / ||R||, is used in
    its place; it is a quarter at a double root.

    Returns
    -------
    change : float
        The change due to the error of the state.
    least : float
        The change due to rounding of R alone.
    along : (N,) array
        The direction of the largest change of solutions: x, or A^-1 (A(h - e) - A(h)) e.
    """
    backend = factor.backend
    xp = backend.xp
    R = problem.residual(h)
    rounding = xp.sign(w) * problem.rounding(h, R, factor.A)
    e = _solve_roughly(factor, backend.columns(R, rounding))
    of_residual, of_rounding = e[:, 0], e[:, 1]
    change = _contraction(factor, h, problem, R, of_residual + of_rounding)
    if change < NEGLIGIBLE_CHANGE:
        return change, change, x
    before, along = linearized.A._apply_adjoint(w), x

    def change_between(after: CheckedLinearization, state: Array) -> float:
        nonlocal along
        change = abs(float(xp.vecdot(after.A._apply_adjoint(w) - before, x)))
        if scaling.rows is None:
            return change
        step = h - state
        size = backend.norm(scaling.divide_columns(step))
        moved = factor.solve(after.A._apply(step) - linearized.A._apply(step), rtol=LOOSE_RTOL)
        length = backend.norm(scaling.divide_columns(moved))
        if size > 0.0 and length > change * size:
            change, along = length / size, moved
        return change

    def change_at(state: Array) -> float:
        found = problem.evaluate_nearby(state, lambda after: change_between(after, state))
        return math.nan if found is None else found

    # Along x the two errors are w'R and w'(rounding of R) >= 0: add them up with the same sign. The
    # one by rounding is magnified, since that of a state by its last bit may be none at all.
    sign = 1.0 if float(xp.vecdot(w, R)) >= 0.0 else -1.0
    rounded = h - sign * MAGNIFICATION * of_rounding
    change = change_at(rounded - of_residual)
    if math.isnan(change):
        noise = 10 * backend.norm(rounding)
        after, size = problem.trial_residual(h - of_residual)
        left = max(size - noise, 0.0) if after is not None else 0.0
        return (left / (backend.norm(R) + noise) if left > 0 else 0.0), 0.0, x
    if change < SMALL_CHANGE_ROUNDINGS * backend.eps:
        return change, change, along
    largest = along
    least = change_at(rounded)
    if math.isnan(least):
        return change, change, largest
    least = min(least, change)
    return change - least + least / MAGNIFICATION, least / MAGNIFICATION, largest


def _solve_roughly(factor: Factor, b: Array) -> Array:
    """Solve A x = b to a few digits, for a size; near a fold an iteration may not reach them."""
    try:
        return factor.solve(b, rtol=STATE_ERROR_RTOL)
    except ConvergenceError as error:
        return factor.approximate(b) if error.best is None else error.best


def singular_state_error(digits: float, how: str) -> SingularStateError:
    """Return the error for a state operator that leaves fewer than `MIN_DIGITS` digits."""
    return SingularStateError(
        f"the state operator A is singular {how} ({digits:.1f} digits left): the state is at a "
        "fold, or the model leaves a component of it undetermined (no boundary condition, no "
        "drain). Move the parameters away from the fold, start where the state is determined, or "
        "pin the free component",
        digits=digits,
    )
