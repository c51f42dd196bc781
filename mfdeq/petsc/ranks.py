"""The ranks of a communicator, and how the rows of distributed arrays are split among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import host
from ..arrays.kernels import available_bytes
from ..errors import ArgumentError
from .threads import limit_threads

# PETSc collects the Vecs that user functions have dropped after so many calls of them, or after so
# many bytes on each rank were passed to them, whichever comes first.
CALLS_BETWEEN_CLEANUPS = 50
BYTES_BETWEEN_CLEANUPS = 2**26


class Size(int):
    """A number of rows that remembers its summands, where arrays were stacked."""

    parts: tuple[Size, ...]

    def __new__(cls, total: int, parts: tuple[Size, ...] = ()) -> Size:
        """Make the number, with the numbers that it is the sum of."""
        size = super().__new__(cls, total)
        size.parts = parts
        return size

    def __add__(self, other: Any) -> Any:
        total = int(self) + other
        if not isinstance(other, Size):
            return total
        return Size(total, (self.parts or (self,)) + (other.parts or (other,)))


@dataclass(frozen=True)
class Rows:
    """How the rows of an array are split among the ranks.

    Attributes
    ----------
    starts : tuple of int
        The first row of each rank, and last the number of rows.
    parts : tuple of Rows
        For rows stacked from several arrays: each rank holds its rows of one array after the other.
    """

    starts: tuple[int, ...]
    parts: tuple[Rows, ...] = ()

    @property
    def total(self) -> Size:
        """Number of rows on all ranks together."""
        return Size(self.starts[-1], tuple(part.total for part in self.parts))

    def slice_of(self, rank: int) -> slice:
        """Return the rows of a rank."""
        return slice(self.starts[rank], self.starts[rank + 1])

    def count(self, rank: int) -> int:
        """Return the number of rows of a rank."""
        return self.starts[rank + 1] - self.starts[rank]

    @classmethod
    def from_ranges(cls, ranges: Any) -> Rows:
        """Return the split that PETSc's ownership ranges describe."""
        return cls(tuple(int(start) for start in ranges))

    @classmethod
    def stack(cls, parts: tuple[Rows, ...]) -> Rows:
        """Return the rows of arrays stacked one below the other."""
        starts = tuple(sum(column) for column in zip(*(rows.starts for rows in parts), strict=True))
        return cls(starts, parts)


