"""The number of accurate digits in solutions with A.

With the smallest singular value and its vectors, A v = sigma u and A' u = sigma v, a perturbation
dA changes A^-1 u = v / sigma by -A^-1 dA v / sigma, whose component along v is -u' dA v / sigma,
relative to A^-1 u. The number of digits is computed from this component, with |dA| <= eps |A| entry
by entry for rounding. It is at most eps ||A|| / sigma but, unlike that, does not depend on the
units of the equations.
"""

from __future__ import annotations

import math

from ..arrays.backend import Array
from ..errors import ConvergenceError, NearSingularWarning, warn
from ..linear import Factor
from ..linear.checked_solve import LOOSE_RTOL
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..linear.scaling import Scaling
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem
from .smallest_singular import WARNING_DIGITS_SHARE, SmallestSingular, singular_state_error

# Relative to the state: a step at which the curvature of R exceeds its rounding, even where
# unknowns are close to zero.
CONTRACTION_STEP = 1e-4
NEGLIGIBLE_CHANGE = 1e-6  # of A^-1 due to the error of the state, relative
STATE_ERROR_RTOL = 0.03  # relative residual of the solve for the error of the state
SMALL_CHANGE_ROUNDINGS = 1e3  # changes of A below which they may be rounding
MAGNIFICATION = 16.0  # of rounding errors of the state, in the estimate of what they change


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
    change, least, along = state_changes(factor, linearized, h, problem, smallest, scaling)
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


def _contraction(
    factor: Factor, smallest: SmallestSingular, h: Array, problem: Problem, R: Array, e: Array
) -> float:
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
    step = _solve_roughly(factor, smallest, after - R + t * factor.A._apply(e))
    return 2.0 * float(xp.max(xp.abs(step) / size)) / (CONTRACTION_STEP * t)


def state_changes(
    factor: Factor,
    linearized: CheckedLinearization,
    h: Array,
    problem: Problem,
    smallest: SmallestSingular,
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
    x, w = smallest.right, smallest.left / smallest.value
    # Along x the two errors are w'R and w'(rounding of R): give them the same sign.
    sign = 1.0 if backend.dot(w, R) >= 0.0 else -1.0
    rounding = sign * xp.sign(w) * problem.rounding(h, R, factor.A)
    of_both = _solve_roughly(factor, smallest, R + rounding)
    change = _contraction(factor, smallest, h, problem, R, of_both)
    if change < NEGLIGIBLE_CHANGE:
        return change, change, x
    before, along = linearized.A._apply_adjoint(w), x

    def change_between(after: CheckedLinearization, state: Array) -> float:
        nonlocal along
        change = abs(backend.dot(after.A._apply_adjoint(w) - before, x))
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

    # Errors by rounding are magnified, since that of a state by its last bit may be none at all.
    if factor.iterative:  # A linearization costs less than a solve.
        change = change_at(h - MAGNIFICATION * of_both)
        if change < SMALL_CHANGE_ROUNDINGS * backend.eps:  # False for NaN
            return change, change, along
    of_rounding = _solve_roughly(factor, smallest, rounding)
    rounded = h - MAGNIFICATION * of_rounding
    of_residual = of_both - of_rounding
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


def _solve_roughly(factor: Factor, smallest: SmallestSingular, b: Array) -> Array:
    """Solve A x = b to a digit or two, for a size.

    Near a fold an iteration may not reach them, and what it leaves may be large along the weakest
    direction of A: that part is known without a solve.
    """
    try:
        x = factor.solve(b, rtol=STATE_ERROR_RTOL)
    except ConvergenceError as error:
        x = factor.approximate(b) if error.best is None else error.best
    if not factor.iterative:
        return x
    along = factor.backend.dot(smallest.left, b - factor.A._apply(x))
    return x + along / smallest.value * smallest.right
