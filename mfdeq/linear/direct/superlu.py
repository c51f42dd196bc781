"""SuperLU, as wrapped by SciPy and CuPy: sparse LU with partial pivoting.

References
----------
.. [1] X. S. Li, "An overview of SuperLU: Algorithms, implementation, and user interface",
       ACM Transactions on Mathematical Software 31(3), 302-325, 2005.
.. [2] T. A. Davis, *Direct Methods for Sparse Linear Systems*, SIAM, 2006 (orderings: chapter 7).
"""

from __future__ import annotations

import math
from typing import Any

from ...arrays.backend import Array, Backend
from ...operators.operator import Operator
from ..rounding import singular_error
from .costs import PackageCost
from .package import DirectPackage, Factorization

MAX_COLUMNS = 8  # of one call, since SuperLU is slower on wider blocks

MAX_ZERO_SHARE = 0.1  # of the diagonal, above which its symmetric ordering is not followed

# Minimum degree on A + A' in symmetric mode halves fill and solve time compared with an ordering of
# columns. Diagonal pivots are kept unless a column has an entry 100 times larger, which preserves
# the fill of the symmetric ordering and still pivots zeros off the diagonal.
SYMMETRIC_OPTIONS = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}


class SuperLUPackage(DirectPackage):
    """SuperLU, for any sparse matrix; the triangles are solved on the host or on the device."""

    name = "superlu"
    title = "SuperLU"
    pivots = True
    cost_on_host = PackageCost(unknown=0.0, operation=0.35, entry=2.8, factor_entry=80.0)
    # The factorization runs on the host; the device solves the triangles row after row.
    cost_on_device = PackageCost(
        unknown=0.0, operation=0.35, entry=0.05, solve=20e6, factor_entry=80.0
    )

    def obstacle(self, A: Operator) -> str:
        """Return "": SuperLU takes any matrix."""
        return ""

    def default_max_operations(self, A: Operator) -> float:
        """Return infinity: SuperLU takes any matrix that the other packages do not."""
        return math.inf

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize by sparse LU with partial pivoting."""
        return SuperLUFactorization(A.backend, matrix)


class SuperLUFactorization:
    """The LU of a sparse matrix, with rows and columns permuted."""

    solves_adjoint = True

    def __init__(self, backend: Backend, matrix: Any) -> None:
        self.backend = backend
        columns = matrix.tocsc()
        columns.sort_indices()
        options = superlu_options(columns, matrix if matrix.format == "csr" else None)
        try:
            self.lu = backend.sparse_linalg.splu(columns, **options)
        except RuntimeError as error:
            raise singular_error(0.0, f"({error})") from error

    @property
    def nbytes(self) -> int:
        """Bytes of the entries of L and U, and of an int32 index with each."""
        return (self.backend.itemsize + 4) * self.lu.nnz

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b or A⁻ᵀ b, (N,) or (N, k)."""
        side = "T" if adjoint else "N"
        if b.ndim == 1 or b.shape[1] <= MAX_COLUMNS:
            return self.lu.solve(b, side)
        starts = range(0, b.shape[1], MAX_COLUMNS)
        blocks = [self.lu.solve(b[:, j : j + MAX_COLUMNS], side) for j in starts]
        return self.backend.xp.concat(blocks, axis=1)


def superlu_options(matrix: Any, rows: Any = None) -> dict[str, Any]:
    """Return the options of `splu` for a CSC matrix with sorted indices, and the same as CSR.

    Where the diagonal has many zeros, as that of a saddle point, pivots are taken elsewhere and a
    symmetric ordering fills up: an ordering of the columns allows for any pivots.
    """
    zeros = int((matrix.diagonal() == 0).sum())
    followed = zeros <= MAX_ZERO_SHARE * matrix.shape[0] and has_symmetric_pattern(matrix, rows)
    return SYMMETRIC_OPTIONS if followed else {}


def has_symmetric_pattern(matrix: Any, rows: Any = None) -> bool:
    """Return whether a CSC matrix with sorted indices has an entry (j, i) for each (i, j).

    Its rows have then the indices of its columns. They are those of `rows`, if it is passed.
    """
    if rows is None or not rows.has_sorted_indices:
        rows = matrix.tocsr()
        rows.sort_indices()
    return bool((matrix.indptr == rows.indptr).all() and (matrix.indices == rows.indices).all())
