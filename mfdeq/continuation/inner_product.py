"""The inner product in which steps along a curve of equilibria are measured.

A vector (h, t) has the square length T² |h / s|² + t², where s_j is the size of unknown j, and T,
the unit of t, is a share of the span. Sizes are units times an amplitude. The units are the model's
`state_scale`, or the numbers C of the scaling R A C that balances the entries of A (see
`mfdeq.linear.scaling`), so that lengths and angles depend neither on the units of unknowns nor on
those of equations. The amplitude is that of the state and of its change over T, for each part of A
that is connected.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import Array, Backend, is_dense, is_sparse
from ..linear.components import Components, components_of
from ..linear.equilibration import equilibrate
from ..linear.scaling import row_sizes
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem

MAX_DENSE_SIZE = 200  # unknowns up to which A is assembled by products to find their units


class InnerProduct:
    """The inner product <x, y> = Σ w_j h_j k_j + t u of (h, t) and (k, u).

    Parameters
    ----------
    backend : Backend
    size : int
        N.
    unit : float
        T, the change of t that counts as one.

    Attributes
    ----------
    weights : (N,) array
        w; zero for unknowns of no known amplitude.
    rows, columns : (N,) arrays
        The units of equations, as reciprocals, and of unknowns.
    """

    def __init__(self, backend: Backend, size: int, unit: float) -> None:
        self.backend, self.unit = backend, unit
        self.rows = self.columns = backend.zeros(size) + 1.0
        self.weights = backend.zeros(size)
        self._components: Components | None = None

    @property
    def memory(self) -> dict[str, Any]:
        """The weights and the units, for a checkpoint."""
        return {"weights": self.weights, "rows": self.rows, "columns": self.columns}

    def resume(self, memory: dict[str, Any]) -> None:
        """Restore the weights and the units from a checkpoint."""
        put, size = self.backend.from_host, self.weights.shape[0]
        self.weights, self.rows, self.columns = (
            put(memory[name], size) for name in ("weights", "rows", "columns")
        )

    def dot(self, h: Array, t: float, k: Array, u: float) -> float:
        """Compute the inner product of (h, t) and (k, u)."""
        return float(self.backend.xp.vecdot(self.weights * h, k)) + t * u

    def length(self, h: Array, t: float) -> float:
        """Compute the length of (h, t)."""
        return math.sqrt(self.dot(h, t, h, t))

    @property
    def sizes(self) -> Array:
        """The sizes s of the unknowns, (N,); zero for those of no known amplitude."""
        xp, known = self.backend.xp, self.weights > 0.0
        safe = xp.where(known, self.weights, xp.ones_like(self.weights))
        return xp.where(known, self.unit / xp.sqrt(safe), xp.zeros_like(safe))

    @property
    def has_amplitude(self) -> bool:
        """Whether any unknown has a weight."""
        return bool(self.backend.xp.any(self.weights > 0.0))

    def set_units(self, problem: Problem, linearized: CheckedLinearization) -> None:
        """Set the units of unknowns and equations from the model, or from A."""
        xp, A = self.backend.xp, linearized.A
        matrix = A.array
        if not (is_sparse(matrix) or is_dense(matrix)):
            small = A.shape[0] <= MAX_DENSE_SIZE and self.backend.library.name != "PETSc"
            matrix = A.toarray() if small else None
        scale = problem.state_scale()
        if scale is not None:
            self.columns = xp.where(scale > 0.0, scale, xp.ones_like(scale))
            self.rows = 1.0 / row_sizes(A, self.columns)
        elif matrix is not None and _has_full_lines(self.backend, matrix):
            self.rows, self.columns = equilibrate(matrix)
        self._components = None if matrix is None else components_of(matrix)

    def set_amplitude(self, a: Array, h: Array) -> None:
        """Set the weights, so that h and T a, with a = dh/dt, are of order one."""
        squares = (h / self.columns) ** 2 + (self.unit * a / self.columns) ** 2
        if self._components is None:
            total = float(self.backend.xp.sum(squares))
            self._set_weights(0.0 * squares + total)
        else:
            of = self._components.columns
            totals = of.members @ squares
            count = int(
                self.backend.xp.sum(self.backend.xp.astype(totals > 0.0, self.backend.xp.int64))
            )
            self._set_weights(max(count, 1) * of.spread(totals))

    def set_uniform_amplitude(self, amplitude: float) -> None:
        """Set the weights, so that `amplitude` in the units of the unknowns is of order one."""
        self._set_weights(0.0 * self.weights + amplitude**2)

    def _set_weights(self, totals: Array) -> None:
        xp = self.backend.xp
        safe = xp.where(totals > 0.0, totals, xp.ones_like(totals))
        weights = (self.unit / self.columns) ** 2 / safe
        self.weights = xp.where(totals > 0.0, weights, xp.zeros_like(weights))


def _has_full_lines(backend: Backend, matrix: Any) -> bool:
    """Return whether no row or column of a matrix is zero."""
    ones = backend.zeros(matrix.shape[0]) + 1.0
    magnitude = abs(matrix)
    return all(bool(backend.xp.all(m @ ones > 0.0)) for m in (magnitude, magnitude.T))
