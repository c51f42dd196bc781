"""A preconditioner of another matrix than A, where A is known only by its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import is_sparse
from ...errors import ArgumentError
from ...operators.operator import Matrix, Operator
from ...operators.probing import ColouredPattern
from ..protocols import Preconditioner, PreconditionerOperator, Solver
from .wrappers import FactorApplication


@dataclass(frozen=True)
class Approximate(Preconditioner):
    """A preconditioner that is built from a matrix near A.

    Parameters
    ----------
    by : Preconditioner or Solver
        What is set up for that matrix: `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()` or
        `mfdeq.Direct()`.
    matrix : (N, N) matrix, optional
        An approximation of A: with its far couplings dropped, or of a simpler model.
    pattern : (N, N) sparse matrix, optional
        In place of a matrix, where A may have entries; its values do not matter. The entries are
        found by products of A with sums of unit vectors whose columns have no row in common in the
        pattern, as many products as there are colours. That is exact where the pattern holds all
        entries of A; those outside of it are added to others.

    References
    ----------
    A. R. Curtis, M. J. D. Powell and J. K. Reid, On the estimation of sparse Jacobian matrices,
    J. Inst. Math. Appl. 13 (1974).

    Examples
    --------
    The entries of an operator, found by one product for each of the three colours of its pattern:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> from scipy.sparse.linalg import aslinearoperator
    >>> A = sp.diags([-1.2, 2.1, -0.8], [-1, 0, 1], shape=(60, 60)).tocsr()
    >>> M = mfdeq.Approximate(mfdeq.ILU(), pattern=A)
    >>> factor = mfdeq.Krylov(preconditioner=M).setup(aslinearoperator(A))
    >>> x = factor.solve(np.ones(60))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8)
    True
    """

    by: Any
    matrix: Any = None
    pattern: Any = None

    def __post_init__(self) -> None:
        if (self.matrix is None) == (self.pattern is None):
            got = "neither" if self.matrix is None else "both"
            raise ArgumentError(
                f"mfdeq.Approximate: expected exactly one of matrix= and pattern=, got {got}"
            )
        if self.pattern is not None and not is_sparse(self.pattern):
            raise ArgumentError(
                "mfdeq.Approximate: expected pattern to be a sparse matrix, got a "
                f"{type(self.pattern).__name__}"
            )
        if not isinstance(self.by, (Preconditioner, Solver)):
            raise ArgumentError(
                "mfdeq.Approximate: expected by to be mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi() or "
                f"mfdeq.Direct(), got {self.by!r}"
            )

    @property
    def description(self) -> str:
        """What is set up for the matrix."""
        by = self.by
        kind = by.description if isinstance(by, Preconditioner) else type(by).__name__
        return f"Approximate ({kind})"

    @property
    def never_symmetric(self) -> bool:
        """Whether what is set up is never symmetric."""
        return isinstance(self.by, Preconditioner) and self.by.never_symmetric

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Set up for the matrix, or for what probing A gives."""
        given = self.matrix if self.pattern is None else self.pattern
        if tuple(given.shape) != tuple(A.shape):
            raise ArgumentError(
                f"mfdeq.Approximate: expected a matrix or pattern of shape {A.shape}, got one of "
                f"shape {tuple(given.shape)}"
            )
        backend = A.backend
        matrix = (
            backend.asarray(given)
            if self.pattern is None
            else ColouredPattern(self.pattern).matrix_of(A)
        )
        near = Matrix(backend, matrix)
        if isinstance(self.by, Solver):
            return FactorApplication(self.by.setup(near))
        return self.by.setup(near)
