"""The derivatives of a model with constraints, from those of the model and of the constraints."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, native
from ..operators.operator import Scaled
from .checked_linearization import CheckedLinearization
from .combined_equations import combine
from .curvature import CurvatureOperator, add_curvatures, scale_curvature
from .elimination import Projection
from .linear_constraints import Constraints
from .linearization import DeferredLinearization


class ConstrainedLinearization(DeferredLinearization):
    """The derivatives of a model with its constraints.

    Parameters
    ----------
    base : CheckedLinearization
        The derivatives of the model without constraints.
    projection : Projection
    constraints : Constraints
    h, theta : (N,) and (P,) arrays

    Attributes
    ----------
    base, projection
        The arguments.
    """

    base: CheckedLinearization
    projection: Projection

    def __init__(
        self,
        base: CheckedLinearization,
        projection: Projection,
        constraints: Constraints,
        h: Array,
        theta: Array,
    ) -> None:
        given, copy = base.linearization, base.backend.xp.asarray
        sign = 1.0 if base.is_map else -1.0
        point = copy(h, copy=True), copy(theta, copy=True)
        parts = _Parts(projection, constraints, base, *point, sign)
        A = parts.state_operator()
        super().__init__(
            A.identity_minus() if base.is_map else A,
            parts.d_params,
            None if given.curvature is None else parts.curvature,
            None if given.second is None else parts.second,
            sources=lambda: given.sources,
            accuracy=lambda: given.accuracy,
            state_accuracy=given.state_accuracy,
            unchanged=given.check_unchanged,
        )
        vars(self).update(base=base, projection=projection)


class _Parts:
    """The derivatives of f - h = -(Pi R + U S c), from those of R and c.

    Attributes
    ----------
    sign : {1.0, -1.0}
        Of the derivatives that the user's function has, those of f or of R.
    """

    def __init__(
        self,
        projection: Projection,
        constraints: Constraints,
        base: CheckedLinearization,
        h: Array,
        theta: Array,
        sign: float,
    ) -> None:
        self.projection, self.constraints, self.base = projection, constraints, base
        self.backend, self.h, self.theta, self.sign = base.backend, h, theta, sign

    def state_operator(self) -> Any:
        """Return A of the equations with the constraints."""
        C = self.constraints.d_state(self.h, self.theta)
        return combine(self.projection, self.base.A, C)

    def d_params(self) -> Any:
        """Return the derivative with respect to the parameters."""
        lower = self.constraints.d_params(self.h, self.theta)
        B = combine(self.projection, self.base.B, None if lower is None else -lower)
        return B if self.sign > 0 else Scaled(B, -1.0)  # which is B itself when negated again

    def curvature(self, lam: Array) -> CurvatureOperator:
        """Return the Hessian of the scalar product of lam with the function."""
        lam = native(lam)
        K = self.base.curvature(self.projection.project_adjoint(lam))
        nu = self.projection.insert_adjoint(lam)
        own = self.constraints.curvature(self.h, self.theta, nu)
        if own is not None:
            K = add_curvatures(K, scale_curvature(own, -1.0))
        return K if self.sign > 0 else scale_curvature(K, -1.0)

    def second(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """Return the second derivative of the function along a and b."""
        x, y = (self.backend.xp.concat([*map(native, direction)]) for direction in (a, b))
        own = self.constraints.second(self.h, self.theta, x, y)
        value = self.projection.project(self.base.second(x, y)) - self.projection.insert(own)
        return self.sign * value
