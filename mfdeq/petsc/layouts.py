"""Layouts: which rank owns which unknown of a numpy model, and PETSc's numbering of them."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import host
from ..errors import ArgumentError
from ..locks import cached_property
from .arrays import DistributedArray, is_petsc
from .ranks import Ranks
from .shell_mats import to_petsc


class Layout:
    """A vector's distribution over ranks, with the user's numbering and PETSc's.

    In PETSc's numbering the unknowns of each rank are consecutive.

    Parameters
    ----------
    ranks : Ranks
    total : int
        Number of unknowns.
    spec : None, Vec, int, DMDA or (total,) integer array
        Who owns what, as `distributed` takes it.
    name : str
        What an error calls `spec`.

    Attributes
    ----------
    rows : Rows
        The split of PETSc's numbering.
    order : (total,) integer array
        The user's number of each of PETSc's unknowns.
    """

    def __init__(self, ranks: Ranks, total: int, spec: Any, name: str) -> None:
        self.ranks, self.total, self.name = ranks, total, name
        own: int | None = None
        self.order: Any = None
        if spec is None:
            pass
        elif isinstance(spec, int | host.integer) and not isinstance(spec, bool):
            own = int(spec)
        elif is_petsc(spec, "DMDA"):
            vec = spec.createGlobalVec()
            self._check(vec.getSize(), f"a {type(spec).__name__} of {vec.getSize()} unknowns")
            own = vec.getLocalSize()
            numbers = host.arange(total, dtype=_index_type())
            self.order = spec.getAO().petsc2app(numbers)
            # The Vec's own reference to the grid lives on if the user destroys theirs.
            ranks.grids[total] = vec.query("__PETSc_dm")
        elif is_petsc(spec, "Vec"):
            self._check(spec.getSize(), f"a Vec of {spec.getSize()} entries")
            own = spec.getLocalSize()
        else:
            owner = self._owners(spec)
            own = int(host.sum(owner == ranks.rank))
            self.order = host.argsort(owner, kind="stable").astype(_index_type())
        self.rows = ranks.agree_on_rows(total, own)
        if self.order is None:
            self.order = host.arange(total, dtype=_index_type())

    def _check(self, size: int, what: str) -> None:
        if size != self.total:
            raise ArgumentError(
                f"{self.name}: expected the model's {self.total} unknowns, got {what}"
            )

    def _owners(self, spec: Any) -> Any:
        owner = host.asarray(spec)
        if owner.shape != (self.total,) or owner.dtype.kind not in "iu":
            raise ArgumentError(
                f"{self.name}: expected None, a Vec, a local size, a DMDA, or ({self.total},) "
                f"integers (the rank of each unknown), got a {type(spec).__name__} of shape "
                f"{owner.shape} and dtype {owner.dtype}"
            )
        if owner.min() < 0 or owner.max() >= self.ranks.size:
            raise ArgumentError(
                f"{self.name}: expected ranks 0 to {self.ranks.size - 1}, got {owner.min()} to "
                f"{owner.max()}"
            )
        return owner

    @cached_property
    def inverse(self) -> Any:
        """PETSc's number of each of the user's unknowns."""
        inverse = host.empty_like(self.order)
        inverse[self.order] = host.arange(self.total, dtype=inverse.dtype)
        return inverse

    @property
    def own_unknowns(self) -> Any:
        """The user's numbers of the unknowns on this rank."""
        return self.order[self.rows.slice_of(self.ranks.rank)]

    @property
    def size(self) -> tuple[int, int]:
        """Number of unknowns (on this rank, on all), as PETSc takes it."""
        return self.rows.count(self.ranks.rank), self.total

    def distribute(self, array: Any) -> DistributedArray:
        """Distribute an (n,) or (n, k) array that every rank has whole."""
        array = host.asarray(array, dtype=host.float64)
        if array.ndim not in (1, 2) or array.shape[0] != self.total:
            raise ArgumentError(
                f"{self.name}: expected an array of shape ({self.total},) or ({self.total}, k), "
                f"got one of shape {array.shape}"
            )
        return DistributedArray(array[self.own_unknowns], self.ranks, self.rows)

    def vec(self, array: Any) -> Any:
        """Distribute an (n,) array as a Vec, or an (n, k) one as a dense Mat."""
        return to_petsc(self.distribute(array))

    def gather(self, x: Any) -> Any:
        """Return a Vec, dense Mat or distributed array as a numpy array, whole on every rank."""
        if is_petsc(x, "Vec", "Mat"):
            x = DistributedArray.from_petsc(x)
        if not isinstance(x, DistributedArray) or x.rows.starts != self.rows.starts:
            raise ArgumentError(
                f"{self.name}: expected a Vec or a dense Mat of {self.total} rows in this layout, "
                f"got a {type(x).__name__} of shape {getattr(x, 'shape', None)}"
            )
        return x.gathered()[self.inverse]


def _index_type() -> Any:
    from petsc4py import PETSc

    return PETSc.IntType
