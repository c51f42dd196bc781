"""The experiments of a sum: their equilibria at one theta, and what is computed together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.shared_factor import group_equal, share_factor, solve_adjoints
from ..equilibrium.solve_together import Request, solve_together
from ..equilibrium.sum_hessian import SumHessian
from ..errors import MfdeqError, is_evaluation_failure
from ..locks import cached_property, state_to_pickle
from ..models.vectors import are_equal
from ..operators.operator import Operator

MAX_NAMED = 5  # failed experiments that an error names


class SumEquilibrium:
    """The equilibria of the experiments of a `SumFunctional` at one theta.

    Attributes
    ----------
    parts : sequence of Equilibrium
        The equilibrium of each experiment.
    params : (P,) array
        theta.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares([0, 1], np.zeros(2)))
    >>> eq = (F + 0.5 * F).equilibrium(np.array([2.0, 10.0]))
    >>> len(eq.parts), eq.state.round(3)
    (2, array([1., 2., 1., 2.]))
    """

    def __init__(self, parts: Sequence[Equilibrium]) -> None:
        self.parts = parts
        self.params, self.backend = parts[0].params, parts[0].backend

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self)

    def __repr__(self) -> str:
        return f"<SumEquilibrium of {len(self.parts)} experiments>"

    @cached_property
    def state(self) -> Array:
        """The states of the experiments one after another, (N_1 + ... + N_m,)."""
        return self.backend.xp.concat([eq.state for eq in self.parts], axis=0)

    @cached_property
    def groups(self) -> Sequence[Sequence[int]]:
        """The indices of the experiments that have the same A, for which one factor serves all."""
        groups = group_equal(
            [eq.linearized.A for eq in self.parts], [eq.solver.description for eq in self.parts]
        )
        for group in groups:
            if len(group) > 1:
                share_factor([self.parts[i] for i in group])
        return groups


class Experiments:
    """The functionals of a sum, solved together where they can be.

    Parameters
    ----------
    functionals : sequence of ReducedFunctional
    names : sequence of str
        Their names for errors, which may be empty.
    map : callable
        ``map(function, items)`` applies a function to independent items.
    first : int, optional
        The index of the first of them, for errors.
    """

    def __init__(
        self,
        functionals: Sequence[Any],
        names: Sequence[str],
        map: Callable[..., Iterable[Any]] = map,
        first: int = 0,
    ) -> None:
        self.functionals, self.names, self._map = functionals, names, map
        self.first = first
        # Functionals that were not solved together with others at the first theta, since their
        # models are not linear or have another A: their starts are evaluated only once.
        self._solved_alone: set[int] = set()
        self._last: SumEquilibrium | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the equilibria, and the executor of `map`."""
        return {**state_to_pickle(self), "_last": None, "_map": map}

    def forget(self, start: Array) -> None:
        """Drop everything but starts, one after another, for the next solves."""
        self._last = None
        for F, part in zip(self.functionals, self._split(start), strict=True):
            F.forget(part)

    def _split(self, state: Array) -> list[Array]:
        parts, first, backend = [], 0, Backend.of(state)
        for F in self.functionals:
            last = first + int(backend.global_size(F.model.state_size))
            parts.append(state[first:last])
            first = last
        return parts

    def outcomes(self, theta: Array) -> list[Equilibrium | Exception]:
        """Return the equilibrium of each experiment at theta, or the error in place of it."""
        pending = [
            i
            for i, F in enumerate(self.functionals)
            if i not in self._solved_alone and not F.equilibria.knows(theta)
        ]
        requests = [self._request(i, theta) for i in pending]
        for i, eq in zip(pending, solve_together(requests), strict=True):
            if eq is None:
                self._solved_alone.add(i)
            else:
                self.functionals[i].equilibria.adopt(eq)

        def solve(F: Any) -> Equilibrium | Exception:
            try:
                return F.equilibrium(theta)
            except Exception as error:
                return error

        return list(self._map(solve, self.functionals))

    def _request(self, i: int, theta: Array) -> Request:
        F = self.functionals[i]
        equilibria = F.equilibria
        return Request(F.model, theta, equilibria.start, equilibria.solver, F.solve_options)

    def at(self, theta: Array) -> SumEquilibrium:
        """Return the equilibria at theta, or raise the error of those without one."""
        if self._last is None or not are_equal(theta, self._last.params):
            outcomes = self.outcomes(theta)
            self.check(outcomes)
            self._last = SumEquilibrium(outcomes)  # type: ignore[arg-type]
        return self._last

    def check(self, outcomes: Sequence[Any]) -> None:
        """Raise the first error among some results, which names all that have failed."""
        failed = [i for i, result in enumerate(outcomes) if isinstance(result, Exception)]
        if failed:
            raise self._named(outcomes[failed[0]], failed)

    def _named(self, error: Exception, failed: Sequence[int]) -> Exception:
        """Return an error that names the experiments that have failed."""
        labels = [
            f"{self.first + i} ({self.names[i]})" if self.names[i] else f"{self.first + i}"
            for i in failed[:MAX_NAMED]
        ]
        more = f" and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
        also = f" (and {', '.join(labels[1:])}{more})" if labels[1:] else ""
        where = f"experiment {labels[0]}{also}"
        if not isinstance(error, MfdeqError):
            error.add_note(f"mfdeq: in {where} of a SumFunctional")
            return error
        named = copy.copy(error)  # the functional keeps the original
        named.args = (f"{where}: {error}", *error.args[1:])
        named.__cause__ = error
        return named

    def values(self, theta: Array, failed_are_inf: bool) -> list[float]:
        """Evaluate the losses of all experiments."""
        if not failed_are_inf:
            return self.values_at(self.at(theta))
        return self.without_failures(self.evaluated(theta))

    def evaluated(self, theta: Array) -> list[Any]:
        """Return the loss of each experiment at theta, or the error in place of it."""
        return self._evaluate_each(self.outcomes(theta))

    def without_failures(self, results: Sequence[Any]) -> list[float]:
        """Return losses with inf in place of failures; raise mistakes."""
        for i, result in enumerate(results):
            if isinstance(result, Exception) and not is_evaluation_failure(result):
                raise self._named(result, [i])
        return [math.inf if _failed(result) else result for result in results]

    def values_at(self, eq: SumEquilibrium) -> list[float]:
        """Evaluate the losses of all experiments at their equilibria."""
        results = self._evaluate_each(eq.parts)
        self.check(results)
        return results

    def _evaluate_each(self, outcomes: Sequence[Any]) -> list[Any]:
        def evaluate(F: Any, outcome: Any) -> Any:
            if isinstance(outcome, Exception):
                return outcome
            try:
                return F.value_at(outcome)
            except Exception as error:
                return error

        return [evaluate(F, out) for F, out in zip(self.functionals, outcomes, strict=True)]

    def gradient(self, eq: SumEquilibrium, weights: Sequence[float]) -> Array:
        """Compute the weighted sum of the gradients of all experiments."""
        self._solve_adjoints(eq)
        return _weighted(
            eq, weights, self._each(lambda i: self.functionals[i].gradient_of(eq.parts[i]))
        )

    def partial_gradient(self, eq: SumEquilibrium, weights: Sequence[float]) -> Array:
        """Return the weighted sum of the derivatives in theta with all states held fixed."""
        return _weighted(
            eq, weights, self._each(lambda i: self.functionals[i].partial_gradient(eq.parts[i]))
        )

    def gradient_at(self, theta: Array, state: Array, weights: Sequence[float]) -> Array:
        """Compute the gradient with states, one after another, in place of the equilibria."""
        total = Backend.of(theta).zeros(theta.shape[0])
        for F, part, weight in zip(self.functionals, self._split(state), weights, strict=True):
            total += weight * F.gradient_at(theta, part)
        return total

    def hessian(
        self,
        eq: SumEquilibrium,
        weights: Sequence[float],
        prior: Operator | None,
        evaluate: bool,
    ) -> SumHessian:
        """Return the weighted sum of the Hessians of all experiments, and of a prior's."""
        self._solve_adjoints(eq)
        hessians = self._each(lambda i: self.functionals[i].hessian_at(eq.parts[i], evaluate))
        parts = list(zip(weights, hessians, strict=True))

        def evaluate_all() -> None:
            self._each(lambda i: hessians[i].evaluate_curvature())

        return SumHessian(eq.backend, parts, prior, self._map, evaluate_all)

    @property
    def _distinct(self) -> list[Any]:
        """The functionals, each once."""
        return list({id(F): F for F in self.functionals}.values())

    @property
    def solves(self) -> int:
        """The number of forward solves of all experiments so far, including failed ones."""
        return sum(F.solves for F in self._distinct)

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far; each right-hand side counts as one."""
        return sum(F.linear_solves for F in self._distinct)

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process."""
        self.functionals[0].add_counts(equilibria, linear_solves)

    def _each(self, function: Callable[[int], Any]) -> list[Any]:
        def guarded(i: int) -> Any:
            try:
                return function(i)
            except Exception as error:
                return error

        results = list(self._map(guarded, range(len(self.functionals))))
        self.check(results)
        return results

    def _solve_adjoints(self, eq: SumEquilibrium) -> None:
        for group in eq.groups:
            if len(group) == 1:
                continue
            try:
                solve_adjoints(
                    [eq.parts[i] for i in group], [self.functionals[i].loss for i in group]
                )
            except Exception as error:
                raise self._named(error, group) from error


def _weighted(eq: SumEquilibrium, weights: Sequence[float], vectors: Sequence[Array]) -> Array:
    total = eq.backend.zeros(eq.params.shape[0])
    for weight, vector in zip(weights, vectors, strict=True):
        total += weight * vector
    return total


def _failed(result: Any) -> bool:
    return isinstance(result, Exception) or math.isnan(result)
