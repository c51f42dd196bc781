"""The functions of `kernels` for numpy arrays, by compiled loops in several threads.

Small arrays, arrays of other libraries and matrices that are not stored by rows or by columns are
passed to `kernels`. Products round as those of scipy do. No result depends on the number of
threads, since sums are those of pieces of a fixed length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy
import scipy.sparse

from .. import parallel
from ..locks import cached_property
from . import jit, kernels
from .kernels import (  # noqa: F401
    MAX_BLOCK_COLUMNS,
    MAX_BLOCK_ENTRIES,
    add_product,
    available_bytes,
    capturable_matrix,
    capture_launches,
    peak_bytes,
    scale_rows,
    transpose_into,
)

Array = Any
DTYPES = (numpy.dtype("float32"), numpy.dtype("float64"))
UNSIGNED = {4: "uint32", 8: "uint64"}  # dtypes of indices, by their size
MAX_PARTS = 4  # parts of a loop for each thread: whoever is faster takes more
PART_ENTRIES = 50_000  # entries of a part, below which handing it over takes too long
PIECE_ENTRIES = 8192  # entries whose sum is one of those that are added up
# The products of a matrix stored by columns cannot be shared by rows. It is stored by rows, too,
# once that is cheap compared with the products so far.
COLUMNS_BEFORE_CONVERSION = 8


def _suit(*arrays: Array) -> bool:
    """Return whether loops are compiled for these arrays, and pay."""
    first = arrays[0]
    return (
        type(first) is numpy.ndarray
        and first.size >= max(1, jit.min_entries() // 2)
        and first.dtype in DTYPES
        and all(type(x) is numpy.ndarray and x.dtype == first.dtype for x in arrays)
        and jit.is_available()
    )


def _parts(count: int, entries: int) -> range:
    """Return the starts of parts of a loop over `count` rows or pieces, and its end."""
    threads = parallel.threads()
    each = max(1, min(MAX_PARTS, entries // (PART_ENTRIES * threads)))
    step = max(1, -(-count // (threads * each if threads > 1 else 1)))
    return range(0, count + step, step)


def _run(loop: Callable[..., None], arguments: tuple[Any, ...], bounds: Any, count: int) -> None:
    pairs = itertools.pairwise(bounds)
    parallel.share(loop, [(*arguments, start, min(stop, count)) for start, stop in pairs])


def _run_rows(loop: Callable[..., None], *arguments: Any) -> None:
    """Call a loop for all rows of its arguments."""
    rows, entries = arguments[0].shape[0], arguments[0].size
    _run(loop, arguments, _parts(rows, entries), rows)


def _sums(loop: Callable[..., None], *arguments: Any) -> Array:
    """Call a loop that stores sums of pieces of its (n, k) arguments, and add them up."""
    n, k = arguments[0].shape[0], arguments[0].size // arguments[0].shape[0]
    length = max(1, PIECE_ENTRIES // k)
    pieces = -(-n // length)
    sums = numpy.zeros((pieces, k), dtype=arguments[0].dtype)
    _run(loop, (*arguments, sums, length), _parts(pieces, n * k), pieces)
    return sums.sum(axis=0)


def _columns(*arrays: Array) -> list[Array]:
    """Return arrays in C order, vectors as blocks of one column."""
    return [numpy.ascontiguousarray(x).reshape(x.shape[0], -1) for x in arrays]


def _in_place(*arrays: Array) -> bool:
    """Return whether arrays that a loop changes are stored by rows."""
    return all(x.flags.c_contiguous for x in arrays)


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    if not _suit(x, y) or x.shape != y.shape:
        return kernels.column_dots(xp, x, y)
    from . import loops

    vector = x.size == x.shape[0]
    blocks = [block[:, 0] if vector else block for block in _columns(x, y)]
    sums = _sums(loops.dots if vector else loops.block_dots, *blocks)
    return sums if x.ndim == 2 else sums[0]


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y."""
    if not _suit(x, y) or x.shape != y.shape:
        return kernels.difference_squares(xp, x, y)
    from . import loops

    sums = _sums(loops.difference_dots, *_columns(x, y))
    return sums if x.ndim == 2 else sums[0]


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """Compute X += P step and R -= Q step in place; return the squared column norms of R."""
    if not (_suit(X, R, P, Q, step) and _in_place(X, R)):
        return kernels.advance(xp, X, R, P, Q, step)
    from . import loops

    return _sums(loops.advance, X, R, *_columns(P, Q), numpy.ascontiguousarray(step))


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """Compute P = Z + P ratio in place."""
    if not (_suit(P, Z, ratio) and _in_place(P)):
        return kernels.redirect(xp, P, Z, ratio)
    from . import loops

    return _run_rows(loops.redirect, P, *_columns(Z), numpy.ascontiguousarray(ratio))


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """Compute d = a d + c D r and x += d in place; D is a matrix or a diagonal as a vector."""
    if not (_suit(d, x, r) and _in_place(d, x)):
        return kernels.chebyshev(d, x, r, D, a, c)
    from . import loops

    if D.ndim == 2:
        r, D = D @ r, numpy.ones(d.shape[0], dtype=d.dtype)
    a, c = d.dtype.type(a), d.dtype.type(c)
    return _run_rows(loops.chebyshev, *_columns(d, x, r), D, a, c)


