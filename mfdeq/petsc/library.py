"""PETSc as an array library of mfdeq: arrays on several ranks, which have to act together."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.library import ArrayLibrary, register
from ..errors import ModelError
from ..files.checkpoints import FirstRankNpzStore
from . import kernels, sparse
from .agreement import (
    bound_arguments,
    describe_result,
    find_ranks,
    public_call,
    size_of_program,
)
from .arrays import DistributedArray, TransposedArray, is_petsc, replicate
from .checkpoints import Hdf5Store
from .errors import raise_on_all_ranks
from .files import is_hdf5
from .ksp import KSP
from .ldl import PositiveDefiniteDirect
from .ranks import Ranks
from .row_blocks import rows_of
from .shell_mats import operator_of_mat

SAME_NUMBER_RTOL = 1e-6  # difference of numbers that all ranks have computed from the same data
SEEDED_ROWS = 2**16  # rows of random numbers that one seed makes


class PetscLibrary(ArrayLibrary):
    """Vecs and Mats of PETSc: arrays whose rows are split among the ranks of a communicator."""

    name = "PETSc"
    packages = ("petsc4py",)
    on_host = False
    accepts_replicated = True
    distributed = True
    declares_null_spaces = True
    sparse = sparse
    sparse_linalg = sparse  # its LinearOperator
    kernels = kernels

    def owns(self, cls: type) -> bool:
        """Whether objects of a class are PETSc's, or mfdeq's own on distributed arrays."""
        own_classes = (DistributedArray, TransposedArray, sparse.Entries, sparse.LinearOperator)
        return issubclass(cls, own_classes) or super().owns(cls)

    def to_array(self, x: Any) -> Any:
        """Return a Vec as a distributed array; everything else as it is."""
        return DistributedArray.from_petsc(x) if is_petsc(x, "Vec") else x

    def shape_of(self, x: Any) -> tuple[int, ...]:
        """Return the shape of a Mat, Vec, array or operator."""
        if is_petsc(x, "Mat"):
            return tuple(x.getSize())
        return (x.getSize(),) if is_petsc(x, "Vec") else super().shape_of(x)

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse matrix of scipy's, which nothing distributed is."""
        return False

    def is_matrix(self, x: Any) -> bool:
        """Whether `x` is a Mat, or entries that a Mat will be made of."""
        return is_petsc(x, "Mat") or isinstance(x, sparse.Entries)

    def as_operator(self, backend: Backend, matrix: Any, name: str) -> Any:
        """Return a Mat as an operator, checked."""
        if isinstance(matrix, sparse.Entries):
            matrix = matrix.mat(backend.device)
        return operator_of_mat(backend, matrix, name)

    def zeros_of(self, operator: Any) -> Array:
        """Return an array with the layout of an operator's domain."""
        return operator.createVecRight()

    def is_product_only(self, matrix: Any) -> bool:
        """Whether a Mat is one of Python, or a shell."""
        if is_petsc(matrix, "Mat"):
            return matrix.getType() in ("python", "shell")
        return super().is_product_only(matrix)

    def to_host(self, x: Array) -> Any:
        """Gather an array on every rank."""
        return x.gathered()

    def from_host(self, backend: Backend, x: Any, rows: int | None) -> Array:
        """Return this rank's rows of a numpy array; all of it where `rows` is 0."""
        return backend.xp.asarray(x, dtype=backend.dtype, device=backend.device, rows=rows)

    def replicated(self, x: Array) -> Any:
        """Return an array whole on every rank."""
        return replicate(x)

    def rows_of(self, backend: Backend, given: Any, count: int, size: int) -> Any:
        """Return a Vec, a sequence of Vecs, a Mat or a numpy array as a few rows."""
        return rows_of(backend.device, given, count, size)

    def random(self, backend: Backend, shape: tuple[int, ...], seed: int) -> Array:
        """Return standard normal numbers, the same on any number of ranks.

        Up to `SEEDED_ROWS` rows they are those of numpy.
        """
        (total, *columns), device = shape, backend.device
        if (layout := device.rows(total)) is None:
            return host.random.default_rng(seed).standard_normal(shape)
        before, own = 0, []
        for part in layout.parts or (layout,):
            own.append(_normal(seed, part.slice_of(device.rank), before, layout.total, columns))
            before += part.total
        return DistributedArray(host.concatenate(own), device, layout)

    def row_vectors(self, backend: Backend, count: int, size: int) -> TransposedArray:
        """Return zeros (count, size), each row contiguous in the memory of every rank."""
        device = backend.device
        layout = device.rows(size)
        local = host.zeros((layout.count(device.rank), count), backend.dtype, order="F")
        return DistributedArray(local, device, layout).T

    def fingerprint(self, x: Array) -> bytes:
        """Return bytes that differ where any bit differs, the same on any number of ranks."""
        return x.fingerprint() if isinstance(x, DistributedArray) else super().fingerprint(x)

    def to_user(self, x: Any) -> Any:
        """Return an array as a Vec; one that every rank has whole as it is."""
        if not isinstance(x, DistributedArray):
            return x
        x.device.count_bytes(x.nbytes)
        return x.vec()

    def from_user(self, x: Any, size: int | None, device: Ranks) -> Any:
        """Check that what a function returned is distributed as the problem's vectors are.

        The kind of the result is noted, and compared with that of the other ranks at the end of the
        function's `user_call`.
        """
        if device.results is not None:
            device.results.append(describe_result(x))
        rows = None if size is None else device.rows(size)
        if is_petsc(x, "Vec", "Mat") and rows is not None:
            own, ranks = x.getLocalSize() if is_petsc(x, "Vec") else None, x.getComm().getSize()
            if (own, ranks) != (rows.count(device.rank), device.size):
                raise ModelError(
                    f"expected a Vec on {device.size} ranks with {rows.count(device.rank)} entries "
                    f"on this one, got a {type(x).__name__} on {ranks} ranks with {own} entries"
                )
        return x

    def public_call(
        self, name: str, signature: Any, args: Any, kwargs: Any
    ) -> AbstractContextManager[Any] | None:
        """Return a context that compares arguments and raises errors on all ranks."""
        ranks = find_ranks((*args, *kwargs.values()))
        if ranks is None or ranks.size == 1 or ranks.public_calls:
            return None
        return public_call(ranks, name, bound_arguments(signature, args, kwargs))

    def several_processes(self) -> bool:
        """Whether this program runs on several ranks."""
        return size_of_program() > 1

    def user_call(self, device: Ranks, name: str) -> AbstractContextManager[Any]:
        """Return a context in which an error on one rank is an error on all."""
        return raise_on_all_ranks(device, name)

    def on_first_rank(self, function: Callable[[], Any], device: Ranks) -> Any:
        """Return on all ranks what a function returns, or raise what it raises, on the first."""
        return device.on_first_rank(function)

    def any_rank(self, condition: bool, device: Ranks) -> bool:
        """Whether a condition holds on any rank."""
        return bool(device.allreduce(condition, "LOR"))

    def same_on_all_ranks(self, value: float, name: str, device: Ranks) -> float:
        """Return the first rank's number, from which the others may differ by rounding only."""
        if device.size == 1:
            return value
        values = device.mpi.allgather(value)
        if not max(values) - min(values) <= SAME_NUMBER_RTOL * max(map(abs, values)):
            raise ModelError(
                f"{name}: expected one number, got {values} on the ranks. Sum over all ranks, as "
                "Vec.dot, Vec.norm and Vec.sum do"
            )
        return values[0]

    def global_size(self, size: Any, device: Ranks) -> Any:
        """Return the entries of a vector from a number or PETSc's pair (of this rank, of all)."""
        own, total = size if isinstance(size, tuple) and len(size) == 2 else (None, size)
        if isinstance(total, bool) or not hasattr(total, "__index__") or total < 1:
            return total
        own = None if own is None else operator.index(own)
        return device.agree_on_rows(operator.index(total), own).total

    def default_solver(self) -> KSP:
        """Return the solver that "auto" stands for: a KSP, with PETSc's options."""
        return KSP()

    def definite_solver(self) -> PositiveDefiniteDirect:
        """Return the solver for the precision of a prior."""
        return PositiveDefiniteDirect("mfdeq_precision_")

    def checkpoint_store(self, path: str, device: Ranks) -> Any:
        """Return what reads and writes the checkpoint of that name: HDF5, or a gathered npz."""
        return Hdf5Store(device) if is_hdf5(path) else FirstRankNpzStore(device.on_first_rank)


def _normal(seed: int, rows: slice, before: int, total: int, columns: list[int]) -> Any:
    """Return some rows of the random numbers, made in pieces that do not depend on the ranks."""
    start, stop = before + rows.start, before + rows.stop
    numbers = host.empty((stop - start, *columns))
    for piece in range(start // SEEDED_ROWS, -(-stop // SEEDED_ROWS)):
        first = piece * SEEDED_ROWS
        generator = host.random.default_rng([seed, piece] if piece else seed)
        block = generator.standard_normal((min(SEEDED_ROWS, total - first), *columns))
        lo, hi = max(start, first), min(stop, first + block.shape[0])
        numbers[lo - start : hi - start] = block[lo - first : hi - first]
    return numbers


PETSC = PetscLibrary()
register(PETSC)
