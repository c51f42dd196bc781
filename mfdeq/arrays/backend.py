"""Which array library: chosen once from the arrays in hand, and asked for everything after.

It is asked to take the users' arrays, too, so that one of another library, device or dtype is an
error that names it wherever it comes in.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat as compat
import numpy
import scipy.sparse

from ..errors import ArgumentError, MfdeqError, ModelError, note_origin

Array = Any
host = numpy  # of what is set up on the host, whatever library the arrays are of

# Beside an array library: where it keeps matrices, operators, factorizations and inner loops. A
# namespace of this library's own has its own.
OF_NUMPY = {
    "sparse": "scipy.sparse",
    "sparse_linalg": "scipy.sparse.linalg",
    "dense_linalg": "scipy.linalg",
    "kernels": "mfdeq.arrays.kernels",
    "lagrangian": "mfdeq.equilibrium.lagrangian_system",
    "process": "mfdeq.arrays.single_process",
}
OF_CUPY = {
    "sparse": "cupyx.scipy.sparse",
    "sparse_linalg": "cupyx.scipy.sparse.linalg",
    "dense_linalg": "cupyx.scipy.linalg",
    "kernels": "mfdeq.arrays.cuda",
    "lagrangian": "mfdeq.equilibrium.lagrangian_system",
    "process": "mfdeq.arrays.single_process",
}


@dataclass(frozen=True)
class Backend:
    """The array namespace, dtype and device that one problem lives in.

    Attributes
    ----------
    xp : module
        Array API namespace of the arrays.
    dtype : dtype
        float32 or float64.
    device : object
        Where the arrays are.
    """

    xp: ModuleType
    dtype: Any
    device: Any

    @classmethod
    def of(cls, *arrays: Array, name: str = "arrays") -> Backend:
        """Backend of real arrays; integers and Python numbers and lists become float64.

        `name` is what an error calls them.
        """
        found = [a for a in map(native, arrays) if compat.is_array_api_obj(a)]
        if not found:
            found = [host.zeros(0)]
        try:
            xp = compat.array_namespace(*found)
        except TypeError as error:
            kinds = [f"{type(a).__module__}.{type(a).__name__}" for a in arrays if a is not None]
            raise ModelError(
                f"{name} of one library were expected, {' and '.join(kinds)} came: nothing is "
                "moved between host and device; convert them yourself"
            ) from error
        # What is not real is refused where it is used, by its name.
        floats = [a.dtype for a in found if xp.isdtype(a.dtype, "real floating")]
        widest = max(floats, key=lambda dtype: xp.finfo(dtype).bits, default=xp.float64)
        known = {32: xp.float32, 64: xp.float64}  # of whatever byte order
        if (bits := xp.finfo(widest).bits) not in known:
            raise ModelError(f"{name} must be float32 or float64, {widest} came: convert to one")
        device, *others = [compat.device(a) for a in found]
        if other := next((d for d in others if d != device), None):
            raise ModelError(
                f"{name} are on {device} and {other}; one device was expected: nothing is moved "
                "between them"
            )
        example = xp.zeros(0, dtype=known[bits], device=device)
        if compat.device(example) != device:  # cupy computes on the current device only
            raise ModelError(
                f"{name} are on {device}, and the current device is {compat.device(example)}: "
                "work inside `with` that device (cupy.cuda.Device), or move them"
            )
        return cls(xp, example.dtype, device)

    def _companion(self, kind: str) -> ModuleType:
        usual = OF_CUPY if compat.is_cupy_namespace(self.xp) else OF_NUMPY
        return _module(getattr(self.xp, "COMPANIONS", usual)[kind])

    @classmethod
    def of_operator(cls, op: Any) -> Backend:
        """Backend of a matrix or an operator; a foreign one says its library by its class only."""
        if hasattr(op, "backend"):
            return op.backend
        if is_sparse(op) or is_dense(op):
            return cls.of(op.data if is_sparse(op) else op)
        if hasattr(op, "getOwnershipRanges"):
            return cls.of(op.createVecRight())
        foreign = "cupy" if _package(type(op).__mro__[-2].__module__) == "cupyx" else "numpy"
        return cls.of(_module(foreign).zeros(0, dtype=getattr(op, "dtype", None) or "float64"))

    def check_home(self, of: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise an `error` where a matrix or operator lives with another library's arrays."""
        if hasattr(of, "backend"):
            at_home = (self.xp, self.device) == (of.backend.xp, of.backend.device)
        else:  # a class of the user's own does not say
            others = {"scipy", "cupyx"} - {_package(self.sparse.__name__)}
            at_home = _package(type(of).__mro__[-2].__module__) not in others
        if not at_home:
            raise error(
                f"{name} is a {type(of).__name__} of another array library or device "
                f"({_package(type(of).__mro__[-2].__module__)}) than the problem, {self.library} "
                f"on {self.device}: nothing is moved between host and device; convert it yourself"
            )

    @property
    def library(self) -> str:
        """Its name, in errors."""
        return getattr(self.xp, "LIBRARY", self.xp.__name__.rpartition(".")[2])

    @property
    def eps(self) -> float:
        """Rounding unit of the dtype."""
        return float(self.xp.finfo(self.dtype).eps)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 8 if self.dtype == self.xp.float64 else 4

    @property
    def default_rtol(self) -> float:
        """The relative residual a linear solve aims at where nobody says: 1e-10, float32 1e-5."""
        return 1e-10 if self.dtype == self.xp.float64 else 1e-5

    @property
    def sparse(self) -> ModuleType:
        """`scipy.sparse`, or cupyx's where the arrays are cupy's."""
        return self._companion("sparse")

    @property
    def sparse_linalg(self) -> ModuleType:
        """`scipy.sparse.linalg`, or cupyx's."""
        return self._companion("sparse_linalg")

    @property
    def dense_linalg(self) -> ModuleType:
        """`scipy.linalg`, or cupyx's: factorizations that the array API has not."""
        return self._companion("dense_linalg")

    @property
    def kernels(self) -> ModuleType:
        """The inner loops: `mfdeq.arrays.kernels`, or those of `mfdeq.arrays.cuda`."""
        return self._companion("kernels")

    @property
    def lagrangian(self) -> ModuleType:
        """The Lagrangian system and its factorization, or PETSc's."""
        return self._companion("lagrangian")

    @property
    def process(self) -> ModuleType:
        """What one process does by itself, and several together."""
        return self._companion("process")

    def available_bytes(self) -> int:
        """Memory that there can be where the arrays are."""
        return self.kernels.available_bytes(self.device)

    def on_first_rank(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises, which on several ranks the first calls for all."""
        return self.process.on_first_rank(function, self.device)

    def any_rank(self, found: bool) -> bool:
        """Whether something is so, on several ranks on any: they go on together."""
        return self.process.any_rank(found, self.device)

    def same_on_all_ranks(self, value: float, name: str) -> float:
        """A number that a user's function returned, the same on several ranks."""
        return self.process.same_on_all_ranks(value, name, self.device)

    def global_size(self, size: Any) -> Any:
        """The number of entries of a model's vectors, of which ranks have agreed who holds which.

        Where arrays are not distributed, `size` itself.
        """
        return self.process.global_size(size, self.device)

    def zeros(self, *shape: int) -> Array:
        """Zeros of this dtype on this device."""
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def rows(self, many: int, n: int) -> Array:
        """Zeros (many, n): vectors as rows, each in one piece of memory."""
        return self.process.rows(self, many, n)

    def eye(self, rows: int, columns: int) -> Array:
        """Ones on the diagonal, zeros elsewhere."""
        return self.xp.eye(rows, columns, dtype=self.dtype, device=self.device)

    def asarray(self, x: Array) -> Array:
        """`x` in this dtype and namespace, without moving it between devices."""
        with self.ignore_overflow():  # of overflow, which is infinity then
            if is_sparse(x):
                self.check_home(x, "a sparse matrix")
                return x.astype(self.dtype)
            x = as_array(self, x, "an array", ModelError)
            return self.xp.asarray(x, dtype=self.dtype, device=self.device)

    def random(self, *shape: int, seed: int = 0) -> Array:
        """Standard normal numbers, the same on every library for one seed.

        Of distributed arrays the same on any number of ranks, each of which makes its own.
        """
        return self.process.random(self, shape, seed)

    def from_host(self, x: Any, rows: int | None = None) -> Array:
        """A host (numpy) array in this namespace, dtype and device: an explicit transfer.

        `rows` is its number of rows where that says more than a number, of distributed arrays.
        """
        return self.process.from_host(self, x, rows)

    def coefficients(self, x: Any) -> Array:
        """A small array on the host that combines columns, as `from_host`: on every rank whole."""
        return self.from_host(x, 0)

    def copy_from(self, x: Any) -> Array:
        """An array of another library (JAX's, say), on the same device, as one of this library."""
        shared = host.asarray(x) if compat.is_numpy_namespace(self.xp) else self.xp.from_dlpack(x)
        return self.xp.asarray(shared, copy=True)

    def to_user(self, x: Array) -> Any:
        """A copy of an array as a user's function gets it, which it may write into."""
        copy = self.xp.asarray(x, copy=True)
        return self.process.to_user(copy)

    def from_user(self, x: Any, size: int) -> Any:
        """What a user's function returned for a vector, as `checked` takes it on all ranks."""
        return self.process.from_user(x, size, self.device)

    @contextlib.contextmanager
    def user_call(self, name: str) -> Iterator[None]:
        """A call of a user's function, whose errors say which it was and are those of all ranks."""
        with self.process.together(self.device, name), note_origin(name):
            yield

    def row_major(self, x: Array) -> Array:
        """`x` with its rows one after the other in memory, as some libraries take it only."""
        return getattr(self.xp, "ascontiguousarray", self.xp.asarray)(x)

    @staticmethod
    def read_only(x: Array) -> Array:
        """`x`, not to be written into where the library knows such a thing (numpy does)."""
        if hasattr(x, "setflags"):
            x.setflags(write=False)
        return x

    @staticmethod
    def ignore_overflow() -> Any:
        """Context without floating-point warnings, where overflow is looked for and handled."""
        return host.errstate(over="ignore", invalid="ignore", divide="ignore")

    def norm(self, x: Array) -> float:
        """Euclidean norm of all entries, as a Python float."""
        with self.ignore_overflow():  # of overflow, which whoever asks sees as infinity
            return float(self.xp.linalg.vector_norm(x))

    def column_norms(self, x: Array) -> Array:
        """Euclidean norm of each column of (n, k), or of an (n,) vector."""
        with self.ignore_overflow():
            return self.xp.sqrt(self.column_dots(x, x))

    def difference_norms(self, x: Array, y: Array) -> Array:
        """Norms of the columns of x - y."""
        with self.ignore_overflow():
            return self.xp.sqrt(self.kernels.difference_squares(self.xp, x, y))

    def column_dots(self, x: Array, y: Array) -> Array:
        """Inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
        return self.kernels.column_dots(self.xp, x, y)

    def vector(self, x: Array, size: int, name: str) -> Array:
        """`x` as a fresh, finite (size,) array of this backend, or a `ModelError` naming it."""
        return self.checked(x, (size,), name)

    def checked(
        self,
        x: Array,
        shape: tuple[int, ...] | None,
        name: str,
        error: type[MfdeqError] = ModelError,
        finite: bool = True,
    ) -> Array:
        """`x` as a fresh array of this backend and shape (None is any), or an `error` naming it.

        Fresh, because a user's function may return a view of its argument, or a buffer that it
        fills again. Lower precision than the backend's is refused: it would cap the accuracy of
        everything computed from it without a word.
        """
        xp = self.xp
        expected = "one number" if shape == () else f"an array of shape {shape or '(m,)'}"
        given = as_array(self, x, f"{name} ({expected})", error)
        if given.ndim == 0 and shape is not None and math.prod(shape) == 1:
            given = xp.reshape(given, shape)
        if shape is not None and tuple(given.shape) != shape:
            raise error(f"{name} has shape {tuple(given.shape)}; {expected} was expected")
        self.check_dtype(given.dtype, name, error)
        given = xp.asarray(self.asarray(given), copy=True)
        if finite and not bool(xp.all(xp.isfinite(given))):
            bad = int(xp.sum(xp.astype(~xp.isfinite(given), xp.int64)))
            total = math.prod(given.shape)
            raise error(f"{name} holds NaN or infinity in {bad} of {total} entries")
        return given

    def check_dtype(self, dtype: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise an `error` on complex, object and lower-precision dtypes."""
        xp = self.xp
        try:
            real = xp.isdtype(dtype, ("bool", "integral", "real floating"))
        except (TypeError, ValueError):
            real = False
        if not real:
            raise error(f"{name} has dtype {dtype}; a real array was expected")
        if xp.isdtype(dtype, "real floating") and xp.finfo(dtype).eps > self.eps * 1.01:
            raise error(
                f"{name} has dtype {dtype}, less precise than the problem's {self.dtype}: "
                f"compute it in {self.dtype}, or pass params and h0 in {dtype}"
            )


_module = functools.cache(importlib.import_module)


def _package(module: str) -> str:
    return module.partition(".")[0]


def native(x: Any) -> Any:
    """A PETSc Vec as an array that this library computes with; all else as it is."""
    if hasattr(x, "getOwnershipRanges") and hasattr(x, "getArray"):
        return _module("mfdeq.petsc.arrays").Distributed.of(x)
    return x


def shape_of(x: Any) -> tuple[int, ...]:
    """Of a matrix, array or operator, PETSc's too; () where it has none."""
    return tuple(x.getSize() if hasattr(x, "getDenseArray") else getattr(x, "shape", ()))


def is_sparse(x: Any) -> bool:
    """Whether `x` is a scipy or cupyx sparse matrix or array."""
    return scipy.sparse.issparse(x) or (
        type(x).__module__.startswith("cupyx.scipy.sparse") and hasattr(x, "tocsr")
    )


def array_on_host(x: Array) -> Any:
    """An array as numpy's: an explicit transfer where it is another library's."""
    if hasattr(x, "get"):
        return x.get()
    if hasattr(x, "gathered"):  # from all ranks
        return x.gathered()
    # numpy's sums of a vector are scalars, not arrays.
    return host.asarray(x) if isinstance(x, host.ndarray | host.generic) else host.from_dlpack(x)


def is_dense(x: Any) -> bool:
    """Whether `x` is an array of any library."""
    return compat.is_array_api_obj(x)


def as_array(backend: Backend, x: Any, name: str, error: type[MfdeqError]) -> Array:
    """`x`, a list or number too, as an array of the library and device, or an `error`."""
    x = native(x)
    if x is None:
        raise error(f"{name} was expected, None came")
    if is_sparse(x):
        raise error(f"{name} was expected, a sparse matrix came: give a dense array")
    if host.ma.is_masked(x):
        raise error(f"{name} was expected, a masked array came: its masked entries have no value")
    if compat.is_array_api_obj(x):
        here = backend.xp, backend.device
        there = compat.array_namespace(x), compat.device(x)
        held_by_all = backend.process.ACCEPTS_REPLICATED and compat.is_numpy_array(x)
        if there != here and not held_by_all:
            raise error(
                f"{name} of {backend.library} on {here[1]} was expected, {type(x)} on "
                f"{compat.device(x)} came: nothing is moved between host and device; convert it "
                "yourself"
            )
        return x
    try:
        return backend.xp.asarray(x, device=backend.device)
    except (TypeError, ValueError) as cause:
        raise error(f"{name} was expected, {type(x).__name__} came: {cause}") from cause


def check_block(x: Array, backend: Backend, rows: int, name: str) -> Array:
    """`x` as an (rows,) or (rows, k) array of the backend, or an `ArgumentError`."""
    x = as_array(backend, x, f"{name} (a dense (n,) or (n, k) array)", ArgumentError)
    if x.ndim not in (1, 2) or x.shape[0] != rows:
        raise ArgumentError(
            f"{name} has shape {tuple(x.shape)}; ({rows},) or ({rows}, k) was expected"
        )
    real = ("bool", "integral", "real floating")
    if x.dtype != backend.dtype and not backend.xp.isdtype(x.dtype, real):
        raise ArgumentError(
            f"{name} has dtype {x.dtype}; a real array was expected (of a complex one, pass the "
            "real and the imaginary part)"
        )
    return backend.asarray(x)
