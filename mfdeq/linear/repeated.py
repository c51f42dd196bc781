"""One factor of A for several systems with A, whose right-hand sides are solved as one block."""

from __future__ import annotations

from ..arrays.backend import Array, Backend
from ..operators.operator import Operator
from .delegating_factor import DelegatingFactor
from .factor import Factor


def columns_of_parts(backend: Backend, x: Array, parts: int) -> Array:
    """Return the parts of a stacked (m N,) vector or (m N, k) block as columns, (N, m k)."""
    rows = x.shape[0] // parts
    if backend.library.distributed:  # each rank has its rows of every part
        each = [x[j * rows : (j + 1) * rows] for j in range(parts)]
        return backend.columns(*each) if x.ndim == 1 else backend.xp.concat(each, axis=1)
    if x.ndim == 1:
        return backend.xp.reshape(x, (parts, rows)).T
    x = backend.xp.reshape(x, (parts, rows, x.shape[1]))
    moved = backend.xp.permute_dims(x, (1, 0, 2))
    return backend.xp.reshape(moved, (rows, parts * x.shape[2]))


def stacked_from_columns(backend: Backend, x: Array, parts: int, shape: tuple[int, ...]) -> Array:
    """Return the columns of `columns_of_parts` as a stacked vector or block of that shape."""
    if backend.library.distributed:
        k = x.shape[1] // parts
        each = [x[:, j] if len(shape) == 1 else x[:, j * k : (j + 1) * k] for j in range(parts)]
        return backend.xp.concat(each, axis=0)
    if len(shape) == 1:
        return backend.xp.reshape(x.T, shape)
    x = backend.xp.reshape(x, (x.shape[0], parts, shape[1]))
    return backend.xp.reshape(backend.xp.permute_dims(x, (1, 0, 2)), shape)


class RepeatedFactor(DelegatingFactor):
    """A factor of the block diagonal matrix with the same block A, m times.

    Every solve is one block solve with the factor of A.

    Parameters
    ----------
    A : Operator, (m N, m N)
        The block diagonal operator.
    factor : Factor
        A factor of its blocks.
    parts : int
        m.
    """

    def __init__(self, A: Operator, factor: Factor, parts: int) -> None:
        super().__init__(A, factor.counts)
        self.parts = parts
        self.adopt(factor)

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        assert weights is None  # those of a forward solve, which is of one experiment
        columns = columns_of_parts(self.backend, b, self.parts)
        x = self.current._solve_checked(columns, rtol, adjoint)
        return stacked_from_columns(self.backend, x, self.parts, b.shape)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the approximate inverse of A to every part."""
        columns = columns_of_parts(self.backend, r, self.parts)
        x = self.current.approximate(columns, adjoint=adjoint)
        return stacked_from_columns(self.backend, x, self.parts, r.shape)
