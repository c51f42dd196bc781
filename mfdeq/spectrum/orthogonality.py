"""How far Lanczos vectors are from orthogonal, and when a pass of Gram-Schmidt is due.

A step without a pass over all of V computes w = H v_j - T_jj v_j - b v_(j-1), b = T_(j-1)j, for the
next vector w / ||w||. With the losses of orthogonality l_j = ||V' v_j||, over the earlier vectors,

    ||V' w|| <= ||T - T_jj I|| l_j + b l_(j-1) + noise,

where the noise is that of rounding and of products that are not exact. A pass is left out while
this is a modest multiple of the rounding unit, and far below the tolerance. Otherwise one pass over
V makes the last two vectors orthogonal to rounding, from which the recurrence starts again; V is
read once for both. Every pass measures V'w, and what of it the bound does not explain is noise.
Where products are inexact, or ||w|| is small, no pass is left out.

References
----------
H. D. Simon, "The Lanczos algorithm with partial reorthogonalization", 1984. K. Wu and H. Simon,
"Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arrays.backend import Array, Backend, array_on_host
from ..linear.krylov.columns import times

# Largest loss of a vector without a pass, in units of eps, and as a share of the tolerance.
MAX_LOSS, TOLERANCE_SHARE = 100.0, 0.01


@dataclass
class OrthogonalityBound:
    """The losses of orthogonality of the last two vectors, and the noise of a step.

    Attributes
    ----------
    eps : float
    last, before : float
        Bounds on the losses of v_j and v_(j-1); infinite where unknown.
    noise : float
        The largest part of V'w so far that the bound has not explained; infinite before the first
        pass that measures it.
    inherited : float
        The bound on ||V'w|| of the present step without its noise.
    limit : float
        The largest loss of a vector without a pass; 0 by default, for a pass at every step.
    """

    eps: float
    last: float = math.inf
    before: float = math.inf
    noise: float = math.inf
    inherited: float = math.inf
    limit: float = 0.0

    def set_tolerance(self, tol: float, norm: float) -> None:
        """Set the limit from the tolerance of residuals and ||H||."""
        if norm > 0.0:
            self.limit = min(MAX_LOSS * self.eps, TOLERANCE_SHARE * tol / norm)

    def predict(self, spread: float, coupling: float) -> None:
        """Bound ||V'w|| without its noise, from ||T - T_jj I|| and b."""
        self.inherited = spread * self.last + coupling * self.before

    def allows_skipping(self, length: float, norm: float) -> bool:
        """Return whether w of this length needs no pass, and if so record its loss."""
        loss = self.inherited + max(self.noise, self.eps * norm)
        if not loss <= self.limit * length:
            return False
        self.before, self.last = self.last, loss / length
        return True

    def record_pass(self, measured: float, both: bool) -> None:
        """Record ||V'w|| before a pass over V, which included v_j if `both`."""
        if math.isfinite(self.inherited):
            known = self.noise if math.isfinite(self.noise) else 0.0
            self.noise = max(known, measured - self.inherited)
        self.before = self.eps if both else self.last
        self.last = self.eps

    def forget(self) -> None:
        """Take nothing as known of the last two vectors, as after a restart."""
        self.last = self.before = self.inherited = math.inf


def orthogonalize_pair(backend: Backend, basis: Array, j: int, W: Array) -> tuple[Array, Array]:
    """Make row j of `basis` orthogonal to the rows before it, in place, and W to all of these.

    Parameters
    ----------
    backend : Backend
    basis : (rows, n) array, with more than j + 1 rows
        Row j + 1 is overwritten.
    j : int
    W : (n, 1) array

    Returns
    -------
    W : (n, 1) array
    removed : (j + 1, 1) array
        The coefficients of what was removed from W.
    """
    W, removed = _remove(backend, basis, j, W)
    h = basis[j : j + 1, :] @ W
    W = W - times(backend, basis[j : j + 1, :].T, array_on_host(h))
    return W, backend.xp.concat([removed, h], axis=0)


def _remove(backend: Backend, basis: Array, j: int, W: Array) -> tuple[Array, Array]:
    V = basis[:j, :]
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
