"""Cases handed to an executor, a few ahead of its workers, and their outcomes collected."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import os
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..arguments import at_least, count
from ..errors import ArgumentError, StudyError
from .cases import Case
from .provenance import THREADS, now
from .store import Outcome
from .worker import begin, ready, run_case

AHEAD = 256  # cases in the hands of an executor whose workers are not known
Sent = tuple[dict[str, Any], dict[str, Any], list[int] | None]  # parameters, starts and seed


@dataclass(frozen=True)
class Arrived:
    """A case that has come back."""

    case: Case
    outcome: Outcome


class Here(futures.Executor):
    """The process itself: for debuggers, and functions that cannot be sent."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> futures.Future:
        """The function called at once."""
        future: futures.Future = futures.Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Pool:
    """The executor, and how many cases it is given ahead.

    Parameters
    ----------
    executor : concurrent.futures.Executor or None
        None is processes of this library's own, which are started again when one has died.
    workers : int or None
        Of those; 0 is this process. As many as there are processors by default.
    ahead : int or None
        Cases that it is given at a time.
    """

    def __init__(
        self, executor: futures.Executor | None, workers: int | None, ahead: int | None
    ) -> None:
        cpus = os.cpu_count() or 1
        self.given = executor
        self.workers = cpus if workers is None else int(at_least(0, workers, "workers"))
        if executor is not None:
            if not hasattr(executor, "submit"):
                raise ArgumentError(
                    f"executor is a {type(executor).__name__}; a concurrent.futures.Executor was "
                    "expected"
                )
            if workers is not None:
                raise ArgumentError(
                    "workers are of the library's own processes; executor has its own"
                )
        most = AHEAD if executor is not None else max(1, 2 * self.workers)
        self.ahead = most if ahead is None else count(ahead, "ahead")
        self.threads = str(max(1, cpus // max(1, self.workers)))
        self.executor: futures.Executor = Here()

    @property
    def processes(self) -> bool:
        """Whether the function goes to other processes; not to threads of this one."""
        # Not isinstance: an executor of interpreters is one of threads, and pickles.
        if self.given is not None:
            return type(self.given) is not futures.ThreadPoolExecutor
        return self.workers > 0

    @property
    def own(self) -> bool:
        """Whether processes are started here."""
        return self.given is None and self.workers > 0

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """The executor at work; what it has not begun when an error ends the block is dropped."""
        with self._threads():
            self.start()
            try:
                yield
            finally:
                if self.given is None:
                    self.executor.shutdown(wait=True, cancel_futures=True)

    def start(self) -> None:
        """Begin, or begin again."""
        if self.given is not None:
            self.executor = self.given
        elif self.own:
            from multiprocessing import get_context

            # Spawned: a fork would copy threads of BLAS in the middle of their work.
            self.executor = futures.ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=begin
            )

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """Processors shared among own processes, where the user has not said otherwise."""
        if not self.own or any(name in os.environ for name in THREADS):
            yield
            return
        os.environ.update(dict.fromkeys(THREADS, self.threads))
        try:
            yield
        finally:
            for name in THREADS:
                del os.environ[name]


def pickled(function: Callable) -> bytes:
    """A function as workers get it."""
    try:
        return pickle.dumps(function)
    except Exception as error:
        raise ArgumentError(
            f"{function!r} cannot be sent to other processes ({error}): define it at the top of a "
            "module or script, or pass workers=0 to run in this process"
        ) from error


class Drive:
    """Cases on their way.

    Parameters
    ----------
    pool : Pool
        Started.
    sent : bytes or callable
        The function, as it is only for this process.
    cases : iterable of Case
    params : callable
        What a case is called with, asked for when its turn has come.
    """

    def __init__(
        self, pool: Pool, sent: Any, cases: Iterable[Case], params: Callable[[Case], Sent]
    ) -> None:
        self.pool, self.sent, self.params = pool, sent, params
        self.queue, self.suspects = deque(cases), deque[Case]()
        self.running: dict[futures.Future, Case] = {}

    def arrivals(self) -> Iterator[list[Arrived]]:
        """Those that have come back since the last time, until all have."""
        if self.queue and self.pool.processes:
            _greet(self.pool, self.sent)
        while self.queue or self.suspects or self.running:
            self._submit()
            futures.wait(self.running, return_when=futures.FIRST_COMPLETED)
            lost = any(future.done() and not _came_back(future) for future in self.running)
            if lost:
                futures.wait(self.running)
            if arrived := self.collected():
                yield arrived
            if lost and (dead := self._bury()):
                yield dead

    def _submit(self) -> None:
        # After a worker's death each case that it may have been is run alone.
        while (self.suspects and not self.running) or (
            self.queue and not self.suspects and len(self.running) < self.pool.ahead
        ):
            case = self.suspects.popleft() if self.suspects else self.queue.popleft()
            try:
                future = _submitted(self.pool, run_case, self.sent, *self.params(case))
            except futures.BrokenExecutor as error:
                future = futures.Future()
                future.set_exception(error)
            self.running[future] = case

    def collected(self) -> list[Arrived]:
        """Those that are back, but for those a worker died with."""
        back = [future for future in self.running if future.done() and _came_back(future)]
        return [Arrived(self.running.pop(future), _outcome(future)) for future in back]

    def drained(self) -> list[Arrived]:
        """Nothing more is begun; what still comes back."""
        for future in self.running:
            future.cancel()
        futures.wait(self.running)
        return self.collected()

    def _bury(self) -> list[Arrived]:
        """After a worker's death: what it was running is to blame, or is run again alone."""
        lost = list(self.running.values())
        if any(isinstance(_failure(future), KeyboardInterrupt) for future in self.running):
            raise KeyboardInterrupt
        self.running.clear()
        if not self.pool.own:
            raise StudyError(
                "the executor is broken: one of its workers has died, or it was shut down. What is "
                "recorded stays; run the study again with a new executor"
            )
        self.pool.start()
        if len(lost) == 1:
            return [Arrived(lost[0], _dead())]
        self.suspects.extend(lost)
        return []


def _submitted(pool: Pool, *call: Any) -> futures.Future:
    """In the hands of the executor, if it is one that still takes calls."""
    try:
        return pool.executor.submit(*call)
    except futures.BrokenExecutor:
        raise
    except RuntimeError as error:
        raise StudyError(
            f"executor takes no cases ({error}): one that has not been shut down was expected. "
            "What is recorded stays; run the study again inside its `with` block, or with a new "
            "executor"
        ) from error


def _greet(pool: Pool, sent: bytes) -> None:
    try:
        _submitted(pool, ready, sent).result()
    except StudyError:
        raise
    except futures.BrokenExecutor as error:
        raise StudyError(
            f"no worker could be started ({error}). In a script, what starts a study belongs under "
            "`if __name__ == '__main__':`; workers=0 runs it in this process"
        ) from error
    except Exception as error:
        raise StudyError(
            f"the function does not come through to the workers ({type(error).__name__}: {error}): "
            "define it at the top of a module that they can import, or in the script itself; "
            "workers=0 runs it in this process"
        ) from error


def _failure(future: futures.Future) -> BaseException | None:
    """What a future that is done has in place of an outcome."""
    return futures.CancelledError() if future.cancelled() else future.exception()


def _came_back(future: futures.Future) -> bool:
    """False where its worker has died or was interrupted, or its executor was shut down."""
    lost = futures.CancelledError, futures.BrokenExecutor, KeyboardInterrupt
    return not isinstance(_failure(future), lost)


def _outcome(future: futures.Future) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # of the executor: run_case itself lets none out
        words = "".join(traceback.format_exception(error))
        return Outcome("failed", {}, f"{type(error).__name__}: {error}", words, now(), 0.0, {})


def _dead() -> Outcome:
    error = (
        "the worker process ended in the middle of this case: killed, for want of memory perhaps, "
        "or crashed in compiled code"
    )
    return Outcome("failed", {}, error, None, now(), 0.0, {})
