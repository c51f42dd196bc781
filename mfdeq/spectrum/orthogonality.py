"""How far Lanczos vectors are from orthogonal, and which passes of Gram-Schmidt are due.

A step without a pass over V computes w = H v_j - T_jj v_j - b v_(j-1), b = T_(j-1)j, for the next
vector w / ||w||. With the losses of orthogonality l_j = V' v_j, over the earlier vectors,

    V' w = (T - T_jj I) l_j - b l_(j-1) + noise,

where the noise is that of rounding and of products that are not exact. Its size is known, but not
its direction. The recurrence therefore runs for a few random ones, and the root mean square of the
losses is the estimate. Passes are left out while it is below the square root of the rounding unit,
and far below the tolerance: T is then V'HV to rounding for orthonormal vectors of the same span.
A pass makes the last two vectors orthogonal to rounding, from which the recurrence starts again. It
reads V once for both, and only as many leading rows as have lost orthogonality: after a restart
these are the Ritz vectors farthest from the values of the last vectors. Every pass measures V'w,
and the noise is increased if the estimate has been too small.

References
----------
H. D. Simon, "The Lanczos algorithm with partial reorthogonalization", 1984. K. Wu and H. Simon,
"Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000. J. W. Daniel, W. B.
Gragg, L. Kaufman and G. W. Stewart, "Reorthogonalization and stable algorithms for updating the
Gram-Schmidt QR factorization", 1976.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..linear.krylov.columns import times

MAX_ORTHOGONALIZATIONS = 2  # passes over V for one product
# Orthogonalize again if less than this share of a column's length remains (Daniel et al. 1976).
REORTHOGONALIZATION_RATIO = 0.5
# Largest loss of a vector without a pass, in units of sqrt(eps), and as a share of the tolerance.
MAX_LOSS, TOLERANCE_SHARE = 1.0, 0.01
MAX_ROUNDING = 100.0  # the same in units of eps, while the tolerance may still decrease
# A pass leaves out rows whose losses are smaller than the largest one allowed by this power of eps.
NEGLIGIBLE_POWER = 0.25
SAMPLES = 6  # random directions of the noise
# They begin at one of so many rows of a table, of which those of successive steps are far apart.
OFFSETS, STRIDE = 1009, 389
SAFETY_FACTOR = 2.0  # of an estimate by so many
MIN_PASSES = 4  # which measure the noise, before one is left out
WHOLE_SHARE = 0.8  # of the rows, from which on a pass takes all of them


@dataclass
class OrthogonalityEstimate:
    """The losses of orthogonality of the last two vectors, and the noise of a step.

    Attributes
    ----------
    eps : float
    last, before : (j, samples) and (j - 1, samples) host arrays or None
        Samples of the losses of v_j and v_(j-1); None where unknown.
    following : (j + 1, samples) host array or None
        Samples of V'w, v_j included, of the present step.
    noise : float
        The noise of an entry of V'w, in units of eps times the norm of H; at least 1.
    norm : float
        The norm of H.
    passes : int
        The number of passes that have measured the noise.
    limit : float
        The largest loss of a vector without a pass; 0 by default, for a pass at every step.
    """

    eps: float
    last: Any = None
    before: Any = None
    following: Any = None
    noise: float = 1.0
    norm: float = 0.0
    passes: int = 0
    limit: float = 0.0

    def set_tolerance(self, tol: float, least: float, norm: float) -> None:
        """Set the limit from the tolerance of residuals, the least it can become, and ||H||.

        Losses stay in the basis when the tolerance decreases. They may be larger than rounding only
        if they are small compared with any later tolerance.
        """
        self.norm = norm
        if norm > 0.0:
            large, small = MAX_LOSS * self.eps**0.5, MAX_ROUNDING * self.eps
            at_all_times = min(large, TOLERANCE_SHARE * min(tol, least) / norm)
            self.limit = max(at_all_times, min(small, TOLERANCE_SHARE * tol / norm))

    def predict(self, T: Any, diagonal: float, coupling: float) -> None:
        """Estimate V'w from T, (j, j), T_jj and b."""
        j = T.shape[0]
        self.following = None
        if self.last is None or self.before is None:
            return
        w = _random(j + 1, self.noise * self.eps * self.norm)
        w[:j] += T @ self.last - diagonal * self.last
        w[: j - 1] -= coupling * self.before
        self.following = w

    def allows_skipping(self, length: float) -> bool:
        """Return whether w of this length needs no pass, and if so record its loss."""
        if self.following is None or self.passes < MIN_PASSES:
            return False
        loss = SAFETY_FACTOR * float(host.linalg.norm(self.following)) / SAMPLES**0.5
        if not loss <= self.limit * length:
            return False
        self.before, self.last = self.last, self.following / length
        return True

    def rows_of_pass(self, j: int, length: float) -> int:
        """Return how many leading rows, of the j before v_j, a pass has to include."""
        if self.following is None or self.passes < MIN_PASSES:
            return j
        losses = host.linalg.norm(self.following[:j], axis=1) / SAMPLES**0.5
        limit = self.eps**NEGLIGIBLE_POWER * self.limit * length
        large = host.nonzero(losses > limit)[0]
        rows = int(large[-1]) + 1 if large.shape[0] else 0
        return rows if rows < WHOLE_SHARE * j else j

    def record_pass(self, measured: Any, length: float, both: bool) -> None:
        """Record V'w as it was before a pass over leading rows, and over those of v_j if `both`.

        Parameters
        ----------
        measured : (rows + 1,) host array
            The last entry is that of v_j.
        length : float
            ||w|| after the pass.
        both : bool
        """
        rows = measured.shape[0] - 1
        if not length > 0.0:
            return self.forget()
        if self.following is None:
            j = rows
            self.following = host.zeros((j + 1, SAMPLES))
            self.last = _random(j, self.eps) if both else None
        else:
            self.passes += 1
            part = host.concatenate([self.following[:rows], self.following[-1:]])
            expected = float(host.linalg.norm(part)) / SAMPLES**0.5
            ratio = float(host.linalg.norm(measured)) / expected if expected > 0.0 else 1.0
            if ratio > 1.0:
                self.noise, self.following = self.noise * ratio, self.following * ratio
            if both:
                self.last[:rows] = _random(rows, self.eps)
        new = self.following / length
        new[:rows], new[-1:] = _random(rows, self.eps), _random(1, self.eps)
        self.before, self.last = self.last, new

    def forget(self) -> None:
        """Take nothing as known of the last two vectors, as after a restart."""
        self.last = self.before = self.following = None


