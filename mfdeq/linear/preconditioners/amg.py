"""Algebraic multigrid: the hierarchy is PyAMG's, on the host; the cycle is ours, where A is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...arguments import count
from ...arrays.backend import Array, Backend, array_on_host, check_block, is_dense, is_sparse
from ...arrays.memory import reserve
from ...arrays.seeding import seeded
from ...arrays.sparse import sparse_on_host, stored_bytes
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ..factor import matrix_of
from .cycle import Collapsed, Smoothed, collapsed, in_turn, interval, largest_eigenvalue, v_cycle
from .ilu import inverse_block_diagonal, inverse_diagonal

COARSEST = 400  # unknowns where PyAMG stops
DENSEST = 1500  # unknowns of a coarsest level that is inverted densely; a larger one by LU
METHODS = (None, "smoothed_aggregation", "ruge_stuben", "air")
LEVELS = (None, "float32", "float64")


@dataclass(frozen=True)
class AMG:
    """One V-cycle of algebraic multigrid.

    Parameters
    ----------
    method : str, optional
        "smoothed_aggregation"; "ruge_stuben", whose coarse levels stay stable under advection;
        "air" (approximate ideal restriction), for advection nearly without diffusion. None is
        the first for a symmetric A and the second for others.
    degree : int, optional
        Of the Chebyshev smoother before and after each coarse correction. Degree 1 is damped
        Jacobi, and multiplied into the transfers once. "air" relaxes by Jacobi on the fine and
        then the coarse points, whatever the degree.
    near_nullspace : (N, m) array, optional
        Vectors that the coarse levels must represent (rigid motions of elasticity, say).
        None is the constant. Smoothed aggregation only.
    block_size : int, optional
        Unknowns of one point, numbered one after the other: blocks of that size are aggregated
        and inverted by the smoother together (block Jacobi). Smoothed aggregation only.
    levels : {"float32", "float64"}, optional
        What the cycle computes in. float32 halves what it reads, and is enough inside a float64
        Krylov method that recomputes its residual; the cycle is then linear only to float32's
        rounding, for which GMRES keeps twice the vectors. None is float32 for a symmetric A.

    Notes
    -----
    float32 levels hold A divided by its largest diagonal entry, so that they do not overflow.
    """

    method: str | None = None
    degree: int = 1
    near_nullspace: Any = None
    block_size: int = 1
    levels: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ArgumentError(f"AMG method {self.method!r} is none of {METHODS}")
        if self.levels not in LEVELS:
            raise ArgumentError(f"levels {self.levels!r} of mfdeq.AMG is none of {LEVELS}")
        count(self.degree, "degree of mfdeq.AMG")
        count(self.block_size, "block_size of mfdeq.AMG")
        if self.method in ("ruge_stuben", "air"):
            if self.near_nullspace is not None:
                raise ArgumentError(
                    f"near_nullspace is for smoothed aggregation, not {self.method}"
                )
            if self.block_size != 1:
                raise ArgumentError(f"block_size is for smoothed aggregation, not {self.method}")

    def method_for(self, symmetric: bool) -> str:
        """The method, chosen where none was."""
        systems = self.near_nullspace is not None or self.block_size > 1
        chosen = "smoothed_aggregation" if symmetric or systems else "ruge_stuben"
        return self.method or chosen

    def setup(self, A: Operator) -> Operator:
        """Build the hierarchy of A's matrix."""
        array = matrix_of(A, "mfdeq.AMG()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.AMG() needs a sparse A; for a dense one use mfdeq.Direct()")
        inverse_diagonal(A.backend, array, "mfdeq.AMG()")  # PyAMG would only print about zeros
        if A.shape[0] % self.block_size:
            raise ArgumentError(
                f"block_size {self.block_size} of mfdeq.AMG does not divide N = {A.shape[0]}"
            )
        if (B := self.near_nullspace) is not None:
            B = Backend.of(B).checked(B, None, "near_nullspace of mfdeq.AMG", ArgumentError)
            check_block(B, Backend.of(B), A.shape[0], "near_nullspace of mfdeq.AMG")
            if not bool(Backend.of(B).xp.all(Backend.of(B).column_norms(B) > 0)):
                raise ArgumentError("near_nullspace of mfdeq.AMG has a column of zeros")
        return _Cycle(A, array, self)


