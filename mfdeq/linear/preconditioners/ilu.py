"""Preconditioners that one line of scipy makes: Jacobi and incomplete LU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arguments import at_least
from ...arrays.backend import Array, Backend, is_sparse
from ...errors import ArgumentError
from ...operators.operator import Diagonal, Operator
from ..factor import matrix_of, singular


@dataclass(frozen=True)
class Jacobi:
    """The inverse of the diagonal of A."""

    def setup(self, A: Operator) -> Operator:
        """Take the diagonal.

        Raises
        ------
        ArgumentError
            If it has a zero.
        """
        array = matrix_of(A, "mfdeq.Jacobi()")
        return Diagonal(A.backend, inverse_diagonal(A.backend, array, "mfdeq.Jacobi()"))


@dataclass(frozen=True)
class ILU:
    """Incomplete LU with threshold, by SuperLU.

    Parameters
    ----------
    drop_tol : float, optional
        Entries below this, relative to their column, are dropped.
    fill_factor : float, optional
        Upper bound on the ratio of stored entries to those of A.
    """

    drop_tol: float = 1e-4
    fill_factor: float = 10.0

    def __post_init__(self) -> None:
        at_least(0.0, self.drop_tol, "drop_tol of mfdeq.ILU")
        at_least(1.0, self.fill_factor, "fill_factor of mfdeq.ILU")

    def setup(self, A: Operator) -> Operator:
        """Factorize incompletely.

        Raises
        ------
        SingularStateError
            On a zero pivot.
        """
        array = matrix_of(A, "mfdeq.ILU()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.ILU() needs a sparse A; for a dense one use mfdeq.Direct()")
        try:
            ilu = A.backend.sparse_linalg.spilu(
                array.tocsc(), drop_tol=self.drop_tol, fill_factor=self.fill_factor
            )
        except RuntimeError as error:
            raise singular(0.0, f"({error})") from error
        return _IncompleteLU(A, ilu)


class _IncompleteLU(Operator):
    def __init__(self, A: Operator, ilu: Any) -> None:
        super().__init__(A, A.shape)
        self.ilu = ilu

    @property
    def nbytes(self) -> int:
        """Memory of the factors."""
        return (self.backend.itemsize + 4) * self.ilu.nnz

    def _apply(self, x: Array) -> Array:
        return self.ilu.solve(x, "N")

    def _apply_adjoint(self, y: Array) -> Array:
        return self.ilu.solve(y, "T")


def inverse_diagonal(backend: Backend, array: Any, needed_by: str) -> Array:
    """The entrywise inverse of a matrix's diagonal, or an `ArgumentError` where that has zeros."""
    diagonal = array.diagonal() if is_sparse(array) else backend.xp.linalg.diagonal(array)
    if bool(backend.xp.any(diagonal == 0)):
        raise ArgumentError(f"{needed_by}: the diagonal of A has zeros; use mfdeq.ILU()")
    return 1.0 / diagonal


def inverse_block_diagonal(A: Any, size: int) -> Any:
    """The inverse of the diagonal blocks of a CSR matrix, as a sparse matrix beside it."""
    backend = Backend.of(A.data)
    n = A.shape[0]
    if size == 1:
        return backend.sparse.diags(1.0 / A.diagonal()).tocsr()
    blocks = backend.xp.stack(
        [
            backend.xp.stack([A[i::size, j::size].diagonal() for j in range(size)], axis=-1)
            for i in range(size)
        ],
        axis=-2,
    )
    try:
        inverses = backend.xp.linalg.inv(blocks)
    except ValueError as error:  # numpy's LinAlgError
        raise ArgumentError(
            f"a diagonal block of A of size {size} is singular: use another block_size"
        ) from error
    points = backend.xp.arange(n // size + 1)
    return backend.sparse.bsr_matrix((inverses, points[:-1], points), shape=(n, n)).tocsr()
