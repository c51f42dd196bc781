"""The eigenpairs of largest magnitude, by a few randomized passes with whole blocks of products.

    Y = R^-1 H W for a random W,  Q an R-orthonormal basis of Y,  Q' H Q = U diag(mu) U',  V = Q U

The true residuals follow from H Q. A further pass replaces Y by R^-1 H Q, which reduces the
components of smaller eigenvalues by the ratio of the eigenvalues.
"""

from __future__ import annotations

from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array, array_on_host
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..errors import ConvergenceError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .arguments import check_operator
from .counted_operator import CountedOperator
from .eigenpairs import (
    Eigenpairs,
    largest_residual,
    orthonormalize,
    pairs_with_bounds,
    residual_tolerance,
    restore_scale,
)
from .lanczos import select_wanted


@collective
@translate_memory_errors
def randomized_eigsh(
    H: Any,
    k: int = 6,
    *,
    M: Any = None,
    rtol: float = 1e-2,
    oversampling: int = 10,
    max_passes: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Eigenpairs:
    """Compute the k eigenpairs of largest magnitude by products with blocks of k + oversampling.

    Use it if the eigenvalues decay rapidly and products with blocks are much cheaper than those
    with single vectors. Lanczos (`eigsh`) takes fewer products for any rtol.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric operator.
    k : int, optional
        The number of pairs, 1 <= k <= P; 6 by default.
    M : Precision, (P, P) matrix or (P,) array, optional
        The matrix of the generalized problem H x = mu M x, as in `eigsh`.
    rtol : float, optional
        The tolerance of residuals relative to the largest magnitude of the values, 1e-2 by default.
    oversampling : int, optional
        The number of columns in addition to k, 10 by default.
    max_passes : int, optional
        The largest number of passes, at least 2 and by default 10.
    seed : int, optional
        The seed of the random columns, 0 by default.
    progress : bool, optional
        Show a progress bar of the products.

    Returns
    -------
    Eigenpairs
        ``values`` in ascending order, ``vectors``, ``error_bounds`` and ``report``.

    Raises
    ------
    ConvergenceError
        If the residuals exceed the tolerance after the last pass; `best` has the pairs.

    Notes
    -----
    With a random W and an orthonormal basis Q of H W, the values are those of Q' H Q =
    U diag(mu) U', with vectors Q U (subspace iteration with Rayleigh-Ritz projection).

    References
    ----------
    N. Halko, P. G. Martinsson and J. A. Tropp, "Finding structure with randomness: probabilistic
    algorithms for constructing approximate matrix decompositions", 2011. A. K. Saibaba, J. Lee and
    P. K. Kitanidis, "Randomized algorithms for generalized Hermitian eigenvalue problems with
    application to computing Karhunen-Loeve expansion", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(0.5 ** np.arange(60.0))
    >>> pairs = mfdeq.randomized_eigsh(H, k=2)
    >>> pairs.values.round(4).tolist()
    [0.5, 1.0]
    >>> pairs.report.products
    24
    """
    P = check_operator(H, k)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    fraction(rtol, "rtol")
    width = min(P, k + count(oversampling, "oversampling"))
    products = CountedOperator(as_symmetric(backend, H, (P, P), "H"), progress, metric, scaled=True)
    try:
        image = products(backend.random(P, width, seed=seed))
        for _ in range(max(2, count(max_passes, "max_passes")) - 1):
            pairs, image = _project(products, metric.solve(image), k)
            if largest_residual(pairs) <= residual_tolerance(pairs, rtol):
                restore_scale(pairs, products.exponent)
                return pairs
    finally:
        products.close()
    restore_scale(pairs, products.exponent)
    pairs.report.converged = False
    raise ConvergenceError(
        f"randomized_eigsh: the largest residual is {largest_residual(pairs):.1e} after "
        f"{products.count} products, above rtol = {rtol:.1e} of the largest value: the eigenvalues "
        "decay too slowly. Use mfdeq.eigsh, or raise oversampling, max_passes or rtol",
        best=pairs,
        report=pairs.report,
    )


def _project(H: CountedOperator, Y: Array, k: int) -> tuple[Eigenpairs, Array]:
    """Return the best k pairs in the span of Y, and H times a basis of it."""
    backend, xp = H.backend, H.backend.xp
    Q, dual = orthonormalize(H.metric, Y)
    image, error = H.with_error(Q)
    small = Q.T @ image
    values, U = xp.linalg.eigh(0.5 * (small + small.T))
    on_host = array_on_host(values)
    best = select_wanted(on_host, min(k, on_host.shape[0]), "LM")
    U = xp.take(U, xp.asarray(best, device=backend.device), axis=1)
    norm = float(abs(on_host).max())
    pairs = pairs_with_bounds(H, Q @ U, dual @ U, image @ U, error @ U, norm, "randomized passes")
    return pairs, image
