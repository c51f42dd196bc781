"""Block Lanczos with thick restarts (Wu and Simon 2000), over any array library.

    H V = R (V T + Q S E'),

V and Q orthonormal in the inner product of a precision R (the identity, where none is given), E the
last columns of the identity: of an eigenpair T y = mu y the residual of V y is ||S E'y|| in the
norm of R^-1. All of V is orthogonalized against, so that T = V'HV whatever V holds, and a restart
is no more than fewer columns in V. Where H V lies in R V (a breakdown: V is invariant) Q is
random and S zero; what was found is locked, and other copies of its eigenvalues are looked for in
what is orthogonal to it. T lives on the host. Beside V its duals R V are kept: a step is one
product with H and one solve with R.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.memory import reserve
from ..linear.krylov.columns import combined, on_host, times
from ..priors.metric import Metric

BROKEN = 100.0  # times rounding of H, at which what is left of a product is nothing
PASSES = 2  # over V, at most
CANCELLED = 0.5  # of what a pass was given, below which another follows (Daniel et al. 1976)
SAME = 1e-4  # relative difference of products with M, of which two are the same
KEPT = ("T", "S", "size", "width", "most", "locked", "fresh", "asymmetry", "invariant")
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
    metric : Metric
        The inner product.

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
        self,
        backend: Backend,
        product: Callable[[Array], Array],
        start: Array,
        most: int,
        metric: Metric,
    ) -> None:
        self.backend, self.product, self.metric = backend, product, metric
        n, width = start.shape
        self.most = min(most, n)
        self._make_room(min(self.most + width, n), n)
        self.T = host.zeros(2 * self.rows.shape[:1])  # with Q'HV
        self.S: Any = host.zeros((0, 0))
        self.size, self.locked, self.fresh, self.asymmetry = 0, 0, 0, 0.0
        self._follow(start, metric.apply(start))

    def _make_room(self, rows: int, n: int) -> None:
        reserve(
            self.backend,
            rows * n * (1 if self.metric.is_identity else 2),
            f"a basis of {rows} vectors",
            "use a smaller basis= of mfdeq.eigsh, or fewer eigenpairs",
        )
        self.rows = self.backend.row_vectors(rows, n)  # V', then Q'
        self.duals = self.rows if self.metric.is_identity else self.backend.row_vectors(rows, n)

    @property
    def full(self) -> bool:
        """Whether V has room for no further block."""
        return self.size + self.width > self.most

    @property
    def left(self) -> float:
        """How far V is from invariant: no residual is larger."""
        return float(host.linalg.norm(self.S))

    @property
    def complete(self) -> bool:
        """Whether V is the whole space."""
        return self.width == 0

    def expand(self) -> None:
        """Take Q into V: one product with H of its columns."""
        j, end = self.size, self.size + self.width
        before = j - min(self.S.shape[1], j)
        V, dual = self.rows[:end, :], self.duals[:end, :]
        W = self.product(V[j:, :].T)
        # By the recurrence first: one pass over all of V then leaves it orthogonal to rounding.
        W = W - dual[before:j, :].T @ self.backend.coefficients(self.T[before:j, j:end])
        diagonal = V[j:, :] @ W
        W = W - dual[j:, :].T @ diagonal
        off: Any = 0.0
        for _ in range(PASSES):
            large = self.backend.column_norms(W)
            h = V @ W
            W = W - dual.T @ h
            off = off + h
            if bool(self.backend.xp.all(self.backend.column_norms(W) > CANCELLED * large)):
                break
        found = array_on_host(off)
        block = found[j:, :] + array_on_host(diagonal)
        self.T[j:end, :j] = self.T[:j, j:end].T
        self.T[j:end, j:end] = 0.5 * (block + block.T)
        # Above the block T is what earlier products left, which may have been more accurate.
        different = host.concatenate([found[:j, :], block - block.T])
        self.asymmetry = max(self.asymmetry, float(host.linalg.norm(different)))
        had = host.linalg.norm(self.T[:end, j:end], axis=0)
        self.size = end
        self._follow(self.metric.solve(W), W, self.backend.coefficients(had))

    def ritz(self) -> tuple[Any, Any, Any]:
        """Eigenvalues of T, ascending, its eigenvectors, and the residuals of V y."""
        found, Y, residuals = self._searched()
        values = host.concatenate([host.diagonal(self.T)[: self.locked], found])
        order = host.argsort(values, kind="stable")
        both = host.eye(self.size)
        both[self.locked :, self.locked :] = Y
        residuals = host.concatenate([host.zeros(self.locked), residuals])
        return values[order], both[:, order], residuals[order]

    def searched(self, k: int, which: str, tol: float) -> bool:
        """Whether, of what is orthogonal to the locked vectors, the best not wanted has converged.

        With those that are wanted: nothing is left there that would be.
        """
        if self.locked in (0, self.size):
            return self.locked == 0
        values, _, residuals = self._searched()
        known = host.concatenate([host.diagonal(self.T)[: self.locked], values])
        order = host.argsort(known, kind="stable")
        new = int((order[chosen(known[order], k, which)] >= self.locked).sum())
        more = new + (2 if which == "BE" else 1)
        best = chosen(values, min(more, values.shape[0]), which)
        return bool((residuals[best] <= tol).all())

    def _searched(self) -> tuple[Any, Any, Any]:
        values, Y = host.linalg.eigh(self.T[self.locked : self.size, self.locked : self.size])
        return values, Y, host.linalg.norm(self.S @ self._last(Y), axis=0)

    def _last(self, Y: Any) -> Any:
        """E'Y."""
        return Y[Y.shape[0] - self.S.shape[1] :, :]

    def vectors(self, Y: Any) -> Array:
        """V Y."""
        return self.rows[: self.size, :].T @ self.backend.coefficients(Y)

    def images(self, Y: Any) -> tuple[Array, Array]:
        """R V Y and, by the recurrence, H V Y."""
        held, on_device = self.size + self.width, self.backend.coefficients
        duals = self.duals[:held, :].T
        known = host.concatenate([self.T[: self.size, : self.size] @ Y, self.S @ self._last(Y)])
        return duals[:, : self.size] @ on_device(Y), duals @ on_device(known)

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
        for rows in (self.rows,) if self.metric.is_identity else (self.rows, self.duals):
            rows[first:end, :] = self.backend.coefficients(Y).T @ rows[first:old, :]
            rows[end : end + self.width, :] = rows[old : old + self.width, :]
        self.T[first:, :] = self.T[:, first:] = 0.0
        self.T[first:end, first:end] = host.diag(values)
        self.size = end

    def continued(self, product: Callable[[Array], Array], most: int) -> Lanczos:
        """A copy that goes on by itself, with room for so many vectors if it has not."""
        found = copy.copy(self)
        n, held = self.rows.shape[1], self.size + self.width
        found.product, found.most = product, min(max(most, self.most), n)
        found._make_room(min(found.most + self.width, n), n)
        found.rows[:held, :] = self.rows[:held, :]
        found.duals[:held, :] = self.duals[:held, :]
        found.T = host.zeros(2 * found.rows.shape[:1])
        found.T[:held, :held] = self.T[:held, :held]
        return found

    @property
    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        held = self.size + self.width
        return {
            "vectors": self.rows[:held, :].T,
            "duals": None if self.metric.is_identity else self.duals[:held, :].T,
            **{name: getattr(self, name) for name in KEPT},
        }

    @classmethod
    def recalled(
        cls,
        backend: Backend,
        product: Callable[[Array], Array],
        metric: Metric,
        memory: dict[str, Any],
    ) -> Lanczos:
        """The one that a checkpoint has kept."""
        found = cls.__new__(cls)
        found.backend, found.product, found.metric = backend, product, metric
        for name in KEPT:
            setattr(found, name, memory[name])
        n, held = memory["vectors"].shape
        found._make_room(found.T.shape[0], n)
        found.rows[:held, :] = backend.from_host(memory["vectors"], n).T
        if memory["duals"] is not None:
            found.duals[:held, :] = backend.from_host(memory["duals"], n).T
        return found

    def measured_by(self, metric: Metric) -> bool:
        """Whether the inner product is that of a metric."""
        first, dual = self.rows[0, :], self.duals[0, :]
        norm = self.backend.norm
        return norm(metric.apply(first) - dual) <= SAME * norm(dual)

    def strayed(self, product: Callable[[Array], Array]) -> float:
        """How far products are from those that made V, of one; infinite for another metric."""
        if not self.measured_by(self.metric):
            return float("inf")
        first = self.rows[:1, :].T
        known = array_on_host(self.rows[: self.size, :] @ product(first))[:, 0]
        return float(host.linalg.norm(known - self.T[: self.size, 0]))

    def _follow(self, X: Array, W: Array, had: Array | float = 0.0) -> None:
        """Q S = X, what is left of R^-1 H times the last block, W = R X; or a random Q.

        `had` are the lengths of what the columns had in V, which has been taken out of them.
        """
        backend, xp = self.backend, self.backend.xp
        # What is small beside H is rounding, though it be large beside its own column.
        largest = float(host.max(host.abs(self.T), initial=0.0))
        lengths = self.metric.norms(X, W)
        left = float(xp.max(lengths))
        room = self.rows.shape[1] - self.size
        sizes = xp.sqrt(lengths**2 + had**2)
        Q, dual = self._orthonormal(X, W, xp.maximum(sizes, largest * xp.ones_like(sizes)))
        if W.shape[1] > 1:
            # Small directions of W have grown, with what they have of V and R X lacks of W.
            Q, dual = self._orthonormal(*self._without(Q, self.metric.apply(Q)))
        rank = Q.shape[1]
        self.invariant = not 0 < rank <= room or left <= BROKEN * backend.eps * largest
        if self.invariant:
            self.begin_again(W.shape[1])
        else:
            self._go_on(Q, dual, array_on_host(Q.T @ W))

    def begin_again(self, width: int) -> None:
        """Take V for invariant: Q is random, and so many columns, or as many as there are."""
        self.invariant = True
        Q, dual = self._random(min(width, self.rows.shape[1] - self.size))
        self._go_on(Q, dual, host.zeros((Q.shape[1], width)))

    def _go_on(self, Q: Array, dual: Array, S: Any) -> None:
        self.width, self.S = Q.shape[1], S
        if self.width:
            self.rows[self.size : self.size + self.width, :] = Q.T
            self.duals[self.size : self.size + self.width, :] = dual.T
        if self.size:
            self._couple()

    def _couple(self) -> None:
        """Put S into T, where the next block will have to agree with it."""
        j, before = self.size, self.size - self.S.shape[1]
        self.T[before:j, j : j + self.width] = self.S.T

    def _random(self, width: int) -> tuple[Array, Array]:
        """Orthonormal columns, orthogonal to V, and their duals."""
        n = self.rows.shape[1]
        self.fresh += 1
        X = self.backend.random(n, width, seed=100 + self.fresh)
        if not width:
            return X, X
        X, W = self._without(*self._without(X, self.metric.apply(X)))
        return self._orthonormal(X, W)

    def _without(self, X: Array, W: Array) -> tuple[Array, Array]:
        """X without what it has of V, and the same of its dual W."""
        V, dual = self.rows[: self.size, :], self.duals[: self.size, :]
        h = V @ W
        X, W = X - V.T @ h, None if self.metric.is_identity else W - dual.T @ h
        return X, X if W is None else W

    def _orthonormal(self, X: Array, W: Array, sizes: Array | None = None) -> tuple[Array, Array]:
        """A basis of X, of its rank and orthonormal to rounding, and its dual."""
        backend = self.backend
        for _ in range(1 if X.shape[1] == 1 else 2):
            small = [X.T @ W] if sizes is None else [X.T @ W, sizes[None, :]]
            gram, *known = on_host(backend, *small)
            C, _ = combined(backend.eps, gram, known[0][0, :] if known else None)
            X = times(backend, X, C)
            W = None if self.metric.is_identity else times(backend, W, C)
            W, sizes = X if W is None else W, None
        return X, W


def chosen(values: Any, k: int, which: str) -> Any:
    """Indices of the k of ascending `values` that `which` means; of "BE" the odd one is above."""
    n, order = values.shape[0], host.argsort(values, kind="stable")
    if which == "LM":
        return host.sort(host.argsort(-host.abs(values), kind="stable")[:k])
    if which == "BE":
        return host.concatenate([order[: k // 2], order[n - (k - k // 2) :]])
    return order[:k] if which == "SA" else order[n - k :]
