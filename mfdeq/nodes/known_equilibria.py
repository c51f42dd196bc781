"""A bounded store of equilibria, which are found again by their inputs and by their states."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..arrays.backend import Array, host
from ..arrays.library import array_on_host
from ..locks import Lock

MAX_NUMBERS = 10**7  # that dense factors of all stored equilibria would have
MIN_STORED, MAX_STORED = 4, 256  # equilibria

T = TypeVar("T")


class KnownEquilibria(Generic[T]):
    """The equilibria that were used last, by the values of arrays that determine them.

    Two threads that ask for the same equilibrium at once both compute it: one of them could
    otherwise wait for the other in a thread that the other needs.

    Parameters
    ----------
    state_size : int
        N, from which the number of stored equilibria follows.
    """

    def __init__(self, state_size: int) -> None:
        self.capacity = min(max(MAX_NUMBERS // state_size**2, MIN_STORED), MAX_STORED)
        self._lock = Lock()
        self._stored: OrderedDict[tuple[bytes, ...], T] = OrderedDict()

    def get(self, arrays: Sequence[Array], make: Callable[[], T]) -> T:
        """Return the equilibrium that belongs to some arrays, after making it if it is not stored.

        Parameters
        ----------
        arrays : sequence of arrays
            Compared by dtype and by value.
        make : callable
        """
        key = _key(arrays)
        with self._lock:
            if key in self._stored:
                self._stored.move_to_end(key)
                return self._stored[key]
        made = make()
        self._put(key, made)
        return made

    def put(self, arrays: Sequence[Array], equilibrium: T) -> None:
        """Store an equilibrium for some arrays."""
        self._put(_key(arrays), equilibrium)

    def _put(self, key: tuple[bytes, ...], equilibrium: T) -> None:
        with self._lock:
            self._stored[key] = equilibrium
            self._stored.move_to_end(key)
            while len(self._stored) > 2 * self.capacity:  # each has two keys
                self._stored.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len({id(equilibrium) for equilibrium in self._stored.values()})


def _key(arrays: Sequence[Array]) -> tuple[bytes, ...]:
    values = [host.asarray(array_on_host(x)) for x in arrays]
    return tuple(part for x in values for part in (x.dtype.char.encode(), x.tobytes()))
