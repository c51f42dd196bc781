"""Reuse one factor along a path of matrices: of Newton, a continuation, an optimizer.

What was set up for one A still preconditions the next. It is set up anew when the iterations that
its age has cost add up to what a set-up costs, so that a path never pays much more than twice the
least possible: the argument for renting until one should have bought. A hierarchy that only needs
other entries is given them, for a third to a half of a set-up, as long as it serves as well as when
it was new.

References
----------
A. R. Karlin, M. S. Manasse, L. Rudolph and D. D. Sleator, Competitive snoopy caching, Algorithmica
3 (1988): the argument.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..operators.operator import Operator
from ..report import LinearCounts
from .factor import DelegatingFactor, Factor
from .operands import operator_of
from .protocols import Solver

SETUP_ITERATIONS = 40  # that a set-up is worth: LU of a surface 12 to 60, AMG 60 to 120
MAX_AGED_ITERATIONS = 60  # of a solve, after which an aged factor is given up at once
WORN_RATIO = 1.5  # of the iterations of a new factor, at which other entries are no longer enough
NEGLIGIBLE_ITERATIONS = 5


class Reused(Solver):
    """A solver that keeps its last factor for nearby matrices.

    Parameters
    ----------
    solver : Solver
        What sets a factor up.

    Attributes
    ----------
    held : Factor or None
        The last factor that was set up.
    excess : float
        Iterations since then beyond those that a new factor would have taken.
    weakest : (N,) array or None
        The left singular vector of the smallest singular value of the last A that was looked at.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq.linear import Reused
    >>> from mfdeq.report import LinearCounts
    >>> solver, counts = Reused(mfdeq.Direct()), LinearCounts()
    >>> for shift in (0.0, 1e-3, 2e-3):
    ...     A = np.diag([1.0, 2.0, 4.0]) + shift
    ...     x = solver.setup(A, counts).solve(np.ones(3))
    >>> counts.setups
    1
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self._begin()

    def _begin(self) -> None:
        self.held: Factor | None = None
        self.weakest: Array | None = None
        self.excess = 0.0
        self._iterations_per_digit: float | None = None  # of a new factor
        self.refreshed = False  # Whether the held factor was given other entries,
        self.worn = False  # and whether they have turned out not to serve.

    def __getstate__(self) -> dict[str, Any]:
        """All but the factor, which cannot be pickled and is set up again."""
        return {**self.__dict__, "held": None}

    def forget(self) -> None:
        """Set up anew at the next matrix, as if it were the first."""
        self._begin()
        self.solver.forget()

    @property
    def description(self) -> str:
        """That of the solver."""
        return self.solver.description

    @property
    def choices(self) -> Sequence[str]:
        """Those of the solver."""
        return self.solver.choices

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """A factor for one of many matrices: the held one's, as long as that is cheaper."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        factor = None
        if self.held is not None and not self._aged(A):
            factor = self.held.precondition(A, counts, MAX_AGED_ITERATIONS)
        return _AgedFactor(A, self, factor or self.fresh(A, counts), counts)

    def settle(self, A: Operator, counts: LinearCounts) -> Factor:
        """The factor for many solves with one matrix: a held preconditioner, else a new LU."""
        if self.held is None or self._aged(A):
            return self.fresh(A, counts)
        worth_refreshing = self.excess > NEGLIGIBLE_ITERATIONS
        if worth_refreshing and (factor := self._refactorized(self.held, A, counts)):
            return factor
        return self.held.reuse_for(A, counts) or self.fresh(A, counts)

    def _aged(self, A: Operator) -> bool:
        too_old = self.excess > SETUP_ITERATIONS
        return self.held is None or self.held.A.shape != A.shape or too_old

    def fresh(self, A: Operator, counts: LinearCounts) -> Factor:
        """Put the entries of A into what is held, or set up for A."""
        held, self.held = self.held, None  # so that no two factors are in memory at a time
        if held is not None and held.A.shape == A.shape:
            if (factor := self._refactorized(held, A, counts)) is not None:
                return factor
            held = None
        self.excess, self._iterations_per_digit = 0.0, None
        self.refreshed = self.worn = False
        self.held = self.solver.setup(A, counts)
        return self.held

    def _refactorized(self, held: Factor, A: Operator, counts: LinearCounts) -> Factor | None:
        factor = None
        with contextlib.suppress(MemoryError):
            factor = None if self.worn else held.refactorize(A, counts)
        if factor is not None:
            self.held, self.excess, self.refreshed = factor, 0.0, True
        return factor

    def charge(self, iterations: int, rtol: float) -> None:
        """Add up what the age of the factor has cost in a solve."""
        digits = max(math.log10(1.0 / rtol), 0.1)
        if self._iterations_per_digit is None:
            self._iterations_per_digit = iterations / digits
        expected = self._iterations_per_digit * digits
        if self.refreshed and self.excess == 0.0:
            self.worn = iterations > WORN_RATIO * expected + NEGLIGIBLE_ITERATIONS
        self.excess += max(iterations - expected, 0.0)


class _AgedFactor(DelegatingFactor):
    """Solves with A, preconditioned by a factor of an earlier matrix until that has failed."""

    def __init__(self, A: Operator, reused: Reused, current: Factor, counts: LinearCounts) -> None:
        super().__init__(A, counts)
        self.reused = reused
        self.adopt(current)

    def _solve_checked(self, b: Array, rtol: float | None = None, adjoint: bool = False) -> Array:
        before = self.counts.iterations
        try:
            x = self.current._solve_checked(b, rtol, adjoint)
        except ConvergenceError:
            if self.current is self.reused.held and not self.reused.refreshed:
                raise
            self.reused.worn = self.reused.refreshed
            self.adopt(self.reused.fresh(self.A, self.counts))
            return self._solve_checked(b, rtol, adjoint)
        self.reused.charge(self.counts.iterations - before, self.rtol if rtol is None else rtol)
        return x
