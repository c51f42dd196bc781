"""A preconditioner of another matrix than A: where A is known only by its products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import is_sparse
from ...errors import ArgumentError
from ...operators.operator import Matrix, Operator
from ...operators.probing import Coloured
from ..factor import Application, Factor


@dataclass(frozen=True)
class Approximate:
    """A preconditioner built from a matrix that stands for A.

    Parameters
    ----------
    by : description
        What is set up for that matrix: `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()` or
        `mfdeq.Direct()`.
    matrix : (N, N) matrix, optional
        An approximation of A: with its far couplings dropped, of a simpler model.
    pattern : (N, N) sparse matrix, optional
        In place of a matrix, where A may have entries; A is then probed by products with sums of
        unit vectors whose columns have no row in common in the pattern (Curtis, Powell and Reid
        1974). Exact where the pattern holds all entries of A; those outside fall on others.
    """

    by: Any
    matrix: Any = None
    pattern: Any = None

    def __post_init__(self) -> None:
        if (self.matrix is None) == (self.pattern is None):
            raise ArgumentError("mfdeq.Approximate takes exactly one of matrix= and pattern=")
        if self.pattern is not None and not is_sparse(self.pattern):
            raise ArgumentError(
                f"the pattern of mfdeq.Approximate is a {type(self.pattern).__name__}; a sparse "
                "matrix was expected"
            )
        if not hasattr(self.by, "setup"):
            raise ArgumentError(
                f"mfdeq.Approximate sets up {self.by!r}; mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi() "
                "or mfdeq.Direct() was expected"
            )

    def setup(self, A: Operator) -> Operator:
        """Set up for the matrix, or for what probing A gives."""
        given = self.matrix if self.pattern is None else self.pattern
        if tuple(given.shape) != tuple(A.shape):
            raise ArgumentError(
                f"mfdeq.Approximate holds a matrix of shape {tuple(given.shape)}; {A.shape} was "
                "expected"
            )
        backend = A.backend
        matrix = (
            backend.asarray(given) if self.pattern is None else Coloured(self.pattern).matrix_of(A)
        )
        found = self.by.setup(Matrix(backend, matrix))
        return Application(found) if isinstance(found, Factor) else found
