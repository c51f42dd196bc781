"""Constraints written for numpy, on PETSc's Vecs and Mats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, is_sparse
from ..models.constraints import ConstraintBase
from ..models.curvature import CurvatureOperator


class DistributedConstraint(ConstraintBase):
    """A constraint written for numpy, evaluated whole on every rank.

    Attributes
    ----------
    of : ConstraintBase
        The constraint as it was written.
    model : DistributedModel
        Whose layouts it uses.
    """

    def __init__(self, of: ConstraintBase, model: Any) -> None:
        self.of, self.model, self.is_linear = of, model, of.is_linear

    @property
    def size(self) -> int | None:  # type: ignore[override]
        """The number m of equations, once it is known."""
        return self.of.size

    def _on_each_rank(self, field: str, h: Array, theta: Array, *more: Array) -> Any:
        function: Callable[..., Any] = getattr(self.of, field)
        return self.model.on_each_rank(
            f"{field} of the constraint", function, *self.model.gather(h, theta), *more
        )

    def value(self, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,), whole on every rank."""
        return self._on_each_rank("value", h, theta)

    def d_state(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂h, (m, N)."""
        return _distributed(self._on_each_rank("d_state", h, theta), self.model.state_layout)

    def d_params(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ, (m, P), or None if it is zero."""
        return _distributed(self._on_each_rank("d_params", h, theta), self.model.param_layout)

    def curvature(self, h: Array, theta: Array, nu: Array) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), or None if it is zero."""
        whole = self._on_each_rank("curvature", h, theta, nu)
        if whole is None:
            return None
        return self.model.curvature_operator(Backend.of(h), whole, "curvature of the constraint")

    def second(self, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,), along stacked (P+N,) directions."""
        return self._on_each_rank("second", h, theta, *map(self.model.gather_stacked, (a, b)))


def _distributed(rows: Any, layout: Any) -> Any:
    """Distribute a few rows that every rank has."""
    if rows is None:
        return None
    return layout.distribute((rows.toarray() if is_sparse(rows) else rows).T).T
