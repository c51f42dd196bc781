"""A preconditioner from random products: the large eigenvalues of H, by Nyström approximation.

With a random orthonormal W, H W (W' H W)^-1 (H W)' = U diag(lam) U' is nearly the best
approximation of its rank, and

    (lam_r + s) U diag(1 / (lam + s)) U' + I - U U'

preconditions H + s I: what is beyond the rank counts as lam_r.
"""

from __future__ import annotations

import math
from typing import Any

from ..arguments import at_least, count
from ..arrays.backend import Array
from ..arrays.kernels import scale_rows
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError
from ..operators.operator import SelfAdjoint
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.metric import Euclidean
from .arguments import check_operator
from .counted_operator import CountedOperator

NEGATIVE_FACTOR = 10.0  # times the rounding of H, below which an eigenvalue of W' H W is negative


class Nystrom(SelfAdjoint):
    """A randomized Nyström preconditioner of H + shift I, (P, P), H positive semidefinite.

    For conjugate gradients: ``scipy.sparse.linalg.cg(H, b, M=mfdeq.Nystrom(H, 50))``. For a Hessian
    with a prior whose precision is known, `mfdeq.LowRank` is the better one.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        Symmetric and positive semidefinite.
    rank : int
        The rank of the approximation, and the number of products with H, made as one block.
    shift : float, optional
        s >= 0; 0 by default.
    seed : int, optional
        Seed of the random vectors; 0 by default.

    Attributes
    ----------
    values : (r,) array
        lam, descending; r <= rank.
    vectors : (P, r) array
        U.

    Raises
    ------
    ArgumentError
        If the products show that H has a negative eigenvalue, or that both H and the shift are
        zero.

    Notes
    -----
    The operator is (lam_r + s) U diag(1 / (lam + s)) U' + I - U U', an approximation of
    (lam_r + s) (H + s I)^-1. To keep W' H W definite in spite of rounding, H is shifted up by it
    for the approximation, and the values down again.

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

    def __new__(cls, H: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the operator on the array library of H."""
        return super().__new__(cls, backend_of(H))

    @translate_memory_errors
    def __init__(self, H: Any, rank: int, shift: float = 0.0, seed: int = 0) -> None:
        P, backend = check_operator(H, 1), self.backend
        super().__init__(self, (P, P))
        xp = backend.xp
        self.shift = at_least(0.0, shift, "shift")
        product = CountedOperator(as_symmetric(backend, H, (P, P), "H"), False, Euclidean(backend))
        W, _ = xp.linalg.qr(backend.random(P, min(count(rank, "rank"), P), seed=seed))
        Y = product(W)
        # Rounding must not make W' H W indefinite: it is shifted up, and the result down again.
        up = math.sqrt(P) * backend.eps * backend.norm(Y)
        small = W.T @ Y
        values, U = xp.linalg.eigh(0.5 * (small + small.T))
        if float(values[0]) < -NEGATIVE_FACTOR * up:
            raise ArgumentError(
                "H: expected a positive semidefinite operator, got one whose quadratic form is "
                f"{float(values[0]):.3g} along some unit vector. Take H.gauss_newton, or add a "
                "shift to H itself"
            )
        first = int(xp.sum(xp.astype(values <= up, xp.int64)))
        if first == values.shape[0] and self.shift == 0.0:
            raise ArgumentError(
                "shift: expected a positive number, since H is zero to working precision, got 0"
            )
        B = ((Y + up * W) @ U[:, first:]) / xp.sqrt(values[first:] + up)
        U, sizes, _ = xp.linalg.svd(B, full_matrices=False)
        rank_found = int(xp.sum(xp.astype(sizes**2 > 2.0 * up, xp.int64)))
        self.vectors, self.values = U[:, :rank_found], sizes[:rank_found] ** 2 - up
        # Where the rank is smaller than asked for, H is zero beyond it, and only the shift is left.
        exhausted = rank_found < W.shape[1] and self.shift > 0.0
        smallest = self.shift + (0.0 if exhausted else float(self.values[-1]))
        self._weights = smallest / (self.values + self.shift) - 1.0

    def _apply(self, x: Array) -> Array:
        return x + self.vectors @ scale_rows(self._weights, self.vectors.T @ x)
