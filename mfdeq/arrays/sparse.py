"""Sparse matrices of scipy and cupyx alike."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from .library import is_sparse


def stored_bytes(x: Any) -> int:
    """Return the bytes of a sparse matrix, or of anything with `nbytes`; 0 of what has neither."""
    if is_sparse(x):
        return int(sum(part.nbytes for part in (x.data, x.indices, x.indptr)))
    return int(getattr(x, "nbytes", 0))


def sparse_on_host(x: Any) -> Any:
    """Return a sparse matrix as scipy's csr_matrix: an explicit transfer where it is on a device.

    It is not a csr_array, which PyAMG accepts only from version 5.3 on.
    """
    return scipy.sparse.csr_matrix(x if scipy.sparse.issparse(x) else x.get())


def to_canonical_format(x: Any) -> Any:
    """Return a sparse matrix in CSR or CSC format, with duplicate entries summed."""
    given = x if x.format in ("csr", "csc") else x.tocsr()
    if not given.has_canonical_format:
        given = given.copy()
        given.sum_duplicates()
    return given
