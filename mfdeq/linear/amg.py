"""Algebraic multigrid: the hierarchy is PyAMG's, the cycle is ours.

The cycle needs only `@` and vector operations of the array namespace, so it runs wherever
the arrays are, takes k columns at once, and transposes exactly: with A -> A', P and R
swapped and transposed, and the same Chebyshev smoother (a polynomial in D^-1 A applied to
D^-1, whose transpose is that polynomial in D^-1 A') before and after, the cycle of the
transposed levels is the transpose of the cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..arguments import count
from ..arrays import Array, Backend, check_block, is_sparse, sparse_on_host
from ..dottest import is_symmetric
from ..errors import ArgumentError
from ..operators import Operator, scale_rows
from .factor import matrix_of
from .preconditioners import inverse_diagonal

COARSEST = 400  # unknowns of the level that is inverted densely
METHODS = (None, "smoothed_aggregation", "ruge_stuben")
POWER_STEPS = 15  # of the power iteration for the largest eigenvalue of D^-1 A


@dataclass(frozen=True)
class AMG:
    """One V-cycle of algebraic multigrid.

    Parameters
    ----------
    method : str, optional
        "smoothed_aggregation" or "ruge_stuben"; None is the first for a symmetric A, and for
        others the second, whose coarse levels stay stable under advection.
    degree : int, optional
        Degree of the Chebyshev smoother, before and after each coarse correction.
    near_nullspace : (N, m) array, optional
        Vectors that the coarse levels must represent (rigid motions of elasticity, say).
        None is the constant. Smoothed aggregation only.
    """

    method: str | None = None
    degree: int = 2
    near_nullspace: Any = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ArgumentError(f"AMG method {self.method!r} is none of {METHODS}")
        if self.method == "ruge_stuben" and self.near_nullspace is not None:
            raise ArgumentError("near_nullspace is for smoothed aggregation, not ruge_stuben")
        count(self.degree, "degree of mfdeq.AMG")

    def setup(self, A: Operator) -> Operator:
        """Build the hierarchy of A's matrix."""
        array = matrix_of(A, "mfdeq.AMG()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.AMG() needs a sparse A; for a dense one use mfdeq.Direct()")
        inverse_diagonal(A.backend, array, "mfdeq.AMG()")  # PyAMG would only print about zeros
        if (B := self.near_nullspace) is not None:
            B = Backend.of(B).checked(B, None, "near_nullspace of mfdeq.AMG", ArgumentError)
            check_block(B, Backend.of(B), A.shape[0], "near_nullspace of mfdeq.AMG")
        levels, coarse = _hierarchy(A, array, self)
        return _Cycle(A, levels, coarse)


@dataclass(frozen=True)
class Level:
    """One level: its matrix, its transfer to the next, and its smoother."""

    A: Any
    P: Any
    R: Any
    inverse_diagonal: Array
    largest: float  # bound on the eigenvalues of D^-1 A
    degree: int

    @property
    def T(self) -> Level:
        """The level of the transposed cycle."""
        return replace(self, A=self.A.T, P=self.R.T, R=self.P.T)

    def smooth(self, b: Array) -> Array:
        """The Chebyshev polynomial for [largest / 10, largest] applied to b (Saad, alg. 12.1)."""
        upper, lower = 1.1 * self.largest, 0.1 * self.largest
        centre, half = 0.5 * (upper + lower), 0.5 * (upper - lower)
        sigma = centre / half
        rho = 1.0 / sigma
        d = scale_rows(self.inverse_diagonal, b) / centre
        x = d
        r = b
        for _ in range(self.degree - 1):
            r = r - self.A @ d
            rho, previous = 1.0 / (2.0 * sigma - rho), rho
            d = rho * previous * d + (2.0 * rho / half) * scale_rows(self.inverse_diagonal, r)
            x = x + d
        return x


def v_cycle(levels: list[Level], coarse: Array, b: Array) -> Array:
    """One V-cycle from a zero start: approximately A^-1 b, linear in b.

    Parameters
    ----------
    levels : list of Level
        Finest first.
    coarse : (m, m) array
        The inverse of the coarsest matrix.
    b : (n,) or (n, k) array
    """
    if not levels:
        return coarse @ b
    level = levels[0]
    x = level.smooth(b)
    x = x + level.P @ v_cycle(levels[1:], coarse, level.R @ (b - level.A @ x))
    return x + level.smooth(b - level.A @ x)


class _Cycle(Operator):
    def __init__(self, A: Operator, levels: list[Level], coarse: Array) -> None:
        super().__init__(A, A.shape)
        self.levels, self.coarse = levels, coarse
        self._transposed = [level.T for level in levels]

    def _apply(self, x: Array) -> Array:
        return v_cycle(self.levels, self.coarse, x)

    def _apply_adjoint(self, y: Array) -> Array:
        return v_cycle(self._transposed, self.coarse.T, y)


def _hierarchy(A: Operator, matrix: Any, options: AMG) -> tuple[list[Level], Array]:
    import pyamg

    backend = A.backend
    host = sparse_on_host(matrix).astype("float64")
    symmetric = is_symmetric(A)
    classical = not symmetric and options.near_nullspace is None
    if options.method == "ruge_stuben" or (options.method is None and classical):
        built = pyamg.ruge_stuben_solver(host, max_coarse=COARSEST)
    else:
        built = pyamg.smoothed_aggregation_solver(
            host,
            B=options.near_nullspace,
            symmetry="hermitian" if symmetric else "nonsymmetric",
            strength=("symmetric", {"theta": 0.0}),
            improve_candidates=None,
            max_coarse=COARSEST,
        )
    to_device = backend.sparse.csr_matrix
    levels = []
    for level in built.levels[:-1]:
        fine, P, R = (
            to_device(part.tocsr().astype(backend.dtype)) for part in (level.A, level.P, level.R)
        )
        inverse = inverse_diagonal(backend, fine, "mfdeq.AMG(), on a coarse level")
        largest = largest_eigenvalue(backend, fine, inverse)
        levels.append(Level(fine, P, R, inverse, largest, options.degree))
    coarse = backend.from_host(built.levels[-1].A.toarray())
    return levels, backend.xp.linalg.pinv(coarse)


def largest_eigenvalue(backend: Backend, A: Any, inverse_diagonal: Array) -> float:
    """A little above the largest |eigenvalue| of D^-1 A, by power iteration."""
    x = backend.random(inverse_diagonal.shape[0], seed=2)
    estimate = 1.0
    for _ in range(POWER_STEPS):
        x = x / backend.norm(x)
        x = scale_rows(inverse_diagonal, A @ x)
        estimate = backend.norm(x)
    return 1.1 * estimate
