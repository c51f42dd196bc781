"""Inner products x' R y of parameter vectors, for the eigensolvers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError


class Metric(ABC):
    """The inner product x' R y with a symmetric positive definite R.

    The dual of a vector x is R x. Products with a Hessian are duals; eigenvectors are vectors.

    Attributes
    ----------
    backend : Backend
        The array library of the vectors.
    is_identity : bool
        Whether R = I, for which a vector is its own dual.
    root_diagonal : (P,) array or None
        The square roots of the diagonal of R, which has the inverse units of the parameters; None
        where its entries are not known, or R = I.
    """

    backend: Backend
    is_identity = False
    root_diagonal: Array | None = None

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Return the dual R x of a (P,) or (P, k) array x."""

    @abstractmethod
    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b, the vector whose dual is b, for a (P,) or (P, k) array b."""

    @abstractmethod
    def norms(self, x: Array, dual: Array) -> Array:
        """Return the lengths sqrt(x' R x) of the columns of x, with `dual` = R x."""

    @abstractmethod
    def gaussian(self, size: int, n: int, seed: int) -> Array:
        """Draw n samples of N(0, R⁻¹), the columns of a (size, n) array."""

    def random_pair(self, size: int, n: int, seed: int) -> tuple[Array, Array]:
        """Draw n random vectors, (size, n), and return them and their duals.

        They are as likely in all directions if R has a root. Otherwise each is the sum of one that
        favours large R and one that favours small R.
        """
        try:
            x = self.gaussian(size, n, seed)
            return x, self.apply(x)
        except ArgumentError:
            x, dual = (self.backend.random(size, n, seed=seed + i) for i in (0, 1))
            y, Rx = self.solve(dual), self.apply(x)
            a, b = self.norms(x, Rx), self.norms(y, dual)
            return x / a + y / b, Rx / a + dual / b

    def dual_norms(self, dual: Array) -> Array:
        """Return the lengths of R⁻¹ b for the columns b of `dual`."""
        return self.norms(self.solve(dual), dual)


class Euclidean(Metric):
    """The inner product x' y, for which a vector is its own dual."""

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
        """Draw white noise, (size, n)."""
        return self.backend.random(size, n, seed=seed)
