"""Whether a package failed because A is singular, or because it does not pivot enough."""

from __future__ import annotations

import math
from typing import Any

from ...errors import SingularStateError
from ...report import LinearCounts
from ..factor import MAX_ROUNDING_SHARE
from .factors import SparseFactor
from .package import trial_residual
from .registry import PACKAGES

MAX_REFACTORIZED_SIZE = 20_000  # unknowns up to which a failure is worth a second factorization


def is_singular(A: Any) -> bool:
    """Return whether a sparse A is singular to rounding, by a factorization with pivoting.

    A solve for a random right-hand side leaves what lies along the null vector of the adjoint. An A
    that is too large to be factorized again is taken for regular.
    """
    n = A.shape[0]
    if n > MAX_REFACTORIZED_SIZE:
        return False
    try:
        factor = SparseFactor(A, PACKAGES["superlu"], None, LinearCounts())
    except SingularStateError:
        return True
    product, solve = factor.matrix.__matmul__, factor.factorization.solve
    residual = trial_residual(A.backend, product, solve, n)
    return not residual <= MAX_ROUNDING_SHARE / math.sqrt(n)  # True for NaN
