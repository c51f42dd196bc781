"""Which array library, dtype and device: chosen once, from the arrays in hand.

Numerical code asks its `Backend` for everything that depends on the library. Users' arrays are
validated here too, so that an array of another library, device or dtype is an error that names it
wherever it comes in.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import array_api_compat as compat

from ..errors import ArgumentError, MfdeqError, ModelError, note_origin
from .library import (
    HOST,
    Array,
    ArrayLibrary,
    array_on_host,
    find_library,
    host,
    is_dense,
    is_sparse,
    library_of,
    native,
    shape_of,
)

__all__ = [
    "Array",
    "Backend",
    "array_on_host",
    "as_array",
    "check_block",
    "host",
    "is_dense",
    "is_sparse",
    "native",
    "shape_of",
]

REAL_KINDS = ("bool", "integral", "real floating")


@dataclass(frozen=True)
class Backend:
    """The array namespace, dtype and device of one problem.

    Attributes
    ----------
    xp : module
        Array API namespace of the arrays.
    dtype : dtype
        float32 or float64.
    device : object
        Where the arrays are.
    library : ArrayLibrary
        What the namespace does not offer.
    """

    xp: ModuleType
    dtype: Any
    device: Any
    library: ArrayLibrary = field(default=HOST)

    @classmethod
    def of(cls, *arrays: Array, name: str = "arrays") -> Backend:
        """Return the backend of real arrays; integers, Python numbers and lists become float64.

        `name` is what an error calls the arrays.
        """
        found = [a for a in map(native, arrays) if compat.is_array_api_obj(a)]
        if not found:
            found = [host.zeros(0)]
        try:
            xp = compat.array_namespace(*found)
        except TypeError as error:
            kinds = [f"{type(a).__module__}.{type(a).__name__}" for a in arrays if a is not None]
            raise ModelError(
                f"expected {name} of one array library, got {' and '.join(kinds)}. Nothing is "
                "moved between host and device: convert them yourself"
            ) from error
        # What is not real is refused where it is used, by its name.
        floats = [a.dtype for a in found if xp.isdtype(a.dtype, "real floating")]
        widest = max(floats, key=lambda dtype: xp.finfo(dtype).bits, default=xp.float64)
        known = {32: xp.float32, 64: xp.float64}  # in native byte order
        if (bits := xp.finfo(widest).bits) not in known:
            raise ModelError(f"expected {name} of float32 or float64, got {widest}: convert to one")
        device, *others = [compat.device(a) for a in found]
        if other := next((d for d in others if d != device), None):
            raise ModelError(
                f"expected {name} on one device, got {device} and {other}: nothing is moved "
                "between devices"
            )
        example = xp.zeros(0, dtype=known[bits], device=device)
        if compat.device(example) != device:  # cupy computes on the current device only
            raise ModelError(
                f"{name} are on {device}, but the current device is {compat.device(example)}: "
                "work inside `with` that device (cupy.cuda.Device), or move them"
            )
        return cls(xp, example.dtype, device, library_of(found[0]))

    @functools.cached_property
    def is_numpy(self) -> bool:
        """Whether arrays are numpy's, which are all on one device."""
        return compat.is_numpy_namespace(self.xp)

    @functools.cached_property
    def library_name(self) -> str:
        """What messages call the library."""
        return self.library.name or self.xp.__name__.rpartition(".")[2]

    @functools.cached_property
    def eps(self) -> float:
        """Rounding unit of the dtype."""
        return float(self.xp.finfo(self.dtype).eps)

    @functools.cached_property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 8 if self.dtype == self.xp.float64 else 4

    @property
    def default_rtol(self) -> float:
        """The default relative residual of a linear solve: 1e-10, or 1e-5 in float32."""
        return 1e-10 if self.dtype == self.xp.float64 else 1e-5

    @functools.cached_property
    def sparse(self) -> Any:
        """`scipy.sparse`, or what the library has in its place."""
        return self.library.sparse

    @functools.cached_property
    def sparse_linalg(self) -> Any:
        """`scipy.sparse.linalg`, or what the library has in its place."""
        return self.library.sparse_linalg

    @functools.cached_property
    def dense_linalg(self) -> Any:
        """`scipy.linalg`, or what the library has in its place."""
        return self.library.dense_linalg

    @functools.cached_property
    def kernels(self) -> Any:
        """The inner loops: `mfdeq.arrays.kernels`, or what the library has in its place."""
        return self.library.kernels

    def available_bytes(self) -> int:
        """Return how much memory there is where the arrays are."""
        return self.kernels.available_bytes(self.device)

    # Several processes that must go on together; one process does each of these by itself.

    def on_first_rank(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns, or raise what it raises, on the first process."""
        return self.library.on_first_rank(function, self.device)

    def any_rank(self, condition: bool) -> bool:
        """Whether a condition holds on any process."""
        return self.library.any_rank(condition, self.device)

    def same_on_all_ranks(self, value: float, name: str) -> float:
        """Return a number that every process has computed; raise where they differ."""
        return self.library.same_on_all_ranks(value, name, self.device)

    def global_size(self, size: Any) -> Any:
        """Return the number of entries of a model's vector, over all processes."""
        return self.library.global_size(size, self.device)

    # Making arrays.

    def zeros(self, *shape: int) -> Array:
        """Return zeros of this dtype on this device."""
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def row_vectors(self, count: int, size: int) -> Array:
        """Return zeros (count, size): vectors as rows, each contiguous in memory."""
        return self.library.row_vectors(self, count, size)

    def eye(self, rows: int, columns: int) -> Array:
        """Return ones on the diagonal, zeros elsewhere."""
        return self.xp.eye(rows, columns, dtype=self.dtype, device=self.device)

    def asarray(self, x: Array) -> Array:
        """Return `x` in this dtype and namespace, without moving it between devices."""
        if self.is_numpy and type(x) is host.ndarray and x.dtype == self.dtype:
            return x
        with self.ignore_overflow():  # an overflow becomes infinity
            if is_sparse(x):
                self.check_home(x, "a sparse matrix")
                return x.astype(self.dtype)
            x = as_array(self, x, "an operand", ModelError)
            return self.xp.asarray(x, dtype=self.dtype, device=self.device)

    def random(self, *shape: int, seed: int = 0) -> Array:
        """Return standard normal numbers, the same for one seed on every library.

        Of distributed arrays they are the same on any number of processes, each of which makes
        its own rows.
        """
        return self.library.random(self, shape, seed)

    def from_host(self, x: Any, rows: int | None = None) -> Array:
        """Return a numpy array in this namespace, dtype and device: an explicit transfer.

        `rows` is its number of rows, for libraries of distributed arrays that must know how they
        are distributed; 0 keeps all of it on every process.
        """
        return self.library.from_host(self, x, rows)

    def coefficients(self, x: Any) -> Array:
        """Return a small numpy array that combines columns, in full on every process."""
        return self.from_host(x, 0)

    def copy_from(self, x: Any) -> Array:
        """Copy an array of another library (JAX's, say) on the same device."""
        shared = host.asarray(x) if self.is_numpy else self.xp.from_dlpack(x)
        return self.xp.asarray(shared, copy=True)

    def row_major(self, x: Array) -> Array:
        """Return `x` in C order, which some libraries insist on."""
        return getattr(self.xp, "ascontiguousarray", self.xp.asarray)(x)

    @staticmethod
    def read_only(x: Array) -> Array:
        """Return `x`, protected from being written into where the library can (numpy can)."""
        if hasattr(x, "setflags"):
            x.setflags(write=False)
        return x

    # Calls of users' functions.

    def to_user(self, x: Array) -> Any:
        """Return a copy of an array for a function of the user's, which may write into it."""
        return self.library.to_user(self.xp.asarray(x, copy=True))

    def from_user(self, x: Any, size: int) -> Any:
        """Check what a function of the user's returned for a vector, on all processes alike."""
        return self.library.from_user(x, size, self.device)

    @contextlib.contextmanager
    def user_call(self, name: str) -> Iterator[None]:
        """Call a function of the user's inside; its errors name it, alike on all processes."""
        with self.library.user_call(self.device, name), note_origin(name):
            yield

    # Norms.

    @staticmethod
    def ignore_overflow() -> Any:
        """Return a context without floating-point warnings, for code that checks its results."""
        return host.errstate(over="ignore", invalid="ignore", divide="ignore")

    def norm(self, x: Array) -> float:
        """Return the Euclidean norm of all entries, infinity where it overflows."""
        with self.ignore_overflow():
            return float(self.xp.linalg.vector_norm(x))

    def column_norms(self, x: Array) -> Array:
        """Return the Euclidean norm of each column of (n, k), or of an (n,) vector."""
        with self.ignore_overflow():
            return self.xp.sqrt(self.kernels.column_dots(self.xp, x, x))

    def difference_norms(self, x: Array, y: Array) -> Array:
        """Return the norms of the columns of x - y."""
        with self.ignore_overflow():
            return self.xp.sqrt(self.kernels.difference_squares(self.xp, x, y))

    def column_dots(self, x: Array, y: Array) -> Array:
        """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
        return self.kernels.column_dots(self.xp, x, y)

    # Validation.

    def check_home(self, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise an `error` where a matrix or operator belongs to another array library."""
        owner = find_library(type(x))
        # A class of the user's own does not say which arrays it takes.
        if owner is not None and owner is not self.library:
            self.refuse_foreign(x, name, error)

    def refuse_foreign(self, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise the `error` for an object of another array library or device."""
        raise error(
            f"{name} is a {type(x).__name__} of another array library or device than the problem, "
            f"which is in {self.library_name} on {self.device}. Nothing is moved between host and "
            "device: convert it yourself"
        )

    def vector(self, x: Array, size: int, name: str) -> Array:
        """Return `x` as a fresh, finite (size,) array, or raise a `ModelError` that names it."""
        return self.check_array(x, (size,), name)

    def check_array(
        self,
        x: Array,
        shape: tuple[int, ...] | None,
        name: str,
        error: type[MfdeqError] = ModelError,
        finite: bool = True,
    ) -> Array:
        """Return `x` as a fresh array of this backend and shape, or raise an `error` naming it.

        A `shape` of None admits any. The array is fresh because a user's function may return a
        view of its argument, or a buffer that it fills again. A lower precision than the
        backend's is refused: it would silently limit the accuracy of everything computed from it.
        """
        xp = self.xp
        expected = "a number" if shape == () else f"an array of shape {shape or '(m,)'}"
        given = as_array(self, x, name, error, expected)
        if given.ndim == 0 and shape is not None and math.prod(shape) == 1:
            given = xp.reshape(given, shape)
        if shape is not None and tuple(given.shape) != shape:
            raise error(f"{name}: expected {expected}, got shape {tuple(given.shape)}")
        self.check_dtype(given.dtype, name, error)
        given = xp.asarray(self.asarray(given), copy=True)
        if finite and not bool(xp.all(xp.isfinite(given))):
            count = int(xp.sum(xp.astype(~xp.isfinite(given), xp.int64)))
            total = math.prod(given.shape)
            raise error(f"{name} holds NaN or infinity in {count} of {total} entries")
        return given

    def check_dtype(self, dtype: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise an `error` on complex, object and lower-precision dtypes."""
        xp = self.xp
        try:
            real = xp.isdtype(dtype, REAL_KINDS)
        except (TypeError, ValueError):
            real = False
        if not real:
            raise error(f"{name}: expected a real array, got dtype {dtype}")
        if xp.isdtype(dtype, "real floating") and xp.finfo(dtype).eps > self.eps * 1.01:
            raise error(
                f"{name} has dtype {dtype}, less precise than the problem's {self.dtype}: "
                f"compute it in {self.dtype}, or pass params and h0 in {dtype}"
            )


def as_array(
    backend: Backend,
    x: Any,
    name: str,
    error: type[MfdeqError],
    expected: str = "an array",
) -> Array:
    """Return `x` (a list or number too) as an array of the library and device, or raise `error`."""
    if type(x) is host.ndarray and backend.is_numpy:
        return x
    x = native(x)
    if x is None:
        raise error(f"{name}: expected {expected}, got None")
    if is_sparse(x):
        raise error(f"{name}: expected {expected}, got a sparse matrix: pass a dense array")
    if host.ma.is_masked(x):
        raise error(
            f"{name}: expected {expected}, got a masked array, whose masked entries have no value"
        )
    if compat.is_array_api_obj(x):
        here = backend.xp, backend.device
        there = compat.array_namespace(x), compat.device(x)
        replicated = backend.library.accepts_replicated and compat.is_numpy_array(x)
        if there != here and not replicated:
            raise error(
                f"{name}: expected {expected} of {backend.library_name} on {here[1]}, got "
                f"a {type(x).__module__}.{type(x).__name__} on {there[1]}. Nothing is moved "
                "between host and device: convert it yourself"
            )
        return x
    try:
        return backend.xp.asarray(x, device=backend.device)
    except (TypeError, ValueError) as cause:
        raise error(f"{name}: expected {expected}, got {type(x).__name__} ({cause})") from cause


def check_block(x: Array, backend: Backend, rows: int, name: str) -> Array:
    """Return `x` as a (rows,) or (rows, k) array of the backend, or raise an `ArgumentError`."""
    fits = type(x) is host.ndarray and x.ndim in (1, 2) and x.shape[0] == rows
    if fits and backend.is_numpy and x.dtype == backend.dtype:
        return x
    x = as_array(backend, x, name, ArgumentError, "a dense (n,) or (n, k) array")
    if x.ndim not in (1, 2) or x.shape[0] != rows:
        raise ArgumentError(
            f"{name}: expected shape ({rows},) or ({rows}, k), got {tuple(x.shape)}"
        )
    if x.dtype != backend.dtype and not backend.xp.isdtype(x.dtype, REAL_KINDS):
        raise ArgumentError(
            f"{name}: expected a real array, got dtype {x.dtype} (of a complex one, pass the real "
            "and the imaginary part)"
        )
    return backend.asarray(x)
