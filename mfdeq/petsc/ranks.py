"""Who holds what: the rows of distributed arrays, and the processes that they are on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import host
from ..arrays.kernels import available_bytes
from ..errors import ArgumentError

# What was handed to functions of the user's, after which what they left is cleaned up.
CALLS = 50
BYTES = 2**26  # on each rank


class Size(int):
    """A number of rows that knows which it is the sum of, where arrays were stacked."""

    parts: tuple[Size, ...]

    def __new__(cls, total: int, parts: tuple[Size, ...] = ()) -> Size:
        """A number, with those that it is the sum of."""
        found = super().__new__(cls, total)
        found.parts = parts
        return found

    def __add__(self, other: Any) -> Any:
        total = int(self) + other
        if not isinstance(other, Size):
            return total
        return Size(total, (self.parts or (self,)) + (other.parts or (other,)))


@dataclass(frozen=True)
class Rows:
    """How the rows of an array are spread over the ranks.

    Attributes
    ----------
    starts : tuple of int
        The first row of each rank, and the number of rows.
    parts : tuple of Rows
        Of rows stacked out of several arrays: each rank holds its rows of one after the other.
    """

    starts: tuple[int, ...]
    parts: tuple[Rows, ...] = ()

    @property
    def total(self) -> Size:
        """Rows of all ranks."""
        return Size(self.starts[-1], tuple(part.total for part in self.parts))

    def of(self, rank: int) -> slice:
        """Those of a rank."""
        return slice(self.starts[rank], self.starts[rank + 1])

    def count(self, rank: int) -> int:
        """How many those are."""
        return self.starts[rank + 1] - self.starts[rank]

    @classmethod
    def stacked(cls, parts: tuple[Rows, ...]) -> Rows:
        """Of arrays one below the other."""
        starts = tuple(sum(column) for column in zip(*(rows.starts for rows in parts), strict=True))
        return cls(starts, parts)


class Ranks:
    """The processes of a communicator: where distributed arrays are, as others are on a device.

    Arrays of as many rows have the same rows on each rank; those of a number that is not known
    here are small, and held by every rank.

    Attributes
    ----------
    comm : petsc4py.PETSc.Comm
    mpi : mpi4py.MPI.Comm
        The same, for what PETSc has not.
    rank, size : int
    grids : dict
        The DMDA whose vectors those of a number of rows are, where they are one's.
    errors : mpi4py.MPI.Comm
        On which nothing but failures is told.
    memory : int
        Bytes that there can be on all machines, each taken for the smallest.
    """

    _known: ClassVar[dict[int, Ranks]] = {}

    def __init__(self, comm: Any) -> None:
        self.comm, self.mpi = comm, comm.tompi4py()
        self.rank, self.size = comm.getRank(), comm.getSize()
        self.errors = self.mpi.Dup() if self.size > 1 else self.mpi
        self.place = self._place()
        self.memory = self._memory()
        self.grids: dict[int, Any] = {}
        self._rows = {0: Rows((0,) * (self.size + 1))}
        self._keeper: Any = None
        self._calls = self._made = self._given = 0

    @classmethod
    def of(cls, comm: Any) -> Ranks:
        """One for each communicator, by what PETSc made of it for its objects."""
        from petsc4py import PETSc

        if (found := cls._known.get(comm.tompi4py().py2f())) is not None:
            return found
        vec = PETSc.Vec().create(comm=comm)
        key = vec.getComm().tompi4py().py2f()
        if key in cls._known:
            vec.destroy()
        else:  # which lives as long as an object has it
            cls._known[key] = cls(vec.getComm())
            cls._known[key]._keeper = vec
        return cls._known[key]

    def _place(self) -> tuple[tuple[int, ...], int]:
        """The ranks of all, and how many communicators of the same there were before."""
        from mpi4py import MPI

        group, world = self.mpi.Get_group(), MPI.COMM_WORLD.Get_group()
        members = tuple(MPI.Group.Translate_ranks(group, range(self.size), world))
        return members, sum(members == other.place[0] for other in self._known.values())

    def next_number(self) -> int:
        """Of what is made on these ranks, on each the same."""
        self._made += 1
        return self._made

    def _memory(self) -> int:
        from mpi4py import MPI

        here = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        machines = self.mpi.allreduce(int(here.Get_rank() == 0))
        here.Free()
        return machines * self.mpi.allreduce(available_bytes(), MPI.MIN)

    def __repr__(self) -> str:
        return f"{self.size} ranks"

    def hand(self, nbytes: int) -> None:
        """Take note of an array of so many bytes, of all ranks, that a user gets."""
        self._given += nbytes // self.size

    def called(self) -> None:
        """Take note of a call of a user's function, on all ranks.

        The Vecs that it was given are dropped by PETSc only when all ranks clean up together.
        """
        from petsc4py import PETSc

        self._calls += 1
        if self._calls >= CALLS or self._given > BYTES:
            self._calls = self._given = 0
            PETSc.garbage_cleanup(self.comm)

    def rows(self, total: int) -> Rows | None:
        """Of arrays of so many rows; None where those are held by every rank."""
        if not (parts := getattr(total, "parts", ())):
            return self._rows.get(total)
        return Rows.stacked(tuple(self._rows[part] for part in parts))

    def add(self, rows: Rows) -> Rows:
        """Arrays of that number of rows are spread like that from now on."""
        known = self._rows.setdefault(rows.total, rows)
        if known.starts != rows.starts:
            raise ArgumentError(
                f"a vector of {rows.total} entries has {host.diff(rows.starts)} of them on the "
                f"ranks, an earlier one of as many {host.diff(known.starts)}: give all vectors of "
                "one size the same layout, or this problem a communicator of its own "
                "(PETSc.Comm(comm.tompi4py().Dup()))"
            )
        return known

    def settle(self, total: int, own: int | None = None) -> Rows:
        """Spread arrays of so many rows as they are, or as PETSc would, or as every rank says."""
        said = self.mpi.allgather((total, own))
        if len({whole for whole, _ in said}) > 1 or len({part is None for _, part in said}) > 1:
            raise ArgumentError(
                f"the ranks say (of all, of this one): {said}; one number of all was expected"
            )
        if own is None and total in self._rows:
            return self._rows[total]
        counts = [part for _, part in said]
        if own is None:
            counts = [total // self.size + (total % self.size > rank) for rank in range(self.size)]
        if host.sum(counts) != total:
            raise ArgumentError(
                f"the ranks hold {counts} of {total} rows, which do not add up: sizes are (of this "
                "rank, of all)"
            )
        return self.add(Rows((0, *(int(start) for start in host.cumsum(counts)))))

    def sum(self, x: Any) -> Any:
        """Of what every rank has: a number or a host array of one shape."""
        if self.size == 1:
            return x
        found = host.empty_like(host.asarray(x))
        self.mpi.Allreduce(host.ascontiguousarray(x), found)
        return found[()]

    def reduced(self, x: Any, how: str) -> Any:
        """By "MAX", "MIN", "LAND" or "LOR"."""
        if self.size == 1:
            return x
        from mpi4py import MPI

        found = host.empty_like(host.asarray(x))
        self.mpi.Allreduce(host.ascontiguousarray(x), found, getattr(MPI, how))
        return found[()]

    def on_first_rank(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises on the first rank, on all."""
        found = failure = None
        if self.rank == 0:
            try:
                found = function()
            except Exception as error:
                failure = error
        if self.size > 1:
            found, failure = self.mpi.bcast((found, failure))
        if failure is not None:
            raise failure
        return found

    def gathered(self, local: Any, rows: Rows) -> Any:
        """The whole array on every rank."""
        if self.size == 1:
            return local
        pieces = self.mpi.allgather(local)
        if not rows.parts:
            return host.concatenate(pieces)
        blocks, found = [0] * self.size, []
        for part in rows.parts:
            for rank, piece in enumerate(pieces):
                found.append(piece[blocks[rank] : blocks[rank] + part.count(rank)])
                blocks[rank] += part.count(rank)
        return host.concatenate(found)
