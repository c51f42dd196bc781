"""The experiments of a sum on the workers of an executor, each of which holds a share of them."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError, WorkerWarning, warn
from .experiments_in_shares import ExperimentsInShares
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


class RemoteExperiments(ExperimentsInShares):
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
        super().__init__([(size * s // count, size * (s + 1) // count) for s in range(count)])
        self.token = uuid.uuid4().hex
        self._round = 0
        self._holders: dict[int, str] = {}  # of each share
        self._local: dict[int, Any] = {}  # shares that are evaluated in this process
        self._failures = [0] * count
        self._counts: dict[int, tuple[int, int]] = {}

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

    def _check(self, values: Sequence[Any]) -> None:
        for s, (first, last) in enumerate(self.bounds):
            share = self._local.get(s) or self._share(first, last)
            share.experiments.check(values[first:last])

    def _split(self, state: Array) -> list[Array]:
        parts, start = [], 0
        for first, last in self.bounds:
            size = self._share(first, last).sizes[0]
            parts.append(state[start : start + size])
            start += size
        return parts

    def _total(self, which: int) -> int:
        own = {s: (F.solves, F.linear_solves) for s, F in self._local.items() if F is not None}
        return sum(counts[which] for counts in {**self._counts, **own}.values())