class _Cycle(Operator):
    """One V-cycle for A in place of its inverse.

    Attributes
    ----------
    flexible : bool
        Whether it is linear to float32's rounding only, inside float64.
    """

    def __init__(self, A: Operator, matrix: Any, options: AMG) -> None:
        super().__init__(A, A.shape)
        xp = self.backend.xp
        self.options, self.symmetric = options, is_symmetric(A)
        asked = options.levels or ("float32" if self.symmetric else "float64")
        self.flexible = asked == "float32" and self.dtype == xp.float64
        self._inner = replace(self.backend, dtype=xp.float32) if self.flexible else self.backend
        host = sparse_on_host(matrix).astype("float64")
        self._scale = float(abs(host.diagonal()).max())
        with seeded():  # PyAMG starts its eigenvalue estimates from numpy's global stream
            built = _hierarchy(host / self._scale, options, self.symmetric).levels
        reserve(
            self.backend,
            sum(level.A.nnz for level in built) * self._inner.itemsize / self.backend.itemsize,
            "a multigrid hierarchy",
            "use float32 levels, or a smaller problem",
        )
        self.levels = [_level(self._inner, options, *_parts(level)) for level in built[:-1]]
        self.transfers = [self._kept(level) for level in built[:-1]]
        self._finish(built[-1].A)

    def _kept(self, level: Any) -> tuple[Any, Any]:
        """P, and R where it is not P'."""
        alike = self.symmetric or not self.options.method_for(self.symmetric).startswith("smoothed")
        P, R = (
            self.backend.sparse.csr_matrix(part.tocsr().astype(self._inner.dtype))
            for part in (level.P, level.R)
        )
        return P, None if alike else R

    def _finish(self, coarsest: Any) -> None:
        self.coarse = _inverse(self._inner, coarsest)
        cycle = _replayed(self._inner, self.levels, self.coarse)
        # A symmetric A has a symmetric cycle, but for a smoother that goes one way only.
        if self.symmetric and self.options.method != "air":
            self._cycles = cycle, cycle
        else:
            transposed = [level.T for level in self.levels]
            self._cycles = cycle, _replayed(self._inner, transposed, self.coarse.T)

    def refresh(self, A: Operator) -> bool:
        """Become the cycle of a matrix near A, in place: the same transfers, other entries.

        No point is assigned to an aggregate anew, and nothing leaves the device but the coarsest
        matrix. False where that cannot be: a matrix no longer symmetric, transfers made from the
        entries.
        """
        options, backend = self.options, self.backend
        fresh = matrix_of(A, "mfdeq.AMG()")
        if options.method == "air" or options.block_size > 1 or is_symmetric(A) != self.symmetric:
            return False
        inverse_diagonal(backend, fresh, "mfdeq.AMG()")
        scale = float(backend.xp.max(backend.xp.abs(fresh.diagonal())))
        matrix, levels = fresh.tocsr() / scale, []
        for transfers in self.transfers:
            P = transfers[0].astype(matrix.dtype)
            R = P.T.tocsr() if transfers[1] is None else transfers[1].astype(matrix.dtype)
            levels.append(_level(self._inner, options, matrix, P, R))
            matrix = R @ (matrix @ P)
        # Only now: where memory has run out, it is still the cycle that it was.
        self._scale, self.levels = scale, levels
        self._finish(sparse_on_host(matrix))
        return True

    @property
    def nbytes(self) -> int:
        """Memory of the levels."""
        parts = [part for level in self.levels for part in vars(level).values()]
        parts += [part for pair in self.transfers for part in pair if part is not None]
        return sum(stored_bytes(part) for part in [*parts, self.coarse])

    def _apply(self, x: Array) -> Array:
        return self._cycle(self._cycles[0], x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._cycle(self._cycles[1], y)

    def _cycle(self, cycle: Callable[[Array], Array], b: Array) -> Array:
        xp = self.backend.xp
        x = cycle(xp.astype(b, self._inner.dtype, copy=False))
        x = xp.astype(x, self.dtype, copy=False)
        x /= self._scale
        return x


def _replayed(backend: Backend, levels: list[Any], coarse: Any) -> Callable[[Array], Array]:
    def cycle(b: Array) -> Array:
        return v_cycle(levels, coarse, b)

    launches_only = not isinstance(coarse, _FactoredInverse)
    return backend.kernels.replayed(cycle) if launches_only else cycle


def _hierarchy(host: Any, options: AMG, symmetric: bool) -> Any:
    import pyamg

    method = options.method_for(symmetric)
    if method == "ruge_stuben":
        return pyamg.ruge_stuben_solver(host, max_coarse=COARSEST)
    if method == "air":
        return pyamg.air_solver(host, max_coarse=COARSEST)
    size, B = options.block_size, options.near_nullspace
    return pyamg.smoothed_aggregation_solver(
        host.tobsr((size, size)) if size > 1 else host,
        B=array_on_host(B) if is_dense(B) else B,
        symmetry="hermitian" if symmetric else "nonsymmetric",
        strength=("symmetric", {"theta": 0.0}),
        improve_candidates=None,
        max_coarse=COARSEST,
    )


def _parts(level: Any) -> tuple[Any, ...]:
    """A, P and R of a level of PyAMG's, the size of the blocks of A, and its fine points."""
    size = level.A.blocksize[0] if level.A.format == "bsr" else 1
    A, P, R = (part.tocsr() for part in (level.A, level.P, level.R))
    return A, P, R, size, getattr(level, "splitting", None)


def _level(
    backend: Backend, options: AMG, A: Any, P: Any, R: Any, size: int = 1, splitting: Any = None
) -> Collapsed | Smoothed:
    """A level of the cycle, smoothing included; `backend` says where and in what precision."""
    here = Backend.of(A.data)
    if options.method == "air":
        diagonal = A.diagonal()
        coarse, fine = (
            here.sparse.diags(points / diagonal).tocsr() for points in (splitting, ~splitting)
        )
        return _on_device(backend, collapsed(A, P, R, None, in_turn(A, [fine, fine, coarse])))
    inverse = inverse_block_diagonal(A, size if options.block_size > 1 else 1)
    largest = largest_eigenvalue(here, A, inverse)
    if options.degree == 1:
        S = inverse / interval(largest)[0]
        return _on_device(backend, collapsed(A, P, R, S, S))
    D = inverse if options.block_size > 1 else inverse.diagonal()
    kernels = backend.kernels
    return _on_device(backend, Smoothed(kernels, A, P, R, D, largest, options.degree))


def _on_device(backend: Backend, level: Any) -> Any:
    """The level with its matrices on the device of A, in the precision of the cycle."""
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


def _inverse(backend: Backend, matrix: Any) -> Any:
    """The inverse of the coarsest matrix, singular or not; where it is large, by its LU."""
    if matrix.shape[0] <= DENSEST:
        dense = matrix.toarray()
        inverse = Backend.of(dense).xp.linalg.pinv(dense)
        return backend.kernels.replayable(backend.from_host(inverse))
    return _FactoredInverse(
        backend.sparse_linalg.splu(backend.sparse.csc_matrix(matrix.tocsc().astype(backend.dtype)))
    )


@dataclass(frozen=True)
class _FactoredInverse:
    """The inverse of a sparse matrix, to multiply with."""

    lu: Any
    transposed: bool = False

    @property
    def T(self) -> _FactoredInverse:
        return replace(self, transposed=not self.transposed)

    def __matmul__(self, b: Array) -> Array:
        return self.lu.solve(b, "T" if self.transposed else "N")
