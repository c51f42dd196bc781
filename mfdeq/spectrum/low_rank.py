"""A Gaussian posterior from what the data see of it: a low-rank Hessian beside a prior's precision.

With H V = R V diag(mu) and V' R V = I, up to eigenvalues that are small beside one,

    (H + R)^-1 = R^-1 - V diag(mu / (1 + mu)) V'

(Woodbury; Bui-Thanh, Ghattas, Martin and Stadler 2013). All else follows from mu and V.
"""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import Array
from ..arrays.kernels import scale_rows
from ..errors import AccuracyWarning, ArgumentError, warn
from ..operators.operator import Operator, SelfAdjoint
from ..priors.precision import Precision
from .eigenpairs import Eigenpairs

ROUGH = 0.1  # of the prior's covariance, by which the posterior's may be off without a warning


class LowRank(SelfAdjoint):
    """The posterior covariance (H + R)^-1, (P, P), of a low-rank H.

    An operator: also a preconditioner for solves with H + R and for `mfdeq.eigsh` of it.

    Parameters
    ----------
    pairs : Eigenpairs
        Of the Hessian of the misfit alone, in the inner product of the prior's precision:
        ``mfdeq.eigsh(H, k, "LM", M=R)`` or `mfdeq.randomized_eigsh`.

    Attributes
    ----------
    prior : Precision
        R.
    values : (k,) array
        mu: how many times more the data say than the prior, along each vector.
    vectors : (P, k) array
        V.
    error : float
        How far the covariance may be off for the bounds of the pairs, relative to the prior's, to
        first order: the root of the sum of (bound / (1 + mu))^2.

    Warns
    -----
    AccuracyWarning
        If that is more than 0.1: bounds are relative to the largest mu, and what counts here is
        their size beside 1 + mu.

    Raises
    ------
    ArgumentError
        If the pairs are not of a generalized problem, or 1 + mu is not positive: H + R is then not
        positive definite, and no Gaussian has it for its precision.

    Notes
    -----
    What is left out beside that: with every eigenvalue beyond those given at most m in magnitude,
    the covariance is off by at most m / (1 - m) of the prior's, in the inner product of R.
    """

    def __new__(cls, pairs: Any) -> Any:
        """On the library of the pairs."""
        if not isinstance(getattr(pairs, "precision", None), Precision):
            raise ArgumentError(
                f"pairs is a {type(pairs).__name__} without a precision; what mfdeq.eigsh(H, k, "
                "M=R) returns was expected, R the prior's precision"
            )
        return super().__new__(cls, pairs.precision)

    def __init__(self, pairs: Eigenpairs) -> None:
        prior: Any = pairs.precision
        super().__init__(prior, prior.shape)
        self.prior, self.values, self.vectors = prior, pairs.values, pairs.vectors
        if not (least := float(self.backend.xp.min(self.values))) > -1.0:
            raise ArgumentError(
                f"H + R is not positive definite: an eigenvalue of H is {least:.3g} of R. This is "
                "no minimum of the loss with its prior; H.gauss_newton is never negative"
            )
        self.error = self.backend.norm(pairs.error_bounds / (1.0 + self.values))
        if self.error > ROUGH:
            largest = float(self.backend.xp.max(self.backend.xp.abs(self.values)))
            warn(
                f"the eigenpairs are too rough for a posterior: its covariance may be off by "
                f"{self.error:.1e} of the prior's. Their tolerance is relative to the largest, "
                f"{largest:.1e}: give mfdeq.eigsh rtol={0.01 / (1.0 + largest):.0e}",
                AccuracyWarning,
            )

    def _apply(self, x: Array) -> Array:
        return self.prior.solve(x) - self._along(x, self.values / (1.0 + self.values))

    def _along(self, x: Array, weights: Array) -> Array:
        """V diag(weights) V' x."""
        return self.vectors @ scale_rows(weights, self.vectors.T @ x)

    @functools.cached_property
    def precision(self) -> Operator:
        """H + R, (P, P): R + R V diag(mu) V' R."""
        return _PosteriorPrecision(self)

    def samples(self, n: int | None = None, seed: int = 0, mean: Array | None = None) -> Array:
        """Samples of N(mean, (H + R)^-1), (P,), or n of them as columns, (P, n).

        Of the same white noise as ``prior.samples(n, seed)``: a pair of samples shows what the
        data changed. The mean is zero by default.
        """
        x = self.prior.samples(n, seed)
        shrink = 1.0 - 1.0 / self.backend.xp.sqrt(1.0 + self.values)
        x = x - self._along(self.prior.apply(x), shrink)
        if mean is None:
            return x
        mean = self.backend.checked(mean, self.shape[:1], "mean", ArgumentError)
        return x + (mean if n is None else mean[:, None])

    def variances(self, prior: Array | None = None) -> Array:
        """The diagonal of the covariance, (P,).

        Parameters
        ----------
        prior : (P,) array, optional
            That of the prior's; by default ``self.prior.variances()``.
        """
        before = self.prior.variances() if prior is None else prior
        return before - self.variance_reduction()

    def variance_reduction(self) -> Array:
        """By how much the data lower the variance of each parameter, (P,)."""
        xp = self.backend.xp
        return xp.sum(self.vectors**2 * (self.values / (1.0 + self.values)), axis=1)

    def log_determinant_ratio(self) -> float:
        """log det(H + R) - log det R, the sum of log(1 + mu)."""
        xp = self.backend.xp
        return float(xp.sum(xp.log1p(self.values)))

    def log_determinant(self) -> float:
        """log det(H + R)."""
        return self.prior.log_determinant() + self.log_determinant_ratio()

    def expected_information_gain(self) -> float:
        """In nats, of posterior over prior, averaged over data: half the sum of log(1 + mu).

        Of a linear model, or one linearized (Alexanderian, Gloor and Ghattas 2016).
        """
        return 0.5 * self.log_determinant_ratio()

    def information_gain(self, shift: Array) -> float:
        """In nats, the Kullback-Leibler divergence of the posterior from the prior.

        Parameters
        ----------
        shift : (P,) array
            Posterior mean minus prior mean.
        """
        xp = self.backend.xp
        shift = self.backend.checked(shift, self.shape[:1], "shift", ArgumentError)
        traced = float(xp.sum(self.values / (1.0 + self.values)))
        moved = float(xp.vecdot(shift, self.prior.apply(shift)))
        return 0.5 * (self.log_determinant_ratio() - traced + moved)


class _PosteriorPrecision(SelfAdjoint):
    """R + R V diag(mu) V' R."""

    def __init__(self, of: LowRank) -> None:
        super().__init__(of, of.shape)
        self.of = of

    def _apply(self, x: Array) -> Array:
        Rx = self.of.prior.apply(x)
        return Rx + self.of.prior.apply(self.of._along(Rx, self.of.values))
