"""A as solvers take it: as an operator, and its entries where they are known."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import is_sparse
from ..arrays.sparse import to_canonical_format
from ..errors import ArgumentError
from ..operators.operator import Operator
from ..operators.user_operators import as_operator, backend_of


def operator_of(A: Any) -> Operator:
    """A square matrix or operator of any kind as an `Operator`.

    Parameters
    ----------
    A : Operator, LinearOperator, sparse matrix or array, (N, N)

    Raises
    ------
    ArgumentError
        If A is not square.
    """
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(
            "expected A to be a square matrix, or a LinearOperator with its adjoint, got a "
            f"{type(A).__name__} of shape {shape}"
        )
    if isinstance(A, Operator):
        return A
    if is_sparse(A):
        A = to_canonical_format(A)
    return as_operator(backend_of(A), A, shape, "A")


def matrix_of(A: Operator, needed_by: str) -> Any:
    """The sparse matrix or array of an operator that is known by its entries.

    Parameters
    ----------
    A : Operator
    needed_by : str
        What needs the entries, in the error.

    Raises
    ------
    ArgumentError
        If only products with A are known, or PETSc has the entries.
    """
    array = A.array
    if array is None and A.has_entries:
        raise ArgumentError(
            f"{needed_by} takes matrices of numpy, scipy and cupy; use "
            "mfdeq.petsc.KSP(options={...}) for those of PETSc"
        )
    if array is None:
        raise ArgumentError(
            f"{needed_by} needs the entries of A, of which only products are known: give a sparse "
            "or dense matrix (a model as its d_state), or use mfdeq.Krylov(preconditioner=M), M "
            "being None, a LinearOperator of your own or mfdeq.Approximate(...)"
        )
    return array
