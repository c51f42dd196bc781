"""The multigrid V-cycle on any array library, for vectors and blocks, with its exact transpose.

With a smoother S (x <- x + S (b - A x)), transfers P and R and the cycle M_c of the coarse level, a
cycle that smooths before and after the coarse correction is

    M = S + S - S A S + (I - S A) P M_c R (I - A S).

If S is sparse, the smoothing is multiplied out once (`collapsed`), and a level is three sparse
products, M = G + P M_c R. If S is a polynomial of higher degree, it is applied by its products
(`Smoothed`). If A has few diagonals, products with it are so fast that nothing is multiplied out
(`unsmoothed`). In any case, the transposed levels give the transposed cycle.

References
----------
W. L. Briggs, V. E. Henson and S. F. McCormick, A Multigrid Tutorial, 2nd ed., SIAM (2000).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from ...arrays.backend import Array, Backend
from ...arrays.kernels import add_product

POWER_STEPS = 15  # of the power iteration for the largest eigenvalue of D^-1 A


@dataclass(frozen=True)
class Collapsed:
    """A level M = G + P M_c R, with its smoothing multiplied into G, P and R."""

    G: Any
    P: Any
    R: Any

    @property
    def T(self) -> Collapsed:
        """The level of the transposed cycle."""
        return Collapsed(self.G.T, self.R.T, self.P.T)

    def apply(self, below: Callable[[Array], Array], b: Array) -> Array:
        """Apply the cycle to b; `below` applies that of the coarse level, M_c."""
        return add_product(self.G @ b, self.P, below(self.R @ b))


@dataclass(frozen=True)
class Smoothed:
    """A level that smooths by a Chebyshev polynomial in D^-1 A.

    Attributes
    ----------
    kernels : module
        The inner loops of the array library.
    A, P, R : sparse matrices
        The matrix of the level, its prolongation and its restriction.
    inverse_diagonal : (n,) array or (n, n) sparse matrix
        The inverse of D, the diagonal of A or its block diagonal.
    largest : float
        A bound on the eigenvalues of D^-1 A.
    degree : int
        The degree of the polynomial.
    """

    kernels: ModuleType
    A: Any
    P: Any
    R: Any
    inverse_diagonal: Any
    largest: float
    degree: int

    @property
    def T(self) -> Smoothed:
        """The level of the transposed cycle."""
        D = self.inverse_diagonal
        D = D if D.ndim == 1 else D.T
        return replace(self, A=self.A.T, P=self.R.T, R=self.P.T, inverse_diagonal=D)

    def apply(self, below: Callable[[Array], Array], b: Array) -> Array:
        """Apply the cycle to b; `below` applies that of the coarse level, M_c."""
        x = self.smooth(b)
        x = add_product(x, self.P, below(self.R @ self._residual(b, x)))
        x += self.smooth(self._residual(b, x))
        return x

    def _residual(self, b: Array, x: Array) -> Array:
        return add_product(1.0 * b, self.A, x, -1)

    def smooth(self, b: Array) -> Array:
        """Apply the Chebyshev polynomial for [largest / 10, largest] to b.

        References
        ----------
        Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., SIAM (2003), algorithm 12.1.
        """
        step, D = self.kernels.chebyshev, self.inverse_diagonal
        centre, half = damped_interval(self.largest)
        sigma = centre / half
        rho = 1.0 / sigma
        x, d, r = 0.0 * b, 0.0 * b, 1.0 * b
        step(d, x, r, D, 0.0, 1.0 / centre)
        for _ in range(self.degree - 1):
            add_product(r, self.A, d, -1)
            rho, previous = 1.0 / (2.0 * sigma - rho), rho
            step(d, x, r, D, rho * previous, 2.0 * rho / half)
        return x


def v_cycle(levels: Sequence[Any], coarse: Any, b: Array) -> Array:
    """Apply one V-cycle from zero: approximately A^-1 b, linear in b.

    Parameters
    ----------
    levels : sequence of Collapsed or Smoothed
        The levels, the finest first.
    coarse : (m, m) array, or an object with the same products
        The inverse of the coarsest matrix.
    b : (n,) or (n, k) array
    """
    if not levels:
        return coarse @ b
    return levels[0].apply(lambda r: v_cycle(levels[1:], coarse, r), b)


def collapsed(A: Any, P: Any, R: Any, before: Any, after: Any) -> Collapsed:
    """Return the level that smooths by the matrices `before` (or None) and `after`."""
    if before is None:
        return Collapsed(after, P - after @ (A @ P), R)
    G = before + after - after @ (A @ before)
    return Collapsed(G, P - after @ (A @ P), R - (R @ A) @ before)


def composed_smoother(A: Any, smoothers: Sequence[Any]) -> Any:
    """Return the matrix of successive smoothing steps, by S <- S + S_i - S_i A S."""
    S = smoothers[0]
    for step in smoothers[1:]:
        S = S + step - step @ (A @ S)
    return S


def damped_interval(largest: float) -> tuple[float, float]:
    """Return centre and half width of [largest / 10, 1.1 largest], which a smoother damps."""
    return 0.6 * largest, 0.5 * largest


def largest_eigenvalue(backend: Backend, A: Any, inverse_diagonal: Any) -> float:
    """Estimate a bound on the |eigenvalues| of D^-1 A, by power iteration and a 10 % margin."""
    x = backend.random(A.shape[0], seed=2)
    estimate = 1.0
    for _ in range(POWER_STEPS):
        x = x / backend.norm(x)
        x = inverse_diagonal @ (A @ x)
        estimate = backend.norm(x)
    return 1.1 * estimate
