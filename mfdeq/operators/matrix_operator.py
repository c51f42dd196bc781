"""Matrices as operators, whose entries are known."""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import Array, Backend, host, is_dense
from ..arrays.kernels import scale_rows
from ..arrays.sparse import identity_minus, magnitude, negative
from ..locks import cached_property
from .operator import Adjoint, Operator, SelfAdjoint

MAX_KEPT_DENSE_SIZES = 2**21  # entries of an array whose magnitudes are kept, 16 MiB
MAX_KEPT_SIZES = 2**16  # entries of a sparse matrix whose sizes are kept: to form them costs more
# Entries, zeros included, of a sparse matrix up to which its products are those of a dense one: a
# product with a sparse matrix takes dozens of calls.
MAX_SMALL_ENTRIES = 2**12


class Matrix(Operator):
    """A dense or sparse matrix as an operator.

    Attributes
    ----------
    array : array or sparse matrix
        The entries.
    """

    def __init__(self, backend: Backend, array: Any) -> None:
        self.shape, self.array = tuple(array.shape), array
        if type(array) is host.ndarray:
            self._products, self._transposed = array, array.T

    @cached_property
    def _products(self) -> Any:
        array, backend = self.array, self.backend
        if backend.is_numpy and not is_dense(array) and math.prod(self.shape) <= MAX_SMALL_ENTRIES:
            return array.toarray()
        return backend.kernels.products(array)

    @cached_property
    def _transposed(self) -> Any:
        return self._products.T

    def _apply(self, x: Array) -> Array:
        return self._products @ x

    def _apply_adjoint(self, y: Array) -> Array:
        return self._transposed @ y

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|."""
        sizes = abs(self._products) if self.sizes is None else self.sizes
        return sizes @ self.backend.xp.abs(x)

    @cached_property
    def sizes(self) -> Any:
        """|A| for products with it, if it is small enough to be kept; otherwise None."""
        array, (rows, columns) = self.array, self.shape
        if is_dense(array):
            return abs(array) if rows * columns <= MAX_KEPT_DENSE_SIZES else None
        small = array.nnz < MAX_KEPT_SIZES
        return Matrix(self.backend, magnitude(array))._products if small else None

    def _adjoint(self) -> Operator:
        return Transposed(self)

    def __neg__(self) -> Operator:
        return Matrix(self.backend, negative(self.array))

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - J in the format of J, in place of a dense J if it is used no more."""
        backend, n = self.backend, self.shape[0]
        if is_dense(self.array):
            if not backend.is_numpy:
                return Matrix(backend, backend.eye(n, n) - self.array)
            # A contiguous array, whose diagonal is a slice of its entries.
            in_place = in_place and self.array.flags.forc
            difference = host.negative(self.array, out=self.array if in_place else None)
            difference.ravel("K")[:: n + 1] += 1.0
            return Matrix(backend, difference)
        if (difference := identity_minus(self.array)) is None:
            eye = backend.sparse.identity(n, dtype=backend.dtype, format=self.array.format)
            difference = eye - self.array
        return Matrix(backend, difference)

    def plus(self, other: Operator) -> Operator:
        """Return the sum of two sparse, or of two dense matrices."""
        if isinstance(other, Matrix) and is_dense(self.array) == is_dense(other.array):
            return Matrix(self.backend, self.array + other.array)
        return super().plus(other)

    def times(self, factor: float) -> Operator:
        """Return a multiple of the entries."""
        return Matrix(self.backend, factor * self.array)

    @property
    def has_single_entries(self) -> bool:
        """Whether the matrix is sparse."""
        return not is_dense(self.array)

    def plus_entries(self, rows: list[int], columns: list[int], values: list[float]) -> Operator:
        """Return a sparse matrix with numbers added to some entries."""
        backend, xp = self.backend, self.backend.xp
        numbers = xp.asarray(values, dtype=backend.dtype, device=backend.device)
        indices = tuple(xp.asarray(x, device=backend.device) for x in (rows, columns))
        update = backend.sparse.csr_matrix((numbers, indices), shape=self.shape)
        return Matrix(backend, (self.array + update).tocsr())


class Transposed(Adjoint):
    """The adjoint of a `Matrix`, with known entries."""

    of: Matrix

    @property
    def array(self) -> Any:
        """The entries."""
        return self.of.array.T

    def abs_apply(self, x: Array) -> Array:
        """Return |A'| |x|."""
        return self._sizes @ self.backend.xp.abs(x)

    @cached_property
    def _sizes(self) -> Any:
        return abs(self.of._transposed)


class Diagonal(SelfAdjoint):
    """A diagonal matrix."""

    def __init__(self, backend: Backend, diagonal: Array) -> None:
        super().__init__(backend, (diagonal.shape[0], diagonal.shape[0]))
        self.diagonal = diagonal

    def _apply(self, x: Array) -> Array:
        return scale_rows(self.diagonal, x)
