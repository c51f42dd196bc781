"""Estimation of sparse matrices and their sparsity patterns from products.

Columns without a common row share one product [1]_, so the number of products is the number of
colours of the columns. An unknown pattern is detected by repeatedly halving groups of columns,
which are coloured in the same way at every level.

References
----------
.. [1] A. R. Curtis, M. J. D. Powell and J. K. Reid, "On the estimation of sparse Jacobian
   matrices", IMA Journal of Applied Mathematics 13 (1974), 117-119.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy import sparse

from ..arrays.backend import Backend, array_on_host, host
from ..arrays.seeding import seed_numpy
from ..arrays.sparse import sparse_on_host
from ..errors import ArgumentError
from .operator import Operator

BLOCK_COLUMNS = 64  # products computed at once
MAX_ROW_ENTRIES = 1_000  # entries in a row of a pattern, above which it is not sparse


class ColouredPattern:
    """A sparsity pattern with a colour for each of its columns.

    Parameters
    ----------
    pattern : (m, n) sparse matrix
        The pattern, given by the stored entries, including stored zeros.

    Attributes
    ----------
    pattern : (m, n) sparse matrix on the host
        Ones at the entries of the pattern.
    rows, columns : (entries,) arrays on the host
        Row and column of each entry.
    colour : (n,) array on the host
        The colour of each column; columns of the same colour have no common row.
    count : int
        The number of colours.
    """

    def __init__(self, pattern: Any) -> None:
        import pyamg

        marks = host_pattern(pattern)
        self.pattern = marks
        self.shape: tuple[int, int] = marks.shape
        entries = marks.tocoo()
        self.rows, self.columns = entries.row, entries.col
        conflicts = (marks.T @ marks).tocsr()
        with seed_numpy():  # pyamg breaks ties at random, and colours affect rounding errors
            # The first takes fewer colours for the stencils of grids, the second for random graphs.
            colourings = [
                pyamg.graph.vertex_coloring(conflicts, method=method) for method in ("MIS", "LDF")
            ]
        self.colour = min(colourings, key=lambda colour: colour.max())
        self.count = int(self.colour.max()) + 1

    def entries_of(self, A: Operator, selected: Any = None) -> Any:
        """Return the entries of A on the host, in the order of `rows` and `columns`.

        If `selected`, a mask of columns, is given, the entries of other columns are NaN, and
        colours of which no column is selected take no product. If A consists of several matrices
        of this pattern, one below the other, the result has a row for each.
        """
        colour_of_column, count, weights = self.colour, self.count, host.ones(self.shape[1])
        if selected is not None:
            used, colour_of_selected = host.unique(self.colour[selected], return_inverse=True)
            colour_of_column = host.full(self.shape[1], -1)
            colour_of_column[selected], count = colour_of_selected, used.shape[0]
        colour = colour_of_column[self.columns]
        m, stacked = self.shape[0], A.shape[0] // max(self.shape[0], 1)
        values = host.full((max(stacked, 1), self.rows.shape[0]), host.nan)
        for first, block in _products(A, colour_of_column, weights, count):
            here = (colour >= first) & (colour < first + block.shape[1])
            for i in range(stacked):
                values[i, here] = block[i * m + self.rows[here], colour[here] - first]
        return values if stacked > 1 else values[0]

    def matrix_of(self, A: Operator) -> Any:
        """Return A as a sparse matrix of its array library."""
        return self.matrix_with(self.entries_of(A), A.backend)

    def matrix_with(self, entries: Any, backend: Backend) -> Any:
        """Return a sparse matrix of an array library, with entries in the order of `rows`."""
        found = sparse.coo_matrix((entries, (self.rows, self.columns)), shape=self.shape).tocsr()
        return backend.sparse.csr_matrix(found.astype(backend.dtype))


def host_pattern(pattern: Any) -> Any:
    """Return a sparse matrix on the host with ones at the stored entries of another."""
    marks = sparse_on_host(pattern).astype("float64").tocsr().copy()
    marks.data[:] = 1.0
    return marks


def detect_pattern(*of: Operator) -> Any:
    """Return the union of the sparsity patterns of operators, as a sparse matrix on the host.

    With 2^L columns there are L levels, each with a product for every colour; for a stencil this is
    about ten times the number of products that the matrix itself takes. An entry that is zero in
    all of the operators is missed.

    Parameters
    ----------
    *of : Operator
        Operators of the same shape.

    Raises
    ------
    ArgumentError
        If a row has more than 1,000 entries.
    """
    m, n = of[0].shape
    weights = 0.5 + host.random.default_rng(9).random(n)  # so that no entries of a row cancel
    size = 1 << (n - 1).bit_length()
    pattern = sparse.csr_matrix(host.ones((m, 1)))
    while True:
        group = host.arange(n) // size
        coloured = ColouredPattern(pattern)
        seen = host.zeros(coloured.rows.shape[0], dtype=bool)
        colour = coloured.colour[coloured.columns]
        for A in of:
            for first, block in _products(A, coloured.colour[group], weights, coloured.count):
                here = (colour >= first) & (colour < first + block.shape[1])
                values = block[coloured.rows[here], colour[here] - first]
                seen[here] |= ~(values == 0.0)  # true for NaN
        rows, columns = coloured.rows[seen], coloured.columns[seen]
        if size == 1:
            ones = host.ones(rows.shape[0])
            return sparse.csr_matrix((ones, (rows, columns)), shape=(m, n))
        size //= 2
        groups = -(-n // size)
        rows, columns = host.tile(rows, 2), host.concatenate([2 * columns, 2 * columns + 1])
        rows, columns = rows[columns < groups], columns[columns < groups]
        pattern = sparse.csr_matrix((host.ones(rows.shape[0]), (rows, columns)), shape=(m, groups))
        if int(host.diff(pattern.indptr).max(initial=0)) > MAX_ROW_ENTRIES:
            raise ArgumentError(
                f"the matrix is not sparse: a row has more than {MAX_ROW_ENTRIES} entries"
            )


def _products(A: Operator, colour: Any, weights: Any, count: int) -> Iterator[tuple[int, Any]]:
    n = A.shape[1]
    # Use few different widths, since some operators compile a product for each.
    width = min(BLOCK_COLUMNS, 1 << (count - 1).bit_length())
    for first in range(0, count, width):
        seeds = host.zeros((n, width))
        here = host.nonzero((colour >= first) & (colour < first + width))[0]
        seeds[here, colour[here] - first] = weights[here]
        yield first, array_on_host(A._apply(A.backend.from_host(seeds)))[:, : count - first]
