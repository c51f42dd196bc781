"""Algebraic multigrid: the hierarchy is PyAMG's, on the host; the cycle is ours, where A is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..arguments import count
from ..arrays import (
    Array,
    Backend,
    array_on_host,
    check_block,
    is_dense,
    is_sparse,
    seeded,
    sparse_on_host,
    stored_bytes,
)
from ..dottest import is_symmetric
from ..errors import ArgumentError
from ..operators import Operator
from .cycle import Collapsed, Smoothed, collapsed, in_turn, interval, largest_eigenvalue, v_cycle
from .factor import matrix_of
from .preconditioners import inverse_block_diagonal, inverse_diagonal

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
        symmetric = is_symmetric(A)
        asked = options.levels or ("float32" if symmetric else "float64")
        self.flexible = asked == "float32" and self.dtype == xp.float64
        inner = replace(self.backend, dtype=xp.float32) if self.flexible else self.backend
        host = sparse_on_host(matrix).astype("float64")
        self._scale = float(abs(host.diagonal()).max())
        with seeded():  # PyAMG starts its eigenvalue estimates from numpy's global stream
            built = _hierarchy(host / self._scale, options, symmetric)
        self.levels = [_level(inner, level, options) for level in built.levels[:-1]]
        self.coarse = _inverse(inner, built.levels[-1].A)
        self._transposed = [level.T for level in self.levels]
        self._inner = inner

    @property
    def nbytes(self) -> int:
        """Memory of the levels."""
        parts = [part for level in self.levels for part in vars(level).values()]
        return sum(stored_bytes(part) for part in [*parts, self.coarse])

    def _apply(self, x: Array) -> Array:
        return self._cycle(self.levels, self.coarse, x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._cycle(self._transposed, self.coarse.T, y)

    def _cycle(self, levels: list[Any], coarse: Any, b: Array) -> Array:
        xp = self.backend.xp
        x = v_cycle(levels, coarse, xp.astype(b, self._inner.dtype, copy=False))
        x = xp.astype(x, self.dtype, copy=False)
        x /= self._scale
        return x


def _hierarchy(host: Any, options: AMG, symmetric: bool) -> Any:
    import pyamg

    method = options.method
    if method is None:
        systems = options.near_nullspace is not None or options.block_size > 1
        method = "smoothed_aggregation" if symmetric or systems else "ruge_stuben"
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


def _level(backend: Backend, level: Any, options: AMG) -> Collapsed | Smoothed:
    """A level of PyAMG's as one of ours, smoothing included."""
    A, P, R = (part.tocsr() for part in (level.A, level.P, level.R))
    host = Backend.of(A.data)
    if options.method == "air":
        diagonal = A.diagonal()
        coarse, fine = (
            host.sparse.diags(points / diagonal).tocsr()
            for points in (level.splitting, ~level.splitting)
        )
        return _on_device(backend, collapsed(A, P, R, None, in_turn(A, [fine, fine, coarse])))
    size = level.A.blocksize[0] if options.block_size > 1 else 1
    inverse = inverse_block_diagonal(A, size)
    largest = largest_eigenvalue(host, A, inverse)
    if options.degree == 1:
        S = inverse / interval(largest)[0]
        return _on_device(backend, collapsed(A, P, R, S, S))
    return _on_device(backend, Smoothed(A, P, R, inverse, largest, options.degree))


def _on_device(backend: Backend, level: Any) -> Any:
    """The level with its matrices on the device of A, in the precision of the cycle."""
    matrices = {
        name: backend.sparse.csr_matrix(part.tocsr().astype(backend.dtype))
        for name, part in vars(level).items()
        if is_sparse(part)
    }
    return replace(level, **matrices)


def _inverse(backend: Backend, matrix: Any) -> Any:
    """The inverse of the coarsest matrix, singular or not; where it is large, by its LU."""
    if matrix.shape[0] <= DENSEST:
        dense = matrix.toarray()
        return backend.from_host(Backend.of(dense).xp.linalg.pinv(dense))
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
