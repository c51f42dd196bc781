"""Eigenpairs: values and vectors, judged by the operator itself.

For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, delta
bounding the error of the product H x. Of H x = mu R x the same holds with x' R x = 1 and the norm
of R^-1 for residuals and errors (Parlett 1998, theorem 15.9.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host
from ..errors import ConvergenceError
from ..priors.metric import Metric
from ..priors.precision import Precision
from .lanczos import Lanczos
from .products import Products

SAMPLES, WIDENED = 4, 10.0  # random combinations, and how much larger than theirs an error may be
FLOOR = 100.0  # times rounding of H, below which no residual is asked for


@dataclass
class EigenReport:
    """How an eigenvalue computation went.

    Attributes
    ----------
    converged : bool
    method : str
    products : int
        Products with H, counted by columns.
    missed : int or None
        Eigenvalues among those found, from the lowest to the highest (or sigma), that were not
        found, by inertia counts; None where none were taken or their signs cannot be believed.
    norm : float
        The largest magnitude among the eigenvalues that were seen, wanted or not.
    residuals : array
        ||H x - mu x|| of each pair, or ||H x - mu R x|| in the norm of R^-1.
    product_errors : array
        Error of H x for each pair, as `with_error` estimates it, and rounding; part of the bounds.
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
    """Eigenvalues in ascending order.

    Attributes
    ----------
    values : (k,) array
    vectors : (P, k) array
        Orthonormal, in the inner product of M where there is one.
    error_bounds : (k,) array
        The interval value ± bound contains an eigenvalue of H.
    report : EigenReport
    precision : Precision or None
        M, where there is one.
    krylov : Lanczos or None
        The basis that they are from, with which `eigsh(..., resume=)` goes on.
    """

    values: Array
    vectors: Array = field(repr=False)
    error_bounds: Array
    report: EigenReport
    precision: Precision | None = field(default=None, repr=False)
    krylov: Lanczos | None = field(default=None, repr=False)


def bounded(H: Products, vectors: Array, norm: float, method: str) -> Eigenpairs:
    """Rayleigh quotients of independent vectors, with residuals and bounds, ascending."""
    vectors, dual = orthonormal_in(H.metric, vectors)
    product, error = H.with_error(vectors)
    return judged(H, vectors, dual, product, error, norm, method)


def sampled(
    H: Products, vectors: Array, dual: Array, image: Array, norm: float, method: str
) -> Eigenpairs:
    """The same of orthonormal vectors whose products are known but for a small difference D.

    Of a few random combinations g of them true products are made: E ||D g||^2 is the square of
    ||D||, which every residual may be off by. With four, ten times the root of their mean is less
    than that in one of 5,000 cases.
    """
    backend = H.backend
    g = backend.random(vectors.shape[1], SAMPLES, seed=19)
    product, error = H.with_error(vectors @ g)

    def size(x: Array) -> float:
        return WIDENED * backend.norm(H.metric.dual_norms(x)) / SAMPLES**0.5

    pairs = judged(H, vectors, dual, image, 0.0 * image, norm, method)
    off, unknown = size(product - image @ g), size(error)
    pairs.report.residuals = pairs.report.residuals + off
    pairs.report.product_errors = pairs.report.product_errors + unknown
    pairs.error_bounds = pairs.error_bounds + off + unknown
    return pairs


def judged(
    H: Products,
    vectors: Array,
    dual: Array,
    product: Array,
    error: Array,
    norm: float,
    method: str,
) -> Eigenpairs:
    """The same, of orthonormal vectors x with their duals R x, products H x and their errors."""
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


def orthonormal_in(metric: Metric, X: Array) -> tuple[Array, Array]:
    """As many columns Q that span X, filled up where X lacks rank, and R Q."""
    xp = metric.backend.xp
    X, _ = xp.linalg.qr(X)
    if metric.is_identity:
        return X, X
    for _ in range(2):  # Cholesky QR
        L = xp.linalg.cholesky(X.T @ metric.apply(X))
        X = xp.matrix_transpose(xp.linalg.solve(L, X.T))
    return X, metric.apply(X)


def worst(pairs: Eigenpairs) -> float:
    """The largest true residual."""
    return float(array_on_host(pairs.report.residuals).max())


def largest(pairs: Eigenpairs) -> float:
    """The largest magnitude of the values."""
    return float(abs(array_on_host(pairs.values)).max())


def allowed(pairs: Eigenpairs, rtol: float) -> float:
    """What true residuals may be."""
    floor = FLOOR * Backend.of(pairs.values).eps * pairs.report.norm
    return max(rtol * largest(pairs), floor)


def inaccurate(error: float, rtol: float, pairs: Eigenpairs) -> ConvergenceError:
    """The error for products that are off by more than the tolerance, with the pairs."""
    pairs.report.converged = False
    return ConvergenceError(
        f"eigsh: products with H are off by {error:.2e}, above rtol = {rtol:.1e} of the largest "
        f"value {largest(pairs):.2e}: H is not symmetric to that accuracy, or its products are "
        "not that accurate. Raise rtol, or tighten the solver's",
        best=pairs,
        report=pairs.report,
    )