class Rows:
    """A sparse matrix for products in several threads, which share its rows.

    Parameters
    ----------
    matrix : sparse matrix or array of scipy
        In CSR or CSC format. Its arrays are not copied.
    """

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.shape, self.dtype, self.nnz = matrix.shape, matrix.dtype, matrix.nnz
        self.columns = 0  # of the products so far, if it is stored by columns
        self._stored: Any = None  # starts, indices and entries of the rows

    @property
    def nbytes(self) -> int:
        """The size of the entries and their indices in bytes."""
        matrix = self.matrix
        stored = (matrix.indptr, matrix.indices, matrix.data)
        if matrix.format != "csr" and self._stored is not None:
            stored += self._stored
        return int(sum(part.nbytes for part in stored))

    @cached_property
    def T(self) -> Rows:
        """The transpose."""
        transpose = Rows(self.matrix.T)
        transpose.__dict__["T"] = self
        return transpose

    @cached_property
    def _rows(self) -> tuple[Array, Array, Array]:
        csr = self.matrix if self.matrix.format == "csr" else self.matrix.tocsr()
        starts, indices = (part.view(UNSIGNED[part.itemsize]) for part in (csr.indptr, csr.indices))
        self._stored = starts, indices, csr.data
        return self._stored

    def _suits(self, x: Array) -> bool:
        """Return whether to multiply x by a compiled loop."""
        if type(x) is not numpy.ndarray or x.dtype != self.dtype or x.size == 0:
            return False
        if self._stored is None and self.matrix.format != "csr":
            self.columns += x.size // x.shape[0]
            return self.columns > COLUMNS_BEFORE_CONVERSION
        return True

    def __matmul__(self, x: Array) -> Array:
        if not self._suits(x):
            return self.matrix @ x
        return self._into(numpy.empty((self.shape[0], *x.shape[1:]), dtype=self.dtype), x, 0)

    def add_to(self, y: Array, x: Array, sign: int) -> Array:
        """Compute y += A x or, with sign -1, y -= A x in place."""
        if y.dtype == self.dtype and y.flags.c_contiguous and self._suits(x):
            return self._into(y, x, sign)
        return kernels.add_product(y, self.matrix, x, sign)

    def _into(self, y: Array, x: Array, sign: int) -> Array:
        if x.shape[0] != self.shape[1]:
            raise ValueError(f"cannot multiply shapes {self.shape} and {x.shape}")
        from . import loops

        k = x.size // x.shape[0]
        rows, (x,) = self._rows, _columns(x)
        loop, target = loops.multiply_block, y
        if k == 1:
            loop, x, target = loops.multiply, x[:, 0], y.reshape(-1)
        bounds = self._bounds(len(_parts(self.shape[0], self.nnz * k)) - 1)
        _run(loop, (*rows, x, target, sign), bounds, self.shape[0])
        return y

    def _bounds(self, parts: int) -> Any:
        """Return bounds of parts of the rows with about equal numbers of entries."""
        starts = self._rows[0]
        shares = numpy.linspace(0, self.nnz, parts + 1)[1:-1]
        inner = numpy.searchsorted(starts, shares.astype(starts.dtype)).tolist()
        return [0, *inner, self.shape[0]]


def products(matrix: Any) -> Any:
    """Return an object that multiplies by a matrix; `Rows` if it is large and sparse."""
    if (
        scipy.sparse.issparse(matrix)
        and matrix.nnz >= max(1, jit.min_entries())
        and matrix.format in ("csr", "csc")
        and matrix.dtype in DTYPES
        and jit.is_available()
    ):
        return Rows(matrix)
    return matrix
