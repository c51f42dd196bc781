"""The array library, dtype and device of a problem, and the validation of users' arrays.

Numerical code uses its `Backend` for everything that depends on the library. An array of another
library, device or dtype raises an error that names it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import array_api_compat as compat

from ..errors import ArgumentError, MfdeqError, ModelError, note_origin
from .array_namespace import ArrayNamespace
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


@dataclass(frozen=True)
class Backend(ArrayNamespace):
    """The array namespace, dtype and device of one problem, as its arrays determine them.

    Attributes
    ----------
    xp, dtype, device, library
        As of `ArrayNamespace`.
    """

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

    # Calls of user functions.

    def to_user(self, x: Array) -> Any:
        """Return a copy of an array to pass to a user function, which may change it."""
        copy = host.array(x) if self.is_numpy else self.copied(x)
        return copy if self.library is HOST else self.library.to_user(copy)

    def from_user(self, x: Any, size: int | None = None) -> Any:
        """Check what a user function returned (a vector of `size`), on all processes."""
        return x if self.library is HOST else self.library.from_user(x, size, self.device)

    def user_call(self, name: str) -> AbstractContextManager[Any]:
        """Return a context for calling a user function, which names it in errors."""
        if self.library is HOST:
            return note_origin(name)
        outer, origin = self.library.user_call(self.device, name), note_origin(name)
        return origin if isinstance(outer, contextlib.nullcontext) else _nested(outer, origin)

    # Validation.

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
            if not finite or self.is_finite(copy):
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
