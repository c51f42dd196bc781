"""A preconditioner from random products: what is large in H, by Nyström.

With a random orthonormal W, H W (W' H W)^-1 (H W)' = U diag(lam) U' is nearly the best
approximation of its rank (Tropp, Yurtsever, Udell and Cevher 2017), and

    (lam_r + s) U diag(1 / (lam + s)) U' + I - U U'

preconditions H + s I: what is beyond the rank is taken for lam_r (Frangella, Tropp and Udell 2023).
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
from .extreme import check_operator
from .products import Products


class Nystrom(SelfAdjoint):
    """A preconditioner of H + shift I, (P, P), for H symmetric and positive semidefinite.

    For conjugate gradients: ``scipy.sparse.linalg.cg(H, b, M=mfdeq.Nystrom(H, 50))``. Of a Hessian
    with a prior of its own precision `mfdeq.LowRank` is the better one.

    Parameters
    ----------
    H : LinearOperator, (P, P)
    rank : int
        Products with H, in one block.
    shift : float, optional
        s, not negative.
    seed : int, optional

    Attributes
    ----------
    values : (rank,) array
        lam, descending.
    vectors : (P, rank) array
        U.

    Raises
    ------
    ArgumentError
        If H is seen to have a negative eigenvalue, or is zero where shift is.
    """

    def __new__(cls, H: Any, *args: Any, **kwargs: Any) -> Any:
        """On the library of H."""
        return super().__new__(cls, backend_of(H))

    @translate_memory_errors
    def __init__(self, H: Any, rank: int, shift: float = 0.0, seed: int = 0) -> None:
        P, backend = check_operator(H, 1), self.backend
        super().__init__(self, (P, P))
        xp = backend.xp
        self.shift = at_least(0.0, shift, "shift")
        product = Products(as_symmetric(backend, H, (P, P), "H"), False, Euclidean(backend))
        W, _ = xp.linalg.qr(backend.random(P, min(count(rank, "rank"), P), seed=seed))
        Y = product(W)
        # Rounding must not make W' H W indefinite: it is shifted up, and the result down again.
        up = math.sqrt(P) * backend.eps * backend.norm(Y)
        small = W.T @ Y
        values, U = xp.linalg.eigh(0.5 * (small + small.T))
        if float(values[0]) < -10.0 * up:
            raise ArgumentError(
                f"H is not positive semidefinite: along some vector it is {float(values[0]):.3g}. "
                "A preconditioner must be: take H.gauss_newton, or add a shift to H itself"
            )
        keep = int(xp.sum(xp.astype(values <= up, xp.int64)))
        if keep == values.shape[0] and self.shift == 0.0:
            raise ArgumentError("H is zero as far as can be told: give a shift")
        B = ((Y + up * W) @ U[:, keep:]) / xp.sqrt(values[keep:] + up)
        U, sizes, _ = xp.linalg.svd(B, full_matrices=False)
        seen = int(xp.sum(xp.astype(sizes**2 > 2.0 * up, xp.int64)))
        self.vectors, self.values = U[:, :seen], sizes[:seen] ** 2 - up
        # Fewer than were looked for: there is nothing beyond them, and the shift is all.
        none_left = seen < W.shape[1] and self.shift > 0.0
        smallest = self.shift + (0.0 if none_left else float(self.values[-1]))
        self._weights = smallest / (self.values + self.shift) - 1.0

    def _apply(self, x: Array) -> Array:
        return x + self.vectors @ scale_rows(self._weights, self.vectors.T @ x)
