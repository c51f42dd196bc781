"""A preconditioner from a randomized Nyström approximation of the large eigenvalues of H.

With a random orthonormal W, H W (W' H W)^-1 (H W)' = U diag(lam) U' is nearly the best
approximation of its rank, and

    (lam_r + s) U diag(1 / (lam + s)) U' + I - U U'

preconditions H + s I. Eigenvalues beyond the rank are approximated by lam_r.
"""

from __future__ import annotations

import math
from typing import Any

from ..arguments import at_least, count
from ..arrays.backend import Array, host
from ..arrays.collective import collective
from ..arrays.kernels import scale_rows
from ..arrays.memory import translate_memory_errors
from ..arrays.powers_of_two import scaled_by, times_power
from ..errors import ArgumentError
from ..operators.operator import SelfAdjoint
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.metric import Euclidean
from .arguments import check_operator
from .counted_operator import CountedOperator

NEGATIVE_FACTOR = 10.0  # W' H W is indefinite below minus this multiple of the rounding of H


class Nystrom(SelfAdjoint):
    """A randomized Nyström preconditioner of H + shift I, (P, P), H positive semidefinite.

    Use it with conjugate gradients, as in ``scipy.sparse.linalg.cg(H, b, M=mfdeq.Nystrom(H, 50))``.
    For a Hessian with a prior whose precision is known, `mfdeq.LowRank` is better.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric and positive semidefinite operator.
    rank : int
        The rank of the approximation. H is multiplied by one block of `rank` columns.
    shift : float, optional
        The shift s >= 0, 0 by default.
    seed : int, optional
        The seed of the random vectors, 0 by default.

    Attributes
    ----------
    values : (r,) array
        The eigenvalues lam in descending order, with r <= rank.
    vectors : (P, r) array
        The eigenvectors U.

    Raises
    ------
    ArgumentError
        If H has a negative eigenvalue in the space of the products, or H and the shift are zero.

    Notes
    -----
    The operator is (lam_r + s) U diag(1 / (lam + s)) U' + I - U U', an approximation of
    (lam_r + s) (H + s I)^-1. H is shifted by its rounding error for the approximation, so that
    W' H W is definite, and the shift is subtracted from the values.

    References
    ----------
    J. A. Tropp, A. Yurtsever, M. Udell and V. Cevher, "Fixed-rank approximation of a
    positive-semidefinite matrix from streaming data", 2017. Z. Frangella, J. A. Tropp and M. Udell,
    "Randomized Nyström preconditioning", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse.linalg
    >>> import mfdeq
    >>> H = np.diag(np.r_[np.geomspace(1e6, 1e2, 10), np.ones(90)])
    >>> M = mfdeq.Nystrom(H, 20)
    >>> bool(np.allclose(M.values[:2], np.diag(H)[:2], rtol=1e-3))
    True
    >>> x, info = scipy.sparse.linalg.cg(H, np.ones(100), M=M, maxiter=20, rtol=1e-8)
    >>> info
    0
    """

    @collective
    def __new__(cls, H: Any, *args: Any, **kwargs: Any) -> Any:
        """Create an instance that is also a LinearOperator of the array library of H."""
        return super().__new__(cls, backend_of(H))

    @collective
    @translate_memory_errors
    def __init__(self, H: Any, rank: int, shift: float = 0.0, seed: int = 0) -> None:
        P, backend = check_operator(H, 1), self.backend
        super().__init__(self, (P, P))
        xp = backend.xp
        self.shift = at_least(0.0, shift, "shift")
        operator = as_symmetric(backend, H, (P, P), "H")
        product = CountedOperator(operator, False, Euclidean(backend), scaled=True)
        W, _ = xp.linalg.qr(backend.random(P, min(count(rank, "rank"), P), seed=seed))
        Y = product(W)  # of 2^e H, as are the values below
        exponent = product.exponent or 0
        shift_by = scaled_by(self.shift, exponent)
        # Shift W' H W up, so that rounding does not make it indefinite, and the values down again.
        up = math.sqrt(P) * backend.eps * backend.norm(Y)
        small = W.T @ Y
        values, U = xp.linalg.eigh(0.5 * (small + small.T))
        if float(values[0]) < -NEGATIVE_FACTOR * up:
            least = scaled_by(float(values[0]), -exponent)
            raise ArgumentError(
                "H: expected a positive semidefinite operator, got one whose quadratic form is "
                f"{least:.3g} for some unit vector. Use H.gauss_newton, or add a multiple of the "
                "identity to H"
            )
        first = int(xp.sum(xp.astype(values <= up, xp.int64)))
        if first == values.shape[0] and self.shift == 0.0:
            raise ArgumentError(
                "shift: expected a positive number, since H is zero to working precision, got 0"
            )
        B = ((Y + up * W) @ U[:, first:]) / xp.sqrt(values[first:] + up)
        U, sizes, _ = xp.linalg.svd(B, full_matrices=False)
        rank_found = int(xp.sum(xp.astype(sizes**2 > 2.0 * up, xp.int64)))
        self.vectors, values = U[:, :rank_found], sizes[:rank_found] ** 2 - up
        # If the rank is smaller than requested, H is zero beyond it and only the shift remains.
        exhausted = rank_found < W.shape[1] and self.shift > 0.0
        smallest = 0.0 if exhausted else float(values[-1])
        self._weights = (smallest - values) / (values + shift_by)
        self.values = times_power(backend, values, host.asarray(-exponent))

    def _apply(self, x: Array) -> Array:
        return x + self.vectors @ scale_rows(self._weights, self.vectors.T @ x)
