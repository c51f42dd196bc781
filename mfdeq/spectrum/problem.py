"""What `mfdeq.eigsh` was asked for, and the protocol of the methods that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array
from ..operators.operator import Operator
from .checkpoint import EigenCheckpoint
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs

MAX_DENSE_SIZE = 40  # P up to which all eigenpairs are computed at once


@dataclass(frozen=True)
class EigenProblem:
    """The arguments of one call of `mfdeq.eigsh`, checked.

    Attributes
    ----------
    H : CountedOperator, (P, P)
    k, which, rtol, preconditioner, max_products, resume, relaxed, progress
        As in `mfdeq.eigsh`.
    inverse : Operator, (P, P), or None
        (H - sigma M)^-1, where the pairs nearest to a shift are wanted.
    start : (P, b) array
        Where the search starts.
    max_size : int
        The largest number of vectors in the basis.
    checkpoint : EigenCheckpoint
    """

    H: CountedOperator
    k: int
    which: str
    rtol: float
    preconditioner: Operator | None
    inverse: Operator | None
    start: Array
    max_size: int
    max_products: int
    resume: Eigenpairs | None
    relaxed: bool
    progress: bool
    checkpoint: EigenCheckpoint

    @property
    def dense(self) -> bool:
        """Whether H is so small, or k so large, that all eigenpairs are computed at once."""
        P = self.H.H.shape[0]
        return P <= MAX_DENSE_SIZE or self.k >= P - 1


@dataclass(frozen=True)
class EigenMethod:
    """One method of `mfdeq.eigsh`.

    Attributes
    ----------
    name : str
        As in ``pairs.report.method``, which may say more.
    applies : callable
        Whether it is for this problem. `mfdeq.eigsh` takes the first method in its list that is.
    solve : callable
        The k eigenpairs, with true residuals and bounds; a `ConvergenceError` with those found
        as `best` where fewer than k converged.
    """

    name: str
    applies: Callable[[EigenProblem], bool]
    solve: Callable[[EigenProblem], Eigenpairs]
