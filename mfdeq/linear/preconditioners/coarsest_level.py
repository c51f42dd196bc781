"""The inverse of the coarsest matrix of a hierarchy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from scipy import sparse

from ...arrays.backend import Array, Backend, host

MAX_DENSE_COARSE = 1500  # unknowns of a coarsest level with a dense inverse; larger ones have an LU
# Ratio to the next larger one of singular values of a coarsest matrix that is known to be singular,
# below which they are rounding: of entries in float32, for example.
MAX_ZERO_RATIO = 0.03
SHIFT = 1e-6  # relative to the diagonal, of one that has an LU


def inverse_of(backend: Backend, matrix: Any, nullity: int) -> Any:
    """Return the (pseudo)inverse of the coarsest matrix, or an LU that replaces it if large.

    Up to `nullity` singular values are taken for zero. The LU is that of a shifted matrix then.
    """
    if matrix.shape[0] <= MAX_DENSE_COARSE:
        inverse = _pseudo_inverse(matrix.toarray(), nullity)
        return backend.kernels.capturable_matrix(backend.from_host(inverse))
    if nullity:
        matrix = matrix + SHIFT * sparse.diags(abs(matrix.diagonal()))
    return FactoredInverse(
        backend.sparse_linalg.splu(backend.sparse.csc_matrix(matrix.tocsc().astype(backend.dtype)))
    )


def _pseudo_inverse(dense: Any, nullity: int) -> Any:
    if nullity == 0:
        return host.linalg.pinv(dense)
    sizes = abs(dense.diagonal()) ** 0.5
    sizes[sizes == 0.0] = 1.0
    left, sigma, right = host.linalg.svd(dense / sizes[:, None] / sizes)
    zero = sigma <= MAX_ZERO_RATIO * sigma[max(sigma.size - nullity - 1, 0)]
    zero[:-nullity] = False
    inverse = host.where(zero, 0.0, 1.0 / host.where(zero, 1.0, sigma))
    return (right.T * inverse) @ left.T / sizes[:, None] / sizes


@dataclass(frozen=True)
class FactoredInverse:
    """The inverse of a sparse matrix, whose products are solves with an LU."""

    lu: Any
    transposed: bool = False

    @property
    def T(self) -> FactoredInverse:
        """The inverse of the transposed matrix."""
        return replace(self, transposed=not self.transposed)

    def __matmul__(self, b: Array) -> Array:
        return self.lu.solve(b, "T" if self.transposed else "N")
