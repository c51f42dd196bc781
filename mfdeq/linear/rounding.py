"""The digits that rounding leaves to the solution of a linear system."""

from __future__ import annotations

import math

from ..arrays.backend import Array
from ..errors import SingularStateError
from ..operators.operator import Operator

MIN_DIGITS = 1.0  # a solution with fewer correct decimal digits is an error


def rounding_digits(A: Operator, x: Array, w: Array) -> float:
    """Estimate the correct digits of A^-1 b along x, -log10(eps |w|' |A| |x|).

    Parameters
    ----------
    A : Operator, (N, N)
    x : (N,) array
        A vector of unit length.
    w : (N,) array
        A^-T x.

    Notes
    -----
    |w|' |A| |x| is Skeel's condition number along x, which does not change when rows of A are
    rescaled.

    References
    ----------
    R. D. Skeel, Scaling for numerical stability in Gaussian elimination, J. ACM 26 (1979).
    """
    backend = A.backend
    condition = backend.dot(backend.xp.abs(w), A.abs_apply(x))
    return -math.log10(backend.eps * max(condition, 1.0))


def singular_error(digits: float, how: str) -> SingularStateError:
    """Return the error for a matrix that leaves fewer than `MIN_DIGITS` digits.

    Parameters
    ----------
    digits : float
        Digits left in a solution.
    how : str
        How it was found to be singular: "to working precision", "(a pivot is exactly zero)".
    """
    return SingularStateError(
        f"the matrix is singular {how}, {digits:.1f} digits are left in a solution: some of its "
        "equations depend on each other, or an unknown occurs in none of them. Remove such "
        "equations, and fix the unknowns that the others leave free",
        digits=digits,
    )
