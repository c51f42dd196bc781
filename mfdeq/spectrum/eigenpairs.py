"""Eigenpairs and their error bounds.

For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, where delta
bounds the error of the product H x. For H x = mu R x the same holds with x' R x = 1 and the norm of
R^-1 for residuals and errors (B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998, theorem
15.9.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host
from ..errors import ConvergenceError
from ..priors.metric import Metric
from ..priors.precision import Precision
from .counted_operator import CountedOperator
from .lanczos import Lanczos

# With four random combinations, ten times the root mean square of their residuals is less than the
# norm that they estimate in one of 5,000 cases.
RANDOM_COMBINATIONS, NORM_SAFETY_FACTOR = 4, 10.0
ROUNDING_FACTOR = 100.0  # times eps ||H||, the smallest residual that is asked for


@dataclass
class EigenReport:
    """How an eigenvalue computation went.

    Attributes
    ----------
    converged : bool
        Whether all k pairs reached the tolerance.
    method : str
        The method that found the pairs: "dense", "Lanczos", "Davidson", ...
    products : int
        Products with H; one with a block of b columns counts b.
    missed : int or None
        How many eigenvalues between the lowest and the highest value found (or sigma) were not
        found, by inertia counts. None where nothing was counted or a count is not reliable.
    norm : float
        The largest magnitude among the eigenvalues that were seen, wanted or not.
    residuals : (k,) array
        ||H x - mu x|| of each pair, or ||H x - mu R x|| in the norm of R^-1.
    product_errors : (k,) array
        Error of H x for each pair, as `with_error` estimates it, and rounding; part of the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> report = mfdeq.eigsh(np.diag(np.arange(100.0)), k=2).report
    >>> report.converged, report.method
    (True, 'Lanczos')
    >>> bool(np.all(report.residuals <= 1e-6 * report.norm))
    True
    """

    converged: bool
    method: str
    products: int
    norm: float
    residuals: Any = field(repr=False)
    product_errors: Any = field(repr=False)
    missed: int | None = None


@dataclass
class Eigenpairs:
    """Eigenvalues in ascending order, their vectors and error bounds.

    What `mfdeq.eigsh` and `mfdeq.randomized_eigsh` return.

    Attributes
    ----------
    values : (k,) array
        The eigenvalues, in the dtype of H.
    vectors : (P, k) array
        Eigenvectors as columns, orthonormal in the inner product of M where there is one.
    error_bounds : (k,) array
        The interval value ± bound contains an eigenvalue of H.
    report : EigenReport
        What it took: the method, the number of products, the residuals.
    precision : Precision or None
        M of a generalized problem.
    krylov : Lanczos or None
        The Krylov basis, which ``mfdeq.eigsh(..., resume=pairs)`` continues from.

    Notes
    -----
    A bound is ||H x - mu x||, by a true product with H at the end, plus the estimated error of that
    product and its rounding (B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998). It says that
    some eigenvalue is in the interval, not that no other one was missed: see ``certify`` of
    `mfdeq.eigsh`.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> pairs = mfdeq.eigsh(np.diag([1.0, 2.0, 5.0]), k=2)
    >>> pairs.values.round(6).tolist()
    [2.0, 5.0]
    >>> bool(np.all(pairs.error_bounds < 1e-12))
    True
    >>> pairs.report.method
    'dense'
    """

    values: Array
    vectors: Array = field(repr=False)
    error_bounds: Array
    report: EigenReport
    precision: Precision | None = field(default=None, repr=False)
    krylov: Lanczos | None = field(default=None, repr=False)


def pairs_from_vectors(H: CountedOperator, vectors: Array, norm: float, method: str) -> Eigenpairs:
    """Rayleigh quotients of independent vectors, with residuals and bounds, ascending."""
    vectors, dual = orthonormalize(H.metric, vectors)
    product, error = H.with_error(vectors)
    return pairs_with_bounds(H, vectors, dual, product, error, norm, method)


def pairs_with_sampled_bounds(
    H: CountedOperator, vectors: Array, dual: Array, image: Array, norm: float, method: str
) -> Eigenpairs:
    """Eigenpairs of orthonormal vectors whose products are known up to a small difference D.

    True products are made with a few random combinations g of the vectors only: E ||D g||^2 is
    the squared Frobenius norm of D, by which every residual may be off.
    """
    backend = H.backend
    g = backend.random(vectors.shape[1], RANDOM_COMBINATIONS, seed=19)
    product, error = H.with_error(vectors @ g)

    def norm_bound(x: Array) -> float:
        size = NORM_SAFETY_FACTOR * backend.norm(H.metric.dual_norms(x))
        return size / RANDOM_COMBINATIONS**0.5

    pairs = pairs_with_bounds(H, vectors, dual, image, 0.0 * image, norm, method)
    off, unknown = norm_bound(product - image @ g), norm_bound(error)
    pairs.report.residuals = pairs.report.residuals + off
    pairs.report.product_errors = pairs.report.product_errors + unknown
    pairs.error_bounds = pairs.error_bounds + off + unknown
    return pairs


def pairs_with_bounds(
    H: CountedOperator,
    vectors: Array,
    dual: Array,
    product: Array,
    error: Array,
    norm: float,
    method: str,
) -> Eigenpairs:
    """Eigenpairs of orthonormal vectors x, from R x, the products H x and their errors."""
    backend, metric = H.backend, H.metric
    xp = backend.xp
    values = xp.vecdot(vectors, product, axis=-2)
    residuals = metric.dual_norms(product - dual * values)
    # The rounding of one product and its sums, which may cancel down to a small value.
    rounding = backend.eps * (10.0 * metric.dual_norms(product) + norm)
    errors = metric.dual_norms(error) + rounding
    order = xp.argsort(values)

    def ascending(x: Array) -> Array:
        return xp.take(x, order, axis=-1)

    return Eigenpairs(
        ascending(values),
        ascending(vectors),
        ascending(residuals + errors),
        EigenReport(True, method, H.count, norm, ascending(residuals), ascending(errors)),
        metric if isinstance(metric, Precision) else None,
    )


def orthonormalize(metric: Metric, X: Array) -> tuple[Array, Array]:
    """An R-orthonormal Q of as many columns as X that spans X, and R Q.

    Where X lacks rank, Q has further directions.
    """
    xp = metric.backend.xp
    X, _ = xp.linalg.qr(X)
    if metric.is_identity:
        return X, X
    for _ in range(2):  # Cholesky QR, twice: once is orthonormal to rounding times R's condition
        L = xp.linalg.cholesky(X.T @ metric.apply(X))
        X = xp.matrix_transpose(xp.linalg.solve(L, X.T))
    return X, metric.apply(X)


def largest_residual(pairs: Eigenpairs) -> float:
    """The largest true residual."""
    return float(array_on_host(pairs.report.residuals).max())


def largest_magnitude(pairs: Eigenpairs) -> float:
    """The largest magnitude of the values."""
    return float(abs(array_on_host(pairs.values)).max())


def residual_tolerance(pairs: Eigenpairs, rtol: float) -> float:
    """The residual that counts as converged: rtol of the largest value, or rounding of H."""
    floor = ROUNDING_FACTOR * Backend.of(pairs.values).eps * pairs.report.norm
    return max(rtol * largest_magnitude(pairs), floor)


def inaccurate_products_error(error: float, rtol: float, pairs: Eigenpairs) -> ConvergenceError:
    """The error for products that are off by more than the tolerance, with the pairs as `best`."""
    pairs.report.converged = False
    return ConvergenceError(
        f"eigsh: products with H are off by {error:.2e}, above rtol = {rtol:.1e} of the largest "
        f"value {largest_magnitude(pairs):.2e}: H is not symmetric to that accuracy, or its "
        "products are not that accurate. Raise rtol, or tighten the solver's",
        best=pairs,
        report=pairs.report,
    )
