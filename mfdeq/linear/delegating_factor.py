"""A factor that delegates to another one, which can be replaced."""

from __future__ import annotations

from ..arrays.backend import Array
from ..operators.operator import Operator
from ..report import LinearCounts
from .factor import Factor


class DelegatingFactor(Factor):
    """A factor that delegates to another one, the current factor, which can be replaced."""

    current: Factor

    def __init__(self, A: Operator, counts: LinearCounts) -> None:
        super().__init__(A, None, counts)
        self.counts.add(setups=-1)  # The current factor counts its own set-up.

    @property
    def working(self) -> Factor:
        """The current factor, or the one to which that delegates."""
        return self.current.working

    @property
    def iterations_of_last_solve(self) -> int:
        """The iterations of the last solve of this thread with the current factor."""
        return self.current.iterations_of_last_solve

    def adopt(self, factor: Factor) -> None:
        """Make `factor` the current one."""
        self.current = factor
        self.name, self.rtol = factor.name, factor.rtol
        self.flexible, self.iterative = factor.flexible, factor.iterative

    def counted_in(self, counts: LinearCounts) -> Factor:
        """Return this factor with other counts, and a current factor that shares them."""
        other = super().counted_in(counts)
        assert isinstance(other, DelegatingFactor)
        other.adopt(self.current.counted_in(counts))
        return other

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the approximate inverse of the current factor."""
        return self.current.approximate(r, adjoint=adjoint)

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return the current factor's result."""
        return self.current.preconditioned_factor(A, counts, max_iterations)

    def iterations_per_setup(self, columns: int) -> float:
        """Return the current factor's result."""
        return self.current.iterations_per_setup(columns)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return the current factor's result."""
        return self.current.factor_for_equilibrium(A, counts)

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return the current factor's result."""
        return self.current.refactorize(A, counts)

    def forget(self) -> None:
        """Discard what the current factor would reuse from earlier solves."""
        self.current.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of the current factor."""
        return self.current.nbytes

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.current._attempt(b, rtol, adjoint)

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        return self.current._attempt_weighted(b, rtol, adjoint, weights)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self.current._approximate(r, adjoint)

    def _solve_unchecked(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._solve_checked(b, rtol, adjoint)  # which may replace the current factor
