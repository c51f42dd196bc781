"""State that threads share: locks that can be copied, and values that are computed once.

Objects of this library are immutable where possible, so that threads need no locks. What remains
are values that are computed when they are first used, counts, and what is learned from earlier
solves. All of these use the classes of this module.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class Lock(type(threading.RLock())):  # type: ignore[misc]
    """A reentrant lock for a ``with`` statement. A copy or a pickle of it is a new lock.

    Examples
    --------
    >>> import copy
    >>> lock = Lock()
    >>> with lock, lock:
    ...     again = copy.deepcopy(lock)
    >>> again is lock
    False
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, ()


def lock_of(x: Any) -> Lock:
    """Return the lock of an object, which is made when it is first asked for.

    A method that changes attributes of the object takes it, and so does `cached_property`.
    """
    attributes = x.__dict__
    lock = attributes.get("_lock")
    # `setdefault` is atomic: all threads get the same lock.
    return attributes.setdefault("_lock", Lock()) if lock is None else lock


class cached_property(functools.cached_property[T]):
    """A cached property that is computed once, while other threads wait.

    Each object has its own lock. That of `functools.cached_property` is shared by all objects in
    Python 3.11, so that nested equilibria of two threads could wait for each other, and later
    versions have none.

    Examples
    --------
    >>> class Circle:
    ...     radius = 2.0
    ...
    ...     @cached_property
    ...     def area(self):
    ...         print("computed")
    ...         return 3.0 * self.radius**2
    >>> circle = Circle()
    >>> circle.area, circle.area
    computed
    (12.0, 12.0)
    """

    attrname: str

    @overload
    def __get__(self, instance: None, owner: Any = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: Any = None) -> T: ...

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        attributes, name = instance.__dict__, self.attrname
        if (lock := attributes.get("_lock")) is None:  # as `lock_of`, in one call less
            lock = attributes.setdefault("_lock", Lock())
        with lock:
            if name not in attributes:
                attributes[name] = self.func(instance)
            return attributes[name]


def state_to_pickle(x: Any) -> dict[str, Any]:
    """Return the attributes of an object without its lock and what cached properties hold."""
    return {
        name: value
        for name, value in vars(x).items()
        if name != "_lock" and not isinstance(getattr(type(x), name, None), cached_property)
    }


class PerThread(threading.local):
    """A value of each thread, None until the thread sets it."""

    value: Any = None


class Once(Generic[T]):
    """A value that is computed once, while other threads wait.

    Examples
    --------
    >>> value = Once()
    >>> for _ in range(2):
    ...     value(lambda: print("computed"))
    computed
    """

    def __init__(self) -> None:
        self._computed: list[T] = []

    def __call__(self, compute: Callable[[], T]) -> T:
        """Return the value, or ``compute()`` if there is none, unless that raises an exception."""
        with lock_of(self):
            if not self._computed:
                self._computed = [compute()]
            return self._computed[0]

    @property
    def value(self) -> T | None:
        """The value, or None before it is computed."""
        computed = self._computed  # which another thread may replace
        return computed[0] if computed else None

    def forget(self) -> None:
        """Discard the value, so that the next call computes it again."""
        with lock_of(self):
            self._computed = []


class _WarningFilters:
    """The filters of warnings while some thread ignores them, with the number of those threads."""

    def __init__(self) -> None:
        self.threads = 0
        self.outer: Any = None

    def ignore(self) -> None:
        with lock_of(self):
            if self.threads == 0:
                self.outer = warnings.catch_warnings()
                self.outer.__enter__()
                warnings.simplefilter("ignore")
            self.threads += 1

    def restore(self) -> None:
        with lock_of(self):
            self.threads -= 1
            if self.threads == 0:
                self.outer.__exit__(None, None, None)


_filters = _WarningFilters()


@contextlib.contextmanager
def ignore_warnings() -> Iterator[None]:
    """Ignore warnings within a ``with`` block.

    The filters of warnings belong to the whole process. Two threads in `warnings.catch_warnings`
    would each restore what the other has set, and leave warnings ignored for good. Here the first
    thread changes them and the last one restores them.
    """
    if getattr(sys.flags, "context_aware_warnings", False):  # filters of each thread (Python 3.14)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
        return
    _filters.ignore()
    try:
        yield
    finally:
        _filters.restore()
