"""Who holds which unknown of a numpy model, and the way to PETSc's numbering and back."""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import host
from ..errors import ArgumentError
from .arrays import Distributed
from .objects import given
from .ranks import Ranks


class Layout:
    """The numbering of a user's unknowns, and of PETSc's, where each rank's are consecutive.

    Parameters
    ----------
    ranks : Ranks
    total : int
        How many unknowns.
    held : None, Vec, int, DMDA or (total,) integer array
        Who holds what, as `distributed` takes it.
    name : str
        What an error calls `held`.
    """

    def __init__(self, ranks: Ranks, total: int, held: Any, name: str) -> None:
        self.ranks, self.total, self.name = ranks, total, name
        own: int | None = None
        self.order: Any = None  # the user's number of each of PETSc's; None where they are the same
        if held is None:
            pass
        elif isinstance(held, int | host.integer) and not isinstance(held, bool):
            own = int(held)
        elif hasattr(held, "getAO"):
            vec = held.createGlobalVec()
            self._check(vec.getSize(), f"a {type(held).__name__} of {vec.getSize()} unknowns")
            own = vec.getLocalSize()
            numbers = host.arange(total, dtype=_index())
            self.order = held.getAO().petsc2app(numbers)
            ranks.grids[total] = vec.query(
                "__PETSc_dm"
            )  # which lives on if the user's is destroyed
        elif hasattr(held, "getOwnershipRanges"):
            self._check(held.getSize(), f"a Vec of {held.getSize()} entries")
            own = held.getLocalSize()
        else:
            owner = self._owners(held)
            own = int(host.sum(owner == ranks.rank))
            self.order = host.argsort(owner, kind="stable").astype(_index())
        self.rows = ranks.settle(total, own)
        if self.order is None:
            self.order = host.arange(total, dtype=_index())

    def _check(self, found: int, what: str) -> None:
        if found != self.total:
            raise ArgumentError(f"{self.name} is {what}; the model has {self.total}")

    def _owners(self, held: Any) -> Any:
        owner = host.asarray(held)
        if owner.shape != (self.total,) or owner.dtype.kind not in "iu":
            raise ArgumentError(
                f"{self.name} is a {type(held).__name__} of shape {owner.shape} and dtype "
                f"{owner.dtype}; None, a Vec, a local size, a DMDA, or ({self.total},) integers, "
                "the rank of each unknown, were expected"
            )
        if owner.min() < 0 or owner.max() >= self.ranks.size:
            raise ArgumentError(
                f"{self.name} names ranks {owner.min()} to {owner.max()}; 0 to "
                f"{self.ranks.size - 1} are there"
            )
        return owner

    @functools.cached_property
    def inverse(self) -> Any:
        """PETSc's number of each of the user's."""
        found = host.empty_like(self.order)
        found[self.order] = host.arange(self.total, dtype=found.dtype)
        return found

    @property
    def mine(self) -> Any:
        """The user's numbers of what this rank holds."""
        return self.order[self.rows.of(self.ranks.rank)]

    @property
    def size(self) -> tuple[int, int]:
        """(of this rank, of all)."""
        return self.rows.count(self.ranks.rank), self.total

    def spread(self, array: Any) -> Distributed:
        """An (n,) or (n, k) array that every rank has, in this layout."""
        array = host.asarray(array, dtype=host.float64)
        if array.ndim not in (1, 2) or array.shape[0] != self.total:
            raise ArgumentError(
                f"{self.name}: an array of shape {array.shape}; ({self.total},) or "
                f"({self.total}, k) was expected"
            )
        return Distributed(array[self.mine], self.ranks, self.rows)

    def vec(self, array: Any) -> Any:
        """The same as a Vec, or a dense Mat."""
        return given(self.spread(array))

    def gathered(self, x: Any) -> Any:
        """A Vec, a dense Mat or a distributed array as numpy's, on every rank."""
        if hasattr(x, "getOwnershipRanges"):
            x = Distributed.of(x)
        if not isinstance(x, Distributed) or x.rows.starts != self.rows.starts:
            raise ArgumentError(
                f"{self.name}: a {type(x).__name__} of shape {getattr(x, 'shape', None)}; a Vec or "
                f"a dense Mat of {self.total} rows in this layout was expected"
            )
        return x.gathered()[self.inverse]


def _index() -> Any:
    from petsc4py import PETSc

    return PETSc.IntType
