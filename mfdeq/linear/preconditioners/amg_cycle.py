"""One V-cycle of algebraic multigrid for a matrix: its levels, and those of similar matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...arrays.backend import Array, Backend, is_dense, is_sparse
from ...arrays.memory import reserve
from ...arrays.sparse import sparse_on_host, stored_bytes
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ..operands import matrix_of
from ..protocols import PreconditionerOperator
from .coarsest_level import FactoredInverse, inverse_of
from .cycle import (
    Collapsed,
    Smoothed,
    collapsed,
    composed_smoother,
    damped_interval,
    largest_eigenvalue,
    v_cycle,
)
from .hierarchies import SMOOTHED, levels_of, parts_of
from .jacobi import inverse_block_diagonal, inverse_diagonal
from .unsmoothed import (
    Smoothing,
    eigenvalue_bound,
    scaled_diagonals,
    smoothing_of,
    unsmoothed,
)


@dataclass(frozen=True)
class CycleOptions:
    """The options of a cycle, with those that depend on the symmetry of A resolved.

    Attributes
    ----------
    method, degree, near_nullspace, block_size
        As of `mfdeq.AMG`, but for a `method` that is never None.
    precision : {"float32", "float64"}
        The precision of the levels.
    symmetric : bool
        Whether A is symmetric.
    description : str
        The name in reports.
    """

    method: str
    degree: int
    near_nullspace: Any
    block_size: int
    precision: str
    symmetric: bool
    description: str


class AMGCycle(PreconditionerOperator):
    """One V-cycle for A in place of its inverse.

    It is `flexible` if it computes in float32 for a float64 A.
    """

    linear_alternative = "mfdeq.AMG(levels='float64')"

    def __init__(self, A: Operator, matrix: Any, options: CycleOptions) -> None:
        super().__init__(A, A.shape)
        xp = self.backend.xp
        self.description, self.options = options.description, options
        self.flexible = options.precision == "float32" and self.dtype == xp.float64
        self._inner = replace(self.backend, dtype=xp.float32) if self.flexible else self.backend
        fine = sparse_on_host(matrix).astype("float64")
        self._scale = float(abs(fine.diagonal()).max())
        built = levels_of(
            fine / self._scale,
            options.method,
            options.symmetric,
            options.near_nullspace,
            options.block_size,
        )
        reserve(
            self.backend,
            sum(level.A.nnz for level in built) * self._inner.itemsize / self.backend.itemsize,
            "a multigrid hierarchy",
            "use mfdeq.AMG(levels='float32'), or a smaller problem",
        )
        self.levels: list[Any] = []
        self.transfers: list[Any] = []
        for level in built[:-1]:
            self._add_level(level)
        rows = [level.A.nnz / level.A.shape[0] for level in built[:2]]
        self.row_growth = rows[1] / rows[0] if len(built) > 2 else 1.0
        self._finish(built[-1].A, A)

    def _add_level(self, level: Any) -> None:
        """Add a level of PyAMG, and what another matrix needs of it: P, and R unless it is P'."""
        A, P, R, size, splitting = parts_of(level)
        scaled = scaled_diagonals(self._inner, A) if self._smooths_constants else None
        if scaled is not None:
            bound = eigenvalue_bound(A)
            smoothing = smoothing_of(A, level.T, P, bound)
            if smoothing is not None:
                found = unsmoothed(self._inner, A, scaled, smoothing, bound)
                self.levels.append(_on_device(self._inner, found))
                self.transfers.append(smoothing)
                return
        self.levels.append(_level(self._inner, self.options, A, P, R, size, splitting))
        transposed = self.options.symmetric or self.options.method != SMOOTHED
        P, R = (self.backend.sparse.csr_matrix(part.astype(self._inner.dtype)) for part in (P, R))
        self.transfers.append((P, None if transposed else R))

    @property
    def _smooths_constants(self) -> bool:
        """Return whether levels may be `Unsmoothed`."""
        options = self.options
        usual = options.degree == 1 and options.block_size == 1
        return usual and options.symmetric and options.method == SMOOTHED

    def _finish(self, coarsest: Any, A: Operator) -> None:
        nullity = 0 if A.null_space is None else A.null_space.left.shape[1]
        self.coarse = inverse_of(self._inner, coarsest, nullity)
        cycle = _replayed(self._inner, self.levels, self.coarse)
        # The cycle of a symmetric A is symmetric, unless the smoother visits points in one order.
        if self.options.symmetric and self.options.method != "air":
            self._cycles = cycle, cycle
        else:
            transposed = [level.T for level in self.levels]
            self._cycles = cycle, _replayed(self._inner, transposed, self.coarse.T)

    def refresh(self, A: Operator) -> bool:
        """Become the cycle of another matrix, with the same transfers.

        The aggregates stay the same, and only the coarsest matrix leaves the device. False if the
        symmetry of A has changed, or if the transfers depend on the entries, as with "air" and
        with blocks.
        """
        options, backend = self.options, self.backend
        array = matrix_of(A, "mfdeq.AMG()")
        if options.method == "air" or options.block_size > 1:
            return False
        if is_symmetric(A) != options.symmetric:
            return False
        inverse_diagonal(backend, array, "mfdeq.AMG()")
        scale = float(backend.xp.max(backend.xp.abs(array.diagonal())))
        matrix, levels = array.tocsr() / scale, []
        for transfers in self.transfers:
            scaled = None
            if isinstance(transfers, Smoothing):
                bound = eigenvalue_bound(matrix)
                P = transfers.prolongation(matrix, bound)
                R = P.T.tocsr()
                scaled = scaled_diagonals(self._inner, matrix)
            else:
                P = transfers[0].astype(matrix.dtype)
                R = P.T.tocsr() if transfers[1] is None else transfers[1].astype(matrix.dtype)
            if scaled is None:
                levels.append(_level(self._inner, options, matrix, P, R))
            else:
                level = unsmoothed(self._inner, matrix, scaled, transfers, bound)
                levels.append(_on_device(self._inner, level))
            matrix = R @ (matrix @ P)
        # Assigned last, so that the old cycle survives a failure (of memory, say).
        self._scale, self.levels = scale, levels
        self._finish(sparse_on_host(matrix), A)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of the levels and their transfers."""
        parts = [part for level in self.levels for part in vars(level).values()]
        for transfers in self.transfers:
            parts += [transfers.T] if isinstance(transfers, Smoothing) else list(transfers)
        return sum(stored_bytes(part) for part in [*parts, self.coarse])

    def _apply(self, x: Array) -> Array:
        return self._cycle(self._cycles[0], x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._cycle(self._cycles[1], y)

    def _cycle(self, cycle: Callable[[Array], Array], b: Array) -> Array:
        xp, converted = self.backend.xp, self.backend.kernels.converted
        x = cycle(converted(xp, b, self._inner.dtype))
        return converted(xp, x, self.dtype, self._scale)


def _replayed(backend: Backend, levels: list[Any], coarse: Any) -> Callable[[Array], Array]:
    def cycle(b: Array) -> Array:
        return v_cycle(levels, coarse, b)

    # Solves with an LU wait for the host, so they cannot be captured and replayed.
    launches_only = not isinstance(coarse, FactoredInverse)
    return backend.kernels.capture_launches(cycle) if launches_only else cycle


def _level(
    backend: Backend,
    options: CycleOptions,
    A: Any,
    P: Any,
    R: Any,
    size: int = 1,
    splitting: Any = None,
) -> Collapsed | Smoothed:
    """Build a level of the cycle with its smoother, on the device and in the dtype of `backend`."""
    here = Backend.of(A.data)
    if options.method == "air":
        diagonal = A.diagonal()
        coarse, fine = (
            here.sparse.diags(points / diagonal).tocsr() for points in (splitting, ~splitting)
        )
        return _on_device(
            backend, collapsed(A, P, R, None, composed_smoother(A, [fine, fine, coarse]))
        )
    inverse = inverse_block_diagonal(A, size if options.block_size > 1 else 1)
    largest = largest_eigenvalue(here, A, inverse)
    if options.degree == 1:
        S = inverse / damped_interval(largest)[0]
        return _on_device(backend, collapsed(A, P, R, S, S))
    D = inverse if options.block_size > 1 else inverse.diagonal()
    kernels = backend.kernels
    return _on_device(backend, Smoothed(kernels, A, P, R, D, largest, options.degree))


def _on_device(backend: Backend, level: Any) -> Any:
    """Move the matrices of a level to the device of A, in the precision of the cycle."""
    moved = {
        name: backend.kernels.products(
            backend.sparse.csr_matrix(part.tocsr().astype(backend.dtype))
        )
        if is_sparse(part)
        else backend.from_host(part)
        for name, part in vars(level).items()
        if is_sparse(part) or is_dense(part)
    }
    return replace(level, **moved)
