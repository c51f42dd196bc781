"""Block Lanczos with thick restarts (Wu and Simon 2000), over any array library.

    H V = V T + Q S E',

V and Q orthonormal, E the last columns of the identity: of an eigenpair T y = mu y the residual of
V y is ||S E'y||. All of V is orthogonalized against, twice, so that T = V'HV whatever V holds, and
a restart is no more than fewer columns in V. Where H V lies in V (a breakdown: V is invariant) Q is
random and S zero; what was found is locked, and other copies of its eigenvalues are looked for in
what is orthogonal to it. T lives on the host.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..arrays import Array, Backend, array_on_host, host
from ..linear.columns import orthonormal

BROKEN = 100.0  # times rounding of H, at which what is left of a product is nothing
FURTHER = 0.5  # of what a basis holds beyond the pairs asked for, kept at a restart


class Lanczos:
    """A basis V, the next block Q, and T.

    Parameters
    ----------
    backend : Backend
    product : callable
        H X of an (n, b) block.
    start : (n, b) array
        Its columns' span is where V begins.
    most : int
        Vectors of V, from where on `expand` needs a `restart`.

    Attributes
    ----------
    size : int
        Vectors of V.
    width : int
        Columns of Q.
    locked : int
        Leading vectors of V that are eigenvectors.
    invariant : bool
        Whether V has broken down.
    asymmetry : float
        The largest difference seen between entries of V'HV that should be alike, as a norm.
    """

    def __init__(
        self, backend: Backend, product: Callable[[Array], Array], start: Array, most: int
    ) -> None:
        self.backend, self.product = backend, product
        n, width = start.shape
        self.most = min(most, n)
        self.rows = backend.zeros(min(self.most + width, n), n)  # V', then Q'
        self.T = host.zeros(2 * self.rows.shape[:1])  # with Q'HV
        self.S: Any = host.zeros((0, 0))
        self.size, self.locked, self.fresh, self.asymmetry = 0, 0, 0, 0.0
        self._follow(start, backend.column_norms(start))

    @property
    def full(self) -> bool:
        """Whether V has room for no further block."""
        return self.size + self.width > self.most

    @property
    def complete(self) -> bool:
        """Whether V is the whole space."""
        return self.width == 0

    def expand(self) -> None:
        """Take Q into V: one product with H of its columns."""
        j, end = self.size, self.size + self.width
        V = self.rows[:end, :]
        W = self.product(V[j:, :].T)
        sizes = self.backend.column_norms(W)
        h = V @ W
        W = W - V.T @ h
        again = V @ W
        W = W - V.T @ again
        found = array_on_host(h + again)
        # Above the block T is what earlier products left, which may have been more accurate.
        self.T[j:end, j:end] = found[j:, :].T
        off = float(host.linalg.norm(found - self.T[:end, j:end]))
        self.asymmetry = max(self.asymmetry, off)
        self.T[j:end, :j] = self.T[:j, j:end].T
        self.T[j:end, j:end] = 0.5 * (found[j:, :] + found[j:, :].T)
        self.size = end
        self._follow(W, sizes)

    def ritz(self) -> tuple[Any, Any, Any]:
        """Eigenvalues of T, ascending, its eigenvectors, and the residuals of V y."""
        found, Y, residuals = self._searched()
        values = host.concatenate([host.diagonal(self.T)[: self.locked], found])
        order = host.argsort(values, kind="stable")
        both = host.eye(self.size)
        both[self.locked :, self.locked :] = Y
        residuals = host.concatenate([host.zeros(self.locked), residuals])
        return values[order], both[:, order], residuals[order]

    def searched(self, which: str, tol: float) -> bool:
        """Whether the best of what is orthogonal to the locked vectors has converged."""
        if self.locked in (0, self.size):
            return self.locked == 0
        values, _, residuals = self._searched()
        best = chosen(values, min(2 if which == "BE" else 1, values.shape[0]), which)
        return bool((residuals[best] <= tol).all())

    def _searched(self) -> tuple[Any, Any, Any]:
        values, Y = host.linalg.eigh(self.T[self.locked : self.size, self.locked : self.size])
        return values, Y, host.linalg.norm(self.S @ self._last(Y), axis=0)

    def _last(self, Y: Any) -> Any:
        """E'Y."""
        return Y[Y.shape[0] - self.S.shape[1] :, :]

    def vectors(self, Y: Any) -> Array:
        """V Y."""
        return self.rows[: self.size, :].T @ self.backend.from_host(Y)

    def restart(self, k: int, which: str) -> None:
        """Make room, and keep what is nearest to the k eigenvectors that `which` means."""
        room = self.most - self.locked - self.width
        values, Y, _ = self._searched()
        near = chosen(values, min(k + int(FURTHER * max(room - k, 0)), room), which)
        S = self.S @ self._last(Y[:, near])
        self._replace(self.locked, values[near], Y[:, near])
        self.S = S
        self._couple()

    def lock(self, k: int, which: str) -> None:
        """Of an invariant V, keep the k eigenvectors that `which` means, or all."""
        values, Y, _ = self.ritz()
        wanted = chosen(values, min(k, self.size), which)
        self._replace(0, values[wanted], Y[:, wanted])
        self.locked, self.S = self.size, host.zeros((self.width, 0))

    def _replace(self, first: int, values: Any, Y: Any) -> None:
        """Put V Y for the vectors of V from the first on, T Y = Y diag(values); Q moves up."""
        old, end = self.size, first + values.shape[0]
        self.rows[first:end, :] = self.backend.from_host(Y).T @ self.rows[first:old, :]
        self.rows[end : end + self.width, :] = self.rows[old : old + self.width, :]
        self.T[first:, :] = self.T[:, first:] = 0.0
        self.T[first:end, first:end] = host.diag(values)
        self.size = end

    def continued(self, product: Callable[[Array], Array], most: int) -> Lanczos:
        """A copy that goes on by itself, with room for so many vectors if it has not."""
        found = copy.copy(self)
        n, held = self.rows.shape[1], self.size + self.width
        found.product, found.most = product, min(max(most, self.most), n)
        found.rows = self.backend.zeros(min(found.most + self.width, n), n)
        found.rows[:held, :] = self.rows[:held, :]
        found.T = host.zeros(2 * found.rows.shape[:1])
        found.T[:held, :held] = self.T[:held, :held]
        return found

    def _follow(self, W: Array, sizes: Array) -> None:
        """Q S = W, what is left of H times the last block; where that is nothing, Q is random."""
        backend, xp = self.backend, self.backend.xp
        # What is small beside H is rounding, though it be large beside its own column.
        largest = float(host.max(host.abs(self.T), initial=0.0))
        left = float(xp.max(backend.column_norms(W)))
        room = self.rows.shape[1] - self.size
        Q, _ = orthonormal(backend, W, xp.maximum(sizes, largest * xp.ones_like(sizes)))
        if W.shape[1] > 1:  # small directions of W have grown, and what they have of V with them
            V = self.rows[: self.size, :]
            Q = orthonormal(backend, Q - V.T @ (V @ Q))[0]
        rank = Q.shape[1]
        self.invariant = not 0 < rank <= room or left <= BROKEN * backend.eps * largest
        if self.invariant:
            Q = self._random(min(W.shape[1], room))
        self.width = Q.shape[1]
        self.S = host.zeros((self.width, W.shape[1]))
        if self.width:
            if not self.invariant:
                self.S[:, :] = array_on_host(Q.T @ W)
            self.rows[self.size : self.size + self.width, :] = Q.T
        if self.size:
            self._couple()

    def _couple(self) -> None:
        """Put S into T, where the next block will have to agree with it."""
        j, before = self.size, self.size - self.S.shape[1]
        self.T[before:j, j : j + self.width] = self.S.T

    def _random(self, width: int) -> Array:
        """Orthonormal columns, orthogonal to V."""
        V, n = self.rows[: self.size, :], self.rows.shape[1]
        self.fresh += 1
        W = self.backend.random(n, width, seed=100 + self.fresh)
        for _ in range(2):
            W = W - V.T @ (V @ W)
        return orthonormal(self.backend, W)[0] if width else W


def chosen(values: Any, k: int, which: str) -> Any:
    """Indices of the k of ascending `values` that `which` means; of "BE" the odd one is above."""
    n, order = values.shape[0], host.argsort(values, kind="stable")
    if which == "LM":
        return host.sort(host.argsort(-host.abs(values), kind="stable")[:k])
    if which == "BE":
        return host.concatenate([order[: k // 2], order[n - (k - k // 2) :]])
    return order[:k] if which == "SA" else order[n - k :]
