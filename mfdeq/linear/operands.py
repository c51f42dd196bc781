"""Conversion of A to an operator, and access to its entries."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import is_sparse
from ..arrays.sparse import to_canonical_format
from ..errors import ArgumentError
from ..operators.operator import Operator
from ..operators.user_operators import as_operator, backend_of


def operator_of(A: Any) -> Operator:
    """Return a square matrix or linear operator as an `Operator`.

    Parameters
    ----------
    A : Operator, LinearOperator, sparse matrix or array, (N, N)

    Returns
    -------
    Operator
        A itself if it is one.

    Raises
    ------
    ArgumentError
        If A is not square.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import operator_of
    >>> A = operator_of(np.diag([2.0, 4.0]))
    >>> print(A @ np.ones(2), A.array.shape)
    [2. 4.] (2, 2)
    """
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(
            "A: expected a square matrix, or a LinearOperator that has its adjoint, got a "
            f"{type(A).__name__} of shape {shape}"
        )
    if isinstance(A, Operator):
        return A
    if is_sparse(A):
        A = to_canonical_format(A)
    return as_operator(backend_of(A), A, shape, "A")


def matrix_of(A: Operator, needed_by: str) -> Any:
    """Return the sparse matrix or array of an operator whose entries are known.

    Parameters
    ----------
    A : Operator
    needed_by : str
        Name of what needs the entries, for the error.

    Returns
    -------
    array or sparse matrix, (N, N)

    Raises
    ------
    ArgumentError
        If only products with A are available, or PETSc has the entries.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import matrix_of, operator_of
    >>> A = operator_of(np.diag([2.0, 4.0]))
    >>> print(matrix_of(A, "a preconditioner").diagonal())
    [2. 4.]
    """
    array = A.array
    if array is None and A.has_entries:
        raise ArgumentError(
            f"{needed_by} takes matrices of numpy, scipy and cupy; use "
            "mfdeq.petsc.KSP(options={...}) for those of PETSc"
        )
    if array is None:
        raise ArgumentError(
            f"{needed_by} needs the entries of A, but only products with A are available; pass a "
            "sparse or dense matrix (in a model: as d_state), or use "
            "mfdeq.Krylov(preconditioner=M), where M is None, a LinearOperator of your own or "
            "mfdeq.Approximate(...)"
        )
    return array
