"""The columns of a block: their directions, and which of them are still being solved for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host

LOST = 1e-14  # what is left of a vector after orthogonalization that is rounding, not a direction


@dataclass(frozen=True)
class Solved:
    """What a block method returns: X as far as it came, and why it gave up if it did ("")."""

    X: Array
    stopped: str = ""


class Columns:
    """The columns of X: those still in the block, and those that have left it."""

    def __init__(self, backend: Backend, B: Array) -> None:
        self.backend = backend
        self.X = backend.zeros(*B.shape)
        self.active = list(range(B.shape[1]))
        self.left: dict[int, Array] = {}

    def leave(self, unconverged: Any, *blocks: Array) -> Sequence[Array]:
        """Take converged columns, by a host array, out of X and of `blocks`, which are returned."""
        staying = [j for j in range(len(self.active)) if unconverged[j]]
        if len(staying) == len(self.active):
            return blocks
        self._store([j for j in range(len(self.active)) if j not in staying])
        xp = self.backend.xp
        where = xp.asarray(staying, dtype=xp.int64, device=self.backend.device)
        self.active = [self.active[j] for j in staying]
        self.X = xp.take(self.X, where, axis=1)
        return [xp.take(block, where, axis=-1) for block in blocks]

    def _store(self, which: list[int]) -> None:
        for j in which:
            self.left[self.active[j]] = self.X[:, j]

    def finish(self, stopped: str = "") -> Solved:
        """All columns together."""
        if not self.left:
            return Solved(self.X, stopped)
        self._store(list(range(len(self.active))))
        columns = [self.left[j] for j in sorted(self.left)]
        return Solved(self.backend.xp.stack(columns, axis=1), stopped)


def combined(eps: float, gram: Any, sizes: Any = None) -> tuple[Any, Any]:
    """C and S: W C is roughly orthonormal, of the rank of W, and W = (W C) S. On the host.

    By the eigenvectors of the Gram matrix W'W, in whatever inner product (Stathopoulos and Wu
    2002). Directions below sqrt(eps) of their columns' length are dropped, and columns below
    rounding of the `sizes` they had before an orthogonalization.
    """
    lengths = host.sqrt(host.diagonal(gram))
    lost = lengths <= (0.0 if sizes is None else LOST * sizes)
    if gram.shape[1] == 1:
        rank = 0 if lost[0] else 1
        return host.ones((1, rank)) / lengths[:rank], gram[:rank, :] / lengths
    weights = host.where(lost, 0.0, 1.0 / host.where(lost, 1.0, lengths))
    values, U = host.linalg.eigh(gram * weights * weights[:, None])
    kept = values > eps * gram.shape[1]
    roots, U = host.sqrt(values[kept]), U[:, kept]
    return U * weights[:, None] / roots, roots[:, None] * U.T * lengths


def directions(backend: Backend, W: Array, sizes: Array | None = None) -> tuple[Array, Any]:
    """Q of the rank of W, roughly orthonormal, and S (on the host) with W = Q S.

    Two block products and one read: see `combined`. `orthonormal` does it twice.
    """
    small = [W.T @ W] if sizes is None else [W.T @ W, sizes[None, :]]
    gram, *known = on_host(backend, *small)
    C, S = combined(backend.eps, gram, known[0][0, :] if known else None)
    return times(backend, W, C), S


def all_directions(backend: Backend, W: Array) -> Array:
    """Directions of W, and those of what is left without them: down to rounding of its columns."""
    Q, _ = directions(backend, W)
    if W.shape[1] == 1 or Q.shape[1] == W.shape[1]:
        return Q
    Q, _ = directions(backend, Q)  # what Q lacks of orthogonality would be left of W, and taken
    rest = W
    for _ in range(2):
        rest = rest - Q @ (Q.T @ rest)
    more, _ = directions(backend, rest, backend.column_norms(W))
    missing = W.shape[1] - Q.shape[1]
    return backend.xp.concat([Q, more[:, max(0, more.shape[1] - missing) :]], axis=1)


def orthonormal(backend: Backend, W: Array, sizes: Array | None = None) -> tuple[Array, Any]:
    """Q of the rank of W, orthonormal to rounding, and S (on the host) with W = Q S."""
    Q, S = directions(backend, W, sizes)
    return orthonormalized(backend, Q, S)


def orthonormalized(backend: Backend, Q: Array, S: Any) -> tuple[Array, Any]:
    """The same Q S, Q orthonormal to rounding where it was roughly so."""
    if S.shape[1] == 1:
        return Q, S
    Q, again = directions(backend, Q)
    return Q, again @ S


def times(backend: Backend, P: Array, S: Any) -> Array:
    """P @ S, S on the host; of one column a multiple, which is ten times cheaper."""
    return P * float(S[0, 0]) if S.shape == (1, 1) else P @ backend.coefficients(S)


def on_host(backend: Backend, *blocks: Array) -> list[Any]:
    """Small blocks of the same columns, in float64 on the host, by one transfer."""
    both = array_on_host(backend.xp.concat(blocks, axis=0)).astype("float64")
    return host.split(both, host.cumsum([block.shape[0] for block in blocks])[:-1])
