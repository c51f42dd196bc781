"""Sparse matrices of scipy and cupyx alike."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from .backend import is_sparse


def stored_bytes(x: Any) -> int:
    """Memory of a sparse matrix or an array; 0 of anything else."""
    if is_sparse(x):
        return int(sum(part.nbytes for part in (x.data, x.indices, x.indptr)))
    return int(getattr(x, "nbytes", 0))


def sparse_on_host(x: Any) -> Any:
    """A sparse matrix as scipy's csr_matrix: an explicit transfer where it is cupy's.

    Not csr_array, which PyAMG takes only from 5.3 on.
    """
    return scipy.sparse.csr_matrix(x if scipy.sparse.issparse(x) else x.get())


def canonical(x: Any) -> Any:
    """A sparse matrix in CSR or CSC, entries that are stored twice added up."""
    given = x if x.format in ("csr", "csc") else x.tocsr()
    if not given.has_canonical_format:
        given = given.copy()
        given.sum_duplicates()
    return given
