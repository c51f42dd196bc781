"""Threads of mfdeq's own loops: their number, and the pool that runs them.

The loops are compiled functions that release Python's global lock. The calling thread takes part,
and threads of the pool help it if they wake up in time. They sleep while there is nothing to do.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, overload

from .arguments import count
from .locks import Lock

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of the control group of this process


class ThreadSetting:
    """The number of threads, in effect until the end of a ``with`` block, or from now on."""

    def __init__(self, number: int, before: int | None) -> None:
        self.number, self.before = number, before

    def __repr__(self) -> str:
        return f"mfdeq.threads({self.number})"

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *error: object) -> None:
        _pool.number = self.before


@overload
def threads(number: None = None) -> int: ...


@overload
def threads(number: int) -> ThreadSetting: ...


def threads(number: int | None = None) -> int | ThreadSetting:
    """Set the number of threads of mfdeq's compiled loops, or return it.

    Parameters
    ----------
    number : int, optional
        The number of threads for the whole process, from now on or, in a ``with`` statement, for
        its block. Without it, the current number is returned.

    Returns
    -------
    int or context manager
        The number of threads, or a context manager that restores the number before.

    Raises
    ------
    ArgumentError
        If the number is not a positive integer.

    Notes
    -----
    By default it is ``OMP_NUM_THREADS`` if that is set, and otherwise the number of processors that
    this process may use, by its affinity and by the quota of its control group. Only compiled loops
    are run by several threads (the extra ``fast``), and only on large arrays. Their results do not
    depend on the number of threads. While they run, BLAS is held at one thread.

    Examples
    --------
    >>> import mfdeq
    >>> with mfdeq.threads(2):
    ...     mfdeq.threads()
    2
    """
    if number is None:
        return _pool.number or _default()
    number, before = count(number, "number of mfdeq.threads"), _pool.number
    _pool.number = number
    return ThreadSetting(number, before)


def usable_threads() -> int:
    """Return OMP_NUM_THREADS, or else the number of processors that this process may use."""
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if outermost.isdigit() and int(outermost) > 0:
        return int(outermost)
    return max(1, min(len(available_cores()), quota()))


@functools.cache
def _default() -> int:
    return usable_threads()


def available_cores() -> set[int]:
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def quota() -> int:
    """Return the processors that the control group may keep busy, rounded up."""
    try:
        share, period = CPU_QUOTA.read_text().split()
        return math.ceil(int(share) / int(period))
    except (OSError, ValueError):  # no control groups, or "max"
        return os.cpu_count() or 1


def share(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call ``function(*task)`` for each task, by several threads.

    Any thread may call this at any time, a task included. Whoever is free takes the next task, so
    that the tasks must be independent.

    Parameters
    ----------
    function : callable
        A function that spends its time outside of Python, without its global lock.
    tasks : sequence of tuple
        The arguments of each call.
    """
    helpers = min(threads(), len(tasks)) - 1
    if helpers < 1:
        for task in tasks:
            function(*task)
        return
    job = _Job(function, tasks, helpers)
    _pool.submit(job, helpers)
    job.work()
    job.wait()


class _Job:
    """Tasks that the caller and at most as many helpers take one after the other."""

    def __init__(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], helpers: int
    ) -> None:
        self.function = function
        self.tasks = list(reversed(tasks))
        self.helpers = helpers
        self.places = [None] * helpers  # for helpers that have not begun
        self.finished: SimpleQueue[None] = SimpleQueue()
        self.errors: list[BaseException] = []

    # `list.pop` is atomic: each task and each place is taken once.

    def help(self) -> None:
        """Take tasks in a thread of the pool, unless the caller no longer waits for it."""
        try:
            self.places.pop()
        except IndexError:
            return
        self.work()
        self.finished.put(None)

    def work(self) -> None:
        """Take tasks until none is left."""
        try:
            while self.tasks:
                try:
                    task = self.tasks.pop()
                except IndexError:
                    break
                self.function(*task)
        except BaseException as error:
            self.errors.append(error)
            self.tasks.clear()

    def wait(self) -> None:
        """Wait for the helpers that have begun, and raise the first error."""
        begun = self.helpers
        with contextlib.suppress(IndexError):
            while True:
                self.places.pop()
                begun -= 1
        for _ in range(begun):
            self.finished.get()
        if self.errors:
            raise self.errors[0]


class _Pool:
    """Threads that wait for jobs, as many as have been needed so far."""

    def __init__(self) -> None:
        self.number: int | None = None  # of threads, callers included; None is the default
        self.reset()

    def reset(self) -> None:
        """Forget all threads; those of its parent do not exist in a forked process."""
        self.lock = Lock()
        self.size = 0
        self.jobs: SimpleQueue[_Job] = SimpleQueue()

    def submit(self, job: _Job, helpers: int) -> None:
        """Ask some threads to help with a job."""
        if self.size < helpers:
            with self.lock:
                while self.size < helpers:
                    threading.Thread(
                        target=_serve, args=(self.jobs,), name="mfdeq", daemon=True
                    ).start()
                    self.size += 1
        for _ in range(helpers):
            self.jobs.put(job)


def _serve(jobs: SimpleQueue[_Job]) -> None:
    while True:
        jobs.get().help()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)


@functools.cache
def _blas() -> Any:
    try:
        import threadpoolctl
    except ImportError:
        return None
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Return a context that holds BLAS at one thread, if threadpoolctl is installed.

    Its threads would otherwise compete for the processors with those of `share`: they stay busy for
    a while after each call. The context takes some microseconds: enter it once for many products.
    """
    controller = _blas()
    if controller is None or all(blas.num_threads == 1 for blas in controller.lib_controllers):
        return contextlib.nullcontext()
    return controller.limit(limits=1)
