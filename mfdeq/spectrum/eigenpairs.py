"""Eigenpairs and their error bounds.

For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, where delta
bounds the error of the product H x. For H x = mu R x the same holds if x' R x = 1 and residuals and
errors are measured in the norm of R^-1 (B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998,
theorem 15.9.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.kernels import scale_rows
from ..arrays.powers_of_two import scaled_by, times_power
from ..errors import ArgumentError, ConvergenceError
from ..priors.metric import Metric
from ..priors.precision import Precision
from ..tables import MAX_TABLE_ROWS, PrintedAsTable, Table
from .counted_operator import CountedOperator
from .eigen_report import EigenReport
from .lanczos import Lanczos

# For four random combinations, ten times the root mean square of their residuals is less than the
# estimated norm in only one of 5,000 cases.
RANDOM_COMBINATIONS, NORM_SAFETY_FACTOR = 4, 10.0
ROUNDING_FACTOR = 100.0  # smallest tolerance of a residual, in units of eps ||H||


@dataclass
class Eigenpairs(PrintedAsTable):
    """Eigenvalues in ascending order, their vectors and error bounds.

    `mfdeq.eigsh` and `mfdeq.randomized_eigsh` return them.

    Attributes
    ----------
    values : (k,) array
        The eigenvalues, in the dtype of H.
    vectors : (P, k) array
        The eigenvectors as columns, orthonormal in the inner product of M if there is one; None
        after ``eigsh(..., return_eigenvectors=False)``.
    error_bounds : (k,) array
        Each interval value ± bound contains an eigenvalue of H.
    report : EigenReport
        The method, the number of products, and the residuals.
    precision : Precision or None
        The matrix M of a generalized problem.
    contains_prior : bool
        Whether H is known to contain M, as the Hessian of a loss with the prior of that precision.
    krylov : Lanczos or None
        The Krylov basis, which ``mfdeq.eigsh(..., resume=pairs)`` continues from.

    Notes
    -----
    A bound is the sum of ||H x - mu x||, computed with a true product with H at the end, the
    estimated error of that product, and its rounding (B. N. Parlett, "The Symmetric Eigenvalue
    Problem", 1998). There is an eigenvalue in each interval, but others may have been missed; see
    ``certify`` of `mfdeq.eigsh`.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> pairs = mfdeq.eigsh(np.diag([1.0, 2.0, 5.0]), k=2)
    >>> pairs.values.round(6).tolist()
    [2.0, 5.0]
    >>> bool(np.all(pairs.error_bounds < 1e-12))
    True
    >>> print(pairs.report.method)
    dense

    Printing them shows a table:

    >>> print(pairs)  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
    value  bound  residual
        2  ...
        5  ...
    converged by the method dense after 5 products, no wanted eigenvalue missed
    """

    values: Array
    vectors: Array = field(repr=False)
    error_bounds: Array
    report: EigenReport
    precision: Precision | None = field(default=None, repr=False)
    krylov: Lanczos | None = field(default=None, repr=False)
    contains_prior: bool = field(default=False, repr=False)

    def _table(self) -> Table:
        columns = self.values, self.error_bounds, self.report.residuals
        values, bounds, residuals = (array_on_host(x)[:MAX_TABLE_ROWS] for x in columns)
        table = {
            "value": [f"{x:.8g}" for x in values],
            "bound": [f"{x:.1e}" for x in bounds],
            "residual": [f"{x:.1e}" for x in residuals],
        }
        hidden = self.values.shape[0] - len(values)
        after = [str(self.report)]
        uncertain = int(host.sum(array_on_host(self.error_bounds > abs(self.values))))
        if uncertain and self.precision is None:
            after.append(
                f"{uncertain} of the bounds exceed their values: if the parameters have "
                "different units, pass M=1 / sizes**2 to mfdeq.eigsh, with their typical sizes"
            )
        return Table(table, hidden, "pairs", after=after)


def without_vectors(pairs: Eigenpairs) -> Eigenpairs:
    """Return pairs that do not hold their vectors in memory."""
    return replace(pairs, vectors=None, krylov=None)


def vectors_of(pairs: Eigenpairs) -> Array:
    """Return the vectors of pairs, or raise an `ArgumentError` if they have none."""
    if pairs.vectors is None:
        raise ArgumentError(
            "pairs: expected eigenpairs with their vectors, got values only: leave "
            "return_eigenvectors=False out of mfdeq.eigsh"
        )
    return pairs.vectors


def pairs_from_vectors(H: CountedOperator, vectors: Array, norm: float, method: str) -> Eigenpairs:
    """Return the Rayleigh quotients of independent vectors, with residuals and bounds."""
    vectors, dual = orthonormalize(H.metric, vectors)
    product, error = H.with_error(vectors)
    return pairs_with_bounds(H, vectors, dual, product, error, norm, method)


def pairs_with_sampled_bounds(
    H: CountedOperator,
    vectors: Array,
    dual: Array,
    values: Any,
    next_duals: Array,
    couplings: Any,
    norm: float,
    method: str,
) -> Eigenpairs:
    """Return eigenpairs whose products are known, but for a difference D, by a recurrence.

    True products are computed only with a few random combinations g of the vectors. E ||D g||^2
    is the squared Frobenius norm of D, which bounds the error of every residual.

    Parameters
    ----------
    H : CountedOperator
    vectors, dual : (n, k) arrays
        Orthonormal vectors X, and R X.
    values : (k,) host array
        Their values, ascending.
    next_duals : (n, b) array
        R Q, with orthonormal Q.
    couplings : (b, k) host array
        The residuals, H X - R X diag(values) = R Q couplings.
    norm : float
    method : str
    """
    backend, metric = H.backend, H.metric
    on_device = backend.coefficients
    g = backend.random(vectors.shape[1], RANDOM_COMBINATIONS, seed=19)
    product, error = H.with_error(vectors @ g)
    image = dual @ (on_device(values)[:, None] * g) + next_duals @ (on_device(couplings) @ g)

    def norm_bound(x: Array) -> float:
        size = NORM_SAFETY_FACTOR * backend.norm(metric.dual_norms(x))
        return size / RANDOM_COMBINATIONS**0.5

    off, unknown = norm_bound(product - image), norm_bound(error)
    residuals = host.linalg.norm(couplings, axis=0)
    errors = on_device(_product_rounding(backend.eps, host.hypot(values, residuals), norm))
    if not metric.is_identity:
        errors = errors + _solve_rounding(metric, vectors, dual) * on_device(
            abs(values) + residuals
        )
    return _pairs(
        H, on_device(values), vectors, on_device(residuals) + off, errors + unknown, norm, method
    )


def pairs_with_bounds(
    H: CountedOperator,
    vectors: Array,
    dual: Array,
    product: Array,
    error: Array,
    norm: float,
    method: str,
) -> Eigenpairs:
    """Return eigenpairs of orthonormal vectors x, from R x, the products H x and their errors."""
    backend, metric = H.backend, H.metric
    xp = backend.xp
    values = xp.vecdot(vectors, product, axis=-2)
    residuals = metric.dual_norms(product - dual * values)
    errors = metric.dual_norms(error) + _product_rounding(
        backend.eps, metric.dual_norms(product), norm
    )
    if not metric.is_identity:
        errors = errors + _solve_rounding(metric, vectors, dual) * (xp.abs(values) + residuals)
    order = xp.argsort(values)
    values, vectors, residuals, errors = (
        xp.take(x, order, axis=-1) for x in (values, vectors, residuals, errors)
    )
    return _pairs(H, values, vectors, residuals, errors, norm, method)


def _pairs(
    H: CountedOperator,
    values: Array,
    vectors: Array,
    residuals: Array,
    errors: Array,
    norm: float,
    method: str,
) -> Eigenpairs:
    return Eigenpairs(
        values,
        vectors,
        residuals + errors,
        EigenReport(True, method, H.count, norm, residuals, errors),
        H.metric if isinstance(H.metric, Precision) else None,
        contains_prior=H.contains_metric,
    )


def _product_rounding(eps: float, lengths: Array, norm: float) -> Array:
    """Bound the rounding of products, from their lengths.

    These are the rounding errors of one product, whose terms may cancel, and of the state, which
    the estimated error of a product does not contain. In eight problems, in float32 and float64,
    they were up to 0.92 of this.
    """
    return eps * (30.0 * lengths + 4.0 * norm)


def _solve_rounding(metric: Metric, x: Array, dual: Array) -> Array:
    """Measure the rounding of R x and of solves with R, by the lengths of R^-1 (R x) - x.

    It grows with the condition number of R. Of unit vectors x, it is the relative error of R x and
    of lengths in the norm of R^-1.
    """
    lost = metric.solve(dual) - x
    squares = metric.backend.xp.vecdot(lost, metric.apply(lost), axis=-2)
    return metric.backend.xp.sqrt(metric.backend.xp.abs(squares))


def nearest_orthonormal(metric: Metric, X: Array) -> Array | None:
    """Return the orthonormal vectors nearest to nearly orthonormal ones; None of others.

    X may be overwritten. In an inner product other than the Euclidean one, X is returned as it is.
    """
    if not metric.is_identity:
        return X
    eps, columns = metric.backend.eps, X.shape[1]
    off = array_on_host(X.T @ X).astype("float64") - host.eye(columns)
    distance = float(host.linalg.norm(off))
    if distance <= columns * eps:
        return X
    if not distance <= eps ** (1.0 / 3.0):
        return None
    # The inverse square root of the Gram matrix, up to the cube of the distance.
    root = host.eye(columns) - 0.5 * off + 0.375 * off @ off
    metric.backend.kernels.combine_rows(X.T, 0, metric.backend.coefficients(root))
    return X


def orthonormalize(metric: Metric, X: Array) -> tuple[Array, Array]:
    """Return an R-orthonormal Q whose columns span those of X, and R Q.

    Q has as many columns as X. If X is rank deficient, Q has further directions.
    """
    xp, units = metric.backend.xp, metric.root_diagonal
    if units is not None:  # else the QR factorization adds entries of different units
        X = scale_rows(units, X)
    X, _ = xp.linalg.qr(X)
    if metric.is_identity:
        return X, X
    if units is not None:
        X = scale_rows(1.0 / units, X)
    for _ in range(2):  # Cholesky QR twice, since once loses digits if R is ill-conditioned
        L = xp.linalg.cholesky(X.T @ metric.apply(X))
        X = xp.matrix_transpose(xp.linalg.solve(L, X.T))
    return X, metric.apply(X)


def restore_scale(pairs: Eigenpairs, exponent: int | None) -> None:
    """Divide values, bounds and residuals by 2^e, in place, of pairs of 2^e H.

    A bound includes what the division rounds below the smallest normal number.
    """
    if not exponent:
        return
    backend, report = Backend.of(pairs.values), pairs.report
    power, least = host.asarray(-exponent), backend.smallest_normal * backend.eps
    pairs.values = times_power(backend, pairs.values, power)
    report.residuals = times_power(backend, report.residuals, power)
    report.product_errors = times_power(backend, report.product_errors, power) + least
    pairs.error_bounds = times_power(backend, pairs.error_bounds, power) + 3.0 * least
    report.norm = scaled_by(report.norm, -exponent)


def largest_residual(pairs: Eigenpairs) -> float:
    """Return the largest true residual."""
    return float(array_on_host(pairs.report.residuals).max())


def largest_magnitude(pairs: Eigenpairs) -> float:
    """Return the largest magnitude of the values."""
    return float(abs(array_on_host(pairs.values)).max())


def residual_tolerance(pairs: Eigenpairs, rtol: float) -> float:
    """Return the tolerance of residuals: rtol times the largest value, at least rounding of H."""
    floor = ROUNDING_FACTOR * Backend.of(pairs.values).eps * pairs.report.norm
    return max(rtol * largest_magnitude(pairs), floor)


def inaccurate_products_error(error: float, rtol: float, pairs: Eigenpairs) -> ConvergenceError:
    """Return the error for products less accurate than the tolerance, with the pairs as `best`."""
    pairs.report.converged = False
    return ConvergenceError(
        f"eigsh: products with H are off by {error:.2e}, above rtol = {rtol:.1e} of the largest "
        f"value {largest_magnitude(pairs):.2e}: H is not symmetric to that accuracy, or its "
        "products are not that accurate. Raise rtol, or tighten the tolerance of the solver",
        best=pairs,
        report=pairs.report,
    )
