"""Traces, norms and condition numbers.

The trace is split as in Hutch++. With Q an R-orthonormal basis of R^-1 H W for a random W, and y
uniform on the sphere y' R y = 1 in the n dimensions orthogonal to Q,

    tr R^-1 H = tr Q' H Q + n E[y' H y].

The error is inversely proportional to the number of products, rather than to its square root as for
plain random samples. For the Frobenius norm, ||H y||^2 replaces y' H y.

References
----------
M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
smoothing splines", 1990. R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, "Hutch++: optimal
stochastic trace estimation", 2021.
"""

from __future__ import annotations

import math
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, array_on_host
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..arrays.powers_of_two import scaled_by
from ..equilibrium.lagrangian_system import MAX_DENSE_PARAMS
from ..errors import ArgumentError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .arguments import check_operator
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs, orthonormalize
from .eigsh import eigsh
from .estimate import MIN_SAMPLES, Estimate, random_unit_vectors, standard_error


@collective
@translate_memory_errors
def trace(
    H: Any, *, M: Any = None, products: int = 90, seed: int = 0, progress: bool = False
) -> Estimate:
    """Estimate the trace of a symmetric operator, or of M^-1 H.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric operator.
    M : Precision, (P, P) matrix or (P,) array, optional
        The matrix M, which must have samples if it is an `mfdeq.Precision`.
    products : int, optional
        The largest number of products with H, at least 12 and by default 90. One third computes a
        basis for the large eigenvalues, one third their exact trace, and one third samples the
        rest.
    seed : int, optional
        The seed of the random vectors, 0 by default.
    progress : bool, optional
        Show a progress bar of the products.

    Returns
    -------
    Estimate
        The estimate, which is exact with a standard error of 0 if a third of the products is P or
        more.

    Notes
    -----
    With an orthonormal basis Q of H W for a random W, and random unit vectors y orthogonal to Q,
    tr H = tr Q' H Q + (P - k) E[y' H y], where k is the number of columns of Q.

    References
    ----------
    M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
    smoothing splines", 1990. R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, "Hutch++: optimal
    stochastic trace estimation", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(0.9 ** np.arange(200.0))
    >>> estimate = mfdeq.trace(H)
    >>> abs(estimate.value - 10.0) < 0.5
    True
    """
    return _scaled(*_deflated_trace(H, M, products, seed, progress, squared=False))


@collective
def frobenius_norm(
    H: Any, *, M: Any = None, products: int = 90, seed: int = 0, progress: bool = False
) -> Estimate:
    """Estimate the Frobenius norm, the square root of the sum of the squared eigenvalues.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric operator.
    M : Precision, (P, P) matrix or (P,) array, optional
        The matrix of the generalized problem H x = mu M x. An `mfdeq.Precision` must have samples.
    products, seed, progress
        As in `trace`.

    Returns
    -------
    Estimate

    Notes
    -----
    The estimate is the square root of the estimated trace of H'H. It uses the samples of `trace`,
    with ||H y||^2 in place of y' H y.

    References
    ----------
    R. A. Meyer, C. Musco, C. Musco and D. P. Woodruff, "Hutch++: optimal stochastic trace
    estimation", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(0.9 ** np.arange(200.0))
    >>> estimate = mfdeq.frobenius_norm(H)
    >>> bool(abs(estimate.value - np.linalg.norm(H)) < 0.1)
    True
    """
    square, exponent = _deflated_trace(H, M, products, seed, progress, squared=True)
    value = math.sqrt(max(square.value, 0.0))
    error = 0.5 * square.standard_error / value if value else math.sqrt(square.standard_error)
    return _scaled(Estimate(value, error, square.products), exponent)


