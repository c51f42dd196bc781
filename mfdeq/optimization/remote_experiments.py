"""The experiments of a sum on the workers of an executor, each of which holds a share of them."""

from __future__ import annotations

import math
import os
import pickle
import uuid
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.error_estimates import relative_error
from ..equilibrium.reduced_curvature import ReducedCurvature, ReducedOperator
from ..errors import ArgumentError, WorkerWarning, is_evaluation_failure, warn
from ..locks import cached_property, state_to_pickle
from ..operators.operator import Operator
from ..report import SolveReport
from .workers import Answer, answer_held, answer_with, evaluate

MAX_IDLE_ANSWERS = 2_000  # in one round, after which a worker that does not answer is given up
MAX_FAILURES = 2  # of the tasks of a share, after which it is evaluated in this process


def crosses_processes(executor: futures.Executor) -> bool:
    """Return whether what is submitted must be pickled."""
    # The exact class: an InterpreterPoolExecutor is a subclass, and pickles.
    return type(executor) is not futures.ThreadPoolExecutor


def worker_count(executor: futures.Executor) -> int:
    """Return the number of workers; by default that of the processors of this machine.

    Executors have no common way to say it: these are those of concurrent.futures and mpi4py. The
    latter knows its workers once they have been started.
    """
    if callable(start := getattr(executor, "bootup", None)):
        start(wait=True)
    for name in ("_max_workers", "num_workers"):
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return os.cpu_count() or 1


