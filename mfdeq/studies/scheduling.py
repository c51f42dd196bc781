"""Scheduling: submits cases to the executor, and collects their outcomes."""

from __future__ import annotations

import concurrent.futures as futures
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import StudyError
from .cases import Case
from .executors import WorkerPool
from .worker import Outcome, check_unpickling, run_case

# The parameters of a case, the arguments of its warm start, and its seed.
CallArguments = tuple[dict[str, Any], dict[str, Any], list[int] | None]

WORKER_DIED = (
    "the worker process died while it ran this case: it was killed, perhaps for lack of memory, "
    "or crashed in compiled code"
)


@dataclass(frozen=True)
class Completed:
    """A case with its outcome."""

    case: Case
    outcome: Outcome


class Scheduler:
    """Runs cases, submitting them a few ahead of the workers.

    Parameters
    ----------
    pool : WorkerPool
        It must be running.
    function : callable or bytes
        The function of the study, pickled if the pool crosses processes.
    cases : iterable of Case
    arguments : callable
        Returns the arguments of a case; called when the case is submitted.
    """

    def __init__(
        self,
        pool: WorkerPool,
        function: Callable | bytes,
        cases: Iterable[Case],
        arguments: Callable[[Case], CallArguments],
    ) -> None:
        self.pool, self.function, self.arguments = pool, function, arguments
        self.waiting = deque(cases)
        self.suspects = deque[Case]()  # one of them may have killed its worker
        self.running: dict[futures.Future, Case] = {}

    def completions(self) -> Iterator[list[Completed]]:
        """Run all cases, and yield those that have completed since the last time."""
        if self.waiting and self.pool.crosses_processes:
            self._check_workers()
        while self.waiting or self.suspects or self.running:
            self._submit()
            futures.wait(self.running, return_when=futures.FIRST_COMPLETED)
            worker_died = any(future.done() and not _has_outcome(future) for future in self.running)
            if worker_died:
                futures.wait(self.running)
            if completed := self._collect():
                yield completed
            if worker_died and (dead := self._handle_dead_worker()):
                yield dead

    def cancel(self) -> list[Completed]:
        """Cancel the cases that have not begun, and return those that complete."""
        for future in self.running:
            future.cancel()
        futures.wait(self.running)
        return self._collect()

    def _submit(self) -> None:
        # After a worker has died, each case that it may have been running is run alone.
        while (self.suspects and not self.running) or (
            self.waiting and not self.suspects and len(self.running) < self.pool.ahead
        ):
            case = self.suspects.popleft() if self.suspects else self.waiting.popleft()
            try:
                future = self.pool.submit(run_case, self.function, *self.arguments(case))
            except futures.BrokenExecutor as error:
                future = futures.Future()
                future.set_exception(error)
            self.running[future] = case

    def _collect(self) -> list[Completed]:
        """Remove the cases that have an outcome from those that are running, and return them."""
        done = [future for future in self.running if future.done() and _has_outcome(future)]
        return [Completed(self.running.pop(future), _outcome(future)) for future in done]

    def _handle_dead_worker(self) -> list[Completed]:
        """Restart the workers, and find out which case killed one.

        If only one case was running, it is recorded as failed. Otherwise each of them is run
        again alone.
        """
        lost = list(self.running.values())
        if any(isinstance(_exception(future), KeyboardInterrupt) for future in self.running):
            raise KeyboardInterrupt
        self.running.clear()
        if not self.pool.owns_processes:
            raise StudyError(
                "executor: broken, because one of its workers has died or it was shut down. The "
                "records so far are kept; run the study again with a new executor"
            )
        self.pool.start()
        if len(lost) == 1:
            return [Completed(lost[0], Outcome.without_result(WORKER_DIED))]
        self.suspects.extend(lost)
        return []

    def _check_workers(self) -> None:
        """Raise StudyError if no worker starts, or if none can import the function."""
        try:
            self.pool.submit(check_unpickling, self.function).result()
        except StudyError:
            raise
        except futures.BrokenExecutor as error:
            raise StudyError(
                f"no worker could be started ({error}). In a script, put the call that starts the "
                "study under `if __name__ == '__main__':`, or pass workers=0 to run in this process"
            ) from error
        except Exception as error:
            raise StudyError(
                f"the workers cannot load the function ({type(error).__name__}: {error}). Define "
                "it at the top of a module that they can import, or in the script itself, or pass "
                "workers=0 to run in this process"
            ) from error


def _exception(future: futures.Future) -> BaseException | None:
    """Return the exception of a future that is done, also if it was cancelled."""
    return futures.CancelledError() if future.cancelled() else future.exception()


def _has_outcome(future: futures.Future) -> bool:
    """Return False if the worker died or was interrupted, or the executor was shut down."""
    lost = futures.CancelledError, futures.BrokenExecutor, KeyboardInterrupt
    return not isinstance(_exception(future), lost)


def _outcome(future: futures.Future) -> Outcome:
    try:
        return future.result()
    except Exception as error:  # from the executor: run_case never raises
        trace = "".join(traceback.format_exception(error))
        return Outcome.without_result(f"{type(error).__name__}: {error}", trace)