@collective
def condition_number(H: Any, *, rtol: float = 1e-2, **options: Any) -> Estimate:
    """Compute the condition number, the ratio of the largest to the smallest |eigenvalue|.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        An mfdeq Hessian whose A, B and curvature are sparse matrices, for which the smallest
        eigenvalue is computed by the Lagrangian system. For any other H of up to 300 rows all
        eigenvalues are computed from its dense matrix; larger ones must be positive definite and
        need ``preconditioner=``.
    rtol : float, optional
        The relative tolerance of the two eigenvalues, 1e-2 by default.
    **options
        Options of `eigsh` for the smallest eigenvalue: ``M``, ``preconditioner``, ``progress``.

    Returns
    -------
    Estimate
        Its standard error is a bound, computed from the error bounds of the two eigenvalues.

    Raises
    ------
    ArgumentError
        If zero is within the error bound of the smallest eigenvalue, since H is then singular to
        working precision.

    Notes
    -----
    Both eigenvalues are computed by `mfdeq.eigsh`; see its references.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(np.linspace(1.0, 5.0, 60))
    >>> found = mfdeq.condition_number(H, preconditioner=np.eye(60), rtol=1e-6)
    >>> round(found.value, 4)
    5.0
    """
    shared = {name: options[name] for name in ("M", "progress") if name in options}
    top = eigsh(H, 1, "LM", rtol, **shared)
    low = _nearest_zero(H, rtol, options)
    largest, above = abs(float(top.values[0])), float(top.error_bounds[0])
    nearest = int(abs(low.values).argmin())
    smallest, below = abs(float(low.values[nearest])), float(low.error_bounds[nearest])
    if not smallest > below:
        raise ArgumentError(
            f"the smallest eigenvalue of H is {smallest:.2e}, with an error bound of {below:.1e}: "
            "H is singular to working precision, and has no finite condition number"
        )
    value = largest / smallest
    error = max((largest + above) / (smallest - below) - value, 0.0)
    return Estimate(value, error, top.report.products + low.report.products)


def _nearest_zero(H: Any, rtol: float, options: dict[str, Any]) -> Eigenpairs:
    """Return eigenpairs with the smallest |eigenvalue|: one, or all of a small H by products."""
    if "preconditioner" in options:
        return eigsh(H, 1, "SA", rtol, **options)
    try:
        return eigsh(H, 1, rtol=rtol, sigma=0.0, **options)
    except ArgumentError:  # no matrices to factorize
        if (P := check_operator(H, 1)) > MAX_DENSE_PARAMS:
            raise
        return eigsh(H, P, rtol=rtol, **options)


def _deflated_trace(
    H: Any, M: Any, products: int, seed: int, progress: bool, squared: bool
) -> tuple[Estimate, int]:
    """Estimate the trace of R^-1 H or of its square, exact on a subspace and sampled outside.

    Return the estimate for 2^e H, and e, since squares of H itself may under- or overflow.
    """
    P = check_operator(H, 1)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    share = count(products, "products") // 3
    if share < MIN_SAMPLES:
        raise ArgumentError(
            f"products: expected at least {3 * MIN_SAMPLES}, for an error estimate, got {products}"
        )
    operator = as_symmetric(backend, H, (P, P), "H")
    counted = CountedOperator(operator, progress, metric, scaled=True, title="trace")

    def quadratic_forms(X: Array) -> Any:
        """Return x' H x, or the squared length of H x, for each column x."""
        HX = counted(X)
        forms = backend.column_dots(HX, metric.solve(HX) if squared else X)
        return array_on_host(forms).astype("float64")

    try:
        share = min(share, P)
        Q = metric.solve(counted(metric.gaussian(P, share, seed)))
        Q, _ = orthonormalize(metric, Q)
        exact = float(quadratic_forms(Q).sum())
        if share == P:  # Q spans the whole space
            return Estimate(exact, 0.0, counted.count), counted.exponent or 0
        y = random_unit_vectors(metric, P, share, seed + 1, Q)
        samples = (P - share) * quadratic_forms(y)
    finally:
        counted.close()
    value = exact + float(samples.mean())
    return Estimate(value, standard_error(samples), counted.count), counted.exponent or 0


def _scaled(estimate: Estimate, exponent: int) -> Estimate:
    """Return the estimate for H from that for 2^e H."""
    value, error = (scaled_by(x, -exponent) for x in (estimate.value, estimate.standard_error))
    return Estimate(value, error, estimate.products)
