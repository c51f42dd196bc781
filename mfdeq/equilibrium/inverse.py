"""The inverse of the state operator, A^-1, as an operator.

`Inverse` solves with the factor of A, `RecordingInverse` also remembers its last solutions, and
`RefinedInverse` improves such solutions by one step of iterative refinement. The formulas for Z, T
and H are written once, for any of them.
"""

from __future__ import annotations

from ..arrays.backend import Array
from ..linear import Factor
from ..operators.operator import Operator


class Inverse(Operator):
    """A^-1, (N, N), by solves with a factor of A.

    Parameters
    ----------
    factor : Factor
    rtol : float, optional
        Relative true residual of each solve; by default that of the factor.
    """

    def __init__(self, factor: Factor, rtol: float | None = None) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor, self.rtol = factor, rtol

    def _apply(self, x: Array) -> Array:
        return self.factor._solve_checked(x, self.rtol)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor._solve_checked(y, self.rtol, adjoint=True)

    def forget(self) -> None:
        """Drop what earlier solves left in the factor."""
        self.factor.forget()


class RecordingInverse(Inverse):
    """A^-1 by solves with a factor, which remembers the last solution of either kind.

    Attributes
    ----------
    solution, adjoint_solution : (N,) or (N, k) array
        What the last product, and the last product with the adjoint, returned.
    """

    solution: Array
    adjoint_solution: Array

    def _apply(self, x: Array) -> Array:
        self.solution = super()._apply(x)
        return self.solution

    def _apply_adjoint(self, y: Array) -> Array:
        self.adjoint_solution = super()._apply_adjoint(y)
        return self.adjoint_solution


class RefinedInverse(Operator):
    """Solutions with a nearby A, by one step of iterative refinement of solutions at hand.

    A product is z + M (b - A z), where z is the solution at hand and M one application of the
    factor. It costs no solve, and is meant for the one right-hand side b that z nearly solves.

    Parameters
    ----------
    A : Operator, (N, N)
        The matrix whose solutions are wanted.
    factor : Factor
        Of the matrix nearby.
    solution, adjoint_solution : (N,) or (N, k) array, optional
        The solutions at hand, with A and with its adjoint: one for each kind of product.
    """

    def __init__(
        self,
        A: Operator,
        factor: Factor,
        solution: Array | None = None,
        adjoint_solution: Array | None = None,
    ) -> None:
        super().__init__(A, A.shape)
        self.A, self.factor = A, factor
        self.solution, self.adjoint_solution = solution, adjoint_solution

    def _apply(self, x: Array) -> Array:
        z = self.solution
        return z + self.factor.approximate(x - self.A._apply(z))

    def _apply_adjoint(self, y: Array) -> Array:
        w = self.adjoint_solution
        return w + self.factor.approximate(y - self.A._apply_adjoint(w), adjoint=True)
