"""What operators on distributed arrays are, where others are scipy's LinearOperator."""

from __future__ import annotations

from typing import Any


class LinearOperator:
    """The interface of scipy's, for arrays that scipy does not know."""

    ndim = 2
    shape: tuple[int, int]

    def __init__(self, dtype: Any, shape: tuple[int, int]) -> None:
        self.dtype, self.shape = dtype, shape

    def dot(self, x: Any) -> Any:
        """The product with a vector or a block."""
        return self._matvec(x)  # type: ignore[attr-defined]

    matvec = matmat = dot

    def rmatvec(self, y: Any) -> Any:
        """The adjoint product."""
        return self._rmatvec(y)  # type: ignore[attr-defined]

    rmatmat = rmatvec

    @property
    def H(self) -> Any:
        """The adjoint."""
        return self._adjoint()  # type: ignore[attr-defined]

    T = H
