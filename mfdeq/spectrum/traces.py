"""Traces and norms by random products, what is large in H taken exactly (Hutch++).

With Q an R-orthonormal basis of R^-1 H W, W random, and y uniform on the sphere y' R y = 1 of the
n dimensions orthogonal to Q,

    tr R^-1 H = tr Q' H Q + n E[y' H y]

(Meyer, Musco, Musco and Woodruff 2021): the error falls as one over the products, where plain
samples fall as the root. The Frobenius norm is the same with ||H y||^2.
"""

from __future__ import annotations

import math
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, array_on_host
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .density import FEWEST, Estimate, sphere, standard_error
from .eigenpairs import orthonormal_in
from .extreme import check_operator, eigsh
from .products import Products


@translate_memory_errors
def trace(
    H: Any, *, M: Any = None, products: int = 90, seed: int = 0, progress: bool = False
) -> Estimate:
    """The trace of a symmetric operator, or of M^-1 H.

    Parameters
    ----------
    H : LinearOperator, (P, P)
    M : Precision, (P, P) matrix or (P,) array, optional
        A Precision that has samples.
    products : int, optional
        With H, at most: a third for the basis, a third on it, a third for samples of the rest.
    seed : int, optional
    progress : bool, optional
        Show the products as they are made.

    Returns
    -------
    Estimate
    """
    return _split(H, M, products, seed, progress, squared=False)


def frobenius_norm(
    H: Any, *, M: Any = None, products: int = 90, seed: int = 0, progress: bool = False
) -> Estimate:
    """The root of the sum of the squares of all eigenvalues (of H x = mu M x, with M).

    Parameters
    ----------
    H, M, products, seed, progress
        As in `trace`.
    """
    square = _split(H, M, products, seed, progress, squared=True)
    value = math.sqrt(max(square.value, 0.0))
    error = 0.5 * square.standard_error / value if value else math.sqrt(square.standard_error)
    return Estimate(value, error, square.products)


def condition_number(H: Any, *, rtol: float = 1e-2, **options: Any) -> Estimate:
    """The largest magnitude of an eigenvalue over the smallest, with the error of that.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        An mfdeq Hessian whose A, B and curvature are sparse matrices, for the smallest by the
        Lagrangian system; any other with ``preconditioner=``, if it is positive definite.
    rtol : float, optional
        Of the two eigenvalues.
    **options
        Of `eigsh`, for the smallest: ``M``, ``preconditioner``, ``progress``.

    Returns
    -------
    Estimate
        Its standard error is a bound, from the bounds of the two eigenvalues.

    Raises
    ------
    ArgumentError
        Where zero is within the bound of the smallest: H is singular, as far as can be told.
    """
    shared = {name: options[name] for name in ("M", "progress") if name in options}
    top = eigsh(H, 1, "LM", rtol, **shared)
    nearest = {"which": "SA"} if "preconditioner" in options else {"sigma": 0.0}
    low = eigsh(H, 1, rtol=rtol, **nearest, **options)
    (largest, above), (smallest, below) = (
        (abs(float(pair.values[0])), float(pair.error_bounds[0])) for pair in (top, low)
    )
    if not smallest > below:
        raise ArgumentError(
            f"the smallest eigenvalue of H is {smallest:.2e}, within its bound {below:.1e} of "
            "zero: H is singular, as far as can be told"
        )
    value = largest / smallest
    error = max((largest + above) / (smallest - below) - value, 0.0)
    return Estimate(value, error, top.report.products + low.report.products)


def _split(H: Any, M: Any, most: int, seed: int, progress: bool, squared: bool) -> Estimate:
    P = check_operator(H, 1)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    share = count(most, "products") // 3
    if share < FEWEST:
        raise ArgumentError(f"products is {most}; at least {3 * FEWEST} are needed for an error")
    product = Products(as_symmetric(backend, H, (P, P), "H"), progress, metric)

    def inner(X: Array) -> Any:
        """x' H x, or the squared length of H x, of each column."""
        HX = product(X)
        found = backend.column_dots(HX, metric.solve(HX) if squared else X)
        return array_on_host(found).astype("float64")

    try:
        share = min(share, P)
        Q = metric.solve(product(metric.gaussian(P, share, seed)))
        Q, _ = orthonormal_in(metric, Q)
        exact = float(inner(Q).sum())
        if share == P:  # nothing is left
            return Estimate(exact, 0.0, product.count)
        samples = (P - share) * inner(sphere(metric, P, share, seed + 1, Q))
    finally:
        product.close()
    return Estimate(exact + float(samples.mean()), standard_error(samples), product.count)
