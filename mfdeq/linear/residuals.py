"""Norms in which the residual of a linear solve must be small.

A solution is accepted if its residual is small in every measure: with the units that A has, and in
those in which its rows are of similar size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.kernels import CACHE_ENTRIES
from ..arrays.powers_of_two import in_range
from ..locks import cached_property
from .scaling import weigh


class ResidualMeasure:
    """Norms of residuals and of a right-hand side, in some weights.

    Parameters
    ----------
    backend : Backend
    weights : (N,) or (N, k) array or None
        None for ones.
    b : (N,) or (N, k) array
    rtol_factor, least_rtol : float, optional
        The factor of tolerances in this measure, and the smallest tolerance.

    Attributes
    ----------
    size : (1, k) array on the host
        The norm of each column of b.
    """

    def __init__(
        self,
        backend: Backend,
        weights: Array | None,
        b: Array,
        rtol_factor: float = 1.0,
        least_rtol: float = 0.0,
    ) -> None:
        self.backend, self.weights = backend, weights
        self.rtol_factor, self.least_rtol = rtol_factor, least_rtol
        self.size = self.norms(b, b)

    @property
    def in_range(self) -> bool:
        """Whether squares of all columns of b can be computed."""
        return in_range(self.backend, self.size)

    def accepted(self, b: Array, product: Array, rtol: float) -> float | None:
        """Return the relative residual if it is at most rtol; None if that takes a closer look."""
        return None

    def target(self, rtol: float) -> Any:
        """Return the residual of each column that a tolerance allows, (1, k) on the host."""
        return max(self.rtol_factor * rtol, self.least_rtol) * self.size

    def residual(self, b: Array, product: Array, x: Array) -> Any:
        """Return the norm of each column of b - product, (1, k) on the host."""
        if self.weights is None and not (b.ndim == 1 and b.shape[0] <= CACHE_ENTRIES):
            return on_host(self.backend.difference_norms(b, product))
        return self.norms(b - product, x)

    def norms(self, r: Array, x: Array) -> Any:
        """Return the norm of each column of r for the solution x, (1, k) on the host."""
        if self.weights is None:
            return self._norms(r)
        with self.backend.ignore_overflow():
            return self._norms(weigh(self.weights, r))

    def _norms(self, r: Array) -> Any:
        if r.ndim == 1:
            return host.array([[self.backend.norm(r)]])
        return on_host(self.backend.column_norms(r))


class VectorMeasure(ResidualMeasure):
    """The Euclidean norm of the residual for one vector b, in few calls.

    Parameters
    ----------
    backend : Backend
    b : (N,) array
    """

    weights = None
    rtol_factor, least_rtol = 1.0, 0.0

    def __init__(self, backend: Backend, b: Array) -> None:
        self.backend, self.length = backend, backend.norm(b)

    @cached_property
    def size(self) -> Any:
        """The norm of b, (1, 1) on the host."""
        return host.array([[self.length]])

    @property
    def in_range(self) -> bool:
        """Whether the square of the norm of b can be computed."""
        least = self.backend.smallest_to_square
        return least <= self.length <= 1.0 / least

    def accepted(self, b: Array, product: Array, rtol: float) -> float | None:
        """Return the relative residual if it is at most rtol; None if that takes a closer look."""
        residual = self.backend.norm(b - product)
        return residual / (self.length or 1.0) if residual <= rtol * self.length else None


class JointMeasure(ResidualMeasure):
    """Several measures, with arrays of one row for each.

    Parameters
    ----------
    parts : sequence of ResidualMeasure
    """

    def __init__(self, parts: Sequence[ResidualMeasure]) -> None:
        self.parts, self.backend = parts, parts[0].backend
        self.size = host.concatenate([part.size for part in parts])

    def target(self, rtol: float) -> Any:
        """Return the residuals that a tolerance allows, (measures, k)."""
        return host.concatenate([part.target(rtol) for part in self.parts])

    def residual(self, b: Array, product: Array, x: Array) -> Any:
        """Return the norms of each column of b - product, (measures, k)."""
        return host.concatenate([part.residual(b, product, x) for part in self.parts])

    def norms(self, r: Array, x: Array) -> Any:
        """Return the norms of each column of r, (measures, k)."""
        return host.concatenate([part.norms(r, x) for part in self.parts])


def on_host(norms: Array) -> Any:
    """Return norms of columns as a (1, k) array in float64 on the host."""
    if not isinstance(norms, host.ndarray | host.generic):
        norms = array_on_host(norms)
    return host.atleast_2d(norms).astype("float64")
