"""Experiments of a sum in shares that other processes hold, and their Hessian.

`ExperimentsInShares` is like `Experiments`, with the results of the shares in place of equilibria.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.error_estimates import relative_error
from ..equilibrium.reduced_curvature import ReducedCurvature
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ArgumentError, is_evaluation_failure
from ..locks import cached_property, state_to_pickle
from ..models.vectors import are_equal
from ..operators.operator import Operator
from ..report import SolveReport


class ExperimentsInShares:
    """Base class of experiments in shares, which answer what `ask` asks of all of them.

    Parameters
    ----------
    bounds : list of pairs of int
        The first experiment of each share, and the one after its last.

    Attributes
    ----------
    processes : object or None
        As of `Functional`.
    advice_for_matrices : str
        How to make the sum if the matrices of its Hessian are needed.
    """

    processes: Any = None
    advice_for_matrices = "make the SumFunctional without executor, or with a ThreadPoolExecutor"

    def __init__(self, bounds: list[tuple[int, int]]) -> None:
        self.bounds = bounds
        self._earlier = (0, 0)
        self._last: RemoteEquilibrium | None = None
        self._values: list[Any] = []

    # Subclasses define these.

    def ask(self, name: str, theta: Array, weights: Sequence[float], *arguments: Any) -> list[Any]:
        """Ask all shares for the same, and return their results, which may be exceptions.

        An argument that is a list has an entry for each share.
        """
        raise NotImplementedError

    def _check(self, values: Sequence[Any]) -> None:
        """Raise the first exception among values of all experiments, which names them."""
        raise NotImplementedError

    def _split(self, state: Array) -> list[Array]:
        """Return the states of each share."""
        raise NotImplementedError

    def _total(self, which: int) -> int:
        """Return the number of forward (0) or linear (1) solves of all shares."""
        raise NotImplementedError

    # The rest follows from them.

    @property
    def _ones(self) -> list[float]:
        return [1.0] * self.bounds[-1][1]

    def ask_all(
        self, name: str, theta: Array, weights: Sequence[float], *arguments: Any
    ) -> list[Any]:
        """Ask all shares like `ask`, and raise the first exception among their results."""
        results = self.ask(name, theta, weights, *arguments)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def _sum(self, name: str, eq: RemoteEquilibrium, weights: Sequence[float]) -> Array:
        return sum(self.ask_all(name, eq.params, weights))

    def at(self, theta: Array) -> RemoteEquilibrium:
        """Solve for the equilibria at theta, or raise the error of those without one."""
        self._solve(theta)
        self._check(self._values)
        assert self._last is not None
        return self._last

    def _solve(self, theta: Array) -> None:
        if self._last is not None and are_equal(theta, self._last.params):
            return
        shares = self.ask_all("values", theta, self._ones)
        self._values = [value for share in shares for value in share]
        self._last = RemoteEquilibrium(self, theta)

    def values(self, theta: Array, failed_are_inf: bool) -> list[float]:
        """Evaluate the losses of all experiments."""
        self._solve(theta)
        if not failed_are_inf:
            self._check(self._values)
            return self._values
        failures = [value if isinstance(value, Exception) else None for value in self._values]
        mistakes = [x if x and not is_evaluation_failure(x) else None for x in failures]
        if any(mistakes):
            self._check(mistakes)
        return [
            math.inf if isinstance(value, Exception) or math.isnan(value) else value
            for value in self._values
        ]

    def values_at(self, eq: RemoteEquilibrium) -> list[float]:
        """Evaluate the losses of all experiments at their equilibria."""
        return self.values(eq.params, False)

    def gradient(self, eq: RemoteEquilibrium, weights: Sequence[float]) -> Array:
        """Compute the weighted sum of the gradients of all experiments."""
        return self._sum("gradient", eq, weights)

    def partial_gradient(self, eq: RemoteEquilibrium, weights: Sequence[float]) -> Array:
        """Return the weighted sum of the derivatives in theta with all states held fixed."""
        return self._sum("partial gradient", eq, weights)

    def gradient_at(self, theta: Array, state: Array, weights: Sequence[float]) -> Array:
        """Compute the gradient with states, one after another, in place of the equilibria."""
        return sum(self.ask_all("gradient at", theta, weights, self._split(state)))

    def hessian(
        self,
        eq: RemoteEquilibrium,
        weights: Sequence[float],
        prior: Operator | None,
        evaluate: bool,
    ) -> RemoteHessian:
        """Return the weighted sum of the Hessians of all experiments, and of a prior's.

        The workers evaluate the curvatures at the first product, whatever `evaluate` is.
        """
        return RemoteHessian(eq.backend, self, eq.params, list(weights), prior, "hessian")

    def forget(self, start: Array) -> None:
        """Drop everything but starts, one after another, for the next solves."""
        self._last = None
        self.ask_all("forget", start[:0], self._ones, self._split(start))

    @property
    def solves(self) -> int:
        """The number of forward solves of all experiments so far, including failed ones."""
        return self._earlier[0] + self._total(0)

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far; each right-hand side counts as one."""
        return self._earlier[1] + self._total(1)

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process."""
        self._earlier = self._earlier[0] + equilibria, self._earlier[1] + linear_solves


class RemoteEquilibrium:
    """The equilibria at one theta, which the workers hold.

    Attributes
    ----------
    params : (P,) array
    backend : Backend
    """

    def __init__(self, experiments: ExperimentsInShares, theta: Array) -> None:
        self.experiments, self.params, self.backend = experiments, theta, Backend.of(theta)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the workers."""
        return {**state_to_pickle(self), "experiments": None}

    @cached_property
    def state(self) -> Array:
        """The states of the experiments one after another, (N_1 + ... + N_m,)."""
        ones = [1.0] * self.experiments.bounds[-1][1]
        return self.backend.xp.concat(self.experiments.ask_all("state", self.params, ones), axis=0)


