"""Estimates from random samples, their standard errors, and random vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, host
from ..arrays.powers_of_two import scaled_by
from ..priors.metric import Metric

MIN_SAMPLES = 4  # smallest number of random vectors for an error estimate


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random samples, with its standard error.

    Attributes
    ----------
    value : float
        The estimate; ``float(estimate)`` is the same.
    standard_error : float
        The true value is within two standard errors with a probability of 95 per cent. The error
        includes the variance of the samples, corrected for their small number, and the error of the
        quadrature.
    products : int
        The number of products with H; a block of b columns counts as b.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> estimate = mfdeq.trace(np.diag(np.linspace(0.0, 1.0, 200)))
    >>> abs(estimate.value - 100.0) < 4 * estimate.standard_error
    True
    >>> estimate.products
    90
    """

    value: float
    standard_error: float
    products: int

    def __float__(self) -> float:
        return self.value


def standard_error(samples: Any) -> float:
    """Return the standard error of the mean of n samples, corrected for small n.

    Two such errors are the 95 per cent interval of Student's t distribution, by an expansion of its
    quantile (M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 1964, 26.7.5).
    """
    n = samples.shape[0]
    widening = 1.0 + 1.25 / (n - 1) + 1.53 / (n - 1) ** 2
    exponent = int(host.frexp(abs(samples).max())[1])  # so that squares are in range
    scaled = widening * float(host.ldexp(samples, -exponent).std(ddof=1)) / math.sqrt(n)
    return scaled_by(scaled, exponent)


def random_unit_vectors(
    metric: Metric, P: int, n: int, seed: int, basis: Array | None = None
) -> Array:
    """Draw random vectors of length one, (P, n), orthogonal to an orthonormal basis."""
    x = metric.gaussian(P, n, seed)
    if basis is not None:
        for _ in range(2):
            x = x - basis @ (basis.T @ metric.apply(x))
    return x / metric.norms(x, metric.apply(x))
