"""Distributed arrays: their rows are split among the ranks, each of which holds a numpy array.

The shape of a distributed array is that of the whole. Operations on entries work on the local part.
Sums over rows are over all ranks, and every rank has the result as a numpy array. The class has as
much of the array API standard as mfdeq's formulas use; its functions are in
`mfdeq.petsc.namespace`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from ..arrays.backend import host, native
from ..errors import ArgumentError
from .ranks import Ranks, Rows


class DistributedArray:
    """An (n,) or (n, k) array whose rows are split among the ranks.

    Parameters
    ----------
    local : numpy array
        The rows of this rank.
    ranks : Ranks
        The ranks; the attribute is called `device`, as the array API has it.
    rows : Rows
        How the rows are split.

    Attributes
    ----------
    namespace : module
        The functions of the array API for this class: `mfdeq.petsc.namespace`, which registers
        itself here.
    """

    namespace: ClassVar[ModuleType]

    __array_ufunc__ = None  # makes numpy defer to the operators of this class
    __array_priority__ = 1000.0

    def __init__(self, local: Any, ranks: Ranks, rows: Rows) -> None:
        self.local, self.device, self.rows = local, ranks, rows

    @classmethod
    def from_petsc(cls, x: Any) -> DistributedArray:
        """Copy a PETSc Vec, or a dense Mat as an (n, k) array."""
        if is_petsc(x, "Vec"):
            local = x.getArray(readonly=True)
        elif x.getType().endswith("dense"):
            local = x.getDenseArray(readonly=True)
        else:
            raise ArgumentError(f"expected a Vec or a dense Mat, got a Mat of type {x.getType()}")
        ranks = Ranks.of(x.getComm())
        rows = ranks.register_rows(Rows.from_ranges(x.getOwnershipRanges()))
        # getDM of petsc4py 3.18 takes a reference away from the Vec; query does not.
        if (grid := x.query("__PETSc_dm")) is not None and grid.getType() == "da":
            ranks.grids[rows.total] = grid
        return cls(host.array(local, order="C"), ranks, rows)

    def vec(self) -> Any:
        """Return an (n,) array as a PETSc Vec, which shares the memory if that is writable."""
        from petsc4py import PETSc

        if self.ndim != 1:
            raise ArgumentError(
                f"expected an array of shape (n,) to make a Vec of, got {self.shape}"
            )
        size = (self.local.shape[0], self.shape[0])
        # PETSc does not respect numpy's write protection: it gets a copy of a protected array.
        local = host.require(self.local, requirements=("C", "W"))
        return PETSc.Vec().createWithArray(local, size=size, comm=self.device.comm)

    def setflags(self, write: bool) -> None:
        """Set or remove write protection, as numpy does; a Vec of a protected array is a copy."""
        self.local.setflags(write=write)

    def like(self, local: Any) -> DistributedArray:
        """Return an array of other numbers with the same split of rows."""
        return DistributedArray(local, self.device, self.rows)

    def gathered(self) -> Any:
        """Return the whole as a numpy array on every rank."""
        return self.device.gather(self.local, self.rows)

    def fingerprint(self) -> bytes:
        """Return 16 bytes that depend on all bits, the same on any number of ranks.

        They are two sums of the entries, as integers mod 2^64, with random odd weights.
        """
        numbers = host.asarray(self.local, dtype=host.float64)
        columns = math.prod(numbers.shape[1:])  # reshape(-1) fails on a rank without rows
        bits = host.ascontiguousarray(numbers).reshape(-1, columns).view(host.uint64)
        positions = self.row_numbers()[:, None] * bits.shape[1] + host.arange(bits.shape[1])
        weights = (_fingerprint_weights(positions, seed) for seed in (1, 2))
        sums = [(bits * weight).sum(dtype=host.uint64) for weight in weights]
        return self.device.sum(host.array(sums)).tobytes()

    def row_numbers(self) -> Any:
        """Return the number in the whole of each row of this rank, (rows of this rank,)."""
        before, numbers = 0, []
        for part in self.rows.parts or (self.rows,):
            here = part.slice_of(self.device.rank)
            numbers.append(host.arange(before + here.start, before + here.stop))
            before += part.total
        return host.concatenate(numbers)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.namespace

    def __repr__(self) -> str:
        return f"DistributedArray({self.shape}, {self.dtype}, on {self.device})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole; the number of rows is a `Size`, which knows its parts."""
        return (self.rows.total, *self.local.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions, 1 or 2."""
        return self.local.ndim

    @property
    def dtype(self) -> Any:
        """The dtype of the entries."""
        return self.local.dtype

    @property
    def size(self) -> int:
        """Number of entries of the whole."""
        return self.rows.total * int(host.prod(self.local.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> TransposedArray:
        """The transpose of an (n, k) array, for products with an (n, j) one."""
        return TransposedArray(self)

    def __len__(self) -> int:
        return self.rows.total

    # Operators on entries.

    def _with(self, other: Any, function: Callable) -> Any:
        return self.like(function(self.local, local_operand(other, self)))

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

    def __neg__(self) -> DistributedArray:
        return self.like(-self.local)

    def __abs__(self) -> DistributedArray:
        return self.like(abs(self.local))

    def __invert__(self) -> DistributedArray:
        return self.like(~self.local)

    def __matmul__(self, other: Any) -> Any:
        """Multiply (n, k) by a (k,) or (k, j) array that every rank has whole."""
        return self.like(self.local @ replicate(other))

    # Indexing: columns, and rows as they were stacked.

    def __getitem__(self, index: Any) -> Any:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        columns = [column for column in columns if column is not Ellipsis]
        if not isinstance(rows, slice):
            return self._entry(rows, columns)
        local, part = self._slice_rows(rows)
        if columns:
            local = local[(slice(None), *columns)]
        return DistributedArray(local, self.device, part)

    def __setitem__(self, index: Any, value: Any) -> None:
        rows, *columns = index if isinstance(index, tuple) else (index,)
        if isinstance(rows, slice):
            local, _ = self._slice_rows(rows)
            here = (slice(None), *(column for column in columns if column is not Ellipsis))
            local[here] = value.local if isinstance(value, DistributedArray) else value
        elif (row := self._local_row(rows)) is not None:
            self.local[(row, *columns)] = value

    def _slice_rows(self, rows: slice) -> tuple[Any, Rows]:
        """Return the local part of all rows, or of one of the arrays that were stacked."""
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
            f"expected all rows of {self!r}, or those of one of the arrays it is stacked from, got "
            f"rows {start} to {stop}"
        )

    def _local_row(self, row: int) -> int | None:
        """Return the local number of a row; None if another rank has it."""
        row = range(self.rows.total)[row]
        before = 0
        for part in self.rows.parts or (self.rows,):
            here = part.slice_of(self.device.rank)
            if here.start <= row < here.stop:
                return before + row - here.start
            row, before = row - part.total, before + part.count(self.device.rank)
            if row < 0:
                return None
        return None

    def _entry(self, row: int, columns: list[Any]) -> Any:
        """Return a row, or an entry, on all ranks."""
        here = self._local_row(row)
        shape = self.local[(slice(0, 0), *columns)].shape[1:]
        mine = host.zeros(shape, self.dtype) if here is None else self.local[(here, *columns)]
        return self.device.sum(mine)


class TransposedArray:
    """The transpose of a distributed (n, k) array: each rank has some of its columns."""

    __array_ufunc__ = None

    def __init__(self, of: DistributedArray) -> None:
        self.T = of

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return self.T.shape[::-1]

    @property
    def dtype(self) -> Any:
        """The dtype of the entries."""
        return self.T.dtype

    def gathered(self) -> Any:
        """Return the whole as a numpy array on every rank."""
        return self.T.gathered().T

    def __neg__(self) -> TransposedArray:
        return (-self.T).T

    def __abs__(self) -> TransposedArray:
        return abs(self.T).T

    def __matmul__(self, other: DistributedArray) -> Any:
        return self.T.device.sum(self.T.local.T @ other.local)

    def __rmatmul__(self, other: Any) -> TransposedArray:
        return (self.T @ replicate(other).T).T

    def __getitem__(self, index: Any) -> Any:
        rows, _ = index
        selected = self.T[:, rows]
        return selected.T if selected.ndim == 2 else selected

    def __setitem__(self, index: Any, value: TransposedArray) -> None:
        rows, _ = index
        self.T[:, rows] = value.T


def _fingerprint_weights(positions: Any, seed: int) -> Any:
    """Return an odd random number mod 2^64 for each position (the finalizer of splitmix64)."""
    x = positions.astype(host.uint64) * host.uint64(2) + host.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> host.uint64(shift))) * host.uint64(factor)
    return (x ^ (x >> host.uint64(31))) | host.uint64(1)


def local_operand(x: Any, like: DistributedArray) -> Any:
    """Return the operand for the local part of `like`: the local part of a distributed array."""
    if not isinstance(x, DistributedArray):
        return x
    if x.rows != like.rows:
        raise ArgumentError(f"expected arrays with one layout on the ranks, got {x!r} and {like!r}")
    return x.local


def replicate(x: Any) -> Any:
    """Return an array whole on every rank: gathered, if it is distributed."""
    return x.gathered() if isinstance(x, DistributedArray) else x


def is_petsc(x: Any, *kinds: str) -> bool:
    """Tell whether an object is of one of the named classes of `petsc4py.PETSc`.

    PETSc is not imported for that: if it is not imported yet, nothing is of its classes.
    """
    PETSc = sys.modules.get("petsc4py.PETSc")
    return PETSc is not None and isinstance(x, tuple(getattr(PETSc, kind) for kind in kinds))


def check_vec(x: Any, name: str) -> None:
    """Raise an `ArgumentError` unless `x` is a Vec or a distributed array."""
    if not isinstance(native(x), DistributedArray):
        raise ArgumentError(
            f"{name}: expected a PETSc Vec, got a {type(x).__name__}; what mfdeq.petsc.distributed "
            "returns makes one of a numpy array by its params(array)"
        )
