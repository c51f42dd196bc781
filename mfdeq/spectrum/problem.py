"""The eigenvalue problem of one call of `mfdeq.eigsh`, and the interface of its methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array
from ..operators.library_operator import MAX_DENSE_ENTRIES
from ..operators.operator import Operator
from .checkpoint import EigenCheckpoint
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs

MAX_DENSE_SIZE = 40  # largest P for which the dense method is always used
SEARCH_PRODUCTS = 3  # P times this many products without success, and H is formed, if it may be


@dataclass(frozen=True)
class EigenProblem:
    """The validated arguments of one call of `mfdeq.eigsh`.

    Attributes
    ----------
    H : CountedOperator, (P, P)
    k, which, rtol, preconditioner, max_products, resume, relaxed, complete, progress
        As in `mfdeq.eigsh`.
    inverse : Operator, (P, P), or None
        (H - sigma M)^-1, if the pairs nearest to sigma are wanted.
    start : (P, b) array
        The start of the search.
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
    complete: bool
    progress: bool
    checkpoint: EigenCheckpoint

    @property
    def dense(self) -> bool:
        """Whether the dense method is used, since H is small or k is nearly P."""
        P = self.H.H.shape[0]
        return P <= MAX_DENSE_SIZE or self.k >= P - 1

    @property
    def dense_at_last(self) -> bool:
        """Whether the dense method is used if a search fails: P products form H."""
        P = self.H.H.shape[0]
        affordable = self.max_products >= (SEARCH_PRODUCTS + 1) * P
        return self.inverse is None and P * P <= MAX_DENSE_ENTRIES and affordable

    @property
    def search_products(self) -> int:
        """The limit on the products of a search."""
        return SEARCH_PRODUCTS * self.H.H.shape[0] if self.dense_at_last else self.max_products


@dataclass(frozen=True)
class EigenMethod:
    """One method of `mfdeq.eigsh`.

    Attributes
    ----------
    name : str
        The name; ``pairs.report.method`` may be more specific.
    applies : callable
        ``applies(problem)`` returns whether the method can solve the problem. `mfdeq.eigsh` uses
        the first method in its list that applies.
    solve : callable
        ``solve(problem)`` returns the k eigenpairs, with true residuals and bounds. If fewer than k
        converge, it raises a `ConvergenceError` with these as `best`.
    """

    name: str
    applies: Callable[[EigenProblem], bool]
    solve: Callable[[EigenProblem], Eigenpairs]