class RemoteHessian(ReducedOperator):
    """The Hessian of a sum whose experiments are on other processes, or a part of it, (P, P).

    Parameters
    ----------
    source : Backend
    experiments : ExperimentsInShares
    theta : (P,) array
    weights : sequence of float
    params_term : Operator or None
        The precision of the prior, (P, P).
    part : {"hessian", "gauss_newton", "dynamics"}
    """

    def __init__(
        self,
        source: Backend,
        experiments: ExperimentsInShares,
        theta: Array,
        weights: Sequence[float],
        params_term: Operator | None,
        part: str,
    ) -> None:
        super().__init__(source, (theta.shape[0], theta.shape[0]))
        self.experiments, self.theta, self.weights = experiments, theta, weights
        self.params_term, self.part = params_term, part
        self._report = SolveReport()

    @property
    def own_processes(self) -> Any:
        """The processes of the experiments."""
        return self.experiments.processes

    @property
    def params(self) -> Array:
        """The parameters theta, (P,)."""
        return self.theta

    @property
    def report(self) -> SolveReport:
        """A report with the estimated error of the last product."""
        return self._report

    @property
    def parts(self) -> Sequence[tuple[float, ReducedCurvature]]:
        """Raise an `ArgumentError`: the parts are in other processes."""
        raise ArgumentError(
            "H: expected a Hessian with its matrices, for sigma, certify or method='newton', got "
            f"that of a sum on other processes: {self.experiments.advice_for_matrices}"
        )

    @cached_property
    def _tolerances(self) -> Sequence[tuple[bool, float]]:
        return self.experiments.ask_all("tolerance", self.theta, self.weights)

    @property
    def iterative(self) -> bool:
        """Whether a product with looser inner solves costs less."""
        return any(iterative for iterative, _ in self._tolerances)

    @property
    def solver_rtol(self) -> float:
        """The tolerance of the inner solves of a product."""
        return min(rtol for _, rtol in self._tolerances)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("cannot pickle or deep-copy a Hessian: pickle the functional")

    def __copy__(self) -> RemoteHessian:
        return self

    def _results(self, name: str, x: Array, *arguments: Any) -> Sequence[Any]:
        ask_all = self.experiments.ask_all
        return ask_all(name, self.theta, self.weights, self.part, x, *arguments)

    def _own(self, x: Array) -> Array:
        if self.params_term is None:
            return self.backend.zeros(*x.shape)
        return self.params_term._apply(x)

    def _apply(self, x: Array) -> Array:
        return sum(self._results("product", x), self._own(x))

    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Compute the product with v and estimate its error, the sum of those of the parts."""
        results = self._results("product with error", v, rtol)
        product = sum((product for product, _ in results), self._own(v))
        error = sum((error for _, error in results), self.backend.zeros(*v.shape))
        self._report.product_error = relative_error(self.backend, error, product)
        return product, error

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Compute the product with v by inner solves to another tolerance."""
        return sum(self._results("inexact product", v, rtol), self._own(v))

    def polish(self) -> RemoteHessian:
        """Return the same operator: states on other processes stay as they are."""
        return self

    @cached_property
    def gauss_newton(self) -> RemoteHessian:
        """The sum of the Gauss-Newton parts and the precision of the prior, (P, P)."""
        return self._of_part("gauss_newton", self.params_term)

    @cached_property
    def dynamics(self) -> RemoteHessian:
        """The sum of the parts from the curvature of the equilibrium conditions, (P, P)."""
        return self._of_part("dynamics", None)

    def _of_part(self, part: str, params_term: Operator | None) -> RemoteHessian:
        return RemoteHessian(
            self.backend, self.experiments, self.theta, self.weights, params_term, part
        )
