"""Largest eigenpairs by a randomized double pass: whole blocks of products, two or a few in turn.

    Y = R^-1 H W of a random W,   Q an R-orthonormal basis of Y,   Q' H Q = U diag(mu) U',   V = Q U

(Halko, Martinsson and Tropp 2011; Saibaba, Lee and Kitanidis 2016). H Q is at hand, and with it the
true residuals. Further passes put R^-1 H Q for Y: each multiplies what is left of the smaller
eigenvalues by their ratio.
"""

from __future__ import annotations

from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array, array_on_host
from ..arrays.memory import translate_memory_errors
from ..errors import ConvergenceError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .eigenpairs import Eigenpairs, allowed, judged, orthonormal_in, worst
from .extreme import check_operator
from .lanczos import chosen
from .products import Products


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
    """The k eigenpairs of largest magnitude, by products of k + oversampling columns at once.

    For spectra that fall fast and products that are much cheaper in blocks; Lanczos (`eigsh`) takes
    fewer products to any rtol.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        Symmetric.
    k : int, optional
    M : Precision, (P, P) matrix or (P,) array, optional
        Of H x = mu M x, as in `eigsh`.
    rtol : float, optional
        Residuals reach rtol times the largest of the values' magnitudes.
    oversampling : int, optional
        Columns beside k.
    max_passes : int, optional
        Passes before giving up; the first two are the double pass.
    seed : int, optional
        Of the random columns.
    progress : bool, optional
        Show the products as they are made.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ConvergenceError
        With the pairs found as `best`.
    """
    P = check_operator(H, k)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    fraction(rtol, "rtol")
    width = min(P, k + count(oversampling, "oversampling"))
    products = Products(as_symmetric(backend, H, (P, P), "H"), progress, metric)
    try:
        image = products(backend.random(P, width, seed=seed))
        for _ in range(max(2, count(max_passes, "max_passes")) - 1):
            pairs, image = _pass(products, metric.solve(image), k)
            if worst(pairs) <= allowed(pairs, rtol):
                return pairs
    finally:
        products.close()
    pairs.report.converged = False
    raise ConvergenceError(
        f"randomized_eigsh: residuals of {worst(pairs):.1e} after {products.count} products, above "
        f"rtol = {rtol:.1e} of the largest value: the eigenvalues fall too slowly. Use "
        "mfdeq.eigsh, or raise oversampling, max_passes or rtol",
        best=pairs,
        report=pairs.report,
    )


def _pass(H: Products, Y: Array, k: int) -> tuple[Eigenpairs, Array]:
    """Of a basis the best k pairs, and H times the basis."""
    backend, xp = H.backend, H.backend.xp
    Q, dual = orthonormal_in(H.metric, Y)
    image, error = H.with_error(Q)
    small = Q.T @ image
    values, U = xp.linalg.eigh(0.5 * (small + small.T))
    found = array_on_host(values)
    best = xp.asarray(chosen(found, min(k, found.shape[0]), "LM"), device=backend.device)
    U = xp.take(U, best, axis=1)
    norm = float(abs(found).max())
    pairs = judged(H, Q @ U, dual @ U, image @ U, error @ U, norm, "randomized passes")
    return pairs, image
