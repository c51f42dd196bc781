"""Computations with arrays of one library, dtype and device.

Numerical code is written against the array API namespace `xp`, and calls these methods for what the
namespace lacks, or for what takes fewer calls with numpy's arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import array_api_compat as compat
from scipy.linalg.blas import ddot, sdot

from ..locks import cached_property
from .kernels import PIECE_SIZE
from .library import HOST, Array, ArrayLibrary, host

MAX_SHORT_SIZE = 2**12  # of a vector whose norm BLAS computes in one call, and on one thread


@dataclass(frozen=True)
class ArrayNamespace:
    """The array namespace, dtype and device of arrays, and what is computed with them.

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

    def copied(self, x: Array) -> Array:
        """Return a copy of an array."""
        return host.array(x) if self.is_numpy else self.xp.asarray(x, copy=True)

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
        if type(x) is host.ndarray and x.shape[0] <= PIECE_SIZE:
            return float(host.dot(x, y))
        return float(self.kernels.column_dots(self.xp, x, y))

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

    # Blocks of few columns, such as null vectors. BLAS would use threads that wait for each other.

    def inner_products(self, X: Array, b: Array) -> Array:
        """Return X' b for an (n, m) block of few columns and a vector or block b."""
        if b.ndim == 1:
            return self.kernels.inner_products(X.T, b[:, None])[:, 0]
        return self.kernels.inner_products(X.T, b)

    def subtract_columns(self, b: Array, X: Array, h: Array) -> Array:
        """Return b - X h for a vector or block b, which may be overwritten, with X as above."""
        if b.ndim == 1:
            return self.kernels.subtract_combination(b[:, None], X.T, h[:, None])[:, 0]
        return self.kernels.subtract_combination(b, X.T, h)

    def is_finite(self, x: Any) -> bool:
        """Return whether all entries of a numpy array of this dtype are finite."""
        if x.flags.forc:
            entries, dot = x.ravel("K"), ddot if self.itemsize == 8 else sdot
            for start in range(0, entries.shape[0], PIECE_SIZE):
                piece = entries[start : start + PIECE_SIZE]
                if not math.isfinite(dot(piece, piece)):
                    break
            else:  # which takes less than half the time; squares may overflow
                return True
        return bool(host.logical_and.reduce(host.isfinite(x), axis=None))
