"""Matrices of dense blocks on the diagonal, such as those of a batch of independent layers.

A product with such a matrix, or with its inverse, is one batched product. It reads eight bytes for
each number, of which a sparse product reads twelve, and takes all columns of a block at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, host
from ...arrays.sparse import sparse_on_host, to_canonical_format
from ..scaling import Scaling

# Rows of a block for which one batched dense product is faster than a sparse one.
MIN_BLOCK_SIZE, MAX_BLOCK_SIZE = 4, 512


@dataclass(frozen=True)
class DenseBlocks:
    """Dense blocks of one size on the diagonal.

    Attributes
    ----------
    backend : Backend
        The array library and device of the values.
    values : (blocks, size, size) array
        The blocks.
    """

    backend: Backend
    values: Array

    @classmethod
    def of(cls, A: Any, backend: Backend) -> DenseBlocks | None:
        """Return the blocks of a sparse (N, N) matrix that has no other entries, else None."""
        n = A.shape[0]
        size = A.nnz // n
        if not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE or A.nnz != n * size or n % size:
            return None
        matrix = to_canonical_format(sparse_on_host(A).tocsr())
        row_sizes = host.diff(matrix.indptr)
        if matrix.nnz != n * size or not bool((row_sizes == size).all()):
            return None
        matrix.sort_indices()
        first = size * (host.arange(n) // size)
        if not bool((matrix.indices.reshape(n, size) == first[:, None] + host.arange(size)).all()):
            return None
        return cls(backend, backend.from_host(matrix.data.reshape(-1, size, size)))

    def scaled(self, scaling: Scaling) -> DenseBlocks:
        """Return the blocks of R A C."""
        if scaling.rows is None or scaling.columns is None:
            return self
        xp, (count, size, _) = self.backend.xp, self.values.shape
        rows = xp.reshape(scaling.rows, (count, size, 1))
        return DenseBlocks(
            self.backend, rows * self.values * xp.reshape(scaling.columns, (count, 1, size))
        )

    def inverse(self) -> DenseBlocks:
        """Return the inverse.

        Raises
        ------
        ArithmeticError
            If a block is singular.
        """
        linalg = self.backend.xp.linalg
        try:
            return DenseBlocks(self.backend, linalg.inv(self.values))
        except host.linalg.LinAlgError as error:
            raise ArithmeticError("a block is singular") from error

    def apply(self, x: Array, adjoint: bool = False) -> Array:
        """Return the product with (N,) and (N, c) arrays, of the adjoint if `adjoint`."""
        xp = self.backend.xp
        blocks, size, _ = self.values.shape
        values = xp.matrix_transpose(self.values) if adjoint else self.values
        return xp.reshape(values @ xp.reshape(x, (blocks, size, -1)), x.shape)
