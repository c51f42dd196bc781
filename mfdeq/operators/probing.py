"""Entries of a matrix that is known by its products, from few of them.

Columns without a row in common share a product (Curtis, Powell and Reid 1974). Where it is not
known which have one, that is found by halving groups of columns, coloured likewise at every level.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy import sparse

from ..arrays.backend import array_on_host, host
from ..arrays.seeding import seeded
from ..arrays.sparse import sparse_on_host
from ..errors import ArgumentError
from .operator import Operator

COLUMNS = 64  # of a block of products
MOST_COLOURS = 1_000  # with which a pattern is sparse


class Coloured:
    """A pattern, and a colour for each of its columns.

    Parameters
    ----------
    pattern : (m, n) sparse matrix
        Its stored entries count, whatever their values.

    Attributes
    ----------
    pattern : (m, n) sparse matrix on the host
        With ones for entries.
    rows, columns : (entries,) arrays on the host
        Of each entry.
    colour : (n,) array on the host
        Columns of one colour have no row in common.
    count : int
        Colours.
    """

    def __init__(self, pattern: Any) -> None:
        import pyamg

        marks = host_pattern(pattern)
        self.pattern = marks
        self.shape: tuple[int, int] = marks.shape
        entries = marks.tocoo()
        self.rows, self.columns = entries.row, entries.col
        together = (marks.T @ marks).tocsr()
        with seeded():  # pyamg draws, and other colours round otherwise
            self.colour = pyamg.graph.vertex_coloring(together, method="LDF")
        self.count = int(self.colour.max()) + 1

    def products(self, A: Operator) -> Iterator[tuple[int, Any]]:
        """Blocks of products with the sums of the columns of a colour, and the first colour."""
        return _products(A, self.colour, host.ones(self.shape[1]), self.count)

    def entries_of(self, A: Operator) -> Any:
        """Of A, in the order of `rows` and `columns`, on the host."""
        colour = self.colour[self.columns]
        values = host.empty(self.rows.shape[0])
        for first, block in self.products(A):
            here = (colour >= first) & (colour < first + block.shape[1])
            values[here] = block[self.rows[here], colour[here] - first]
        return values

    def matrix_of(self, A: Operator) -> Any:
        """A as a sparse matrix of its array library."""
        backend = A.backend
        entries = (self.entries_of(A), (self.rows, self.columns))
        found = sparse.coo_matrix(entries, shape=self.shape).tocsr()
        return backend.sparse.csr_matrix(found.astype(backend.dtype))


def host_pattern(pattern: Any) -> Any:
    """Ones where a sparse matrix has stored entries, on the host."""
    marks = sparse_on_host(pattern).astype("float64").tocsr().copy()
    marks.data[:] = 1.0
    return marks


def detected(*of: Operator) -> Any:
    """Where any of these operators of one shape has entries, as a sparse matrix on the host.

    Of 2^L columns, L levels with a product for each colour: for a stencil some ten times as many
    as the matrix itself takes. An entry that is zero at every place they were linearized at is
    not seen.

    Raises
    ------
    ArgumentError
        If a row has entries in too many columns for that.
    """
    m, n = of[0].shape
    weights = 0.5 + host.random.default_rng(9).random(n)  # so that a row's entries cannot cancel
    size = 1 << (n - 1).bit_length()
    pattern = sparse.csr_matrix(host.ones((m, 1)))
    while True:
        group = host.arange(n) // size
        coloured = Coloured(pattern)
        seen = host.zeros(coloured.rows.shape[0], dtype=bool)
        colour = coloured.colour[coloured.columns]
        for A in of:
            for first, block in _products(A, coloured.colour[group], weights, coloured.count):
                here = (colour >= first) & (colour < first + block.shape[1])
                values = block[coloured.rows[here], colour[here] - first]
                seen[here] |= ~(values == 0.0)  # NaN is seen
        rows, columns = coloured.rows[seen], coloured.columns[seen]
        if size == 1:
            ones = host.ones(rows.shape[0])
            return sparse.csr_matrix((ones, (rows, columns)), shape=(m, n))
        size //= 2
        groups = -(-n // size)
        rows, columns = host.tile(rows, 2), host.concatenate([2 * columns, 2 * columns + 1])
        rows, columns = rows[columns < groups], columns[columns < groups]
        pattern = sparse.csr_matrix((host.ones(rows.shape[0]), (rows, columns)), shape=(m, groups))
        if int(host.diff(pattern.indptr).max(initial=0)) > MOST_COLOURS:
            raise ArgumentError(
                f"a row has entries in more than {MOST_COLOURS} columns: not a sparse matrix"
            )


def _products(A: Operator, colour: Any, weights: Any, count: int) -> Iterator[tuple[int, Any]]:
    n = A.shape[1]
    # Of few widths, for those who compile a product for each.
    width = min(COLUMNS, 1 << (count - 1).bit_length())
    for first in range(0, count, width):
        seeds = host.zeros((n, width))
        here = host.nonzero((colour >= first) & (colour < first + width))[0]
        seeds[here, colour[here] - first] = weights[here]
        yield first, array_on_host(A._apply(A.backend.from_host(seeds)))[:, : count - first]
