"""The Lanczos process with Ritz pairs, thick restarts and locked eigenvectors.

For an eigenpair T y = mu y, V y and mu are a Ritz pair of H, whose residual is ||S E'y|| in the
norm of R^-1 (see `lanczos_process`). A restart replaces V by some of the Ritz vectors.

References
----------
K. Wu and H. Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..priors.metric import Metric
from .lanczos_process import LanczosProcess
from .orthogonality import OrthogonalityEstimate

RESTART_SHARE = 0.5  # of the basis beyond k vectors that is filled with unwanted ones at a restart
# The attributes, other than the vectors, that a checkpoint stores.
CHECKPOINT_FIELDS = (
    "T",
    "S",
    "size",
    "width",
    "max_size",
    "locked",
    "random_blocks",
    "asymmetry",
    "invariant",
    "exponent",
)


class Lanczos(LanczosProcess):
    """A block Lanczos process, with its Ritz pairs and restarts.

    Parameters
    ----------
    backend, product, start, max_size, metric, dual, random_blocks
        As of `LanczosProcess`.

    Attributes
    ----------
    exponent : int or None
        e if H is 2^e times the operator of the user (see `CountedOperator`), at the end of a
        search.
    """

    exponent: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the product; `copy_with` continues with another one."""
        return {**vars(self), "product": None}

    @classmethod
    def in_complement(
        cls,
        backend: Backend,
        product: Callable[[Array], Array],
        vectors: Array,
        values: Any,
        start: Array,
        max_size: int,
        metric: Metric,
        random_blocks: int = 0,
    ) -> Lanczos:
        """Begin a process in the orthogonal complement of eigenvectors, which are locked.

        Parameters
        ----------
        backend, product, start, max_size, metric, random_blocks
            As for the class; the basis includes the eigenvectors.
        vectors : (n, k) array
            Orthonormal eigenvectors.
        values : (k,) host array
            Their eigenvalues.
        """
        self = cls.__new__(cls)
        self.backend, self.product, self.metric = backend, product, metric
        (n, k), width = vectors.shape, start.shape[1]
        self.max_size = min(max_size, n)
        self._allocate(min(self.max_size + width, n), n)
        self.basis[:k, :] = vectors.T
        if not metric.is_identity:
            self.dual_basis[:k, :] = metric.apply(vectors).T
        self.T = host.zeros(2 * self.basis.shape[:1])
        self._forget_orthogonality()
        self.T[:k, :k] = host.diag(values)
        self.size = self.locked = k
        self.random_blocks, self.asymmetry, self.invariant = random_blocks, 0.0, False
        X, W = self._project_out(*self._project_out(start, metric.apply(start)))
        width = min(width, n - k)
        Q, dual = self._orthonormalize(X[:, :width], W[:, :width])
        self._store_next_block(Q, dual, host.zeros((Q.shape[1], 0)))
        return self

    @property
    def residual_bound(self) -> float:
        """The bound ||S|| of all residuals."""
        return float(host.linalg.norm(self.S))

    def ritz(self) -> tuple[Any, Any, Any]:
        """Return the eigenvalues of T, ascending, its eigenvectors y, and the residuals of V y."""
        new, Y, residuals = self._unlocked_ritz()
        values = host.concatenate([host.diagonal(self.T)[: self.locked], new])
        order = host.argsort(values, kind="stable")
        both = host.eye(self.size)
        both[self.locked :, self.locked :] = Y
        residuals = host.concatenate([host.zeros(self.locked), residuals])
        return values[order], both[:, order], residuals[order]

    @property
    def unlocked_values(self) -> Any:
        """The Ritz values of the complement of the locked vectors, ascending."""
        return self._unlocked_ritz()[0]

    @property
    def unlocked_pairs(self) -> tuple[Any, Any]:
        """These Ritz values and their residuals."""
        values, _, residuals = self._unlocked_ritz()
        return values, residuals

    def unlocked_vectors(self, which: Any) -> Array:
        """Return those Ritz vectors of the complement that a mask of its Ritz values selects."""
        Y = self._unlocked_ritz()[1][:, which]
        return self.basis[self.locked : self.size, :].T @ self.backend.coefficients(Y)

    def no_copies_left(self, k: int, which: str, tol: float) -> bool:
        """Return whether the complement of the locked vectors has no further wanted eigenvalue.

        This holds once its wanted Ritz pairs and the best of the others have converged.
        """
        if self.locked in (0, self.size):
            return self.locked == 0
        values, _, residuals = self._unlocked_ritz()
        known = host.concatenate([host.diagonal(self.T)[: self.locked], values])
        order = host.argsort(known, kind="stable")
        new = int((order[select_wanted(known[order], k, which)] >= self.locked).sum())
        more = new + (2 if which == "BE" else 1)
        best = select_wanted(values, min(more, values.shape[0]), which)
        return bool((residuals[best] <= tol).all())

    def _unlocked_ritz(self) -> tuple[Any, Any, Any]:
        values, Y = host.linalg.eigh(self.T[self.locked : self.size, self.locked : self.size])
        return values, Y, host.linalg.norm(self.S @ self._last_rows(Y), axis=0)

    def _last_rows(self, Y: Any) -> Any:
        """Return E'Y."""
        return Y[Y.shape[0] - self.S.shape[1] :, :]

    def couplings(self, Y: Any) -> Any:
        """Return Q'HV Y, the residuals of V Y along Q if T Y = Y diag(values)."""
        return self.S @ self._last_rows(Y)

    def restart(self, k: int, which: str) -> None:
        """Shrink V to the locked vectors, the k wanted Ritz vectors, and the next ones."""
        room = self.max_size - self.locked - self.width
        values, Y, _ = self._unlocked_ritz()
        near = select_wanted(values, min(k + int(RESTART_SHARE * max(room - k, 0)), room), which)
        # First those whose vectors lose orthogonality in the fewest steps.
        near = near[host.argsort(-abs(values[near] - self.T[self.size - 1, self.size - 1]))]
        S = self.S @ self._last_rows(Y[:, near])
        self._replace(self.locked, values[near], Y[:, near])
        self.S = S
        self._couple()

    def lock(self, k: int, which: str) -> None:
        """Shrink an invariant V to its k wanted eigenvectors and lock them."""
        values, Y, _ = self.ritz()
        wanted = select_wanted(values, min(k, self.size), which)
        self._replace(0, values[wanted], Y[:, wanted])
        self.locked, self.S = self.size, host.zeros((self.width, 0))

    def _replace(self, first: int, values: Any, Y: Any) -> None:
        """Replace the vectors of V from `first` on by V Y, where T Y = Y diag(values)."""
        self.orthogonality.forget()
        old, end = self.size, first + values.shape[0]
        for rows in (self.basis,) if self.metric.is_identity else (self.basis, self.dual_basis):
            self.backend.kernels.combine_rows(rows, first, self.backend.coefficients(Y))
            rows[end : end + self.width, :] = rows[old : old + self.width, :]
        self.T[first:, :] = self.T[:, first:] = 0.0
        self.T[first:end, first:end] = host.diag(values)
        self.size = end

    def copy_with(
        self, product: Callable[[Array], Array], max_size: int, wider: int = 0
    ) -> Lanczos:
        """Return a copy that continues with `product`, with room for `max_size` vectors or more.

        Its next block may be wider by so many columns.
        """
        other = copy.copy(self)
        n, used = self.basis.shape[1], self.size + self.width
        other.product, other.max_size = product, min(max(max_size, self.max_size), n)
        other._forget_orthogonality()
        other._allocate(min(other.max_size + self.width + wider, n), n)
        other.basis[:used, :] = self.basis[:used, :]
        other.dual_basis[:used, :] = self.dual_basis[:used, :]
        other.T = host.zeros(2 * other.basis.shape[:1])
        other.T[:used, :used] = self.T[:used, :used]
        return other

    def with_start(self, start: Array, max_size: int) -> Lanczos:
        """Return a copy that continues from other vectors as well, beside its own next block.

        H V has no part along what is orthogonal to V and Q, so that the couplings stay as they are.
        """
        other = self.copy_with(self.product, max_size, start.shape[1])
        xp, own = self.backend.xp, slice(self.size, self.size + self.width)
        other.size = own.stop
        pair = start, self.metric.apply(start)
        Q, dual = other._orthonormalize(*other._project_out(*other._project_out(*pair)))
        other.size = self.size
        Q = xp.concat([self.basis[own, :].T, Q], axis=1)
        dual = xp.concat([self.dual_basis[own, :].T, dual], axis=1)
        S = host.zeros((Q.shape[1], self.S.shape[1]))
        S[: self.width, :] = self.S
        other._store_next_block(Q, dual, S)
        return other

    @property
    def checkpoint_state(self) -> dict[str, Any]:
        """The vectors and numbers, for a checkpoint."""
        used = self.size + self.width
        return {
            "vectors": self.basis[:used, :].T,
            "duals": None if self.metric.is_identity else self.dual_basis[:used, :].T,
            "orthogonality": vars(self.orthogonality),
            **{name: getattr(self, name) for name in CHECKPOINT_FIELDS},
        }

    @classmethod
    def from_checkpoint(
        cls,
        backend: Backend,
        product: Callable[[Array], Array],
        metric: Metric,
        state: dict[str, Any],
    ) -> Lanczos:
        """Restore a process from the `checkpoint_state` in a checkpoint."""
        self = cls.__new__(cls)
        self.backend, self.product, self.metric = backend, product, metric
        for name in CHECKPOINT_FIELDS:
            setattr(self, name, state[name])
        self.orthogonality = OrthogonalityEstimate(**state["orthogonality"])
        n, used = state["vectors"].shape
        self._allocate(self.T.shape[0], n)
        self.basis[:used, :] = backend.from_host(state["vectors"], n).T
        if state["duals"] is not None:
            self.dual_basis[:used, :] = backend.from_host(state["duals"], n).T
        return self

    def product_mismatch(self, product: Callable[[Array], Array]) -> float:
        """Return the difference of V'H v from T for one vector v; infinite for another metric."""
        if not self.has_metric(self.metric):
            return float("inf")
        first = self.basis[:1, :].T
        known = array_on_host(self.basis[: self.size, :] @ product(first))[:, 0]
        return float(host.linalg.norm(known - self.T[: self.size, 0]))


def select_wanted(values: Any, k: int, which: str) -> Any:
    """Return the indices of the k values that `which` selects from ascending ones.

    For "BE" and an odd k, one more is selected at the upper end.
    """
    n, order = values.shape[0], host.argsort(values, kind="stable")
    if which == "LM":
        return host.sort(host.argsort(-host.abs(values), kind="stable")[:k])
    if which == "BE":
        return host.concatenate([order[: k // 2], order[n - (k - k // 2) :]])
    return order[:k] if which == "SA" else order[n - k :]
