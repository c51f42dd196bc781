"""The functions of `kernels` for numpy arrays, by compiled loops in several threads.

Small arrays, arrays of other libraries and matrices that are not stored by rows or by columns are
passed to `kernels`. No result depends on the number of threads, since sums are those of pieces of
a fixed length.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy
import scipy.sparse

from .. import parallel
from ..locks import cached_property
from . import jit, kernels
from .diagonals import Diagonals, diagonals_of
from .kernels import (  # noqa: F401
    MAX_BLOCK_COLUMNS,
    MAX_BLOCK_ENTRIES,
    PIECE_COLUMNS,
    add_product,
    available_bytes,
    capturable_matrix,
    capture_launches,
    combine_rows,
    peak_bytes,
    scale_rows,
    transpose_into,
)

Array = Any
DTYPES = (numpy.dtype("float32"), numpy.dtype("float64"))
UNSIGNED = {4: "uint32", 8: "uint64"}  # dtypes of indices, by their size
MAX_PARTS = 4  # parts of a loop for each thread: whoever is faster takes more
# Entries of a part. Handing parts over to another thread takes 30 to 60 microseconds, as long as a
# product with this many entries of a matrix, or an update of twice as many of a vector.
PART_ENTRIES = 100_000
LONG_ROW = 12  # entries of a row from which on its sum is vectorized
PIECE_ENTRIES = 8192  # entries whose sum is one of those that are added up
MAX_COLUMNS = 4  # columns of products with the rows of a basis
# The products of a matrix stored by columns cannot be shared by rows. It is stored by rows, too,
# once that is cheap compared with the products so far.
COLUMNS_BEFORE_CONVERSION = 8


def _suit(*arrays: Array) -> bool:
    """Return whether loops are compiled for these arrays, and pay for the rows of the first."""
    first = arrays[0]
    return (
        type(first) is numpy.ndarray
        and first.ndim > 0
        and first.shape[0] >= jit.min_rows()  # first, since most arrays are small
        and first.size > 0
        and first.dtype in DTYPES
        and all(type(x) is numpy.ndarray and x.dtype == first.dtype for x in arrays)
        and jit.pays_for_rows(first.shape[0])
    )


def _parts(count: int, entries: int) -> range:
    """Return the starts of parts of a loop over `count` rows or pieces, and its end."""
    threads = parallel.threads()
    each = min(MAX_PARTS, entries // (PART_ENTRIES * threads))
    step = max(1, -(-count // (threads * each if threads > 1 and each > 0 else 1)))
    return range(0, count + step, step)


def _run(loop: Callable[..., None], arguments: tuple[Any, ...], bounds: Any, count: int) -> None:
    pairs = itertools.pairwise(bounds)
    parallel.share(loop, [(*arguments, start, min(stop, count)) for start, stop in pairs])


def _run_rows(loop: Callable[..., None], *arguments: Any) -> None:
    """Call a loop for all rows of its arguments."""
    rows, entries = arguments[0].shape[0], arguments[0].size
    _run(loop, arguments, _parts(rows, entries // 2), rows)


def _sums(loop: Callable[..., None], *arguments: Any) -> Array:
    """Call a loop that stores sums of pieces of its (n, k) arguments, and add them up."""
    n, k = arguments[0].shape[0], arguments[0].size // arguments[0].shape[0]
    length = max(1, PIECE_ENTRIES // k)
    pieces = -(-n // length)
    sums = numpy.zeros((pieces, k))
    _run(loop, (*arguments, sums, length), _parts(pieces, n * k // 2), pieces)
    return sums.sum(axis=0).astype(arguments[0].dtype)


def _flat(*arrays: Array) -> list[Array]:
    """Return arrays in C order, blocks of one column as vectors.

    Arrays in C order are not copied. Loops over vectors are separate, since they are vectorized.
    """
    contiguous = [numpy.ascontiguousarray(x) for x in arrays]
    return [x.reshape(-1) if x.size == x.shape[0] else x for x in contiguous]


def _in_place(*arrays: Array) -> bool:
    """Return whether arrays that a loop changes are stored by rows."""
    return all(x.flags.c_contiguous for x in arrays)


def inner_loops(rows: int) -> AbstractContextManager[Any]:
    """Return a context for many calls of these functions, which holds BLAS at one thread."""
    if parallel.threads() == 1 or not jit.pays_for_rows(rows):
        return contextlib.nullcontext()
    return parallel.single_threaded_blas()


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    if not _suit(x, y) or x.shape != y.shape:
        return kernels.column_dots(xp, x, y)
    from . import loops

    a, b = _flat(x, y)
    sums = _sums(loops.dots if a.ndim == 1 else loops.block_dots, a, b)
    return sums if x.ndim == 2 else sums[0]


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y."""
    if not _suit(x, y) or x.shape != y.shape:
        return kernels.difference_squares(xp, x, y)
    from . import loops

    a, b = _flat(x, y)
    sums = _sums(loops.difference_dots if a.ndim == 1 else loops.block_difference_dots, a, b)
    return sums if x.ndim == 2 else sums[0]


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """Compute X += P step and R -= Q step in place; return the squared column norms of R."""
    if not (_suit(X, R, P, Q, step) and _in_place(X, R)):
        return kernels.advance(xp, X, R, P, Q, step)
    from . import loops

    blocks, step = _flat(X, R, P, Q), numpy.ascontiguousarray(step)
    return _sums(loops.advance if blocks[0].ndim == 1 else loops.block_advance, *blocks, step)


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """Compute P = Z + P ratio in place."""
    if not (_suit(P, Z, ratio) and _in_place(P)):
        return kernels.redirect(xp, P, Z, ratio)
    from . import loops

    P, Z = _flat(P, Z)
    loop = loops.redirect if P.ndim == 1 else loops.block_redirect
    return _run_rows(loop, P, Z, numpy.ascontiguousarray(ratio))


