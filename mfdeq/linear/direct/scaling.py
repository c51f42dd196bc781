"""Equilibration: scaling of the rows and columns of a sparse matrix to similar size.

Without it, a row in other units that is larger than the rest provides the pivots of all its
columns, and the factors of an ordering for diagonal pivots fill up.

References
----------
.. [1] D. Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices",
       Rutherford Appleton Laboratory, RAL-TR-2001-034, 2001.
.. [2] P. A. Knight, D. Ruiz and B. Uçar, "A symmetry preserving algorithm for matrix scaling",
       SIAM Journal on Matrix Analysis and Applications 35(3), 931-955, 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend
from ...arrays.kernels import scale_rows

MAX_UNSCALED_RATIO = 100.0  # largest row or column sum, over the least, that needs no scaling
SWEEPS = 20


@dataclass(frozen=True)
class Scaling:
    """R A C in place of A, with diagonal R and C of powers of two.

    Attributes
    ----------
    rows, columns : (N,) array or None
        The diagonals of R and C; None if A needs no scaling.
    """

    rows: Array | None = None
    columns: Array | None = None

    @classmethod
    def of(cls, A: Any) -> Scaling:
        """Find the scaling of a sparse (N, N) matrix; R = C if A is symmetric.

        Rows and columns of |A| are divided by the square roots of their sums in turn, so that the
        result does not depend on the units of rows and columns.
        """
        xp, magnitude = Backend.of(A.data).xp, abs(A)
        rows = columns = xp.ones(A.shape[0], dtype=magnitude.dtype)
        for sweep in range(SWEEPS):
            sums = rows * (magnitude @ columns), columns * (magnitude.T @ rows)
            least = min(float(xp.min(x)) for x in sums)
            # The factorization reports an empty row or column.
            if least == 0.0:
                return cls()
            if sweep == 0 and max(float(xp.max(x)) for x in sums) <= MAX_UNSCALED_RATIO * least:
                return cls()
            rows, columns = rows / xp.sqrt(sums[0]), columns / xp.sqrt(sums[1])
        return cls(_round_to_power_of_two(xp, rows), _round_to_power_of_two(xp, columns))

    def apply(self, A: Any) -> Any:
        """Return R A C, with the pattern of A: stored zeros stay stored."""
        if self.rows is None or self.columns is None:
            return A
        entries, backend = A.tocoo(), Backend.of(A.data)
        i, j = entries.row, entries.col
        data = backend.xp.asarray(self.rows[i] * entries.data * self.columns[j], dtype=A.dtype)
        return backend.sparse.coo_matrix((data, (i, j)), shape=A.shape).tocsr()

    def solve(self, scaled_solve: Callable[[Array, bool], Array], b: Array, adjoint: bool) -> Array:
        """Solve with A, or with A' if `adjoint`, given solves (b, adjoint) with R A C."""
        if self.rows is None or self.columns is None:
            return scaled_solve(b, adjoint)
        before, after = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        return scale_rows(after, scaled_solve(scale_rows(before, b), adjoint))


def _round_to_power_of_two(xp: Any, x: Array) -> Array:
    """Return the nearest powers of two, because scaling by them does not round."""
    return 2.0 ** xp.round(xp.log2(x))