def _random(rows: int, size: float) -> Any:
    """Return as many rows of random numbers of this size, which depend on their number only."""
    first = STRIDE * rows % OFFSETS
    return size * _normal_numbers(rows.bit_length())[first : first + rows]


@functools.cache
def _normal_numbers(bits: int) -> Any:
    return host.random.default_rng(0).standard_normal((OFFSETS + 2**bits, SAMPLES))


def orthogonalize(backend: Backend, V: Array, dual: Array, W: Array) -> tuple[Array, Any]:
    """Make W orthogonal to all rows of V, and return it with what was removed, on the host.

    `dual` has the products of these rows with the matrix of the inner product. W, (n, k), may be
    overwritten.
    """
    off: Any = 0.0
    kernels = backend.kernels
    for _ in range(MAX_ORTHOGONALIZATIONS):
        lengths = REORTHOGONALIZATION_RATIO * backend.column_norms(W)
        h = kernels.inner_products(V, W)
        W = kernels.subtract_combination(W, dual, h)
        off = off + h
        if bool(backend.xp.all(backend.column_norms(W) > lengths)):
            break
    return W, array_on_host(off)


def orthogonalize_pair(
    backend: Backend, basis: Array, rows: int, j: int, W: Array
) -> tuple[Array, Array]:
    """Make row j of `basis` orthogonal to leading rows, in place, and W to these and to row j.

    Parameters
    ----------
    backend : Backend
    basis : (size, n) array, with more than j + 1 rows
        Row j + 1 is overwritten.
    rows, j : int
        The number of leading rows, at most j.
    W : (n, 1) array

    Returns
    -------
    W : (n, 1) array
    removed : (rows + 1, 1) array
        The coefficients of what was removed from W.
    """
    W, removed = _remove(backend, basis, rows, j, W)
    h = basis[j : j + 1, :] @ W
    W = W - times(backend, basis[j : j + 1, :].T, array_on_host(h))
    return W, backend.xp.concat([removed, h], axis=0)


def _remove(backend: Backend, basis: Array, rows: int, j: int, W: Array) -> tuple[Array, Array]:
    V = basis[:rows, :]
    if not backend.is_numpy:
        both = backend.xp.concat([basis[j : j + 1, :].T, W], axis=1)
        removed = V @ both
        both = both - V.T @ removed
        basis[j : j + 1, :] = both[:, :1].T
        return both[:, 1:], removed[:, 1:]
    basis[j + 1, :] = W[:, 0]
    both = basis[j : j + 2, :].T
    removed = backend.kernels.inner_products(V, both)
    both = backend.kernels.subtract_combination(both, V, removed)
    return both[:, 1:], removed[:, 1:]
