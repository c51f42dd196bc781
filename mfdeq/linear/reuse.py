"""One factor along a path of matrices: Newton steps, continuation, an optimizer's iterates.

What was set up for one A still preconditions the next. It is set up anew when the iterations that
its age has cost add up to what a set-up costs, so that a path never pays much more than twice the
least (the argument of renting against buying). A hierarchy that only needs other entries is given
them, for a third to half of that, as long as it serves as well as when it was new.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..operators.operator import Operator
from ..report import LinearCounts
from .factor import Factor, Solver

SETUP = 40  # iterations that a set-up is worth: LU of a surface 12 to 60, AMG 60 to 120
LONGEST = 60  # iterations of a solve after which an aged factor is given up at once
WORN = 1.5  # times the iterations of a fresh factor, at which other entries are no longer enough
FEW = 5  # iterations that make no difference


class Reused:
    """A solver that keeps its last factor for nearby matrices.

    Parameters
    ----------
    solver : description
        What sets a factor up.

    Attributes
    ----------
    weakest : (N,) array or None
        The left singular vector of the least singular value of the last A that was looked at.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self._begin()

    def _begin(self) -> None:
        self.held: Factor | None = None
        self.weakest: Array | None = None
        self.spent = 0.0  # iterations beyond those of a fresh factor
        self.rate: float | None = None  # iterations per digit of a fresh factor
        self.refreshed = self.worn = False  # whether it holds other entries, and they do not serve

    def __getstate__(self) -> dict[str, Any]:
        """All but the factor, which cannot be pickled and is set up again."""
        return {**self.__dict__, "held": None}

    def forget(self) -> None:
        """Set up anew at the next matrix, as if it were the first."""
        self._begin()
        if hasattr(self.solver, "forget"):  # it has chosen
            self.solver.forget()

    @property
    def choices(self) -> list[str]:
        """What "auto" picked and why."""
        return getattr(self.solver, "choices", [])

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """A factor for one of many matrices: the held one's, as long as that is cheaper."""
        counts = LinearCounts() if counts is None else counts
        if self._aged(A):
            return _Aged(A, self, self.fresh(A, counts), counts)
        assert self.held is not None
        nearby = self.held.nearby(A, counts, LONGEST)
        return _Aged(A, self, nearby or self.fresh(A, counts), counts)

    def settle(self, A: Operator, counts: LinearCounts) -> Factor:
        """The factor for many solves with one matrix: a held preconditioner, else a fresh LU."""
        if self._aged(A):
            return self.fresh(A, counts)
        assert self.held is not None
        if self.spent > FEW and (refreshed := self._refreshed(self.held, A, counts)):
            return refreshed
        return self.held.kept_for(A, counts) or self.fresh(A, counts)

    def _aged(self, A: Operator) -> bool:
        return self.held is None or self.held.A.shape != A.shape or self.spent > SETUP

    def fresh(self, A: Operator, counts: LinearCounts) -> Factor:
        """Set up for A, or put its entries into what is held."""
        held, self.held = self.held, None  # no two factors in memory at a time
        if held is not None and held.A.shape == A.shape:
            if (refreshed := self._refreshed(held, A, counts)) is not None:
                return refreshed
            held = None
        self.spent, self.rate, self.refreshed, self.worn = 0.0, None, False, False
        self.held = self.solver.setup(A, counts)
        return self.held

    def _refreshed(self, held: Factor, A: Operator, counts: LinearCounts) -> Factor | None:
        found = None
        with contextlib.suppress(MemoryError):
            found = None if self.worn else held.refreshed(A, counts)
        if found is not None:
            self.held, self.spent, self.refreshed = found, 0.0, True
        return found

    def charge(self, iterations: int, rtol: float) -> None:
        """Take note of what a solve took."""
        digits = max(math.log10(1.0 / rtol), 0.1)
        if self.rate is None:
            self.rate = iterations / digits
        expected = self.rate * digits
        if self.refreshed and self.spent == 0.0:
            self.worn = iterations > WORN * expected + FEW
        self.spent += max(iterations - expected, 0.0)


class _Aged(Factor):
    """Solves with A, preconditioned by a factor of an earlier matrix until that has failed."""

    def __init__(self, A: Operator, reused: Reused, current: Factor, counts: LinearCounts) -> None:
        super().__init__(A, current.rtol, counts)
        self.counts.setups -= 1  # what is set up counts itself
        self.reused, self.current = reused, current
        self.name = current.name

    def _solve(self, b: Array, rtol: float | None, adjoint: bool) -> Array:
        before = self.counts.iterations
        try:
            x = self.current._solve(b, rtol, adjoint)
        except ConvergenceError:
            if self.current is self.reused.held and not self.reused.refreshed:
                raise
            self.reused.worn = self.reused.refreshed
            self.current = self.reused.fresh(self.A, self.counts)
            self.name = self.current.name
            return self._solve(b, rtol, adjoint)
        self.reused.charge(self.counts.iterations - before, self.rtol if rtol is None else rtol)
        return x

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        return self.current.approximate(r, adjoint=adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self.current._approximate(r, adjoint)
