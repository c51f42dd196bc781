"""What stands for `scipy.sparse` and `scipy.sparse.linalg` on distributed arrays."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from ..arrays.backend import host
from ..arrays.sparse import to_canonical_format
from .arrays import replicate
from .mats import create_aij
from .ranks import Ranks


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


def identity(n: int, dtype: Any = None, format: str = "csr") -> Any:
    """Return the identity of that size; dtype and format are those of PETSc."""
    return Entries((host.ones(n), (host.arange(n), host.arange(n))), (n, n))


def csr_matrix(entries: tuple[Any, tuple[Any, Any]], shape: tuple[int, int]) -> Entries:
    """Return a matrix from (values, (rows, columns)), which every rank has whole."""
    return Entries(entries, shape)


class Entries:
    """The entries of a matrix that every rank has whole, to be made a Mat of on some ranks."""

    def __init__(self, entries: Any, shape: tuple[int, int]) -> None:
        values, positions = entries
        self.values, self.rows, self.columns = map(replicate, (values, *positions))
        self.shape = shape

    def __rmul__(self, factor: float) -> Entries:
        return Entries((factor * self.values, (self.rows, self.columns)), self.shape)

    def mat(self, ranks: Ranks) -> Any:
        """Return an AIJ Mat on these ranks."""
        rows, columns = map(ranks.agree_on_rows, self.shape)
        here = rows.slice_of(ranks.rank)
        mine = (self.rows >= here.start) & (self.rows < here.stop)
        positions = self.rows[mine] - here.start, self.columns[mine]
        shape = rows.count(ranks.rank), columns.total
        local = to_canonical_format(
            scipy.sparse.csr_matrix((self.values[mine], positions), shape=shape)
        )
        return create_aij(ranks, rows, columns, (local.indptr, local.indices, local.data))
