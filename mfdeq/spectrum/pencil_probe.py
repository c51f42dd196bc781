"""Whether eigenvalues below the smallest ones found are missing, by searches with a preconditioner.

Let λ be the last wanted value less a tolerance, R the inner product (the identity by default), and
M a positive definite approximation of H^-1. On the complement of the pairs found, a missing
eigenvalue below λ is a negative eigenvalue of the pencil

    (H - λ R) v = μ M^-1 v,

since both have the same inertia (J. J. Sylvester). The preconditioner makes the positive ones large
beside their spread, and Lanczos in the inner product of M^-1, by one product with H and one with M
for each step, decides in a few steps whether there are negative ones. As M^-1 is not known, the
search begins with a random dual w. Its vector is M w, and v'w is the part of w along v. Of an
eigenvector v of length one in the norm of M^-1,

    |v'w| <= sqrt(w'M w) Π β_j / |μ - θ_j| / sqrt(1 + Σ (ρ_j / (μ - θ_j))^2)

as in `mfdeq.spectrum.miss_chance`. If y is the missing eigenvector and a its length in the norm of
M^-1, both for y'R y = 1, then v'R v >= 1 / a^2, and v'w has the variance v'R v. Hence the chance
is that of a uniform start in a^2 w'M w dimensions, and μ <= -g / a^2 for an eigenvalue that is
smaller than λ by g. The largest a of the vectors of the search is used: the chance assumes that the
preconditioner is not worse for y than for all of these.

On the complement of X, in which X'R x = 0, the inverse of M^-1 is

    M - M R X (X'R M R X)^-1 X'R M.

References
----------
B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998. A. V. Knyazev, "Toward the optimal
preconditioned eigensolver: locally optimal block preconditioned conjugate gradient method", 2001.
"""

from __future__ import annotations

import math

from ..arrays.backend import Array, array_on_host, host
from ..arrays.powers_of_two import exponents_of, times_power
from ..operators.operator import Operator
from ..priors.metric import Metric
from .counted_operator import CountedOperator
from .lanczos import Lanczos
from .miss_chance import MISS_CHANCE, Run
from .schur_complement import Complement
from .sides import Side


class PreconditionerMetric(Metric):
    """The inner product x' M^-1 y on the complement of vectors X, by products with M.

    Parameters
    ----------
    M : Operator, (n, n)
    metric : Metric
        The inner product R in which the complement is orthogonal to X.
    vectors : (n, k) array
        X.
    """

    def __init__(self, M: Operator, metric: Metric, vectors: Array) -> None:
        self.backend, self.M, self.metric = metric.backend, M, metric
        self.vectors, self.duals = vectors, metric.apply(vectors)
        product = M._apply(self.duals)
        self.exponent = exponents_of(self.backend, product[:, 0])
        self.product = times_power(self.backend, product, self.exponent)
        gram = array_on_host(self.duals.T @ self.product)
        self.inverse_gram = self.backend.coefficients(host.linalg.pinv(0.5 * (gram + gram.T)))

    def project_dual(self, w: Array) -> Array:
        """Remove what a dual has along X."""
        for _ in range(2):
            w = w - self.duals @ (self.vectors.T @ w)
        return w

    def solve(self, b: Array) -> Array:
        """Return M b, projected on the complement."""
        x = times_power(self.backend, self.M._apply(b), self.exponent)
        x = x - self.product @ (self.inverse_gram @ (self.product.T @ b))
        return x - self.vectors @ (self.duals.T @ x)

    def norms(self, x: Array, dual: Array) -> Array:
        """Return the lengths sqrt(x' M^-1 x) of the columns of x."""
        xp = self.backend.xp
        squares = xp.vecdot(x, dual, axis=-2)
        return xp.sqrt(xp.maximum(squares, xp.zeros_like(squares)))

    def random_pair(self, size: int, n: int, seed: int) -> tuple[Array, Array]:
        """Draw n random vectors M w, and their duals w, of length sqrt(size) in that of R^-1."""
        w = self.project_dual(self.metric.random_pair(size, n, seed)[1])
        w = w * (size**0.5 / self.metric.dual_norms(w))
        return self.solve(w), w

    def apply(self, x: Array) -> Array:
        """Raise an error, since M^-1 is not known."""
        raise NotImplementedError("products with the inverse of a preconditioner")

    def gaussian(self, size: int, n: int, seed: int) -> Array:
        """Raise an error, since the root of M is not known."""
        raise NotImplementedError("samples with the covariance of a preconditioner")


class PencilProbe:
    """A search for eigenvalues below the last wanted one.

    Parameters
    ----------
    H : CountedOperator
    M : Operator
    complement : Complement
        The complement of the wanted pairs and others.
    side : Side
        The lower end of the spectrum.
    tolerance : float
        The distance below the last wanted value from which eigenvalues are looked for.
    seed : int
    max_size : int
        The size of the basis.
    """

    def __init__(
        self,
        H: CountedOperator,
        M: Operator,
        complement: Complement,
        side: Side,
        tolerance: float,
        seed: int,
        max_size: int,
    ) -> None:
        self.H, self.tolerance, self.run = H, tolerance, Run()
        self.metric = PreconditionerMetric(M, H.metric, complement.vectors)
        end = side.end(tolerance)
        self.shift = -end + complement.bound(side.sign, end)
        start, dual = self.metric.random_pair(complement.vectors.shape[0], 1, seed)
        self.squared_length = float(self.metric.norms(start, dual)[0]) ** 2
        self.squared_size = 0.0  # a^2
        self.max_size = max_size
        self.lanczos = Lanczos(H.backend, self._product, start, max_size, self.metric, dual)

    def _product(self, x: Array) -> Array:
        """Return (H - λ R) x on the complement, and see to a."""
        Rx = self.H.metric.apply(x)
        size = float(self.H.metric.norms(x, Rx)[0])
        self.squared_size = max(self.squared_size, size**-2)
        return self.metric.project_dual(self.H(x) - self.shift * Rx)

    def search(self, end: int) -> Array | None:
        """Search until nothing is missing by more than a small chance, or `end` products are used.

        Return vectors that may be near missing eigenvectors, or None.
        """
        while True:
            self.expand()
            if (negative := self.run.values < 0.0).any():
                return self.lanczos.unlocked_vectors(negative)
            if self.lanczos.invariant or self.H.count >= end:
                return None
            if self.chance(self.tolerance) <= MISS_CHANCE:
                return None

    def expand(self) -> None:
        """Take one step."""
        lanczos = self.lanczos
        if lanczos.full:
            before = lanczos.unlocked_values
            lanczos.restart(1, "SA")
            self.run.record_restart(before, lanczos.unlocked_values)
        lanczos.expand()
        values, residuals = lanczos.unlocked_pairs
        rounding = self.H.backend.eps * float(abs(values).max())
        length = 0.0 if lanczos.invariant else max(lanczos.residual_bound, rounding)
        self.run.record(values, residuals, length)

    def chance(self, gap: float) -> float:
        """Return the bound on the chance of a miss below the last wanted value by a gap."""
        distance = max(gap - self.tolerance, 0.0) / self.squared_size
        dimension = self.squared_size * self.squared_length
        return min(1.0, math.exp(self.run.log_chance(-1, distance, dimension)))
