"""The columns of a block: which of them have not converged, and bases of their span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host

OUT_OF_ITERATIONS = "it ran out of iterations"
LOST_RTOL = 1e-14  # relative length below which a vector is rounding after orthogonalization


@dataclass(frozen=True)
class Solved:
    """The result of a block method.

    Attributes
    ----------
    X : (n, k) array
        The solution, or the last iterate.
    stopped : str
        Why the method gave up; "" if it did not.
    """

    X: Array
    stopped: str = ""


class Columns:
    """The columns of a solution X: those in the block, and those that have converged and left."""

    def __init__(self, backend: Backend, B: Array) -> None:
        self.backend = backend
        self.X = backend.zeros(*B.shape)
        self.active = list(range(B.shape[1]))
        self.left: dict[int, Array] = {}

    def residual(self, B: Array, rtol: float) -> Array:
        """Return the residual of X = 0, a copy of B, without the columns that have converged."""
        R = self.backend.xp.asarray(B, copy=True)
        return self.leave(array_on_host(self.backend.column_norms(R)) > rtol, R)[0]

    def leave(self, unconverged: Any, *blocks: Array) -> Sequence[Array]:
        """Remove converged columns from X and from `blocks`.

        Parameters
        ----------
        unconverged : (columns,) array of bool, on the host
        *blocks : arrays with that many columns

        Returns
        -------
        sequence of arrays
            The blocks without the converged columns.
        """
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
        """Return the solution with all columns, in the order of B."""
        if not self.left:
            return Solved(self.X, stopped)
        self._store(list(range(len(self.active))))
        columns = [self.left[j] for j in sorted(self.left)]
        return Solved(self.backend.xp.stack(columns, axis=1), stopped)


def gram_basis(eps: float, gram: Any, sizes: Any = None) -> tuple[Any, Any]:
    """Return C and S on the host, with W = (W C) S and roughly orthonormal columns of W C.

    W C has as many columns as the rank of W. C and S come from the eigenvectors of the Gram matrix
    W'W, in any inner product. Directions shorter than sqrt(eps) times their columns are dropped,
    and so are columns that are rounding relative to their `sizes` before an orthogonalization.

    References
    ----------
    A. Stathopoulos and K. Wu, A block orthogonalization procedure with constant synchronization
    requirements, SIAM J. Sci. Comput. 23 (2002).
    """
    lengths = host.sqrt(host.diagonal(gram))
    lost = lengths <= (0.0 if sizes is None else LOST_RTOL * sizes)
    if gram.shape[1] == 1:
        rank = 0 if lost[0] else 1
        return host.ones((1, rank)) / lengths[:rank], gram[:rank, :] / lengths
    weights = host.where(lost, 0.0, 1.0 / host.where(lost, 1.0, lengths))
    values, U = host.linalg.eigh(gram * weights * weights[:, None])
    retained = values > eps * gram.shape[1]
    roots, U = host.sqrt(values[retained]), U[:, retained]
    return U * weights[:, None] / roots, roots[:, None] * U.T * lengths


def directions(backend: Backend, W: Array, sizes: Array | None = None) -> tuple[Array, Any]:
    """Return Q, roughly orthonormal and of the rank of W, and S (on the host) with W = Q S.

    This takes two block products and one read from the device; `orthonormal` takes it twice.
    """
    small = [W.T @ W] if sizes is None else [W.T @ W, sizes[None, :]]
    gram, *known = read_together(backend, *small)
    C, S = gram_basis(backend.eps, gram, known[0][0, :] if known else None)
    return times(backend, W, C), S


def all_directions(backend: Backend, W: Array) -> Array:
    """Return an orthonormal basis of W down to rounding: its directions, then those of the rest."""
    Q, S = directions(backend, W)
    if W.shape[1] == 1 or (Q.shape[1] == W.shape[1] and _well_conditioned(backend, S)):
        return Q
    Q, _ = directions(backend, Q)  # Otherwise its lack of orthogonality would appear in the rest.
    if Q.shape[1] == W.shape[1]:
        return Q
    rest = W
    for _ in range(2):
        rest = rest - Q @ (Q.T @ rest)
    more, _ = directions(backend, rest, backend.column_norms(W))
    missing = W.shape[1] - Q.shape[1]
    return backend.xp.concat([Q, more[:, max(0, more.shape[1] - missing) :]], axis=1)


def _well_conditioned(backend: Backend, S: Any) -> bool:
    """Whether W = Q S, of full rank, has no direction near the rounding of W'W.

    Such a direction is not of unit length in Q.
    """
    relative = S / host.sqrt((S * S).sum(axis=0))
    return bool(((relative * relative).sum(axis=1) > backend.eps**0.5).all())


def orthonormal(backend: Backend, W: Array, sizes: Array | None = None) -> tuple[Array, Any]:
    """Return Q, orthonormal to rounding and of the rank of W, and S (on the host) with W = Q S."""
    Q, S = directions(backend, W, sizes)
    return reorthonormalize(backend, Q, S)


def reorthonormalize(backend: Backend, Q: Array, S: Any) -> tuple[Array, Any]:
    """Return the product Q S with Q, which is roughly orthonormal, made so to rounding."""
    if S.shape[1] == 1:
        return Q, S
    Q, again = directions(backend, Q)
    return Q, again @ S


def times(backend: Backend, P: Array, S: Any) -> Array:
    """Return P @ S with S on the host, as a multiple of P, which is cheaper, if S is 1 x 1."""
    return P * float(S[0, 0]) if S.shape == (1, 1) else P @ backend.coefficients(S)


def read_together(backend: Backend, *blocks: Array) -> list[Any]:
    """Return small blocks with equal columns in float64 on the host, by one transfer."""
    both = array_on_host(backend.xp.concat(blocks, axis=0)).astype("float64")
    return host.split(both, host.cumsum([block.shape[0] for block in blocks])[:-1])
