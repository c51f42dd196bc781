"""The Jacobi preconditioner, and inverses of diagonals and of block diagonals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, is_sparse
from ...errors import ArgumentError
from ...operators.matrix_operator import Diagonal
from ...operators.operator import Operator
from ..operands import matrix_of, operator_of
from ..protocols import Preconditioner, PreconditionerOperator


@dataclass(frozen=True)
class Jacobi(Preconditioner):
    """The inverse of the diagonal of A.

    It helps if rows or columns of A differ in scale, and costs next to nothing.

    See Also
    --------
    ILU, AMG

    Examples
    --------
    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> scales = np.logspace(0, 6, 50)
    >>> A = sp.diags([-scales[1:] / 3, scales, -scales[1:] / 3], [-1, 0, 1]).tocsr()
    >>> factor = mfdeq.Krylov(preconditioner=mfdeq.Jacobi()).setup(A)
    >>> x = factor.solve(np.ones(50))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8)
    True
    """

    equilibrates = True
    follows_scale = True

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Invert the diagonal.

        Raises
        ------
        ArgumentError
            If it has a zero, or if only products with A are available.
        """
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.Jacobi()")
        return _InverseDiagonal(A.backend, inverse_diagonal(A.backend, array, "mfdeq.Jacobi()"))


class _InverseDiagonal(Diagonal, PreconditionerOperator):
    """Multiplication by a vector, whose few bytes are not counted."""

    description = "Jacobi"


def inverse_diagonal(
    backend: Backend, array: Any, needed_by: str, advice: str = "use mfdeq.ILU()"
) -> Array:
    """Return the entrywise inverse of the diagonal of a matrix.

    Parameters
    ----------
    backend : Backend
    array : sparse matrix or array, (N, N)
    needed_by : str
        Name of what needs it, for the error.
    advice : str, optional
        What the error says to do.

    Raises
    ------
    ArgumentError
        If the diagonal has a zero.
    """
    diagonal = array.diagonal() if is_sparse(array) else backend.xp.linalg.diagonal(array)
    if bool(backend.xp.any(diagonal == 0)):
        raise ArgumentError(f"{needed_by}: the diagonal of A has zeros; {advice}")
    return 1.0 / diagonal


def inverse_block_diagonal(A: Any, size: int) -> Any:
    """Return the inverse of the block diagonal of a CSR matrix, as one of the same library."""
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
