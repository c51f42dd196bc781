"""The linearizations and the factors of the steps of a trajectory, of which few may be held.

The states of all steps are at hand, so that a step whose linearization is not held is linearized
again, and factorized again, with the same bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor, PartCounts, Solver, set_up
from ..locks import lock_of
from ..operators.operator import Operator
from ..report import LinearCounts
from .checked_steps import CheckedStep, CheckedSteps

T = TypeVar("T")


class Held(OrderedDict[Any, T]):
    """Values by key, of which the latest used are held.

    Parameters
    ----------
    limit : int or None
        The number of values that are held; None holds all.
    """

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit

    def __reduce__(self) -> Any:
        return Held, (self.limit,)  # what is held can be computed again

    def find(self, key: Any, compute: Callable[[], T]) -> T:
        """Return the value of a key, which is computed if it is not held."""
        if key in self:
            self.move_to_end(key)
            return self[key]
        while self.limit is not None and len(self) >= self.limit:
            self.popitem(last=False)  # before the next one is computed
        value = self[key] = compute()
        return value


class LinearizedSteps:
    """The linearizations of all steps at the states of a trajectory.

    Parameters
    ----------
    steps : CheckedSteps
    states : (count, n) array
        They must not change.
    limit : int or None
        The number of linearizations that are held.
    """

    def __init__(self, steps: CheckedSteps, states: Array, limit: int | None) -> None:
        self.steps, self.states, self.limit = steps, states, limit
        self.backend = steps.backend
        self.count, self.size, self.param_size = steps.count, steps.size, steps.param_size
        self._held: Held[CheckedStep] = Held(limit)
        self._start_derivative: Operator | None = None

    def previous(self, k: int) -> Array:
        """Return the state before step k."""
        return self.states[k - 1, :] if k else self.steps.start

    def at(self, k: int) -> CheckedStep:
        """Return the linearization of step k."""
        with lock_of(self):
            return self._held.find(
                k, lambda: self.steps.linearize(k, self.states[k, :], self.previous(k))
            )

    @property
    def start_derivative(self) -> Operator:
        """The derivative of the start, (n, P)."""
        if self._start_derivative is None:
            self._start_derivative = self.steps.start_derivative()
        return self._start_derivative

    def split(self, x: Array) -> Array:
        """Return a stacked vector or block of states, (N, ...), by steps, (count, n, ...)."""
        return self.backend.xp.reshape(x, (self.count, self.size, *x.shape[1:]))

    def join(self, x: Array) -> Array:
        """Return states by steps as one vector or block."""
        return self.backend.xp.reshape(x, (self.count * self.size, *x.shape[2:]))


class FactorsOfSteps:
    """Factors of the matrices of steps, one for all steps that share theirs.

    Parameters
    ----------
    solver : Solver
        The solver of each step.
    counts : LinearCounts
    limit : int or None
        The number of factors that are held.

    Attributes
    ----------
    names : dict of str
        The names of all factors so far, in order.
    borrowed : int
        The number of steps that were solved with the factor of another step, which is that of
        their own matrix as well if all steps share theirs.
    """

    def __init__(self, solver: Solver, counts: LinearCounts, limit: int | None) -> None:
        self.solver, self.counts = solver, counts
        self.names: dict[str, None] = {}
        self.borrowed = 0
        self._held: Held[tuple[Operator, Factor]] = Held(limit)

    def of(self, D: Operator, k: int) -> Factor:
        """Return the factor of the matrix of step k."""
        with lock_of(self):
            # The matrix is kept with its factor because its identity is the key.
            return self._held.find(id(D), lambda: (D, self._set_up(D, k)))[1]

    def holds(self, D: Operator) -> bool:
        """Return whether the matrix of a step has a factor at hand."""
        return id(D) in self._held

    def drop(self, D: Operator) -> None:
        """Drop the factor of a matrix that is needed no more."""
        self._held.pop(id(D), None)

    def only(self, matrices: list[Operator], counts: LinearCounts) -> FactorsOfSteps:
        """Return the factors of some matrices, whose later work is counted in `counts`."""
        other = self.counted_in(counts)
        for key in set(other._held).difference(map(id, matrices)):
            del other._held[key]
        return other

    def _set_up(self, D: Operator, k: int) -> Factor:
        try:
            factor = set_up(self.solver, D, PartCounts(self.counts))
        except (ConvergenceError, SingularStateError) as error:
            error.add_note(f"This was the factorization of step {k}.")
            raise
        self.names[factor.name] = None
        self.counts.raise_to(bytes=self.nbytes)
        return factor

    @property
    def limit(self) -> int | None:
        """The number of factors that are held; None for all."""
        return self._held.limit

    @property
    def current(self) -> list[Factor]:
        """The factors at hand."""
        return [factor for _, factor in self._held.values()]

    @property
    def nbytes(self) -> int:
        """Bytes of the factors at hand."""
        return sum(factor.nbytes for factor in self.current)

    def counted_in(self, counts: LinearCounts) -> FactorsOfSteps:
        """Return the same factors, whose later work is counted elsewhere."""
        other = FactorsOfSteps(self.solver, counts, self._held.limit)
        other.names, other.borrowed = dict(self.names), self.borrowed
        with lock_of(self):
            for key, (D, factor) in self._held.items():
                other._held[key] = D, factor.counted_in(PartCounts(counts))
        return other
