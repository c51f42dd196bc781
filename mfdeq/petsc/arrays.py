"""An array whose rows are spread over ranks, of which each holds a numpy array of its own.

Its shape is that of the whole. What works entry by entry works on what a rank has; sums over rows
are over all ranks, and their results held by every rank as numpy's. It is as much of the array API
as the formulas use: its namespace is `mfdeq.petsc.namespace`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from ..arrays.backend import host, native
from ..errors import ArgumentError
from .ranks import Ranks, Rows


class Distributed:
    """An (n,) or (n, k) array, its rows spread over ranks.

    Parameters
    ----------
    local : numpy array
        What this rank holds.
    ranks : Ranks
    rows : Rows
    """

    __array_ufunc__ = None  # numpy leaves what concerns this to it
    __array_priority__ = 1000.0

    def __init__(self, local: Any, ranks: Ranks, rows: Rows) -> None:
        self.local, self.device, self.rows = local, ranks, rows

    @classmethod
    def of(cls, x: Any) -> Distributed:
        """A copy of a PETSc Vec, or of a dense Mat as (n, k)."""
        if hasattr(x, "getArray"):
            local = x.getArray(readonly=True)
        elif x.getType().endswith("dense"):
            local = x.getDenseArray(readonly=True)
        else:
            raise ArgumentError(f"a Mat of type {x.getType()}; a Vec or a dense Mat was expected")
        ranks = Ranks.of(x.getComm())
        rows = ranks.add(Rows(tuple(int(start) for start in x.getOwnershipRanges())))
        # Not by getDM, which in 3.18 gives away a reference that the Vec still has.
        if (grid := x.query("__PETSc_dm")) is not None and grid.getType() == "da":
            ranks.grids[rows.total] = grid
        return cls(host.array(local, order="C"), ranks, rows)

    def vec(self) -> Any:
        """A PETSc Vec of the numbers of this (n,) array, which it shares where it may write."""
        from petsc4py import PETSc

        if self.ndim != 1:
            raise ArgumentError(f"a Vec of an array of shape {self.shape}; (n,) was expected")
        size = (self.local.shape[0], self.shape[0])
        # What numpy keeps from being written into, PETSc does not.
        local = host.require(self.local, requirements=("C", "W"))
        return PETSc.Vec().createWithArray(local, size=size, comm=self.device.comm)

    def setflags(self, write: bool) -> None:
        """Let the numbers be written into, or not: then a Vec of them is one of a copy."""
        self.local.setflags(write=write)

    def like(self, local: Any) -> Distributed:
        """Other numbers in these rows."""
        return Distributed(local, self.device, self.rows)

    def gathered(self) -> Any:
        """The whole as a numpy array, on every rank."""
        return self.device.gathered(self.local, self.rows)

    def fingerprint(self) -> bytes:
        """Of all bits, the same on any number of ranks: their sums with random odd weights."""
        numbers = host.asarray(self.local, dtype=host.float64)
        columns = math.prod(numbers.shape[1:])  # of a rank without rows, too
        bits = host.ascontiguousarray(numbers).reshape(-1, columns).view(host.uint64)
        places = self._row_numbers()[:, None] * bits.shape[1] + host.arange(bits.shape[1])
        sums = [(bits * weights(places, seed)).sum(dtype=host.uint64) for seed in (1, 2)]
        return self.device.sum(host.array(sums)).tobytes()

    def _row_numbers(self) -> Any:
        """Of the rows of this rank, in the whole."""
        before, found = 0, []
        for part in self.rows.parts or (self.rows,):
            here = part.of(self.device.rank)
            found.append(host.arange(before + here.start, before + here.stop))
            before += part.total
        return host.concatenate(found)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return importlib.import_module("mfdeq.petsc.namespace")

    def __repr__(self) -> str:
        return f"Distributed({self.shape}, {self.dtype}, on {self.device})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return (self.rows.total, *self.local.shape[1:])  # a Size, which knows its parts

    @property
    def ndim(self) -> int:
        """1 or 2."""
        return self.local.ndim

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self.local.dtype

    @property
    def size(self) -> int:
        """Numbers in the whole."""
        return self.rows.total * int(host.prod(self.local.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Of the whole."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> Transposed:
        """Of (n, k), for products with another (n, j)."""
        return Transposed(self)

    def __len__(self) -> int:
        return self.rows.total

    # Entry by entry.

    def _with(self, other: Any, function: Callable) -> Any:
        return self.like(function(self.local, on_rows(other, self)))

    def __add__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a + b)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b + a)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b / a)

    def __pow__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a**b)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a % b)

    def __and__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a & b)

    def __or__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a | b)

    def __lt__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a < b)

    def __le__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a <= b)

    def __gt__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a > b)

    def __ge__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a >= b)

    def __eq__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a == b)

    def __ne__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a != b)

    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Distributed:
        return self.like(-self.local)

    def __abs__(self) -> Distributed:
        return self.like(abs(self.local))

    def __invert__(self) -> Distributed:
        return self.like(~self.local)

    def __matmul__(self, other: Any) -> Any:
        """(n, k) by a (k,) or (k, j) array that every rank holds."""
        return self.like(self.local @ held_by_all(other))

    # Columns; and rows where they were stacked.

    def __getitem__(self, index: Any) -> Any:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        columns = [column for column in columns if column is not Ellipsis]
        if not isinstance(rows, slice):
            return self._entry(rows, columns)
        local, kept = self._rows_of(rows)
        if columns:
            local = local[(slice(None), *columns)]
        return Distributed(local, self.device, kept)

    def __setitem__(self, index: Any, value: Any) -> None:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        if isinstance(rows, slice):
            local, _ = self._rows_of(rows)
            here = (slice(None), *(column for column in columns if column is not Ellipsis))
            local[here] = value.local if isinstance(value, Distributed) else value
        elif (row := self._local_row(rows)) is not None:
            self.local[(row, *columns)] = value

    def _rows_of(self, rows: slice) -> tuple[Any, Rows]:
        start, stop, _ = rows.indices(self.rows.total)
        if (start, stop) == (0, self.rows.total):
            return self.local, self.rows
        whole = here = 0
        for part in self.rows.parts:
            count = part.count(self.device.rank)
            if (start, stop) == (whole, whole + part.total):
                return self.local[here : here + count], part
            whole, here = whole + part.total, here + count
        raise ArgumentError(
            f"rows {start} to {stop} of {self!r}: all, or one of the arrays that it is stacked of, "
            "were expected"
        )

    def _local_row(self, row: int) -> int | None:
        """Where this rank has a row, if it does."""
        row = range(self.rows.total)[row]
        before = 0
        for part in self.rows.parts or (self.rows,):
            here = part.of(self.device.rank)
            if here.start <= row < here.stop:
                return before + row - here.start
            row, before = row - part.total, before + part.count(self.device.rank)
            if row < 0:
                return None
        return None

    def _entry(self, row: int, columns: list[Any]) -> Any:
        here = self._local_row(row)
        shape = self.local[(slice(0, 0), *columns)].shape[1:]
        found = host.zeros(shape, self.dtype) if here is None else self.local[(here, *columns)]
        return self.device.sum(found)


class Transposed:
    """The transpose of an (n, k) array: vectors as rows, of which each rank has some columns."""

    __array_ufunc__ = None

    def __init__(self, of: Distributed) -> None:
        self.T = of

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return self.T.shape[::-1]

    def __matmul__(self, other: Distributed) -> Any:
        return self.T.device.sum(self.T.local.T @ other.local)

    def __rmatmul__(self, other: Any) -> Transposed:
        return (self.T @ held_by_all(other).T).T

    def __getitem__(self, index: Any) -> Any:
        rows, _ = index
        found = self.T[:, rows]
        return found.T if found.ndim == 2 else found

    def __setitem__(self, index: Any, value: Transposed) -> None:
        rows, _ = index
        self.T[:, rows] = value.T


def weights(places: Any, seed: int) -> Any:
    """Odd random numbers mod 2^64 (the finalizer of splitmix64)."""
    x = places.astype(host.uint64) * host.uint64(2) + host.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> host.uint64(shift))) * host.uint64(factor)
    return (x ^ (x >> host.uint64(31))) | host.uint64(1)


def on_rows(x: Any, like: Distributed) -> Any:
    """What goes with the numbers of a rank: its own of a distributed array, all of another."""
    if not isinstance(x, Distributed):
        return x
    if x.rows != like.rows:
        raise ArgumentError(f"{x!r} and {like!r} are spread over the ranks differently")
    return x.local


def held_by_all(x: Any) -> Any:
    """A small array on every rank."""
    return x.gathered() if isinstance(x, Distributed) else x


def check_vec(x: Any, name: str) -> None:
    """Raise an `ArgumentError` for what is no Vec."""
    if not isinstance(native(x), Distributed):
        raise ArgumentError(
            f"{name} is a {type(x).__name__}; a PETSc Vec was expected (of a numpy model "
            "mfdeq.petsc.distributed makes one by its params)"
        )
