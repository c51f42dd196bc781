"""Direct factorization: SuperLU for sparse matrices, LAPACK for dense ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ..arguments import fraction
from ..arrays import Array, is_sparse
from ..operators import Operator
from ..report import LinearCounts
from .factor import Factor, matrix_of, operator_of, singular

# Diagonal pivots are kept unless a column holds one 1/0.01 times larger: the symmetric
# ordering's fill survives, and a zero diagonal is still pivoted away.
SYMMETRIC = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}


@dataclass(frozen=True)
class Direct:
    """One LU factorization of A, for A and its adjoint.

    Parameters
    ----------
    rtol : float, optional
        Relative true residual that every solve must reach, after refinement where needed;
        None is 1e-10 (1e-5 in float32) or the rounding floor of the solve.

    Notes
    -----
    Where the pattern of A is symmetric, minimum degree on A + A' in SuperLU's symmetric mode:
    it halves fill and solve time against column ordering.
    """

    rtol: float | None = None

    def __post_init__(self) -> None:
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Direct")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize the matrix of A.

        Raises
        ------
        SingularStateError
            On an exactly zero pivot.
        ArgumentError
            If A has no entries, only products.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.Direct()")
        with counts.timed():
            return (_SparseLU if is_sparse(array) else _DenseLU)(A, array, self.rtol, counts)


class _SparseLU(Factor):
    name = "Direct (SuperLU)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        matrix = array.tocsc()
        matrix.sort_indices()
        how = SYMMETRIC if has_symmetric_pattern(matrix) else {}
        try:
            self.lu = self.backend.sparse_linalg.splu(matrix, **how)
        except RuntimeError as error:
            raise singular(0.0, f"({error})") from error

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.lu.solve(b, "T" if adjoint else "N")


class _DenseLU(Factor):
    name = "Direct (dense LU)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an exact zero pivot: it becomes an error below
            self.lu, self.pivots = self.backend.dense_linalg.lu_factor(array)
        if bool(self.backend.xp.any(self.backend.xp.linalg.diagonal(self.lu) == 0)):
            raise singular(0.0, "(a pivot is exactly zero)")

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        solve = self.backend.dense_linalg.lu_solve
        return solve((self.lu, self.pivots), b, trans=1 if adjoint else 0)


def has_symmetric_pattern(matrix: Any) -> bool:
    """Whether a CSC matrix with sorted indices has an entry (j, i) for each (i, j)."""
    transposed = matrix.T.tocsc()
    transposed.sort_indices()
    return bool(
        (matrix.indptr == transposed.indptr).all() and (matrix.indices == transposed.indices).all()
    )
