"""Reuse one factor along a path of matrices: of Newton's method, a continuation or an optimizer.

A factor that was set up for one A preconditions solves with the next, unless it is so small that
another one costs less than an iteration. It is replaced when the additional iterations have cost as
much as a set-up, so that a path never costs much more than twice the least possible (the ski-rental
argument [1]_). If the next matrix has equal entries, as one of a linear model has, the factor is
kept. A multigrid hierarchy is refreshed with the entries of the new matrix, for a third to a half
of the cost of a set-up, as long as it remains as good as a new one.

References
----------
.. [1] A. R. Karlin, M. S. Manasse, L. Rudolph and D. D. Sleator, Competitive snoopy caching,
   Algorithmica 3 (1988).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..locks import lock_of
from ..operators.operator import Operator
from ..report import LinearCounts
from .delegating_factor import DelegatingFactor
from .factor import Factor
from .operands import have_equal_entries, operator_of
from .pinned import set_up
from .protocols import Solver

MAX_EXCESS = 1.0  # cost of the additional iterations, over that of a set-up, when one is due
MAX_AGED_ITERATIONS = 60  # of one solve, after which an aged factor is replaced at once
# Iterations with a refreshed factor, over those with a new one, above which a set-up is due.
WORN_RATIO = 1.5
NEGLIGIBLE_ITERATIONS = 5  # additional iterations of one solve that do not show wear
NEGLIGIBLE_EXCESS = 0.125  # of the cost of a set-up, which does not justify a refresh
# Additional iterations of loose solves count half: where A is nearly singular, an exact Newton step
# may be far too long, and an inexact one with an aged factor is not.
LOOSE_RTOL, LOOSE_SHARE = 1e-3, 0.5


class Reused(Solver):
    """A solver that keeps its last factor for nearby matrices.

    `mfdeq.solve` makes one for each call. Pass the same one as ``solver=`` to several calls with
    nearby parameters, and they share a factor.

    Parameters
    ----------
    solver : Solver
        The solver that sets up factors.

    Attributes
    ----------
    held : Factor or None
        The last factor that was set up.
    excess : float
        Cost of the additional iterations since the set-up, over those that a new factor would have
        taken, relative to the estimated cost of a set-up.
    weakest : (N,) array or None
        The left singular vector of the smallest singular value of the last A at an equilibrium,
        from which the next estimate starts.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq.linear import Reused
    >>> from mfdeq.report import LinearCounts
    >>> solver, counts = Reused(mfdeq.Direct()), LinearCounts()
    >>> for shift in (0.0, 1e-3, 2e-3):
    ...     A = np.diag(np.linspace(1.0, 2.0, 300)) + shift
    ...     x = solver.setup(A, counts).solve(np.ones(300))
    >>> counts.setups
    1

    Two equilibria that share the factor:

    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> solver = Reused(mfdeq.Krylov(preconditioner=mfdeq.ILU()))
    >>> first = mfdeq.solve(model, np.array([2.0, 10.0]), solver=solver)
    >>> second = mfdeq.solve(model, np.array([2.0, 10.01]), first.state, solver=solver)
    >>> second.report.forward.setups
    0
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self._begin()

    def _begin(self) -> None:
        self.held: Factor | None = None
        self.weakest: Array | None = None
        self.excess = 0.0
        self._iterations_per_digit: float | None = None  # of a new factor
        self.refreshed = False  # whether the held factor has been refreshed since its set-up
        self.worn = False  # whether it converged too slowly after that to be refreshed again

    def __getstate__(self) -> dict[str, Any]:
        """Return everything except the factor, which cannot be pickled and is set up again."""
        return {**self.__dict__, "held": None}

    def forget(self) -> None:
        """Discard the factor, so that the next matrix is treated as the first."""
        self._begin()
        self.solver.forget()

    @property
    def description(self) -> str:
        """The description of the solver."""
        return self.solver.description

    @property
    def choices(self) -> Sequence[str]:
        """The choices of the solver."""
        return self.solver.choices

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Return a factor for one of many matrices.

        The factor of an earlier matrix preconditions its solves as long as that is cheaper than a
        set-up.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with lock_of(self):
            factor = self._held_for_equal(A, counts)
            if factor is None and self.held is not None and not self._aged(A):
                factor = self.held.preconditioned_factor(A, counts, MAX_AGED_ITERATIONS)
            if factor is None:
                factor = self.renew(A, counts)
                if not factor.iterative:  # it does not age as long as it solves with this matrix
                    return factor
            return _AgedFactor(A, self, factor, counts)

    def setup_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor:
        """Return a factor for many solves with one matrix, that of an equilibrium.

        An aged preconditioner is reused, or refreshed; an aged LU is replaced by one of A.
        """
        with lock_of(self):
            if (factor := self._held_for_equal(A, counts)) is not None:
                return factor
            if self.held is None or self._aged(A):
                return self.renew(A, counts)
            worth_refreshing = self.excess > NEGLIGIBLE_EXCESS
            if worth_refreshing and (factor := self._refactorized(self.held, A, counts)):
                return factor
            return self.held.factor_for_equilibrium(A, counts) or self.renew(A, counts)

    def _held_for_equal(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return the held factor if it is that of A, as it always is for a linear model."""
        if self.held is None or not have_equal_entries(self.held.A, A):
            return None
        return self.held.counted_in(counts)

    def _aged(self, A: Operator) -> bool:
        too_old = self.excess > MAX_EXCESS
        return self.held is None or self.held.A.shape != A.shape or too_old

    def renew(self, A: Operator, counts: LinearCounts) -> Factor:
        """Refresh the stored factor for A, or build a new one."""
        with lock_of(self):
            held, self.held = self.held, None  # so that two factors are never in memory together
            if held is not None and held.A.shape == A.shape:
                if (factor := self._refactorized(held, A, counts)) is not None:
                    return factor
                held = None
            self.excess, self._iterations_per_digit = 0.0, None
            self.refreshed = self.worn = False
            self.held = set_up(self.solver, A, counts)
            if not self.held.iterative:
                self._iterations_per_digit = 0.0
            return self.held

    def replacement(self, aged: _AgedFactor, failed: Factor, error: ConvergenceError) -> Factor:
        """Return a factor in place of the current one of `aged`, with which a solve has failed.

        The error is raised if that factor is as good as a new one.
        """
        with lock_of(self):
            if aged.current is not failed:  # Another thread has replaced it.
                return aged.current
            if failed is self.held and not self.refreshed:
                raise error
            self.worn = self.refreshed
            return self.renew(aged.A, aged.counts)

    def _refactorized(self, held: Factor, A: Operator, counts: LinearCounts) -> Factor | None:
        factor = None
        with contextlib.suppress(MemoryError):
            factor = None if self.worn else held.refactorize(A, counts)
        if factor is not None:
            self.held, self.excess, self.refreshed = factor, 0.0, True
        return factor

    def charge(self, iterations: int, rtol: float, columns: int) -> None:
        """Add the cost of the additional iterations of a solve to `excess`."""
        digits = max(math.log10(1.0 / rtol), 0.1)
        with lock_of(self):
            if self._iterations_per_digit is None:
                self._iterations_per_digit = iterations / digits
            expected = self._iterations_per_digit * digits
            if self.refreshed and self.excess == 0.0:
                self.worn = iterations > WORN_RATIO * expected + NEGLIGIBLE_ITERATIONS
            if self.held is not None and iterations > expected:
                per_setup = self.held.iterations_per_setup(columns)
                share = LOOSE_SHARE if rtol > LOOSE_RTOL else 1.0
                self.excess += share * (iterations - expected) / per_setup


class _AgedFactor(DelegatingFactor):
    """A factor of A, preconditioned by one of an earlier matrix until a solve with that fails."""

    def __init__(self, A: Operator, reused: Reused, current: Factor, counts: LinearCounts) -> None:
        super().__init__(A, counts)
        self.reused = reused
        self.adopt(current)

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        reused = self.reused
        if reused.excess > MAX_EXCESS:  # since earlier solves with this matrix
            self.adopt(reused.renew(self.A, self.counts))
        current = self.current
        try:
            x = current._solve_checked(b, rtol, adjoint, weights)
        except ConvergenceError as error:
            self.adopt(reused.replacement(self, current, error))
            return self._solve_checked(b, rtol, adjoint, weights)
        used, columns = current.iterations_of_last_solve, 1 if b.ndim == 1 else b.shape[1]
        reused.charge(used, self.rtol if rtol is None else rtol, columns)
        return x
