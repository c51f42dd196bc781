"""Products with matrices whose entries are on few diagonals, such as those of grids.

Stored by diagonals, a matrix needs no indices, and consecutive rows are computed together: a
product with a vector takes a quarter to a half of the time. Of a symmetric matrix, half is stored.
Entries that a diagonal lacks are zeros, so that NaN and infinity in a vector reach their rows too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy

Array = Any
MAX_DIAGONALS = 40
MIN_FILL = 0.5  # entries over those of all diagonals, below which rows are stored instead
SAMPLE_ROWS = 32  # rows whose offsets are counted first


@dataclass(frozen=True)
class Diagonals:
    """A square matrix stored by diagonals.

    Attributes
    ----------
    offsets : (m,) array of int64
        Column minus row of each diagonal, in increasing order.
    entries : (m, n) array
        Entry i of a diagonal is that of row i.
    forward, backward : bool
        Whether the matrix has these entries, and whether it has those of the transpose. A symmetric
        matrix has both, and stores its main and its upper diagonals.
    """

    offsets: Array
    entries: Array
    forward: bool = True
    backward: bool = False

    @property
    def nbytes(self) -> int:
        """The size of the entries in bytes."""
        return int(self.entries.nbytes)

    @property
    def T(self) -> Diagonals:
        """The transpose, of the same entries."""
        return replace(self, forward=self.backward, backward=self.forward)

    def without_unit_diagonal(self) -> Diagonals:
        """Return A - I for a matrix with a unit diagonal."""
        others = self.offsets != 0
        return replace(self, offsets=self.offsets[others], entries=self.entries[others])

    @property
    def work(self) -> int:
        """Entries of a matrix stored by rows whose product takes as long."""
        both = self.forward + self.backward
        return both * self.entries.size // 4


def diagonals_of(matrix: Any) -> Diagonals | None:
    """Return a CSR or CSC matrix stored by diagonals, or None if that does not pay."""
    n = matrix.shape[0]
    if n != matrix.shape[1] or matrix.nnz < MIN_FILL * n:
        return None
    starts, indices = matrix.indptr, matrix.indices
    sample = numpy.linspace(0, n - 1, min(n, SAMPLE_ROWS)).astype(int)
    sampled = {int(j) - i for i in sample.tolist() for j in indices[starts[i] : starts[i + 1]]}
    if len(sampled) > MAX_DIAGONALS:
        return None
    from . import diagonal_loops

    found = numpy.empty(MAX_DIAGONALS, dtype=numpy.int64)
    count = diagonal_loops.find_offsets(starts, indices, found)
    if count > MAX_DIAGONALS or matrix.nnz < MIN_FILL * count * n:
        return None
    offsets = numpy.sort(found[:count])
    entries = numpy.zeros((count, n), dtype=matrix.dtype)
    diagonal_loops.fill_diagonals(starts, indices, matrix.data, offsets, entries)
    if _is_symmetric(offsets, entries):
        upper = offsets >= 0
        return Diagonals(offsets[upper], entries[upper], True, True)
    by_rows = matrix.format == "csr"
    return Diagonals(offsets, entries, by_rows, not by_rows)


def _is_symmetric(offsets: Array, entries: Array) -> bool:
    if not numpy.array_equal(offsets, -offsets[::-1]):
        return False
    n = entries.shape[1]
    return all(
        numpy.array_equal(entries[m, o:], entries[-1 - m, : n - o])
        for m, o in enumerate((-offsets).tolist())
        if o > 0 and n > o
    )
