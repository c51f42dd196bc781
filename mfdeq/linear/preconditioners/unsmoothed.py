"""Levels of smoothed aggregation that multiply by A alone, for a symmetric A with few diagonals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...arrays.backend import Array, Backend
from ...arrays.kernels import scale_rows
from ...arrays.sparse import lines_of, to_canonical_format, with_data
from .cycle import damped_interval, largest_eigenvalue
from .jacobi import inverse_block_diagonal

MAX_DIFFERENCE = 1e-8  # of a prolongation and (I - t D^-1 A) T, relative to the change of T


@dataclass(frozen=True)
class Unsmoothed:
    """The level of `collapsed` for a symmetric A and S = w D^-1, by products with A alone.

    The prolongation is (I - t D^-1 A) T, where T has one entry in each row. With the scaled matrix
    E = D^-1/2 A D^-1/2 and T' = D^1/2 T,

        M = D^-1/2 (w (2 I - w E) + (I - w E) (I - t E) T' M_c T'^T (I - t E) (I - w E)) D^-1/2.

    Attributes
    ----------
    kernels : module
        The inner loops of the array library.
    E : Diagonals
        The scaled matrix, for `kernels.combine`, less the identity.
    P, R : sparse matrices
        T' and its transpose.
    scale : (n,) array
        The diagonal of D^-1/2.
    damping, smoothing : float
        The factors w and t.
    """

    kernels: ModuleType
    E: Any
    P: Any
    R: Any
    scale: Array
    damping: float
    smoothing: float

    @property
    def T(self) -> Unsmoothed:
        """The level of the transposed cycle, which is the same."""
        return self

    def apply(self, below: Callable[[Array], Array], b: Array) -> Array:
        """Apply the cycle to b; `below` applies that of the coarse level, M_c."""
        w, t, combine = self.damping, self.smoothing, self.kernels.combine
        b = scale_rows(self.scale, b)
        r = combine(self.E, b, 1 - w, -w)
        r = combine(self.E, r, 1 - t, -t)
        x = self.P @ below(self.R @ r)
        x = combine(self.E, x, 1 - t, -t, b, w)
        x = combine(self.E, x, 1 - w, -w, b, w)
        return scale_rows(self.scale, x)


@dataclass(frozen=True)
class Smoothing:
    """The prolongation P = (I - t D^-1 A) T, for any A with the same aggregates.

    Attributes
    ----------
    T : sparse matrix
        The prolongation of piecewise constants, with one entry in each row.
    factor : float
        t times the bound on the eigenvalues of D^-1 A.
    """

    T: Any
    factor: float

    def prolongation(self, A: Any, bound: float) -> Any:
        """Return P for an A with this bound on the eigenvalues of D^-1 A."""
        T = self.T.astype(A.dtype)
        return (T - self.factor / bound * _jacobi(A, T)).tocsr()


def eigenvalue_bound(A: Any) -> float:
    """Return a bound on the eigenvalues of D^-1 A."""
    return largest_eigenvalue(Backend.of(A.data), A, inverse_block_diagonal(A, 1))


def _jacobi(A: Any, T: Any) -> Any:
    """Return D^-1 A T."""
    return inverse_block_diagonal(A, 1) @ (A @ T)


def smoothing_of(A: Any, T: Any, P: Any, bound: float) -> Smoothing | None:
    """Return how P was made of T by smoothed aggregation, or None if in another way.

    Parameters
    ----------
    A : (n, n) sparse matrix
    T, P : (n, m) sparse matrices
        The prolongation of the candidates and its smoothed one.
    bound : float
        A bound on the eigenvalues of D^-1 A.
    """
    T = T.tocsr()
    if T.nnz != T.shape[0]:
        return None
    smooth, change = _jacobi(A, T), T - P
    t = float(smooth.multiply(change).sum() / smooth.multiply(smooth).sum())
    if abs(change - t * smooth).max() > MAX_DIFFERENCE * abs(change).max():
        return None
    return Smoothing(T, t * bound)


def scaled_diagonals(backend: Backend, A: Any) -> tuple[Any, Array] | None:
    """Return D^-1/2 A D^-1/2 less the identity, and the diagonal of D^-1/2.

    None if A has many diagonals, or a main one that is not positive.

    Parameters
    ----------
    backend : Backend
        Of the level.
    A : (n, n) sparse matrix
    """
    diagonal = A.diagonal()
    if not (diagonal > 0).all():
        return None
    A, scale = to_canonical_format(A), diagonal**-0.5
    entries = A.data * (scale[lines_of(A)] * scale[A.indices])
    E = backend.kernels.by_diagonals(with_data(A, entries.astype(backend.dtype)))
    return None if E is None else (E.without_unit_diagonal(), scale.astype(backend.dtype))


def unsmoothed(
    backend: Backend, A: Any, scaled: tuple[Any, Array], smoothing: Smoothing, bound: float
) -> Unsmoothed:
    """Return the level of A, from its `scaled_diagonals` and its `eigenvalue_bound`."""
    E, scale = scaled
    T = Backend.of(A.data).sparse.diags(A.diagonal() ** 0.5) @ smoothing.T
    damping = 1.0 / damped_interval(bound)[0]
    return Unsmoothed(backend.kernels, E, T, T.T, scale, damping, smoothing.factor / bound)
