"""The columns of a block: which of them have not converged, and bases of their span."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host

Product = Callable[[Array], Array]  # of an (n, k) block
OUT_OF_ITERATIONS = "it ran out of iterations"
LOST_FACTOR = 45.0  # in units of eps: relative length that orthogonalization leaves of rounding
# Eigenvalues of the Gram matrix of vectors that should be orthonormal: up to the first, a direction
# is rounding; from the second on, one pass makes the vectors orthonormal to rounding.
MIN_SHARE, GOOD_SHARE = 0.01, 0.5


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
    and so are those that are rounding relative to the `sizes` of columns before an
    orthogonalization, which has rounded them by eps times as much.

    References
    ----------
    A. Stathopoulos and K. Wu, A block orthogonalization procedure with constant synchronization
    requirements, SIAM J. Sci. Comput. 23 (2002).
    """
    lengths = host.sqrt(host.diagonal(gram))
    rounding = 0.0 * lengths if sizes is None else LOST_FACTOR * eps * sizes
    lost = lengths <= rounding
    if gram.shape[1] == 1:
        rank = 0 if lost[0] else 1
        return host.ones((1, rank)) / lengths[:rank], gram[:rank, :] / lengths
    weights = host.where(lost, 0.0, 1.0 / host.where(lost, 1.0, lengths))
    values, U = host.linalg.eigh(gram * weights * weights[:, None])
    retained = values > eps * gram.shape[1]
    roots, U = host.sqrt(values[retained]), U[:, retained]
    C, S = U * weights[:, None] / roots, roots[:, None] * U.T * lengths
    clear = host.linalg.norm(C * rounding[:, None], axis=0) < 1.0
    return C[:, clear], S[clear, :]


def directions(backend: Backend, W: Array, sizes: Array | None = None) -> tuple[Array, Any]:
    """Return Q, roughly orthonormal and of the rank of W, and S (on the host) with W = Q S.

    This takes two block products and one read from the device; `orthonormal` takes it twice or
    three times.
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
    # Otherwise its lack of orthogonality would appear in the rest.
    Q, _ = reorthonormalize(backend, Q, S)
    if Q.shape[1] == W.shape[1]:
        return Q
    return backend.xp.concat([Q, remaining(backend, W, Q, backend.column_norms(W))], axis=1)


def remaining(backend: Backend, W: Array, Q: Array, sizes: Array) -> Array:
    """Return an orthonormal basis of what W has besides Q.

    Parameters
    ----------
    backend : Backend
    W : (n, k) array
    Q : (n, rank) array
        Orthonormal directions of W, without those that are hidden by the rounding of W'W.
    sizes : (k,) array
        Lengths relative to which directions are rounding and left out.
    """
    rest = W
    for _ in range(2):
        rest = rest - Q @ (Q.T @ rest)
    more, _ = orthonormal(backend, rest, sizes)
    # Scaling small directions of the rest to length one has amplified their parts along Q.
    more, _ = orthonormal(backend, more - Q @ (Q.T @ more))
    missing = W.shape[1] - Q.shape[1]
    return more[:, max(0, more.shape[1] - missing) :]


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
    Q, _, again = reorthonormalize_in(backend, Q, Q)
    return Q, again @ S


def reorthonormalize_in(backend: Backend, X: Array, dual: Array) -> tuple[Array, Array, Any]:
    """Return X made orthonormal to rounding in an inner product, its dual, and S with X = Q S.

    Parameters
    ----------
    backend : Backend
    X : (n, k) array
        Roughly orthonormal columns, as from one pass by `gram_basis`.
    dual : (n, k) array
        The product of X with the matrix of the inner product; X itself for the Euclidean one.

    Notes
    -----
    The first pass may have kept directions that are little longer than the rounding of the Gram
    matrix, so that neither their length nor their angles with the others are right. The Gram matrix
    of this pass tells: what is short in it was rounding, and is dropped; if the rest is not near
    orthonormal, another pass makes it so, since the error of one is at most eps / `MIN_SHARE`.
    """
    total = host.eye(X.shape[1])
    for _ in range(2):
        (gram,) = read_together(backend, X.T @ dual)
        shares, U = host.linalg.eigh(gram)
        roots, U = host.sqrt(shares[shares > MIN_SHARE]), U[:, shares > MIN_SHARE]
        C, S = U / roots, roots[:, None] * U.T
        euclidean = dual is X
        X = times(backend, X, C)
        dual = X if euclidean else times(backend, dual, C)
        total = S @ total
        if roots.min(initial=1.0) >= GOOD_SHARE**0.5:
            break
    return X, dual, total


def times(backend: Backend, P: Array, S: Any) -> Array:
    """Return P @ S with S on the host, as a multiple of P, which is cheaper, if S is 1 x 1."""
    return P * float(S[0, 0]) if S.shape == (1, 1) else P @ backend.coefficients(S)


def read_together(backend: Backend, *blocks: Array) -> list[Any]:
    """Return small blocks with equal columns in float64 on the host, by one transfer."""
    both = array_on_host(backend.xp.concat(blocks, axis=0)).astype("float64")
    return host.split(both, host.cumsum([block.shape[0] for block in blocks])[:-1])
