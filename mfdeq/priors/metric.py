"""Inner products x' R y of parameters, as the eigensolvers use them: of vectors and of duals."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..arrays.backend import Array, Backend


class Metric(ABC):
    """The inner product x' R y of a symmetric positive definite R.

    A vector x and its dual R x are different kinds of arrays: products with a Hessian are duals,
    eigenvectors are not.

    Attributes
    ----------
    backend : Backend
        The array library that the vectors are of.
    is_identity : bool
        Whether R = I, so that a vector is its own dual.
    """

    backend: Backend
    is_identity = False

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Return the dual R x of (P,) and (P, k) arrays."""

    @abstractmethod
    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b, the vector whose dual is b, of (P,) and (P, k) arrays."""

    @abstractmethod
    def norms(self, x: Array, dual: Array) -> Array:
        """Return the lengths sqrt(x' R x) of the columns of x, whose duals are given."""

    @abstractmethod
    def gaussian(self, size: int, n: int, seed: int) -> Array:
        """Return n random columns of N(0, R⁻¹), (size, n)."""

    def dual_norms(self, dual: Array) -> Array:
        """Return the lengths of R⁻¹ b for the columns b of `dual`."""
        return self.norms(self.solve(dual), dual)


class Euclidean(Metric):
    """The inner product x' y, in which vectors are their own duals."""

    is_identity = True

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def apply(self, x: Array) -> Array:
        """Return x."""
        return x

    def solve(self, b: Array) -> Array:
        """Return b."""
        return b

    def norms(self, x: Array, dual: Array) -> Array:
        """Return the Euclidean lengths of the columns of x."""
        return self.backend.column_norms(x)

    def gaussian(self, size: int, n: int, seed: int) -> Array:
        """Return n columns of white noise, (size, n)."""
        return self.backend.random(size, n, seed=seed)
