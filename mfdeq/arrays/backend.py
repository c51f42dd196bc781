"""The array library, dtype and device of a problem, and the validation of users' arrays.

Numerical code uses its `Backend` for everything that depends on the library. An array of another
library, device or dtype raises an error that names it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import array_api_compat as compat
from scipy.linalg.blas import ddot, sdot

from ..errors import ArgumentError, MfdeqError, ModelError, note_origin
from ..locks import cached_property
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
    library_of_numpy,
    native,
    shape_of,
)
from .sparse import copied

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
FLOAT64_EXAMPLE = host.zeros(0)
FLOAT64 = FLOAT64_EXAMPLE.dtype
MAX_BLAS_SIZE = 2**31  # of a vector, whose entries BLAS counts in 32 bits
MAX_SHORT_SIZE = 2**12  # of a vector whose norm BLAS computes in one call, and on one thread


@dataclass(frozen=True)
class Backend:
    """The array namespace, dtype and device of one problem.

    Attributes
    ----------
    xp : module
        The array API namespace of the arrays.
    dtype : dtype
        float32 or float64.
    device : object
        The device of the arrays.
    library : ArrayLibrary
        Functions that are not in the namespace.
    """

    xp: ModuleType
    dtype: Any
    device: Any
    library: ArrayLibrary = field(default=HOST)

    @classmethod
    def of(cls, *arrays: Array, name: str = "arrays", dtype_of: int | None = None) -> Backend:
        """Return the backend of real arrays; integers, Python numbers and lists become float64.

        `name` is the name of the arrays in error messages. The first `dtype_of` arrays, by default
        all, determine the dtype, which is the widest of theirs.
        """
        for a in arrays:
            if type(a) is not host.ndarray or a.dtype is not FLOAT64:
                break
        else:
            return _host_backend(library_of_numpy())
        found = [a for a in map(native, arrays) if compat.is_array_api_obj(a)]
        if not found:
            found = [host.zeros(0)]
        try:
            xp = compat.array_namespace(*found)
        except TypeError as error:
            kinds = [f"{type(a).__module__}.{type(a).__name__}" for a in arrays if a is not None]
            raise ModelError(
                f"expected {name} of one array library, got {' and '.join(kinds)}. Nothing is "
                "moved between host and device: convert them explicitly"
            ) from error
        # Other dtypes are rejected later, with a message that names the array.
        deciding = found
        if dtype_of is not None:
            deciding = [a for a in map(native, arrays[:dtype_of]) if compat.is_array_api_obj(a)]
        floats = [a.dtype for a in deciding if xp.isdtype(a.dtype, "real floating")]
        widest = max(floats, key=lambda dtype: xp.finfo(dtype).bits, default=xp.float64)
        known = {32: xp.float32, 64: xp.float64}  # in native byte order
        if (bits := xp.finfo(widest).bits) not in known:
            raise ModelError(f"expected {name} of float32 or float64, got {widest}: convert them")
        device, *others = [compat.device(a) for a in found]
        if other := next((d for d in others if d != device), None):
            raise ModelError(
                f"expected {name} on one device, got {device} and {other}. Nothing is moved "
                "between devices: move them explicitly"
            )
        example = xp.zeros(0, dtype=known[bits], device=device)
        if compat.device(example) != device:  # cupy computes on the current device only
            raise ModelError(
                f"{name} are on {device}, but the current device is {compat.device(example)}: "
                "use a `with cupy.cuda.Device(...)` block, or move them"
            )
        return cls(xp, example.dtype, device, library_of(found[0]))

    def __reduce__(self) -> tuple[Any, ...]:
        # A module cannot be pickled. Arrays on a device are unpickled on the current device.
        device = self.device if self.library.on_host else None
        return _unpickled, (self.xp.__name__, self.dtype, device)

    def __copy__(self) -> Backend:
        return self

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    @cached_property
    def is_numpy(self) -> bool:
        """Whether the array library is numpy."""
        return compat.is_numpy_namespace(self.xp)

    @cached_property
    def library_name(self) -> str:
        """The name of the library in messages."""
        return self.library.name or self.xp.__name__.rpartition(".")[2]

    @cached_property
    def eps(self) -> float:
        """The machine epsilon of the dtype."""
        return float(self.xp.finfo(self.dtype).eps)

    @cached_property
    def smallest_normal(self) -> float:
        """The smallest positive number of the dtype with full precision."""
        return float(self.xp.finfo(self.dtype).smallest_normal)

    @cached_property
    def smallest_to_square(self) -> float:
        """The least number whose square, and that of its inverse, is far from the limits."""
        return self.smallest_normal**0.25

    @cached_property
    def itemsize(self) -> int:
        """The size of one number in bytes."""
        return 8 if self.dtype == self.xp.float64 else 4

    @property
    def default_rtol(self) -> float:
        """The default relative residual of a linear solve: 1e-10, or 1e-5 in float32."""
        return 1e-10 if self.dtype == self.xp.float64 else 1e-5

    @cached_property
    def sparse(self) -> Any:
        """`scipy.sparse`, or the library's equivalent."""
        return self.library.sparse

    @cached_property
    def sparse_linalg(self) -> Any:
        """`scipy.sparse.linalg`, or the library's equivalent."""
        return self.library.sparse_linalg

    @cached_property
    def dense_linalg(self) -> Any:
        """`scipy.linalg`, or the library's equivalent."""
        return self.library.dense_linalg

    @cached_property
    def kernels(self) -> Any:
        """The inner loops: `mfdeq.arrays.kernels`, or the library's equivalent."""
        return self.library.kernels

    def available_bytes(self) -> int:
        """Return the memory available on the device of the arrays, in bytes."""
        return self.kernels.available_bytes(self.device)

    # Collective operations over several processes; trivial for a single process.

    def on_first_rank(self, function: Callable[[], Any]) -> Any:
        """Call a function on the first process, and return or raise its outcome on all."""
        return self.library.on_first_rank(function, self.device)

    def any_rank(self, condition: bool) -> bool:
        """Return whether a condition holds on any process."""
        return self.library.any_rank(condition, self.device)

    def same_on_all_ranks(self, value: float, name: str) -> float:
        """Return a number computed on every process, or raise an error if the values differ."""
        return self.library.same_on_all_ranks(value, name, self.device)

    def global_size(self, size: Any) -> Any:
        """Return the number of entries of a model's vector on all processes together."""
        return self.library.global_size(size, self.device)

    # Creation of arrays.

    def zeros(self, *shape: int) -> Array:
        """Return an array of zeros of this dtype on this device."""
        if self.is_numpy:
            return host.zeros(shape, self.dtype)
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def row_vectors(self, count: int, size: int) -> Array:
        """Return a (count, size) array of zeros whose rows are contiguous in memory."""
        return self.library.row_vectors(self, count, size)

    def eye(self, rows: int, columns: int) -> Array:
        """Return an array with ones on the diagonal and zeros elsewhere."""
        return self.xp.eye(rows, columns, dtype=self.dtype, device=self.device)

    def asarray(self, x: Array) -> Array:
        """Return `x` as an array of this dtype and namespace, without a transfer of devices."""
        if self.is_numpy and type(x) is host.ndarray and x.dtype == self.dtype:
            return x
        with self.ignore_overflow():  # the result is checked for infinity
            if is_sparse(x):
                self.check_home(x, "a sparse matrix")
                return copied(x, self.dtype)
            x = as_array(self, x, "an operand", ModelError)
            return self.xp.asarray(x, dtype=self.dtype, device=self.device)

    def random(self, *shape: int, seed: int = 0) -> Array:
        """Return standard normal numbers, which depend only on the seed and not on the library.

        Distributed arrays are the same for any number of processes, each of which generates its
        own rows.
        """
        return self.library.random(self, shape, seed)

    def from_host(self, x: Any, rows: int | None = None) -> Array:
        """Transfer a numpy array to this namespace, dtype and device.

        `rows` is the number of rows, from which libraries of distributed arrays determine their
        distribution; 0 keeps the whole array on every process.
        """
        return self.library.from_host(self, x, rows)

    def coefficients(self, x: Any) -> Array:
        """Transfer a small numpy array of coefficients of columns, whole on every process."""
        return self.from_host(x, 0)

    def copy_from(self, x: Any) -> Array:
        """Copy an array of another library, such as JAX, on the same device."""
        if self.is_numpy:
            return host.array(host.asarray(x))  # not all libraries know copy= of their conversion
        return self.copied(self.xp.from_dlpack(x))

    def replicated(self, x: Array) -> Array:
        """Return a small array whole on every process."""
        return self.library.replicated(x)

    def columns(self, *vectors: Array) -> Array:
        """Return an (n, k) array of k vectors."""
        if self.is_numpy:
            return host.array(vectors).T
        return self.xp.stack(vectors, axis=1)

    def row_major(self, x: Array) -> Array:
        """Return `x` in C order."""
        return getattr(self.xp, "ascontiguousarray", self.xp.asarray)(x)

    @staticmethod
    def read_only(x: Array) -> Array:
        """Return `x`, made read-only if the library supports it."""
        if hasattr(x, "setflags"):
            x.setflags(write=False)
        return x

    # Calls of user functions.

    def to_user(self, x: Array) -> Any:
        """Return a copy of an array to pass to a user function, which may change it."""
        copy = host.array(x) if self.is_numpy else self.copied(x)
        return copy if self.library is HOST else self.library.to_user(copy)

    def copied(self, x: Array) -> Array:
        """Return a copy of an array."""
        return host.array(x) if self.is_numpy else self.xp.asarray(x, copy=True)

    def from_user(self, x: Any, size: int | None = None) -> Any:
        """Check what a user function returned (a vector of `size`), alike on all processes."""
        return x if self.library is HOST else self.library.from_user(x, size, self.device)

    def user_call(self, name: str) -> AbstractContextManager[Any]:
        """Return a context for calling a user function, which names it in errors."""
        if self.library is HOST:
            return note_origin(name)
        outer, origin = self.library.user_call(self.device, name), note_origin(name)
        return origin if isinstance(outer, contextlib.nullcontext) else _nested(outer, origin)

    # Norms.

    @staticmethod
    def ignore_overflow() -> Any:
        """Return a context that silences floating-point warnings, for results checked later."""
        return host.errstate(over="ignore", invalid="ignore", divide="ignore")

    def norm(self, x: Array) -> float:
        """Return the Euclidean norm of all entries, or infinity if it overflows."""
        own = type(x) is host.ndarray and self.is_numpy and x.dtype == self.dtype
        if own and x.size <= MAX_SHORT_SIZE:
            entries, dot = x if x.ndim == 1 else x.ravel(), ddot if self.itemsize == 8 else sdot
            return math.sqrt(dot(entries, entries))  # which, unlike numpy, warns of nothing
        with self.ignore_overflow():
            if own:
                # As in vector_norm of numpy, which takes several times as long for a short vector.
                entries = x.ravel()
                return float(host.sqrt(host.add.reduce(entries * entries)))
            return float(self.xp.linalg.vector_norm(x))

    def all(self, condition: Array) -> bool:
        """Return whether a condition holds for all entries."""
        if type(condition) is host.ndarray:
            return bool(host.logical_and.reduce(condition, axis=None))  # in fewer calls
        return bool(self.xp.all(condition))

    def any(self, condition: Array) -> bool:
        """Return whether a condition holds for some entry."""
        if type(condition) is host.ndarray:
            return bool(host.logical_or.reduce(condition, axis=None))
        return bool(self.xp.any(condition))

    def largest(self, x: Array) -> float:
        """Return the largest magnitude of the entries of an array that is not empty."""
        if type(x) is host.ndarray:
            return float(host.maximum.reduce(abs(x), axis=None))
        return float(self.xp.max(self.xp.abs(x)))

    def argmax(self, x: Array) -> int:
        """Return the index of the largest entry of an (n,) vector."""
        return int(x.argmax() if type(x) is host.ndarray else self.xp.argmax(x))

    def count(self, condition: Array) -> int:
        """Return the number of entries for which a condition holds."""
        if type(condition) is host.ndarray:
            return int(host.count_nonzero(condition))
        return int(self.xp.sum(self.xp.astype(condition, self.xp.int64)))

    def dot(self, x: Array, y: Array) -> float:
        """Return the inner product of two (n,) vectors."""
        return float(host.dot(x, y) if type(x) is host.ndarray else self.xp.vecdot(x, y))

    def column_norms(self, x: Array) -> Array:
        """Return the Euclidean norms of the columns of an (n, k) block, or of an (n,) vector."""
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

    def _is_finite(self, x: Any) -> bool:
        """Return whether all entries of a numpy array of this dtype are finite."""
        if x.flags.forc and x.size < MAX_BLAS_SIZE:
            entries, dot = x.ravel("K"), ddot if self.itemsize == 8 else sdot
            if not entries.shape[0] or math.isfinite(dot(entries, entries)):
                return True  # which takes less than half the time; squares may overflow
        return bool(host.logical_and.reduce(host.isfinite(x), axis=None))

    def check_home(self, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise an `error` if a matrix or operator belongs to another array library."""
        owner = find_library(type(x))
        # A user-defined class may accept arrays of any library.
        if owner is not None and owner is not self.library:
            self.refuse_foreign(x, name, error)

    def refuse_foreign(self, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
        """Raise the `error` for an object of another array library or device."""
        raise error(
            f"{name} is a {type(x).__name__} of another array library or device than the problem, "
            f"which is in {self.library_name} on {self.device}. Nothing is moved between host and "
            "device: convert it explicitly"
        )

    def vector(self, x: Array, size: int, name: str, convert: bool = False) -> Array:
        """Return a copy of `x` as a finite (size,) array, or raise a `ModelError` that names it.

        With `convert`, an array of lower precision is accepted, as in `check_array`.
        """
        return self.check_array(x, (size,), name, convert=convert)

    def check_array(
        self,
        x: Array,
        shape: tuple[int, ...] | None,
        name: str,
        error: type[MfdeqError] = ModelError,
        finite: bool = True,
        convert: bool = False,
    ) -> Array:
        """Return a copy of `x` in this backend and shape, or raise an `error` that names it.

        Any shape is accepted if `shape` is None. The array is copied because a user function may
        return a view of its argument or reuse a buffer. A lower precision than the backend's is
        rejected, since it would silently limit the accuracy of all further results, except with
        `convert`: starts and data have the precision that they have.
        """
        xp = self.xp
        if self.is_numpy and type(x) is host.ndarray and x.shape == shape and x.dtype == self.dtype:
            copy = host.array(x)
            if not finite or self._is_finite(copy):
                return copy  # the usual case
        expected = "a number" if shape == () else f"an array of shape {shape or '(m,)'}"
        given = as_array(self, x, name, error, expected)
        if given.ndim == 0 and shape is not None and math.prod(shape) == 1:
            given = xp.reshape(given, shape)
        if shape is not None and tuple(given.shape) != shape:
            raise error(f"{name}: expected {expected}, got shape {tuple(given.shape)}")
        self.check_dtype(given.dtype, name, error, convert)
        given = self.copied(self.asarray(given))
        if finite and not bool(xp.all(xp.isfinite(given))):
            undefined = xp.astype(~xp.isfinite(given), xp.int64)
            count, total = int(xp.sum(undefined)), math.prod(given.shape)
            first = ""
            if given.ndim == 1:
                first = f", the first of them entry {int(xp.argmax(undefined))}"
            elif given.ndim == 2:
                row = int(xp.argmax(xp.max(undefined, axis=1)))
                first = f", the first of them entry ({row}, {int(xp.argmax(undefined[row, :]))})"
            message = f"{name} holds NaN or infinity in {count} of {total} entries{first}"
            raise ModelError(message, non_finite=True) if error is ModelError else error(message)
        return given

    def check_dtype(
        self,
        dtype: Any,
        name: str,
        error: type[MfdeqError] = ModelError,
        convert: bool = False,
    ) -> None:
        """Raise an `error` for complex, object and, without `convert`, lower-precision dtypes."""
        xp = self.xp
        if dtype == self.dtype:
            return
        try:
            real = xp.isdtype(dtype, REAL_KINDS)
        except (TypeError, ValueError):
            real = False
        if not real:
            raise error(f"{name}: expected a real array, got dtype {dtype}{_advice_for(xp, dtype)}")
        if convert or not xp.isdtype(dtype, "real floating"):
            return
        if xp.finfo(dtype).eps > self.eps * 1.01:
            raise error(
                f"{name} has dtype {dtype}, less precise than {self.dtype} of the problem: "
                f"compute it in {self.dtype}, or pass params in {dtype}"
            )


def _unpickled(namespace: str, dtype: Any, device: Any) -> Backend:
    xp = importlib.import_module(namespace)
    return Backend.of(xp.zeros(0, dtype=dtype, device=device))


@functools.cache
def _host_backend(library: ArrayLibrary) -> Backend:
    """Return the backend of float64 arrays of numpy, one for all, with what it has looked up."""
    return Backend(
        compat.array_namespace(FLOAT64_EXAMPLE), FLOAT64, compat.device(FLOAT64_EXAMPLE), library
    )


@contextlib.contextmanager
def _nested(
    outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]
) -> Iterator[None]:
    with outer, inner:
        yield


def as_array(
    backend: Backend,
    x: Any,
    name: str,
    error: type[MfdeqError],
    expected: str = "an array",
) -> Array:
    """Return `x`, which may be a list or number, as an array of the backend, or raise `error`."""
    if type(x) is host.ndarray and backend.is_numpy:
        return x
    x = native(x)
    if x is None:
        raise error(f"{name}: expected {expected}, got None")
    if is_sparse(x):
        raise error(f"{name}: expected {expected}, got a sparse matrix: pass a dense array")
    if host.ma.is_masked(x):
        raise error(f"{name}: expected {expected}, got a masked array: fill its masked entries")
    if compat.is_array_api_obj(x):
        here = backend.xp, backend.device
        there = compat.array_namespace(x), compat.device(x)
        replicated = backend.library.accepts_replicated and compat.is_numpy_array(x)
        if there != here and not replicated:
            raise error(
                f"{name}: expected {expected} of {backend.library_name} on {here[1]}, got "
                f"a {type(x).__module__}.{type(x).__name__} on {there[1]}. Nothing is moved "
                "between host and device: convert it explicitly"
            )
        return x
    try:
        return backend.xp.asarray(x, device=backend.device)
    except (TypeError, ValueError) as cause:
        raise error(f"{name}: expected {expected}, got {type(x).__name__} ({cause})") from cause


def _advice_for(xp: Any, dtype: Any) -> str:
    """Return what to do about an array of another kind than numbers that are real."""
    try:
        is_complex = bool(xp.isdtype(dtype, "complex floating"))
    except TypeError:  # of a dtype that is not in the standard, such as object
        is_complex = False
    if not is_complex:
        return ""
    return (
        ". Pass the real and imaginary parts as real unknowns: (A + iB)(x + iy) is the product "
        "of [[A, -B], [B, A]] and [x, y]"
    )


def check_block(x: Array, backend: Backend, rows: int, name: str) -> Array:
    """Return `x` as a (rows,) or (rows, k) array of the backend, or raise an `ArgumentError`."""
    fits = type(x) is host.ndarray and x.ndim in (1, 2) and x.shape[0] == rows
    if fits and backend.is_numpy and x.dtype == backend.dtype:
        return x
    with backend.library.user_call(backend.device, name):
        x = as_array(backend, x, name, ArgumentError, "a dense (n,) or (n, k) array")
        if x.ndim not in (1, 2) or x.shape[0] != rows:
            raise ArgumentError(
                f"{name}: expected shape ({rows},) or ({rows}, k), got {tuple(x.shape)}"
            )
        if x.dtype != backend.dtype and not backend.xp.isdtype(x.dtype, REAL_KINDS):
            raise ArgumentError(
                f"{name}: expected a real array, got dtype {x.dtype}"
                + _advice_for(backend.xp, x.dtype)
            )
        x = backend.library.from_user(x, None, backend.device)
    return backend.asarray(x)
