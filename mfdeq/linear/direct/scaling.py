"""Rows and columns scaled to like size before a factorization, so that pivots are told by size.

Without it one row that is large, in other units than the rest, makes its entries the pivots of
every column that it has, and an ordering that keeps the diagonal fills up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend

SPREAD = 100.0  # of the sums of rows or columns, up to which nothing is scaled
SWEEPS = 20


@dataclass(frozen=True)
class Scaling:
    """R A C in place of A, in powers of two; None for neither.

    Attributes
    ----------
    rows, columns : (N,) array or None
        The diagonals of R and C.
    """

    rows: Array | None = None
    columns: Array | None = None

    @classmethod
    def of(cls, A: Any) -> Scaling:
        """For a sparse A; R = C where A is symmetric.

        Rows and columns of |A| are divided by the square roots of their sums in turn (Ruiz 2001,
        Knight, Ruiz and Uçar 2014): a diagonal that A was multiplied by is found, whatever it is.
        """
        xp, size = Backend.of(A.data).xp, abs(A)
        rows = columns = xp.ones(A.shape[0], dtype=size.dtype)
        for sweep in range(SWEEPS):
            sums = rows * (size @ columns), columns * (size.T @ rows)
            least = min(float(xp.min(x)) for x in sums)
            # An empty row or column is for the factorization to complain of.
            alike = sweep == 0 and max(float(xp.max(x)) for x in sums) <= SPREAD * least
            if least == 0.0 or alike:
                return cls()
            rows, columns = rows / xp.sqrt(sums[0]), columns / xp.sqrt(sums[1])
        return cls(_power_of_two(xp, rows), _power_of_two(xp, columns))

    def applied(self, A: Any) -> Any:
        """R A C, with the pattern of A: a product of matrices would drop zeros that are stored."""
        if self.rows is None or self.columns is None:
            return A
        entries, backend = A.tocoo(), Backend.of(A.data)
        i, j = entries.row, entries.col
        data = backend.xp.asarray(self.rows[i] * entries.data * self.columns[j], dtype=A.dtype)
        return backend.sparse.coo_matrix((data, (i, j)), shape=A.shape).tocsr()

    def solve(self, solved: Callable[[Array, bool], Array], b: Array, adjoint: bool) -> Array:
        """A^-1 b or A^-T b, by `solved` of R A C."""
        if self.rows is None:
            return solved(b, adjoint)
        before, after = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        x = solved(_scaled(before, b), adjoint)
        return _scaled(after, x)


def _scaled(by: Any, x: Array) -> Array:
    return x * by if x.ndim == 1 else x * by[:, None]


def _power_of_two(xp: Any, x: Array) -> Array:
    """The nearest powers of two: scaling by them does not round."""
    return 2.0 ** xp.round(xp.log2(x))
