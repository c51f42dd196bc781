"""Steps of the block Lanczos process, in any inner product and on any array library.

    H V = R (V T + Q S E'),

where V and Q are orthonormal in the inner product of a precision R (the identity by default) and E
has the last columns of the identity. For an eigenpair T y = mu y, the residual of V y is ||S E'y||
in the norm of R^-1.

Each block is orthogonalized against all of V, so that T = V'HV for any V, and a restart only
replaces V by fewer columns. Single vectors are orthogonalized only where an estimate of their loss
of orthogonality asks for it (`mfdeq.spectrum.orthogonality`). In a breakdown V is invariant (H V
lies in the span of R V). Then Q is random and S zero, the eigenvectors in V are locked, and the
search for other copies of their eigenvalues continues in the orthogonal complement. T is stored on
the host. The duals R V are stored as well, so that a step takes one product with H and one solve
with R.

References
----------
C. Lanczos, "An iteration method for the solution of the eigenvalue problem of linear differential
and integral operators", 1950.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..linear.krylov.columns import LOST_FACTOR
from ..priors.metric import Metric
from .lanczos_basis import LanczosBasis
from .orthogonality import (
    REORTHOGONALIZATION_RATIO,
    OrthogonalityEstimate,
    orthogonalize,
    orthogonalize_pair,
)

BREAKDOWN_FACTOR = 100.0  # an orthogonalized product below this, in units of eps ||H||, is rounding


class LanczosProcess(LanczosBasis):
    """The state of a block Lanczos process: the basis V, the next block Q, and T.

    Parameters
    ----------
    backend : Backend
    product : callable
        ``product(X)`` returns H X for an (n, b) block X.
    start : (n, b) array
        The start, whose columns span the first block of V.
    max_size : int
        The largest number of vectors in V. If V is full, call `restart` before `expand`.
    metric : Metric
        The inner product.
    dual : (n, b) array, optional
        R times the start, computed by default.
    random_blocks : int, optional
        The number of random blocks that earlier searches for the same pairs have drawn.

    Attributes
    ----------
    basis, dual_basis : (max_size + b, n) arrays
        The rows are the vectors of V followed by those of Q, and R times these.
    size : int
        The number of vectors in V.
    width : int
        The number of columns of Q.
    locked : int
        The number of leading vectors of V that are locked eigenvectors.
    invariant : bool
        Whether V is invariant, after a breakdown.
    asymmetry : float
        The largest norm so far of differences between entries of V'HV that should be equal.
    random_blocks : int
        The number of random blocks drawn so far, those of earlier searches for the same pairs
        included; each has its own seed.
    orthogonality : OrthogonalityEstimate
        When the next vectors need a pass of Gram-Schmidt.
    """

    def __init__(
        self,
        backend: Backend,
        product: Callable[[Array], Array],
        start: Array,
        max_size: int,
        metric: Metric,
        dual: Array | None = None,
        random_blocks: int = 0,
    ) -> None:
        self.backend, self.product, self.metric = backend, product, metric
        n, width = start.shape
        self.max_size = min(max_size, n)
        self._allocate(min(self.max_size + width, n), n)
        self.T = host.zeros(2 * self.basis.shape[:1])  # includes Q'HV
        self._forget_orthogonality()
        self.S: Any = host.zeros((0, 0))
        self.size, self.locked, self.random_blocks, self.asymmetry = 0, 0, random_blocks, 0.0
        self._set_next_block(start, metric.apply(start) if dual is None else dual)

    def _forget_orthogonality(self) -> None:
        self.orthogonality = OrthogonalityEstimate(self.backend.eps)

    @property
    def full(self) -> bool:
        """Whether V has no room for another block."""
        return self.size + self.width > self.max_size

    @property
    def spans_all(self) -> bool:
        """Whether V is a basis of the whole space."""
        return self.width == 0

    def expand(self) -> None:
        """Append Q to V, by one product of H with Q."""
        j, end = self.size, self.size + self.width
        before = j - min(self.S.shape[1], j)
        V, dual = self.basis[:end, :], self.dual_basis[:end, :]
        subtract, on_device = self.backend.kernels.subtract_combination, self.backend.coefficients
        W = self.backend.xp.asarray(self.product(V[j:, :].T), copy=True)
        # Apply the recurrence first: one pass over all of V then makes W orthogonal to rounding.
        if before < j:
            W = subtract(W, dual[before:j, :], on_device(self.T[before:j, j:end]))
        diagonal = array_on_host(V[j:, :] @ W)
        W = subtract(W, dual[j:, :], on_device(diagonal))
        W, coefficients = self._orthogonalize(W, diagonal)
        block = coefficients[j:, :] + diagonal
        self.T[j:end, :j] = self.T[:j, j:end].T
        self.T[j:end, j:end] = 0.5 * (block + block.T)
        # Above the block, keep the T of earlier products, which may have been more accurate.
        different = host.concatenate([coefficients[:j, :], block - block.T])
        self.asymmetry = max(self.asymmetry, float(host.linalg.norm(different)))
        removed = host.linalg.norm(self.T[:end, j:end], axis=0)
        self.size = end
        self._set_next_block(self.metric.solve(W), W, removed)

    def _orthogonalize(self, W: Array, diagonal: Any) -> tuple[Array, Any]:
        """Make W, after the recurrence, orthogonal to V and the last block as far as is needed.

        Return it with the coefficients of what was removed, on the host.
        """
        end = self.size + self.width
        # The estimate is that of single vectors.
        if self.width == 1 and self.metric.is_identity and not self.locked:
            return self._orthogonalize_vector(W, float(diagonal[0, 0]))
        self.orthogonality.forget()
        return orthogonalize(self.backend, self.basis[:end, :], self.dual_basis[:end, :], W)

    def _orthogonalize_vector(self, W: Array, diagonal: float) -> tuple[Array, Any]:
        j, known = self.size, self.orthogonality
        V = self.basis[: j + 1, :]
        known.predict(self.T[:j, :j], diagonal, abs(self.T[j - 1, j]) if j else 0.0)
        length = float(self.backend.column_norms(W)[0])
        coefficients = host.zeros((j + 1, 1))
        if known.allows_skipping(length):
            return W, coefficients
        both = j + 1 < self.basis.shape[0]
        rows = known.rows_of_pass(j, length) if both else j
        if both:
            W, removed = orthogonalize_pair(self.backend, self.basis, rows, j, W)
            removed = array_on_host(removed)
        else:
            W, removed = orthogonalize(self.backend, V, V, W)
        coefficients[:rows], coefficients[j] = removed[:rows], removed[rows]
        left = float(self.backend.column_norms(W)[0])
        known.record_pass(removed[:, 0], left, both)
        if both and not left > REORTHOGONALIZATION_RATIO * length:
            W, removed = orthogonalize(self.backend, V, V, W)
            coefficients = coefficients + removed
        return W, coefficients

    def _set_next_block(self, X: Array, W: Array, removed: Any = 0.0) -> None:
        """Factorize X = Q S, where X is R^-1 H times the last block without its part in V.

        W is R X. `removed` has the lengths of the parts in V, on the host. Q is random in a
        breakdown.
        """
        backend, xp = self.backend, self.backend.xp
        # What is small compared with H is rounding, even if it is large compared with its column.
        norm = float(host.max(host.abs(self.T), initial=0.0))
        lengths = self.metric.norms(X, W)
        left = float(xp.max(lengths))
        room = self.basis.shape[1] - self.size
        breakdown = not left > BREAKDOWN_FACTOR * backend.eps * norm
        if W.shape[1] == 1:
            size = host.hypot(left, float(host.max(removed)))
            self.invariant = breakdown or not room or left <= LOST_FACTOR * backend.eps * size
            if self.invariant:
                self.continue_at_random(1)
                return
            Q = X * (1.0 / left)
            dual = Q if self.metric.is_identity else W * (1.0 / left)
            self._store_next_block(Q, dual, host.full((1, 1), left))
            return
        sizes = xp.sqrt(lengths**2 + backend.coefficients(removed) ** 2)
        Q, dual = self._orthonormalize(X, W, xp.maximum(sizes, norm * xp.ones_like(sizes)))
        # Scaling small directions of W to length one has amplified their parts along V and the
        # difference between R X and W.
        Q, dual = self._orthonormalize(*self._project_out(Q, self.metric.apply(Q)))
        rank = Q.shape[1]
        self.invariant = breakdown or not 0 < rank <= room
        if self.invariant:
            self.continue_at_random(W.shape[1])
        else:
            self._store_next_block(Q, dual, array_on_host(Q.T @ W))

    def continue_at_random(self, width: int) -> None:
        """Treat V as invariant, and continue with a random Q of at most `width` columns."""
        self.invariant = True
        self.orthogonality.forget()
        Q, dual = self._random_block(min(width, self.basis.shape[1] - self.size))
        self._store_next_block(Q, dual, host.zeros((Q.shape[1], width)))

    def _store_next_block(self, Q: Array, dual: Array, S: Any) -> None:
        self.width, self.S = Q.shape[1], S
        if self.width:
            self.basis[self.size : self.size + self.width, :] = Q.T
            if not self.metric.is_identity:
                self.dual_basis[self.size : self.size + self.width, :] = dual.T
        if self.size:
            self._couple()

    def _couple(self) -> None:
        """Store S in T, where it should agree with the product with the next block."""
        j, before = self.size, self.size - self.S.shape[1]
        self.T[before:j, j : j + self.width] = self.S.T
