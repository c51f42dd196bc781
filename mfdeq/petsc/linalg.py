"""The base class of operators on distributed arrays, in place of scipy's LinearOperator."""

from __future__ import annotations

from typing import Any


class LinearOperator:
    """The interface of `scipy.sparse.linalg.LinearOperator`, for arrays that scipy cannot use."""

    ndim = 2
    shape: tuple[int, int]

    def __init__(self, dtype: Any, shape: tuple[int, int]) -> None:
        self.dtype, self.shape = dtype, shape

    def dot(self, x: Any) -> Any:
        """Return the product with a vector or a block."""
        return self._matvec(x)  # type: ignore[attr-defined]

    matvec = matmat = dot

    def rmatvec(self, y: Any) -> Any:
        """Return the product of the adjoint with a vector or a block."""
        return self._rmatvec(y)  # type: ignore[attr-defined]

    rmatmat = rmatvec

    @property
    def H(self) -> Any:
        """The adjoint operator."""
        return self._adjoint()  # type: ignore[attr-defined]

    T = H