def _few_columns(V: Array, W: Array) -> bool:
    """Return whether a loop multiplies a basis by few columns; by many, BLAS is faster."""
    if not (W.ndim == 2 and W.shape[1] <= MAX_COLUMNS and _suit(W, V) and _in_place(V)):
        return False
    return W.T.flags.c_contiguous


def inner_products(V: Array, W: Array) -> Array:
    """Return V W for the (m, n) rows of a basis and an (n, k) block of few columns."""
    if not _few_columns(V, W):
        return kernels.inner_products(V, W)
    from . import loops

    (m, n), k = V.shape, W.shape[1]
    pieces = -(-n // PIECE_COLUMNS)
    sums = numpy.empty((pieces, m, k))
    arguments = V, W.T, sums, PIECE_COLUMNS
    _run(loops.inner_products, arguments, _parts(pieces, V.size), pieces)
    return sums.sum(axis=0).astype(V.dtype)


def subtract_combination(W: Array, V: Array, h: Array) -> Array:
    """Subtract V' h from an (n, k) block of few columns in place and return it.

    V has (m, n) rows, and h (m, k) coefficients.
    """
    if not _few_columns(V, W) or h.dtype != V.dtype:
        return kernels.subtract_combination(W, V, h)
    from . import loops

    pieces = -(-W.shape[0] // PIECE_COLUMNS)
    h = numpy.ascontiguousarray(h)
    _run(loops.subtract_combination, (W.T, V, h, PIECE_COLUMNS), _parts(pieces, V.size), pieces)
    return W


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """Compute d = a d + c D r and x += d in place; D is a matrix or a diagonal as a vector."""
    if not (_suit(d, x, r) and _in_place(d, x)):
        return kernels.chebyshev(d, x, r, D, a, c)
    from . import loops

    if D.ndim == 2:
        r, D = D @ r, numpy.ones(d.shape[0], dtype=d.dtype)
    a, c = d.dtype.type(a), d.dtype.type(c)
    blocks = _flat(d, x, r)
    loop = loops.chebyshev if blocks[0].ndim == 1 else loops.block_chebyshev
    return _run_rows(loop, *blocks, D, a, c)


def converted(xp: ModuleType, x: Array, dtype: Any, divisor: float = 1.0) -> Array:
    """Return x / divisor in another dtype; x may be changed."""
    if x.dtype == dtype or not (_suit(x) and _in_place(x) and dtype in DTYPES):
        return kernels.converted(xp, x, dtype, divisor)
    from . import loops

    target = numpy.empty(x.shape, dtype=dtype)
    _run_rows(loops.convert, target.reshape(-1), x.reshape(-1), target.dtype.type(divisor))
    return target


def combine(A: Diagonals, x: Array, b: float, c: float, z: Array = None, a: float = 0.0) -> Array:
    """Return a z + b x + c A x for vectors or blocks."""
    from .diagonal_loops import COMBINE

    y = numpy.empty(x.shape, dtype=x.dtype)
    _multiply_diagonals(A, x, y, COMBINE, c, x if z is None else z, a, b)
    return y


def _multiply_diagonals(
    A: Diagonals,
    x: Array,
    y: Array,
    mode: int,
    c: float,
    z: Array | None = None,
    a: float = 0.0,
    b: float = 0.0,
) -> None:
    from . import diagonal_loops

    if x.size == 0:  # a block of no columns
        return
    n, k, real = x.shape[0], x.size // x.shape[0], x.dtype.type
    x, z = (numpy.ascontiguousarray(given).reshape(-1) for given in (x, x if z is None else z))
    rows = max(1, diagonal_loops.BLOCK_ENTRIES // k)
    blocks = -(-n // rows)
    matrix = A.offsets, A.entries, A.forward, A.backward
    arguments = *matrix, x, z, real(a), real(b), real(c), y.reshape(-1), mode, k, rows
    _run(diagonal_loops.multiply, arguments, _parts(blocks, A.work * k), blocks)


def by_diagonals(matrix: Any) -> Diagonals | None:
    """Return a sparse matrix stored by diagonals for `combine`, or None if that does not pay."""
    return diagonals_of(matrix) if isinstance(products(matrix), Rows) else None


class Rows:
    """A sparse matrix for products in several threads, which share its rows.

    Large matrices with few diagonals are stored by them as well.

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
        self._partitions: dict[int, list[int]] = {}  # bounds of parts of the rows, by their number
        self._stored: Any = None  # starts, indices and entries of the rows

    @property
    def nbytes(self) -> int:
        """The size of the entries and their indices in bytes."""
        matrix = self.matrix
        stored = (matrix.indptr, matrix.indices, matrix.data)
        if matrix.format != "csr" and self._stored is not None:
            stored += self._stored
        diagonals = vars(self).get("_diagonals")
        return int(sum(part.nbytes for part in stored)) + (diagonals.nbytes if diagonals else 0)

    @cached_property
    def T(self) -> Rows:
        """The transpose."""
        transpose = Rows(self.matrix.T)
        transpose.__dict__["T"] = self
        return transpose

    def __abs__(self) -> Rows:
        # The diagonals are not looked for again.
        sizes, diagonals = Rows(abs(self.matrix)), self._diagonals
        if diagonals is not None:
            diagonals = replace(diagonals, entries=abs(diagonals.entries))
        sizes.__dict__["_diagonals"] = diagonals
        return sizes

    @cached_property
    def _diagonals(self) -> Diagonals | None:
        other = vars(self).get("T")
        if other is not None and "_diagonals" in vars(other):
            return other._diagonals.T if other._diagonals else None
        return diagonals_of(self.matrix)

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
        if self._diagonals is None and self._stored is None and self.matrix.format != "csr":
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
        if self._diagonals is not None:
            from .diagonal_loops import ADD, ASSIGN

            _multiply_diagonals(self._diagonals, x, y, ADD if sign else ASSIGN, sign or 1)
            return y
        from . import loops

        k = x.size // x.shape[0]
        rows, (x,) = self._rows, _flat(x)
        loop, target = loops.multiply_block, y
        if k == 1:
            long = self.nnz >= LONG_ROW * self.shape[0]
            loop = loops.multiply_long_rows if long else loops.multiply
            target = y.reshape(-1)
        bounds = self._bounds(len(_parts(self.shape[0], self.nnz * k)) - 1)
        _run(loop, (*rows, x, target, sign), bounds, self.shape[0])
        return y

    def _bounds(self, parts: int) -> list[int]:
        """Return bounds of parts of the rows with about equal numbers of entries."""
        if parts not in self._partitions:
            starts = self._rows[0]
            shares = numpy.linspace(0, self.nnz, parts + 1)[1:-1]
            inner = numpy.searchsorted(starts, shares.astype(starts.dtype)).tolist()
            self._partitions[parts] = [0, *inner, self.shape[0]]
        return self._partitions[parts]


def products(matrix: Any) -> Any:
    """Return an object that multiplies by a matrix; `Rows` if it is large and sparse."""
    if (
        scipy.sparse.issparse(matrix)
        and matrix.nnz > 0
        and matrix.format in ("csr", "csc")
        and matrix.dtype in DTYPES
        and jit.pays(matrix.nnz)
    ):
        return Rows(matrix)
    return matrix
