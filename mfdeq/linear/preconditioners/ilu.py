"""Incomplete LU factorization as a preconditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arguments import at_least
from ...arrays.backend import Array, is_sparse
from ...errors import ArgumentError
from ...operators.operator import Operator
from ..costs import BYTES_PER_ENTRY
from ..operands import matrix_of, operator_of
from ..protocols import Preconditioner, PreconditionerOperator
from ..rounding import singular_error
from ..scaling import Scaling


@dataclass(frozen=True)
class ILU(Preconditioner):
    """Incomplete LU with threshold dropping, by SuperLU.

    Rows and columns of A are scaled to similar size first, so that neither the entries dropped nor
    the iterations depend on the units of equations and unknowns.

    Parameters
    ----------
    drop_tol : float, optional
        Entries below this, relative to the norm of their column, are dropped.
    fill_factor : float, optional
        Upper bound on the ratio of the entries of the factors to those of A.

    See Also
    --------
    AMG : for discretized elliptic equations, for which iterations with ILU grow with the mesh

    References
    ----------
    X. S. Li and M. Shao, A supernodal approach to incomplete LU factorization with partial
    pivoting, ACM Trans. Math. Softw. 37 (2011).

    Examples
    --------
    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> A = sp.diags([-1.2, 2.1, -0.8], [-1, 0, 1], shape=(60, 60)).tocsr()
    >>> factor = mfdeq.Krylov(preconditioner=mfdeq.ILU(drop_tol=1e-3)).setup(A)
    >>> x = factor.solve(np.ones(60))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8)
    True
    """

    drop_tol: float = 1e-4
    fill_factor: float = 10.0

    equilibrates = True
    follows_scale = True

    def __post_init__(self) -> None:
        at_least(0.0, self.drop_tol, "drop_tol of mfdeq.ILU")
        at_least(1.0, self.fill_factor, "fill_factor of mfdeq.ILU")

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Compute the incomplete factors.

        Raises
        ------
        ArgumentError
            If A is dense, or if only products with it are available.
        SingularStateError
            If a pivot is zero.
        """
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.ILU()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.ILU() needs a sparse A; for a dense one use mfdeq.Direct()")
        scaling = Scaling.exact(A)
        try:
            ilu = A.backend.sparse_linalg.spilu(
                scaling.apply(array).tocsc(), drop_tol=self.drop_tol, fill_factor=self.fill_factor
            )
        except RuntimeError as error:
            raise singular_error(0.0, "(a pivot of its incomplete LU is zero)") from error
        return _IncompleteLU(A, ilu, scaling, self.description)


class _IncompleteLU(PreconditionerOperator):
    """Solves with incomplete factors of R A C."""

    def __init__(self, A: Operator, ilu: Any, scaling: Scaling, description: str) -> None:
        super().__init__(A, A.shape)
        self.ilu, self.scaling, self.description = ilu, scaling, description

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return (self.backend.itemsize + 4) * self.ilu.nnz

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the cost of two triangular solves."""
        return triangular_entry * self.nbytes / BYTES_PER_ENTRY

    def _apply(self, x: Array) -> Array:
        return self.scaling.solve(self._solve, x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.scaling.solve(self._solve, y, True)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        return self.ilu.solve(b, "T" if adjoint else "N")
