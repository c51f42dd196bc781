"""The LU of a tridiagonal matrix by LAPACK, in a time proportional to the number of unknowns.

References
----------
E. Anderson et al., *LAPACK Users' Guide*, SIAM, 1999 (the routines gttrf and gttrs).
"""

from __future__ import annotations

import math
from typing import Any

import scipy.linalg.lapack

from ...arrays.backend import Array, host, is_sparse
from ...arrays.sparse import lines_of
from ...operators.operator import Operator
from ..rounding import singular_error
from .package import DirectPackage, Factorization

MIN_SIZE = 3  # unknowns, since LAPACK's wrappers take no fewer

FUNCTIONS = {
    "d": (scipy.linalg.lapack.dgttrf, scipy.linalg.lapack.dgttrs),
    "f": (scipy.linalg.lapack.sgttrf, scipy.linalg.lapack.sgttrs),
}


class TridiagonalPackage(DirectPackage):
    """LAPACK's LU with partial pivoting, for tridiagonal matrices on the host."""

    name = "tridiagonal"
    title = "tridiagonal LU"
    pivots = True
    always_fastest = True
    max_renewed_bytes = math.inf  # a factorization costs less than two products

    def obstacle(self, A: Operator) -> str:
        """Return why A is not a tridiagonal matrix on the host, or "" if it is."""
        array, n = A.array, A.shape[0]
        if not (A.backend.is_numpy and is_sparse(array)):
            return "it is not a sparse matrix of scipy"
        if n < MIN_SIZE:
            return f"it has fewer than {MIN_SIZE} unknowns"
        if array.nnz > 3 * n or not _is_tridiagonal(array):
            return "it has entries outside its three middle diagonals"
        return ""

    def default_max_operations(self, A: Operator) -> float:
        """Return infinity: no other package is faster on a tridiagonal matrix."""
        return math.inf

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize by LU with partial pivoting."""
        return TridiagonalFactorization(matrix)


def _is_tridiagonal(array: Any) -> bool:
    distance = abs(array.indices - lines_of(array))
    return int(host.maximum.reduce(distance, initial=0)) <= 1


class TridiagonalFactorization:
    """The LU of a tridiagonal matrix, with rows exchanged.

    Parameters
    ----------
    matrix : (N, N) sparse matrix
    """

    solves_adjoint = True

    def __init__(self, matrix: Any) -> None:
        factorize, self._solve = FUNCTIONS[matrix.dtype.char]
        diagonals = [matrix.diagonal(k) for k in (-1, 0, 1)]
        *self.factors, failed = factorize(*diagonals)
        if failed or not host.logical_and.reduce(host.isfinite(self.factors[1])):
            raise singular_error(0.0, "(a pivot is exactly zero)")

    @property
    def nbytes(self) -> int:
        """Bytes of the four diagonals of L and U, and of the pivots."""
        return sum(part.nbytes for part in self.factors)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b or A⁻ᵀ b, (N,) or (N, k)."""
        return self._solve(*self.factors, b, "T" if adjoint else "N")[0]