class RemoteExperiments:
    """The experiments of a sum in shares, each held by one worker of an executor.

    Parameters
    ----------
    share : callable
        ``share(first, last)`` returns the `SumFunctional` of some of the experiments.
    size : int
        The number of experiments.
    executor : concurrent.futures.Executor
    """

    def __init__(
        self, share: Callable[[int, int], Any], size: int, executor: futures.Executor
    ) -> None:
        self._share, self.executor = share, executor
        count = min(size, worker_count(executor))
        self.bounds = [(size * s // count, size * (s + 1) // count) for s in range(count)]
        self.token = uuid.uuid4().hex
        self._round = 0
        self._holders: dict[int, str] = {}  # of each share
        self._local: dict[int, Any] = {}  # shares that are evaluated in this process
        self._failures = [0] * count
        self._counts: dict[int, tuple[int, int]] = {}
        self._earlier = (0, 0)
        self._last: RemoteEquilibrium | None = None
        self._values: list[Any] = []

    # Questions to all workers.

    def ask(self, name: str, theta: Array, weights: Sequence[float], *arguments: Any) -> list[Any]:
        """Ask all shares for the same, and return their results, which may be exceptions.

        An argument that is a list has an entry for each share.
        """
        requests = {}
        for s, (first, last) in enumerate(self.bounds):
            own = [x[s] if isinstance(x, list) else x for x in arguments]
            requests[s] = (name, theta, list(weights[first:last]), *own)
        results = self._submit(requests)
        return [results[s] for s in range(len(self.bounds))]

    def _submit(self, requests: dict[int, Any]) -> dict[int, Any]:
        """Answer requests by the workers that hold the shares, or by new ones."""
        self._round += 1
        results: dict[int, Any] = {}
        tasks: dict[futures.Future, list[int]] = {}  # with the shares that they are about
        idle = 0

        def send(shares: Sequence[int]) -> None:
            """Send shares to whichever workers take them."""
            for s in shares:
                if s in self._local:
                    results[s] = self._evaluate_here(s, requests[s])
                    continue
                arguments = self.token, self._round, s, self._pickled(s), requests[s]
                try:
                    tasks[self.executor.submit(answer_with, *arguments)] = [s]
                except RuntimeError as error:  # the executor is broken or has been shut down
                    self._give_up([s], error)
                    results[s] = self._evaluate_here(s, requests[s])

        def ask_holders() -> None:
            """Submit as many tasks as there are workers whose answers are missing."""
            holders: dict[str, list[int]] = {}
            for s, worker in self._holders.items():
                if s not in results and not any(s in sent for sent in tasks.values()):
                    holders.setdefault(worker, []).append(s)
            waiting = sum(not sent for sent in tasks.values())
            for _ in range(len(holders) - waiting):
                arguments = self.token, self._round, holders, requests
                try:
                    tasks[self.executor.submit(answer_held, *arguments)] = []
                except RuntimeError:
                    send([s for shares in holders.values() for s in shares])
                    return

        send([s for s in requests if s not in self._holders])
        ask_holders()
        while tasks:
            done, _ = futures.wait(tasks, return_when=futures.FIRST_COMPLETED)
            for task in done:
                sent = tasks.pop(task)
                try:
                    answer: Answer = task.result()
                except Exception as error:
                    lost = sent or [s for s in self._holders if s not in results]
                    self._give_up(lost, error)
                    send(lost)
                    continue
                if answer.results is None:
                    idle += 1
                    if idle > MAX_IDLE_ANSWERS:
                        lost = [s for s in self._holders if s not in results]
                        self._give_up(lost, None)
                        send(lost)
                        idle = 0
                    continue
                results |= answer.results
                self._counts |= answer.counts
                self._holders |= dict.fromkeys(answer.results, answer.worker)
                dropped = [
                    s
                    for s, worker in self._holders.items()
                    if worker == answer.worker and not sent and s not in results
                ]
                send(dropped)  # the worker has made room for others
            ask_holders()
        return results

    def _pickled(self, s: int) -> bytes:
        first, last = self.bounds[s]
        try:
            return pickle.dumps(self._share(first, last))
        except Exception as error:
            for i in range(first, last):
                try:
                    pickle.dumps(self._share(i, i + 1))
                except Exception as cause:
                    raise ArgumentError(
                        f"executor: experiment {i} cannot be sent to other processes ({cause}). "
                        "Define its model, loss and functions at the top of a module, or use a "
                        "ThreadPoolExecutor"
                    ) from error
            raise

    def _give_up(self, shares: Sequence[int], error: BaseException | None) -> None:
        """Note that the worker with some shares is lost, and warn of it."""
        broken = isinstance(error, RuntimeError)  # as a BrokenExecutor is
        if broken:
            shares = range(len(self.bounds))
        shares = [s for s in shares if s not in self._local]
        if not shares:
            return
        for s in shares:
            self._failures[s] += 1
            if broken or self._failures[s] >= MAX_FAILURES:
                self._local[s] = None
        names = ", ".join(
            f"{first}" if last == first + 1 else f"{first} to {last - 1}"
            for first, last in (self.bounds[s] for s in shares)
        )
        workers = ", ".join(dict.fromkeys(self._holders.get(s, "") for s in shares)).strip(", ")
        by = "this process" if any(s in self._local for s in shares) else "another worker"
        why = "it does not answer" if error is None else f"{type(error).__name__}: {error}"
        warn(
            f"SumFunctional: a worker {f'({workers}) ' if workers else ''}was lost, with "
            f"experiments {names} ({why}). They are solved again by {by}",
            WorkerWarning,
        )

    def _evaluate_here(self, s: int, request: tuple[Any, ...]) -> Any:
        if self._local[s] is None:
            self._local[s] = self._share(*self.bounds[s])
        try:
            return evaluate(self._local[s], *request)
        except Exception as error:
            return error

    def _checked(self, results: Sequence[Any]) -> Sequence[Any]:
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def _sum(self, name: str, eq: RemoteEquilibrium, weights: Sequence[float]) -> Array:
        return sum(self._checked(self.ask(name, eq.params, weights)))

    # As of `Experiments`.

    def at(self, theta: Array) -> RemoteEquilibrium:
        """Solve for the equilibria at theta, or raise the error of those without one."""
        self._solve(theta)
        self._check_values()
        assert self._last is not None
        return self._last

    def _solve(self, theta: Array) -> None:
        if self._last is not None and bool((self._last.params == theta).all()):
            return
        weights = [1.0] * self.bounds[-1][1]
        shares = self._checked(self.ask("values", theta, weights))
        self._values = [value for share in shares for value in share]
        self._last = RemoteEquilibrium(self, theta)

    def _check_values(self) -> None:
        for s, (first, last) in enumerate(self.bounds):
            share = self._local.get(s) or self._share(first, last)
            share.experiments.check(self._values[first:last])

    def values(self, theta: Array, failed_are_inf: bool) -> list[float]:
        """Evaluate the losses of all experiments."""
        self._solve(theta)
        if not failed_are_inf:
            self._check_values()
            return self._values
        for i, value in enumerate(self._values):
            if isinstance(value, Exception) and not is_evaluation_failure(value):
                self._share(i, i + 1).experiments.check([value])
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
        split = self._split(state)
        return sum(self._checked(self.ask("gradient at", theta, weights, split)))

    def _split(self, state: Array) -> list[Array]:
        parts, start = [], 0
        for first, last in self.bounds:
            size = self._share(first, last).sizes[0]
            parts.append(state[start : start + size])
            start += size
        return parts

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
        weights = [1.0] * self.bounds[-1][1]
        self._checked(self.ask("forget", start[:0], weights, self._split(start)))

    @property
    def solves(self) -> int:
        """The number of forward solves of all experiments so far, including failed ones."""
        return self._earlier[0] + self._total(0)

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far; each right-hand side counts as one."""
        return self._earlier[1] + self._total(1)

    def _total(self, which: int) -> int:
        own = {s: (F.solves, F.linear_solves) for s, F in self._local.items() if F is not None}
        return sum(counts[which] for counts in {**self._counts, **own}.values())

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

    def __init__(self, experiments: RemoteExperiments, theta: Array) -> None:
        self.experiments, self.params, self.backend = experiments, theta, Backend.of(theta)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the workers."""
        return {**state_to_pickle(self), "experiments": None}

    @cached_property
    def state(self) -> Array:
        """The states of the experiments one after another, (N_1 + ... + N_m,)."""
        weights = [1.0] * self.experiments.bounds[-1][1]
        results = self.experiments.ask("state", self.params, weights)
        return self.backend.xp.concat(self.experiments._checked(results), axis=0)


class RemoteHessian(ReducedOperator):
    """The Hessian of a sum whose experiments are on other processes, or a part of it, (P, P).

    Parameters
    ----------
    source : Backend
    experiments : RemoteExperiments
    theta : (P,) array
    weights : sequence of float
    params_term : Operator or None
        The precision of the prior, (P, P).
    part : {"hessian", "gauss_newton", "dynamics"}
    """

    def __init__(
        self,
        source: Backend,
        experiments: RemoteExperiments,
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
            "that of a sum on other processes: make the SumFunctional without executor, or with a "
            "ThreadPoolExecutor"
        )

    @cached_property
    def _tolerances(self) -> Sequence[tuple[bool, float]]:
        results = self.experiments.ask("tolerance", self.theta, self.weights)
        return self.experiments._checked(results)

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
        experiments = self.experiments
        return experiments._checked(
            experiments.ask(name, self.theta, self.weights, self.part, x, *arguments)
        )

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
