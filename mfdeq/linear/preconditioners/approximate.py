"""A preconditioner built from a matrix near A, for an A with which only products are available."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import is_sparse
from ...errors import ArgumentError, short_repr
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator
from ...operators.probing import ColouredPattern
from ..operands import operator_of
from ..protocols import Preconditioner, PreconditionerOperator, Solver
from .wrappers import FactorApplication


@dataclass(frozen=True)
class Approximate(Preconditioner):
    """A preconditioner that is built from a matrix near A.

    Parameters
    ----------
    by : Preconditioner or Solver
        The preconditioner or solver that is set up for that matrix, such as `mfdeq.AMG()`,
        `mfdeq.ILU()`, `mfdeq.Jacobi()` or `mfdeq.Direct()`.
    matrix : (N, N) matrix, optional
        An approximation of A: A without its far couplings, or that of a simpler model.
    pattern : (N, N) sparse matrix, optional
        Instead of a matrix, the entries that A may have; its values are ignored. The columns of the
        pattern are coloured, such that columns of one colour have no row in common, and one product
        of A for each colour gives the entries. They are exact if the pattern contains all entries
        of A; entries outside it are added to others.

    References
    ----------
    A. R. Curtis, M. J. D. Powell and J. K. Reid, On the estimation of sparse Jacobian matrices,
    J. Inst. Math. Appl. 13 (1974).

    Examples
    --------
    The entries of an operator, from one product for each of the three colours of its pattern:

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
                f"mfdeq.Approximate: expected exactly one of matrix and pattern, got {got}"
            )
        if self.pattern is not None and not is_sparse(self.pattern):
            raise ArgumentError(
                "pattern of mfdeq.Approximate: expected a sparse matrix, got "
                f"{short_repr(self.pattern)}"
            )
        if not isinstance(self.by, (Preconditioner, Solver)):
            instance = isinstance(self.by, type) and issubclass(self.by, (Preconditioner, Solver))
            raise ArgumentError(
                "by of mfdeq.Approximate: expected mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), "
                "mfdeq.Direct(), or an mfdeq.linear.Preconditioner or Solver of your own, got "
                f"{short_repr(self.by)}"
                + (f"; pass an instance, {self.by.__name__}(...)" if instance else "")
            )

    @property
    def description(self) -> str:
        """The name in reports, with that of what is set up for the matrix."""
        by = self.by
        kind = by.description if isinstance(by, Preconditioner) else type(by).__name__
        return f"Approximate ({kind})"

    @property
    def follows_scale(self) -> bool:
        """Whether the preconditioner does, since it is built from entries of A."""
        by = self.by
        return self.matrix is None and (isinstance(by, Solver) or by.follows_scale)

    @property
    def never_symmetric(self) -> bool:
        """Whether the preconditioner `by` is never symmetric."""
        return isinstance(self.by, Preconditioner) and self.by.never_symmetric

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Set up `by` for the matrix, or for the entries of A that the products give."""
        A = operator_of(A)
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
