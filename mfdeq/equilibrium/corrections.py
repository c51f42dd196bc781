"""More accurate states, adjoints and derivatives at an equilibrium, for error estimates.

Each is corrected once, by one application M of the factor in place of A^-1. Where derivatives are
exact and the state is accurate to rounding, another linearization would change nothing and none is
made.
"""

from __future__ import annotations

from ..arrays.backend import Array
from ..linear import Factor
from ..locks import cached_property
from ..models.checked_linearization import CheckedLinearization
from ..models.curvature import CurvatureOperator
from ..models.model import Model
from ..models.problem import Problem
from ..operators.operator import Operator
from .inverse import RefinedInverse

EXACT_ROUNDINGS = 100.0  # derivatives with smaller relative errors, in eps, are exact to rounding
STATE_ROUNDINGS = 64.0  # a state with a smaller relative correction, in eps, is exact to rounding
ADJOINT_ROUNDINGS = 100.0  # relative changes of the adjoint, in eps, that leave the curvature


class Corrections:
    """The corrected state, adjoints and derivatives of an equilibrium.

    Parameters
    ----------
    problem : Problem
    state : (N,) array
        h*.
    linearized : CheckedLinearization
        A and B at h*.
    factor : Factor
        The factor of A, of which one application M replaces A^-1.
    """

    def __init__(
        self, problem: Problem, state: Array, linearized: CheckedLinearization, factor: Factor
    ) -> None:
        self.problem, self.linearized, self.factor = problem, linearized, factor
        self.original, self.backend = state, problem.backend

    @cached_property
    def _changes(self) -> tuple[Array, Array]:
        """Return M R(h*) and M applied to rounding errors of R with random signs."""
        backend, h = self.backend, self.original
        signs = backend.xp.sign(backend.random(h.shape[0], seed=23))
        residual = self.problem.residual(h)
        rounding = signs * self.problem.rounding(h, residual, self.linearized.A)
        both = backend.columns(residual, rounding)
        changes = self.factor.approximate(both)
        return changes[:, 0], changes[:, 1]

    @cached_property
    def state(self) -> Array:
        """The more accurate state h* - M R(h*), (N,)."""
        return self.original - self._changes[0]

    @cached_property
    def state_change(self) -> float:
        """The root mean square of the relative corrections of the unknowns, in any units.

        An unknown of size zero is relative to its rounding error.
        """
        xp, (change, rounding) = self.backend.xp, self._changes
        sizes = xp.abs(self.original) + xp.abs(rounding) / self.backend.eps
        one = xp.ones_like(sizes)
        relative = xp.where(sizes > 0, xp.abs(change) / xp.where(sizes > 0, sizes, one), 0.0 * one)
        return self.backend.norm(relative) / relative.shape[0] ** 0.5

    @cached_property
    def state_error(self) -> float:
        """The root mean square of the corrections of the unknowns relative to their values.

        Unknowns of value zero are left out.
        """
        xp, (change, _) = self.backend.xp, self._changes
        size = xp.abs(self.original)
        one = xp.ones_like(size)
        relative = xp.where(size > 0, xp.abs(change) / xp.where(size > 0, size, one), 0.0 * one)
        return self.backend.norm(relative) / relative.shape[0] ** 0.5

    @property
    def state_is_exact(self) -> bool:
        """Whether the correction of the state is no larger than rounding."""
        return self.state_change <= STATE_ROUNDINGS * self.backend.eps

    def derivatives_are_exact(self, order: int) -> bool:
        """Whether the model's derivatives of an order, 1 or 2, are exact to rounding."""
        accuracy = self.linearized.linearization.accuracy[order - 1]
        if accuracy == 0.0:
            return _has_no_comparison(self.problem.model)
        return accuracy <= EXACT_ROUNDINGS * self.backend.eps

    @cached_property
    def _comparison(self) -> CheckedLinearization:
        return self.problem.linearize_for_comparison(self.state)

    def linearization(self, order: int) -> CheckedLinearization:
        """Return the linearization for derivatives of an order, 1 or 2, at the corrected state.

        It is that of the equilibrium itself if another one could not differ.
        """
        if self.state_is_exact and self.derivatives_are_exact(order):
            return self.linearized
        return self._comparison

    def adjoint(self, adjoint: Array, rhs: Array) -> Array:
        """Refine a solution of A' w = rhs once, with A at the corrected state."""
        A = self.linearization(1).A
        return self.inverse(A, adjoint_solution=adjoint)._apply_adjoint(rhs)

    def inverse(self, A: Operator, **solutions: Array) -> RefinedInverse:
        """Return the inverse that refines known solutions once."""
        return RefinedInverse(A, self.factor, **solutions)

    def curvature(
        self, original: CurvatureOperator, weights: Array, rhs: Array
    ) -> CurvatureOperator:
        """Return ∇²(w'f) at the corrected state, with the corrected solution w of A' w = rhs.

        Parameters
        ----------
        original : CurvatureOperator
            The curvature at the equilibrium, which is returned if it could not differ.
        weights, rhs : (N,) arrays
            The solution w, and the right-hand side.
        """
        there, norm = self.linearization(2), self.backend.norm
        corrected = self.adjoint(weights, rhs)
        allowed = ADJOINT_ROUNDINGS * self.backend.eps * norm(corrected)
        if there is self.linearized and norm(corrected - weights) <= allowed:
            return original
        return there.curvature(corrected)


def _has_no_comparison(model: Model) -> bool:
    """Return whether `linearize_for_comparison` of the model is `linearize`."""
    while isinstance(wrapped := getattr(model, "of", None), Model):
        model = wrapped  # distributed over ranks
    return type(model).linearize_for_comparison is Model.linearize_for_comparison
