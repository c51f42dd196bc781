"""Executors: processes on this machine, the calling process, or the user's own executor."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import functools
import os
import pickle
import types
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

from ..arguments import at_least, count
from ..errors import ArgumentError, StudyError, short_repr
from .provenance import THREAD_VARIABLES
from .worker import initialize_worker

DEFAULT_AHEAD = 256  # cases submitted at a time to an executor of the user's


class InProcessExecutor(futures.Executor):
    """An executor in this process, for debugging and for functions that cannot be pickled."""

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> futures.Future:
        """Call the function immediately, and return a future that is done."""
        future: futures.Future = futures.Future()
        future.set_result(fn(*args, **kwargs))
        return future


class WorkerPool:
    """The executor of a study, and the number of cases submitted to it at a time.

    Parameters
    ----------
    executor : concurrent.futures.Executor or None
        The user's executor. None starts processes on this machine, and restarts them when one of
        them has died.
    workers : int or None
        The number of those processes; 0 runs in this process. By default the number of
        processors.
    ahead : int or None
        The number of cases submitted at a time.
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
                    "executor: expected a concurrent.futures.Executor, got "
                    f"{type(executor).__name__}"
                )
            if workers is not None:
                raise ArgumentError(
                    "workers: expected None with executor=, which has its own workers, got "
                    f"{workers!r}"
                )
        default = DEFAULT_AHEAD if executor is not None else max(1, 2 * self.workers)
        self.ahead = default if ahead is None else count(ahead, "ahead")
        self.threads_per_worker = max(1, cpus // max(1, self.workers))
        self.executor: futures.Executor = InProcessExecutor()

    @property
    def crosses_processes(self) -> bool:
        """Whether the function must be pickled for other processes."""
        # The exact class: an InterpreterPoolExecutor is a subclass, and pickles.
        if self.given is not None:
            return type(self.given) is not futures.ThreadPoolExecutor
        return self.workers > 0

    @property
    def owns_processes(self) -> bool:
        """Whether the pool starts processes itself."""
        return self.given is None and self.workers > 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the executor for the block, and cancel pending cases at its end."""
        with self._limited_threads():
            self.start()
            try:
                yield
            finally:
                if self.given is None:
                    self.executor.shutdown(wait=True, cancel_futures=True)

    def start(self) -> None:
        """Start the executor, or start it again after a worker has died."""
        if self.given is not None:
            self.executor = self.given
        elif self.owns_processes:
            # Spawn, because forking is unsafe while threads of the BLAS are running.
            self.executor = futures.ProcessPoolExecutor(
                self.workers, mp_context=get_context("spawn"), initializer=initialize_worker
            )

    def submit(self, function: Callable, *args: Any) -> futures.Future:
        """Submit a call; raise StudyError if the executor does not accept it."""
        try:
            return self.executor.submit(function, *args)
        except futures.BrokenExecutor:
            raise
        except RuntimeError as error:
            raise StudyError(
                f"executor: accepts no cases ({error}). The records so far are kept; run the study "
                "again inside the executor's `with` block, or with a new executor"
            ) from error

    @contextlib.contextmanager
    def _limited_threads(self) -> Iterator[None]:
        """Divide the processors among the workers, unless the user has set thread counts."""
        if not self.owns_processes or any(name in os.environ for name in THREAD_VARIABLES):
            yield
            return
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads_per_worker)))
        try:
            yield
        finally:
            for name in THREAD_VARIABLES:
                del os.environ[name]


def pickle_function(function: Callable) -> bytes:
    """Pickle a function for the workers; raise ArgumentError if that fails."""
    try:
        return pickle.dumps(function)
    except Exception as error:
        part, value = _unpicklable_part(function, "function")
        raise ArgumentError(
            f"function: {_describe(function)} cannot be sent to other processes, since {part} is "
            f"{_describe(value)} ({error}). Define functions, also those that a model holds, at "
            "the top of a module or script instead of as a lambda or within another function; or "
            "pass workers=0 to run in this process"
        ) from error


def _describe(value: Any) -> str:
    """Describe a part for a message: functions by their names, and no whole values."""
    if isinstance(value, types.FunctionType | types.MethodType):
        return f"<function {value.__qualname__}>"
    return short_repr(value)


def _unpicklable_part(
    value: Any, name: str, around: frozenset[int] = frozenset()
) -> tuple[str, Any]:
    """Return the name of the innermost part of an object that cannot be pickled, and this part.

    `around` are the identities of the objects that contain it, to which parts may refer back.
    """
    around = around | {id(value)}
    for part_name, part in _parts(value, name):
        if id(part) in around or id(getattr(part, "__self__", None)) in around:
            continue
        try:
            pickle.dumps(part)
        except Exception:
            return _unpicklable_part(part, part_name, around)
    return name, value


def _parts(value: Any, name: str) -> list[tuple[str, Any]]:
    """Return what is pickled with an object, by names."""
    if isinstance(value, functools.partial):
        arguments: dict[Any, Any] = {**dict(enumerate(value.args)), **value.keywords}
        named = [(f"argument {key} of {name}", part) for key, part in arguments.items()]
        return [("the function of a partial", value.func), *named]
    if isinstance(value, types.MethodType):
        return [(f"the object of {name}", value.__self__)]
    if isinstance(value, dict):
        return [(f"entry {key!r} of {name}", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"entry {i} of {name}", part) for i, part in enumerate(value)]
    if isinstance(value, type | types.FunctionType):
        return []
    try:
        state = value.__getstate__()
    except Exception:  # which is why it cannot be pickled
        return []
    if not isinstance(state, dict):
        return []
    kind = type(value).__name__
    return [(f"the attribute {key!r} of {kind}", part) for key, part in state.items()]
