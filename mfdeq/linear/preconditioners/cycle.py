"""The multigrid V-cycle, on numpy and cupy arrays alike, for k columns, with its exact transpose.

With S a smoother (x <- x + S (b - A x)), P and R the transfers and M_c the cycle of the coarse
level, a cycle that smooths before and after the coarse correction is

    M = S + S - S A S + (I - S A) P M_c R (I - A S).

Where S is sparse the smoothing is multiplied out once (`collapsed`), and a level is three sparse
products: M = G + P M_c R. Where S is a polynomial of higher degree its products are applied
(`Smoothed`). Either way the transposed levels make the transposed cycle.
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
    """A level M = G + P M_c R, its smoothing multiplied into G, P and R."""

    G: Any
    P: Any
    R: Any

    @property
    def T(self) -> Collapsed:
        """The level of the transposed cycle."""
        return Collapsed(self.G.T, self.R.T, self.P.T)

    def apply(self, below: Callable[[Array], Array], b: Array) -> Array:
        """M b, `below` being the product with M_c."""
        return add_product(self.G @ b, self.P, below(self.R @ b))


@dataclass(frozen=True)
class Smoothed:
    """A level that smooths by a Chebyshev polynomial in D^-1 A.

    D is the diagonal of A, `inverse_diagonal` an (n,) array then, or its block diagonal.
    """

    kernels: ModuleType
    A: Any
    P: Any
    R: Any
    inverse_diagonal: Any
    largest: float  # bound on the eigenvalues of D^-1 A
    degree: int

    @property
    def T(self) -> Smoothed:
        """The level of the transposed cycle."""
        D = self.inverse_diagonal
        D = D if D.ndim == 1 else D.T
        return replace(self, A=self.A.T, P=self.R.T, R=self.P.T, inverse_diagonal=D)

    def apply(self, below: Callable[[Array], Array], b: Array) -> Array:
        """M b, `below` being the product with M_c."""
        x = self.smooth(b)
        x = add_product(x, self.P, below(self.R @ self._residual(b, x)))
        x += self.smooth(self._residual(b, x))
        return x

    def _residual(self, b: Array, x: Array) -> Array:
        return add_product(1.0 * b, self.A, x, -1)

    def smooth(self, b: Array) -> Array:
        """The Chebyshev polynomial for [largest / 10, largest] applied to b (Saad, alg. 12.1)."""
        step, D = self.kernels.chebyshev, self.inverse_diagonal
        centre, half = interval(self.largest)
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
    """One V-cycle from a zero start: approximately A^-1 b, linear in b.

    Parameters
    ----------
    levels : sequence of Collapsed or Smoothed
        Finest first.
    coarse : (m, m) array, or what multiplies like one
        The inverse of the coarsest matrix.
    b : (n,) or (n, k) array
    """
    if not levels:
        return coarse @ b
    return levels[0].apply(lambda r: v_cycle(levels[1:], coarse, r), b)


def collapsed(A: Any, P: Any, R: Any, before: Any, after: Any) -> Collapsed:
    """The level that smooths by the matrices `before` and `after` (None: not at all)."""
    if before is None:
        return Collapsed(after, P - after @ (A @ P), R)
    G = before + after - after @ (A @ before)
    return Collapsed(G, P - after @ (A @ P), R - (R @ A) @ before)


def in_turn(A: Any, smoothers: Sequence[Any]) -> Any:
    """The matrix of several smoothing steps, one after the other: S + S_i - S_i A S."""
    S = smoothers[0]
    for step in smoothers[1:]:
        S = S + step - step @ (A @ S)
    return S


def interval(largest: float) -> tuple[float, float]:
    """Centre and half width of what a smoother damps: a tenth of the largest, to a little above."""
    return 0.6 * largest, 0.5 * largest


def largest_eigenvalue(backend: Backend, A: Any, inverse_diagonal: Any) -> float:
    """A little above the largest |eigenvalue| of D^-1 A, by power iteration."""
    x = backend.random(A.shape[0], seed=2)
    estimate = 1.0
    for _ in range(POWER_STEPS):
        x = x / backend.norm(x)
        x = inverse_diagonal @ (A @ x)
        estimate = backend.norm(x)
    return 1.1 * estimate
