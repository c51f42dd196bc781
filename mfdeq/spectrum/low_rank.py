"""A Gaussian posterior from a low-rank Hessian of the data misfit and the precision of a prior.

With H V = R V diag(mu) and V' R V = I, and neglecting eigenvalues that are small compared with one,

    (H + R)^-1 = R^-1 - V diag(mu / (1 + mu)) V'

by the Woodbury identity. All other quantities follow from mu and V.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..arrays.collective import collective
from ..arrays.kernels import scale_rows
from ..errors import AccuracyWarning, ArgumentError, warn
from ..locks import cached_property
from ..operators.operator import Operator, SelfAdjoint
from ..priors.precision import Precision
from .eigenpairs import Eigenpairs, vectors_of

MAX_ERROR = 0.1  # of the covariance, relative to itself; there is a warning above it


class LowRank(SelfAdjoint):
    """The posterior covariance (H + R)^-1, (P, P), of a low-rank H and a prior precision R.

    H is the Hessian of the data misfit alone. The covariance is a LinearOperator, and can be used
    as a preconditioner for solves and for `mfdeq.eigsh` with H + R.

    Parameters
    ----------
    pairs : Eigenpairs
        Eigenpairs of H in the inner product of R: ``mfdeq.eigsh(H, k, "LM", M=R)`` or
        `mfdeq.randomized_eigsh`.

    Attributes
    ----------
    prior : Precision
        The precision R.
    values : (k,) array
        The eigenvalues mu: the precision of the data relative to the prior's, along each vector.
    vectors : (P, k) array
        The eigenvectors V.
    error : float
        A first-order bound of the relative error of the covariance: of any variance x' C x of the
        posterior, relative to this variance.

    Warns
    -----
    AccuracyWarning
        If `error` is more than 0.1, because the eigenvalues that were left out are not small
        compared with one, or the pairs are not accurate enough. The covariance is then still a
        preconditioner. `samples`, `variances` and information gains warn again. Also if H is that
        of a loss that contains the prior, which then counts twice.

    Raises
    ------
    ArgumentError
        If the pairs are not of a generalized problem, or 1 + mu is not positive, since H + R is
        then not positive definite.

    Notes
    -----
    (H + R)^-1 = R^-1 - V diag(mu / (1 + mu)) V'. `error` is the sum of two parts. An eigenvalue mu
    that was left out changes the precision along its vector from 1 + mu to 1; all of them together
    are counted as the least |mu| of the pairs, or zero if there are P pairs. Residuals of the pairs
    with the bounds b change the covariance by at most the square root of the sum of
    b^2 / (1 + mu). Rounding, which is not counted, is about eps mu relative to the variance.

    References
    ----------
    T. Bui-Thanh, O. Ghattas, J. Martin and G. Stadler, "A computational framework for
    infinite-dimensional Bayesian inverse problems. Part I: The linearized case, with application to
    global seismic inversion", 2013.

    Examples
    --------
    A misfit that depends on the first parameter only, with 99 times the precision of the prior. The
    second pair shows that there are no further eigenvalues:

    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.zeros((50, 50))
    >>> H[0, 0] = 99.0
    >>> posterior = mfdeq.LowRank(mfdeq.eigsh(H, k=2, M=np.ones(50)))
    >>> (posterior @ np.ones(50))[:3].round(6).tolist()
    [0.01, 1.0, 1.0]
    >>> posterior.error < 1e-3
    True
    """

    @collective
    def __new__(cls, pairs: Any) -> Any:
        """Create an instance that is also a LinearOperator of the array library of the pairs."""
        if not isinstance(pairs, Eigenpairs) or pairs.precision is None:
            raise ArgumentError(
                "pairs: expected the Eigenpairs of mfdeq.eigsh(H, k, M=R), where R is the prior's "
                f"precision, got {type(pairs).__name__} without a precision"
            )
        if pairs.contains_prior:
            warn(
                "pairs: expected eigenpairs of the Hessian of the misfit alone, got those of a "
                "loss that contains the prior of precision R, which counts twice: variances are "
                "too small. Use mfdeq.eigsh(eq.hessian(misfit), k, M=R)",
                AccuracyWarning,
            )
        return super().__new__(cls, pairs.precision)

    @collective
    def __init__(self, pairs: Eigenpairs) -> None:
        prior: Any = pairs.precision
        super().__init__(prior, prior.shape)
        self.prior: Precision = prior
        self.values, self.vectors = pairs.values, vectors_of(pairs)
        if not (least := float(self.backend.xp.min(self.values))) > -1.0:
            raise ArgumentError(
                f"H + R is not positive definite: an eigenvalue of R^-1 H is {least:.3g}. The "
                "parameters are not at a minimum of the loss with its prior: minimize it first, or "
                "use H.gauss_newton, which has no negative eigenvalues"
            )
        xp, (P, k) = self.backend.xp, self.vectors.shape
        # In the units of the posterior, a residual b couples 1 + mu with the others, at least one.
        inaccuracy = self.backend.norm(pairs.error_bounds / xp.sqrt(1.0 + self.values))
        left_out = float(xp.min(xp.abs(self.values))) if k < P else 0.0
        self.error = inaccuracy + left_out
        self._warning = ""
        if self.error > MAX_ERROR:
            advice = (
                f"eigenvalues of up to {left_out:.2g} may have been left out, which are not small "
                f"compared with one: compute more than {k} pairs, until the smallest magnitude is "
                f"below {MAX_ERROR:g}"
            )
            if inaccuracy >= left_out:
                largest = float(xp.max(xp.abs(self.values)))
                rtol = 0.1 * MAX_ERROR / ((1.0 + largest) * k**0.5)
                advice = (
                    f"the tolerance of the pairs is relative to the largest, {largest:.1e}: use "
                    f"mfdeq.eigsh with rtol={rtol:.0e}"
                )
            self._warning = (
                f"the covariance of a LowRank posterior may be off by {self.error:.1e} of itself: "
                + advice
            )
        self._warn()

    def _warn(self) -> None:
        """Warn if the covariance is inaccurate."""
        if self._warning:
            warn(self._warning, AccuracyWarning)

    def _apply(self, x: Array) -> Array:
        return self.prior.solve(x) - self._scaled_projection(x, self.values / (1.0 + self.values))

    def _scaled_projection(self, x: Array, weights: Array) -> Array:
        """Return V diag(weights) V' x."""
        return self.vectors @ scale_rows(weights, self.vectors.T @ x)

    @cached_property
    def precision(self) -> Operator:
        """The posterior precision H + R = R + R V diag(mu) V' R, (P, P)."""
        return _PosteriorPrecision(self)

    @collective
    def samples(self, n: int | None = None, seed: int = 0, mean: Array | None = None) -> Array:
        """Draw samples of N(mean, (H + R)^-1).

        They use the same white noise as ``prior.samples(n, seed)``, so that pairs of prior and
        posterior samples can be compared.

        Parameters
        ----------
        n : int, optional
            The number of samples; by default one sample is returned as a vector.
        seed : int, optional
            The seed of the white noise, 0 by default.
        mean : (P,) array, optional
            The mean, zero by default.

        Returns
        -------
        (P,) or (P, n) array
            The samples as columns.

        Raises
        ------
        ArgumentError
            If the prior is known by its products only and has no root.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> H = np.diag(np.r_[1e12, np.zeros(49)])
        >>> pairs = mfdeq.eigsh(H, k=2, M=np.ones(50), rtol=1e-12)
        >>> posterior = mfdeq.LowRank(pairs)
        >>> x, before = posterior.samples(seed=3), posterior.prior.samples(seed=3)
        >>> bool(abs(x[0]) < 1e-4), bool(np.allclose(x[1:], before[1:]))
        (True, True)
        """
        self._warn()
        x = self.prior.samples(n, seed)
        shrink = 1.0 - 1.0 / self.backend.xp.sqrt(1.0 + self.values)
        x = x - self._scaled_projection(self.prior.apply(x), shrink)
        if mean is None:
            return x
        mean = self.backend.check_array(mean, self.shape[:1], "mean", ArgumentError)
        return x + (mean if n is None else mean[:, None])

    @collective
    def variances(self, prior: Array | None = None) -> Array:
        """Return the variances of the parameters, the diagonal of the covariance.

        Parameters
        ----------
        prior : (P,) array, optional
            The variances of the prior; by default ``self.prior.variances()``.

        Returns
        -------
        (P,) array

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> pairs = mfdeq.eigsh(np.diag(np.r_[3.0, np.zeros(49)]), k=2, M=np.ones(50))
        >>> mfdeq.LowRank(pairs).variances()[:2].round(6).tolist()
        [0.25, 1.0]
        """
        self._warn()
        before = self.prior.variances() if prior is None else prior
        return before - self.variance_reduction()

    def variance_reduction(self) -> Array:
        """Return the reduction of the variance of each parameter by the data, (P,).

        The variances of the prior are not needed.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> pairs = mfdeq.eigsh(np.diag(np.r_[3.0, np.zeros(49)]), k=2, M=np.ones(50))
        >>> mfdeq.LowRank(pairs).variance_reduction()[:2].round(6).tolist()
        [0.75, 0.0]
        """
        xp = self.backend.xp
        return xp.sum(self.vectors**2 * (self.values / (1.0 + self.values)), axis=1)

    def log_determinant_ratio(self) -> float:
        """Return log det(H + R) - log det R, the sum of log(1 + mu)."""
        xp = self.backend.xp
        return float(xp.sum(xp.log1p(self.values)))

    def log_determinant(self) -> float:
        """Return log det(H + R); R must not be known by its products only."""
        return self.prior.log_determinant() + self.log_determinant_ratio()

    def expected_information_gain(self) -> float:
        """Return the expected information gain from prior to posterior, over the data, in nats.

        Returns
        -------
        float
            Half the sum of log(1 + mu).

        Notes
        -----
        It is exact for a linear model with Gaussian noise; other models are linearized.

        References
        ----------
        A. Alexanderian, P. J. Gloor and O. Ghattas, "On Bayesian A- and D-optimal experimental
        designs in infinite dimensions", 2016.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> pairs = mfdeq.eigsh(np.diag(np.r_[3.0, np.zeros(49)]), k=2, M=np.ones(50))
        >>> gain = mfdeq.LowRank(pairs).expected_information_gain()
        >>> round(float(gain / np.log(2.0)), 6)  # in bits
        1.0
        """
        self._warn()
        return 0.5 * self.log_determinant_ratio()

    @collective
    def information_gain(self, shift: Array) -> float:
        """Return the Kullback-Leibler divergence of the posterior from the prior, in nats.

        Parameters
        ----------
        shift : (P,) array
            Posterior mean minus prior mean.

        Returns
        -------
        float
            (sum(log(1 + mu) - mu / (1 + mu)) + shift' R shift) / 2.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> pairs = mfdeq.eigsh(np.diag(np.r_[3.0, np.zeros(49)]), k=2, M=np.ones(50))
        >>> posterior, shift = mfdeq.LowRank(pairs), np.eye(50)[0]
        >>> round(posterior.information_gain(shift) - posterior.information_gain(0 * shift), 6)
        0.5
        """
        self._warn()
        xp = self.backend.xp
        shift = self.backend.check_array(shift, self.shape[:1], "shift", ArgumentError)
        reduction = float(xp.sum(self.values / (1.0 + self.values)))
        distance = float(xp.vecdot(shift, self.prior.apply(shift)))
        return 0.5 * (self.log_determinant_ratio() - reduction + distance)


class _PosteriorPrecision(SelfAdjoint):
    """The operator R + R V diag(mu) V' R."""

    def __init__(self, posterior: LowRank) -> None:
        super().__init__(posterior, posterior.shape)
        self.posterior = posterior

    def _apply(self, x: Array) -> Array:
        posterior = self.posterior
        Rx = posterior.prior.apply(x)
        return Rx + posterior.prior.apply(posterior._scaled_projection(Rx, posterior.values))
