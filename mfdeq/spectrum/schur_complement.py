"""The complement of Ritz vectors, in which searches for missing eigenvalues are short.

Let Y be orthonormal with Y'HY = diag(θ_i), the residuals C = H Y - Y diag(θ_i), and P = I - Y Y'.
By the inertia of a Schur complement, H has as many eigenvalues beyond λ as there are θ_i beyond λ,
plus those beyond λ, on the complement of Y, of

    G = P H P + Γ,   Γ = C diag(1 / (λ - θ_i)) C'.

Nothing is missing beyond λ if G has no eigenvalue beyond it. With unwanted Ritz vectors in Y, even
rough ones, the eigenvalues of G are farther from the wanted ones than those of H. The residuals of
all Ritz vectors of one Krylov space lie in the span of its next block Q, C = Q S, so that Γ has a
few columns; it is used for one end of the spectrum. At the other end, and for residuals of which
only the lengths ρ_i are known, γ = Σ ρ_i^2 / (λ - θ_i) bounds Γ, the sum being over the θ_i that
are not beyond λ. Then nothing is missing beyond λ if G has no eigenvalue beyond λ - γ.

References
----------
E. V. Haynsworth, "Determination of the inertia of a partitioned Hermitian matrix", 1968.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, host
from .sides import Side

MAX_SHIFT = 0.1  # γ, relative to the distance of the eigenvalues of G
MAX_ROUGHNESS = 0.3  # residual of a Ritz pair that is near an eigenpair, relative to its distance


@dataclass
class Complement:
    """The complement of Ritz vectors Y, in which H has the Schur complement G.

    Attributes
    ----------
    vectors : (n, m) array
        Y.
    values, residuals : (m,) host arrays
        Their values θ and those parts of their residuals, by length, that Γ leaves out.
    weights : (b, b) host array
        Γ = Q weights Q', for the end that `sign` tells.
    sign : {1, -1}
        The end of the spectrum for which G includes Γ.
    others : float
        The bound on Γ for the other end.
    """

    vectors: Array
    values: Any
    residuals: Any
    weights: Any
    sign: int = 1
    others: float = 0.0

    @property
    def dimension(self) -> int:
        """The dimension of the complement."""
        return int(self.vectors.shape[0] - self.vectors.shape[1])

    def bound(self, sign: int, end: float) -> float:
        """Return the bound on what G leaves out for eigenvalues beyond `end`."""
        bound = coupling_bound(sign * self.values, self.residuals, end)
        return bound if sign == self.sign else bound + self.others


def coupling_bound(values: Any, residuals: Any, end: float) -> float:
    """Return γ, the sum of ρ_i^2 / (λ - θ_i) over the θ_i below λ = `end`."""
    distances = end - values
    inside = distances > 0.0
    return float((residuals[inside] ** 2 / distances[inside]).sum())


def smallest_distance(sides: list[Side], values: Any, residuals: Any, tolerance: float) -> float:
    """Return the tolerance, or a multiple of it beyond which the wanted pairs couple little.

    There γ is at most half of the distance from the last wanted values. Several wanted values may
    be close to the last.
    """
    while any(
        coupling_bound(side.sign * values, residuals, side.end(tolerance)) > 0.5 * tolerance
        for side in sides
    ):
        tolerance = 2.0 * tolerance
    return tolerance


class UnwantedPairs:
    """The unwanted Ritz pairs of a Krylov space, from which those of a complement are chosen.

    Parameters
    ----------
    sides : list of Side
    ends : list of float
        λ for each side, times its sign.
    values : (m,) host array
        The Ritz values, none of them beyond an end.
    couplings : (b, m) host array
        S.
    error : float or (m,) host array
        The error of the residuals Q S, by length.
    """

    def __init__(
        self, sides: list[Side], ends: list[float], values: Any, couplings: Any, error: Any
    ) -> None:
        self.values, self.couplings, self.error = values, couplings, error
        self.residuals = host.linalg.norm(couplings, axis=0)
        ranked = sorted(
            ((end - side.sign * values, side.sign) for side, end in zip(sides, ends, strict=True)),
            key=lambda item: float(host.min(item[0], initial=host.inf)),
        )
        # Γ is used for the end to which the values are nearest.
        self.near, self.sign = ranked[0]
        self.far = ranked[1][0] if len(ranked) > 1 else None

    @property
    def _left_out(self) -> Any:
        """The squared lengths of those parts of the residuals that Γ leaves out."""
        return self.error * (2.0 * self.residuals + self.error)

    def _far_bounds(self) -> Any:
        """What each pair contributes to the bound on Γ for the far end."""
        assert self.far is not None
        used = self.residuals**2 / self.near
        return used + (self.residuals + self.error) ** 2 / self.far

    def choose(self, room: int) -> tuple[Any, float]:
        """Choose the pairs nearest to the wanted ones, as many as keep γ small.

        Parameters
        ----------
        room : int
            The largest number of pairs.

        Returns
        -------
        chosen : (j,) host array
            Their indices.
        clearance : float
            An estimate of the distance of the eigenvalues of G from the wanted ones.
        """
        count = self.values.shape[0]
        if not count:
            return host.zeros(0, dtype="int64"), 0.0
        nearest = self.near if self.far is None else host.minimum(self.near, self.far)
        order = host.argsort(nearest, kind="stable")
        clearance = self._clearances(self.near, order)
        bounds = host.cumsum((self._left_out / self.near)[order])
        small = bounds <= MAX_SHIFT * clearance[1:]
        if self.far is not None:
            far_clearance = self._clearances(self.far, order)
            small &= host.cumsum(self._far_bounds()[order]) <= MAX_SHIFT * far_clearance[1:]
            clearance = host.minimum(clearance, far_clearance)
        possible = host.nonzero(small[:room])[0]
        chosen = int(possible[-1]) + 1 if possible.shape[0] else 0
        return order[:chosen], float(clearance[chosen])

    def _clearances(self, distances: Any, order: Any) -> Any:
        """Estimate the distance of the eigenvalues of G if the first 0, 1, ... pairs are in Y.

        It is that of the next Ritz value, or of the first in Y that is not near an eigenvalue.
        """
        ordered = distances[order]
        rough = (self.residuals + self.error)[order] > MAX_ROUGHNESS * ordered
        following = host.minimum.accumulate(ordered[::-1])[::-1]
        following = host.concatenate([following, ordered.max(keepdims=True)])
        rough_ones = host.minimum.accumulate(host.where(rough, ordered, host.inf))
        return host.minimum(following, host.concatenate([[host.inf], rough_ones]))

    def complement(self, chosen: Any, vectors: Array, values: Any, residuals: Any) -> Complement:
        """Return the complement of wanted pairs and chosen ones.

        Parameters
        ----------
        chosen : (j,) host array
            The indices of the chosen ones.
        vectors : (n, k + j) array
            The wanted vectors, followed by the chosen ones.
        values, residuals : (k,) host arrays
            The values and residuals of the wanted pairs.
        """
        S = self.couplings[:, chosen]
        left_out = host.sqrt(self._left_out[chosen])
        return Complement(
            vectors,
            host.concatenate([values, self.values[chosen]]),
            host.concatenate([residuals, left_out]),
            self.sign * (S / self.near[chosen]) @ S.T,
            self.sign,
            0.0 if self.far is None else float(self._far_bounds()[chosen].sum()),
        )