class Ranks:
    """The ranks of a communicator: the device of distributed arrays.

    On one communicator all arrays with the same number of rows are split in the same way. Arrays
    with a number of rows that is not registered here are small, and replicated on every rank.

    Attributes
    ----------
    comm : petsc4py.PETSc.Comm
    mpi : mpi4py.MPI.Comm
        The same communicator, for what petsc4py does not offer.
    rank, size : int
    key : tuple
        The members as ranks of MPI.COMM_WORLD, and how many communicators with the same members
        were known before: the same on every rank.
    grids : dict
        By number of rows, the DMDA to which vectors of that size belong, if any.
    errors : mpi4py.MPI.Comm
        A duplicate on which nothing but failures is communicated.
    memory : int
        Available bytes on all machines together, each counted as the smallest.
    threads : int or None
        To how many threads the BLAS of this rank was limited, if it was.
    public_calls : int
        The depth of public functions that are running on these ranks.
    results : list of str or None
        The kinds of what the user's function that is running has returned, to be compared.
    """

    _known: ClassVar[dict[int, Ranks]] = {}

    def __init__(self, comm: Any) -> None:
        self.comm, self.mpi = comm, comm.tompi4py()
        self.rank, self.size = comm.getRank(), comm.getSize()
        self.errors = self.mpi.Dup() if self.size > 1 else self.mpi
        self.key = self._key()
        self.memory = self._available_bytes()
        self.threads = limit_threads(self.mpi) if self.size > 1 else None
        self.grids: dict[int, Any] = {}
        self._rows = {0: Rows((0,) * (self.size + 1))}
        self._vecs: dict[tuple[int, ...], list[Any]] = {}  # Vecs to lend, by the rows of each rank
        self._owner: Any = None  # an object that keeps PETSc's inner communicator alive
        self._calls = self._objects = self._bytes = 0
        self.public_calls = 0
        self.results: list[str] | None = None

    @classmethod
    def of(cls, comm: Any) -> Ranks:
        """Return the one `Ranks` of a communicator, found by PETSc's duplicate of it."""
        if (known := cls._known.get(comm.tompi4py().py2f())) is not None:
            return known
        vec, handle = cls._duplicate(comm)
        if handle in cls._known:
            vec.destroy()
        else:
            cls._known[handle] = cls(vec.getComm())
            cls._known[handle]._owner = vec
            cls._find_world()
        return cls._known[handle]

    @staticmethod
    def _duplicate(comm: Any) -> tuple[Any, int]:
        """Return a Vec on PETSc's duplicate of a communicator, and the duplicate's handle."""
        from petsc4py import PETSc

        vec = PETSc.Vec().create(comm=comm)
        return vec, vec.getComm().tompi4py().py2f()

    @classmethod
    def _find_world(cls) -> None:
        """Note which duplicate is that of COMM_WORLD, if a Vec on that has been seen.

        A rank that has nothing but COMM_WORLD then finds its ranks without a collective call.
        """
        from petsc4py import PETSc

        world = PETSc.COMM_WORLD.tompi4py().py2f()
        latest = next(reversed(cls._known.values()))
        if world not in cls._known and latest.size == PETSc.COMM_WORLD.getSize():
            vec, handle = cls._duplicate(PETSc.COMM_WORLD)
            vec.destroy()
            if handle in cls._known:
                cls._known[world] = cls._known[handle]

    def _key(self) -> tuple[tuple[int, ...], int]:
        from mpi4py import MPI

        group, world = self.mpi.Get_group(), MPI.COMM_WORLD.Get_group()
        members = tuple(MPI.Group.Translate_ranks(group, range(self.size), world))
        others = {id(other): other for other in self._known.values()}  # one may have two handles
        return members, sum(members == other.key[0] for other in others.values())

    def next_object_number(self) -> int:
        """Count an object that is made on these ranks; the count is the same on each."""
        self._objects += 1
        return self._objects

    def _available_bytes(self) -> int:
        from mpi4py import MPI

        machine = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        machines = self.mpi.allreduce(int(machine.Get_rank() == 0))
        machine.Free()
        return machines * self.mpi.allreduce(available_bytes(), MPI.MIN)

    def __repr__(self) -> str:
        return f"{self.size} ranks"

    def count_bytes(self, nbytes: int) -> None:
        """Count the bytes (on all ranks) of an array that is passed to the user."""
        self._bytes += nbytes // self.size

    def count_user_call(self) -> None:
        """Count a call of a user's function on all ranks, and collect garbage now and then.

        PETSc destroys the Vecs that the function has dropped only in a collective cleanup.
        """
        from petsc4py import PETSc

        self._calls += 1
        if self._calls >= CALLS_BETWEEN_CLEANUPS or self._bytes > BYTES_BETWEEN_CLEANUPS:
            self._calls = self._bytes = 0
            PETSc.garbage_cleanup(self.comm)

    def rows(self, total: int) -> Rows | None:
        """Return how arrays of so many rows are split; None if they are replicated."""
        if not (parts := getattr(total, "parts", ())):
            return self._rows.get(total)
        return Rows.stack(tuple(self._rows[part] for part in parts))

    def register_rows(self, rows: Rows) -> Rows:
        """Register how arrays of this number of rows are split from now on."""
        known = self._rows.setdefault(rows.total, rows)
        if known.starts != rows.starts:
            raise ArgumentError(
                f"vectors of {rows.total} entries: expected {host.diff(known.starts)} entries on "
                f"the ranks, as an earlier vector of this size has, got {host.diff(rows.starts)}. "
                "Give all vectors of one size the same layout, or this problem a communicator of "
                "its own, PETSc.Comm(comm.tompi4py().Dup())"
            )
        return known

    def agree_on_rows(self, total: int, own: int | None = None) -> Rows:
        """Return the split of so many rows, and register it if it is new; a collective call.

        Parameters
        ----------
        total : int
        own : int, optional
            The number of rows on this rank. By default the registered split, or PETSc's.
        """
        claims = self.mpi.allgather((total, own))
        if len({whole for whole, _ in claims}) > 1 or len({part is None for _, part in claims}) > 1:
            raise ArgumentError(
                "expected the same total size on every rank, got (size on all ranks, size on this "
                f"one) = {claims}"
            )
        if own is None and total in self._rows:
            return self._rows[total]
        counts = [part for _, part in claims]
        if own is None:
            counts = [total // self.size + (total % self.size > rank) for rank in range(self.size)]
        if host.sum(counts) != total:
            raise ArgumentError(
                f"expected local sizes that add up to {total}, got {counts} on the ranks: give "
                "sizes as (on this rank, on all ranks)"
            )
        return self.register_rows(Rows((0, *(int(start) for start in host.cumsum(counts)))))

    def borrow_vec(self, rows: Rows) -> Any:
        """Return a Vec without an array of its own in use, to be given back by `return_vec`."""
        from petsc4py import PETSc

        if pool := self._vecs.setdefault(rows.starts, []):
            return pool.pop()
        size = rows.count(self.rank), rows.starts[-1]
        return PETSc.Vec().createMPI(size, comm=self.comm)

    def return_vec(self, rows: Rows, vec: Any) -> None:
        """Give back a borrowed Vec."""
        self._vecs[rows.starts].append(vec)

    def sum(self, x: Any) -> Any:
        """Sum a number, or a host array of one shape, over all ranks."""
        return self.allreduce(x, "SUM")

    def allreduce(self, x: Any, how: str) -> Any:
        """Reduce a number or a host array over all ranks by the named operation of MPI."""
        if self.size == 1:
            return x
        from mpi4py import MPI

        result = host.empty_like(host.asarray(x))
        self.mpi.Allreduce(host.ascontiguousarray(x), result, getattr(MPI, how))
        return result[()]

    def allgather(self, x: Any) -> list[Any]:
        """Return the objects of all ranks, on every rank."""
        return [x] if self.size == 1 else self.mpi.allgather(x)

    def on_first_rank(self, function: Callable[[], Any]) -> Any:
        """Call a function on the first rank; return its value, or raise its error, on all."""
        value = failure = None
        if self.rank == 0:
            try:
                value = function()
            except Exception as error:
                failure = error
        if self.size > 1:
            value, failure = self.mpi.bcast((value, failure))
        if failure is not None:
            raise failure
        return value

    def gather(self, local: Any, rows: Rows) -> Any:
        """Return the whole array on every rank, from the rows that each rank has."""
        if self.size == 1:
            return local
        pieces = self.mpi.allgather(local)
        if not rows.parts:
            return host.concatenate(pieces)
        offsets, blocks = [0] * self.size, []
        for part in rows.parts:
            for rank, piece in enumerate(pieces):
                blocks.append(piece[offsets[rank] : offsets[rank] + part.count(rank)])
                offsets[rank] += part.count(rank)
        return host.concatenate(blocks)
