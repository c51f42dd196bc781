"""The chance that a random start hides an eigenvalue beyond the wanted ones.

A search of the complement of the pairs found begins with a random unit vector r in it. After m
steps with the Ritz values θ_j and the residual lengths β_j,

    χ(H) r = (Π β_j) q,   χ(λ) = Π (λ - θ_j),   ||q|| = 1,

so that an eigenvector v of an eigenvalue λ beyond all θ_j has v'r = v'q Π β_j / (λ - θ_j). A thick
restart keeps q and drops Ritz values: the β_j are then those of all steps, and the θ_j are those
that were dropped and the present ones. The Ritz vectors y_j with residuals ρ_j hold the parts
v'y_j = v'q ρ_j / (λ - θ_j) of v, whose squares sum to at most one. Therefore

    |v'r| <= Π β_j / |λ - θ_j| / sqrt(1 + Σ (ρ_j / (λ - θ_j))^2).

The direction of r is uniform in n dimensions: its part along v is as small as this bound with the
chance sqrt(2 n / π) times the bound, at most.

References
----------
J. Kuczyński and H. Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos
algorithms with a random start", 1992. B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import host
from .schur_complement import Complement
from .sides import Side

MISS_CHANCE = 1e-6  # allowed chance that a wanted eigenvalue is missing
BISECTIONS = 20  # of the gap for which the chance holds


@dataclass
class Run:
    """The Ritz values, their residuals, and the residual lengths of one search.

    The length is zero once the search has spanned an invariant space.
    """

    values: Any = field(default_factory=lambda: host.zeros(0))
    residuals: Any = field(default_factory=lambda: host.zeros(0))
    lengths: list[float] = field(default_factory=list)
    restarts: list[tuple[Any, Any]] = field(default_factory=list)  # values before and after

    def record(self, values: Any, residuals: Any, length: float) -> None:
        """Record the Ritz pairs and the residual length after one step."""
        self.values, self.residuals = values, residuals
        self.lengths.append(length)

    def record_restart(self, before: Any, after: Any) -> None:
        """Record the Ritz values before and after a restart."""
        self.restarts.append((before, after))

    def log_chance(self, sign: int, end: float, n: float) -> float:
        """Return the logarithm of the chance of a miss beyond an eigenvalue, at most zero."""

        def log_distances(values: Any) -> float:
            with host.errstate(divide="ignore"):
                return float(host.log(host.maximum(end - sign * values, 0.0)).sum())

        distances = end - sign * self.values
        if not self.lengths or host.min(distances, initial=host.inf) <= 0.0:
            return 0.0
        if min(self.lengths) == 0.0:
            return -math.inf
        log = float(host.log(host.asarray(self.lengths)).sum()) - log_distances(self.values)
        for before, after in self.restarts:
            log -= log_distances(before) - log_distances(after)
        log -= 0.5 * math.log1p(float(((self.residuals / distances) ** 2).sum()))
        return min(0.0, log + 0.5 * math.log(2.0 * n / math.pi))


class Probe:
    """The decision of a search in the complement: something is missing, or nothing, or unknown.

    Parameters
    ----------
    which : {"LM", "LA", "SA", "BE"}
    sides : list of Side
        The ends of the spectrum at which eigenvalues are wanted.
    tolerance : float
        The distance beyond the last wanted values from which eigenvalues are looked for.
    complement : Complement
        The complement that is searched.
    error : float, optional
        The error of the products.

    Attributes
    ----------
    run : Run
        What the search has recorded.
    """

    def __init__(
        self,
        which: str,
        sides: list[Side],
        tolerance: float,
        complement: Complement,
        error: float = 0.0,
    ) -> None:
        self.which, self.sides, self.tolerance = which, sides, tolerance
        self.complement, self.error, self.run = complement, error, Run()

    def beyond(self, values: Any) -> Any:
        """Return which Ritz values of G show that a wanted eigenvalue is missing."""
        beyond = host.zeros(values.shape[0], dtype=bool)
        for side in self.sides:
            end = side.end(self.tolerance)
            if side.sign == self.complement.sign:  # at the other end G is closer to zero than P H P
                end += self.complement.bound(side.sign, end)
            beyond |= side.sign * values > end + self.error
        return beyond

    @property
    def found(self) -> bool:
        """Whether a Ritz value shows that a wanted eigenvalue is missing."""
        return bool(self.beyond(self.run.values).any())

    def chance(self, gap: float) -> float:
        """Return the bound on the chance of a miss beyond the last wanted values by a gap."""
        return min(1.0, sum(math.exp(self._log_chance(side, gap)) for side in self.sides))

    def _log_chance(self, side: Side, gap: float) -> float:
        end = side.end(gap)
        end -= self.error + self.complement.bound(side.sign, end)
        return self.run.log_chance(side.sign, end, self.complement.dimension)

    @property
    def excludes_a_miss(self) -> bool:
        """Whether the chance is small beyond the tolerance."""
        return self.chance(self.tolerance) <= MISS_CHANCE


def smallest_gap(chance: Callable[[float], float], tolerance: float, norm: float) -> float:
    """Return the least gap beyond which the chance is small, or one beyond all eigenvalues.

    It is zero if no eigenvalue can be missing, since the complement has been spanned.

    Parameters
    ----------
    chance : callable
        The chance of a miss beyond the last wanted values by a gap.
    tolerance : float
        The smallest gap.
    norm : float
        The norm of H.
    """
    if chance(0.0) == 0.0:
        return 0.0
    low, high = 0.0, tolerance
    while chance(high) > MISS_CHANCE and high < 2.0 * norm:
        low, high = high, 2.0 * high
    for _ in range(BISECTIONS if low > 0.0 else 0):
        middle = 0.5 * (low + high)
        if chance(middle) <= MISS_CHANCE:
            high = middle
        else:
            low = middle
    return high
