"""Eigenpairs: values and vectors, judged by the operator itself.

For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, delta
bounding the error of the product H x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..arrays import Array, Backend, array_on_host
from ..errors import ConvergenceError
from .lanczos import Lanczos
from .products import Products

SAFETY = 2.0  # on the estimated error of the products
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
        ||H x - mu x|| of each pair.
    product_errors : array
        Estimated error of H x for each pair, with its safety factor; counted in the bounds.
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
    error_bounds : (k,) array
        The interval value ± bound contains an eigenvalue of H.
    report : EigenReport
    krylov : Lanczos or None
        The basis that they are from, with which `eigsh(..., resume=)` goes on.
    """

    values: Array
    vectors: Array = field(repr=False)
    error_bounds: Array
    report: EigenReport
    krylov: Lanczos | None = field(default=None, repr=False)


def bounded(H: Products, vectors: Array, norm: float, method: str) -> Eigenpairs:
    """Rayleigh quotients of orthonormal vectors, with residuals and bounds, ascending."""
    backend = H.backend
    xp = backend.xp
    vectors, _ = xp.linalg.qr(vectors)
    product, error = H.with_error(vectors)
    values = xp.vecdot(vectors, product, axis=-2)
    residuals = backend.column_norms(product - vectors * values)
    # The rounding of one product and its sums, where no other error is known.
    rounding = 10 * backend.eps * backend.column_norms(product)
    errors = SAFETY * backend.column_norms(error) + rounding
    order = xp.argsort(values)

    def ascending(x: Array) -> Array:
        return xp.take(x, order, axis=-1)

    return Eigenpairs(
        ascending(values),
        ascending(vectors),
        ascending(residuals + errors),
        EigenReport(True, method, H.count, norm, ascending(residuals), ascending(errors)),
    )


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
