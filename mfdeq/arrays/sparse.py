"""Functions of sparse matrices of scipy and cupyx."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from .library import array_on_host, is_dense, is_sparse


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


def to_canonical_format(x: Any) -> Any:
    """Return a sparse matrix in CSR or CSC format with sorted indices and without duplicates."""
    given = x if x.format in ("csr", "csc") else x.tocsr()
    if not given.has_canonical_format:
        given = given.copy()
        given.sum_duplicates()
    return given
