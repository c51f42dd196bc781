"""Functions of sparse matrices of scipy and cupyx."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import scipy.sparse

from .library import array_on_host, host, is_dense, is_sparse


def stored_bytes(x: Any) -> int:
    """Return the size in bytes of a sparse matrix or of an object with `nbytes`, otherwise 0."""
    if is_sparse(x):
        return int(sum(part.nbytes for part in (x.data, x.indices, x.indptr)))
    return int(getattr(x, "nbytes", 0))


def sparse_on_host(x: Any) -> Any:
    """Return a matrix as scipy's csr_matrix, transferring it from a device if necessary.

    It is not a csr_array, which PyAMG accepts only since version 5.3.
    """
    if is_dense(x):
        return scipy.sparse.csr_matrix(array_on_host(x))
    return scipy.sparse.csr_matrix(x if scipy.sparse.issparse(x) else x.get())


def with_data(x: Any, data: Any) -> Any:
    """Return a sparse matrix of scipy with the pattern of another, and other entries.

    The pattern is shared. Constructors of scipy check it, which takes longer than a small product.
    """
    other = object.__new__(type(x))  # as `copy.copy`, in fewer calls
    other.__dict__.update(x.__dict__)
    other.data = data
    return other


def magnitude(x: Any) -> Any:
    """Return |A| of an array or of a sparse matrix."""
    if type(x) is host.ndarray:
        return abs(x)
    return with_data(x, abs(x.data)) if _is_canonical(x) else abs(x)


def negative(x: Any) -> Any:
    """Return −A of an array or of a sparse matrix."""
    if type(x) is host.ndarray:
        return -x
    return with_data(x, -x.data) if _is_canonical(x) else -x


def copied(x: Any, dtype: Any) -> Any:
    """Return a copy of a sparse matrix in another dtype, or the same."""
    if not _is_canonical(x) or x.dtype != dtype:
        return x.astype(dtype)
    other = with_data(x, x.data.copy())
    other.indices, other.indptr = x.indices.copy(), x.indptr.copy()
    return other


def identity_minus(x: Any) -> Any:
    """Return I − A for a CSR or CSC matrix of scipy whose diagonal is stored, otherwise None."""
    if not _is_canonical(x):
        return None
    on_diagonal = x.indices == lines_of(x)
    if int(on_diagonal.sum()) != x.shape[0]:
        return None
    data = -x.data
    data[on_diagonal] += 1.0
    return with_data(x, data)


def _is_canonical(x: Any) -> bool:
    """Return whether `x` is a CSR or CSC matrix of scipy without duplicates, in order."""
    return scipy.sparse.issparse(x) and x.format in ("csr", "csc") and x.has_canonical_format


def lines_of(x: Any) -> Any:
    """Return the row of each entry of a CSR matrix, or the column of each of a CSC matrix."""
    return host.repeat(host.arange(x.indptr.shape[0] - 1), x.indptr[1:] - x.indptr[:-1])


def with_rows(xp: ModuleType, x: Any, rows: list[int], other: Any) -> Any:
    """Return a CSR matrix in which the rows of another one, in this order, replace some rows."""
    starts, others = x.indptr, other.indptr
    entries, columns, indptr = [], [], xp.astype(starts, xp.int64)
    begin = 0
    for k in sorted(range(len(rows)), key=rows.__getitem__):
        i = rows[k]
        stop, end = int(starts[i]), int(starts[i + 1])
        of = slice(int(others[k]), int(others[k + 1]))
        entries += [x.data[begin:stop], other.data[of]]
        columns += [x.indices[begin:stop], other.indices[of]]
        indptr[i + 1 :] += of.stop - of.start - (end - stop)
        begin = end
    data = xp.concat([*entries, x.data[begin:]])
    indices = xp.concat([*columns, x.indices[begin:]])
    return type(x)((data, indices, indptr), shape=x.shape)


def to_canonical_format(x: Any) -> Any:
    """Return a sparse matrix in CSR or CSC format with sorted indices and without duplicates."""
    given = x if x.format in ("csr", "csc") else x.tocsr()
    if not given.has_canonical_format:
        given = given.copy()
        given.sum_duplicates()
    return given
