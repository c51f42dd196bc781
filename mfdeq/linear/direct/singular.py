"""Whether a package failed because A is singular, or because it does not pivot enough."""

from __future__ import annotations

from typing import Any

from ...errors import SingularStateError
from ...report import LinearCounts
from ..checked_solve import LOOSE_RTOL, leaves_equation
from ..rounding import MIN_DIGITS, rounding_digits
from .factors import SparseFactor
from .registry import PACKAGES

MAX_REFACTORIZED_SIZE = 20_000  # unknowns up to which a failure is worth a second factorization


def is_singular(A: Any) -> bool:
    """Return whether a sparse A is singular to rounding, by a factorization with pivoting.

    A solve for a random right-hand side leaves an equation unsatisfied, or has no correct digit. An
    A that is too large to be factorized again is taken for regular.
    """
    n = A.shape[0]
    if n > MAX_REFACTORIZED_SIZE:
        return False
    try:
        factor = SparseFactor(A, PACKAGES["superlu"], None, LinearCounts())
    except SingularStateError:
        return True
    b = A.backend.random(n, seed=5)
    x = factor._attempt(b, LOOSE_RTOL, False)
    if leaves_equation(factor, A, x, b, adjoint=False):
        return True
    x = x / A.backend.norm(x)
    return not rounding_digits(A, x, factor._attempt(x, LOOSE_RTOL, True)) >= MIN_DIGITS
