"""The inverse of the state operator, A^-1, as an operator.

`Inverse` solves with the factor of A, `RecordingInverse` also stores its last solutions, and
`RefinedInverse` refines known solutions by one step of iterative refinement. The formulas for Z, T
and H apply to any of them.
"""

from __future__ import annotations

from ..arrays.backend import Array
from ..linear import Factor
from ..operators.operator import Operator


class Inverse(Operator):
    """The operator A^-1, (N, N), by solves with a factor of A.

    Parameters
    ----------
    factor : Factor
    rtol : float, optional
        Relative true residual of each solve; by default the tolerance of the factor.
    """

    def __init__(self, factor: Factor, rtol: float | None = None) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor, self.rtol = factor, rtol

    def _apply(self, x: Array) -> Array:
        return self.factor._solve_checked(x, self.rtol)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor._solve_checked(y, self.rtol, adjoint=True)

    def forget(self) -> None:
        """Drop what the factor has stored in earlier solves."""
        self.factor.forget()


class RecordingInverse(Inverse):
    """The operator A^-1, which stores its last solution with A and with the adjoint of A.

    Attributes
    ----------
    solution, adjoint_solution : (N,) or (N, k) array
        The results of the last product, and of the last product with the adjoint.
    """

    solution: Array
    adjoint_solution: Array

    def _apply(self, x: Array) -> Array:
        self.solution = super()._apply(x)
        return self.solution

    def _apply_adjoint(self, y: Array) -> Array:
        self.adjoint_solution = super()._apply_adjoint(y)
        return self.adjoint_solution

    def combine(self, weights: Array) -> RecordingInverse:
        """Return the same inverse with a weighted sum of the columns of its last solutions."""
        combined = RecordingInverse(self.factor, self.rtol)
        combined.solution = self.solution @ weights
        combined.adjoint_solution = self.adjoint_solution @ weights
        return combined


class RefinedInverse(Operator):
    """The operator A^-1, for right-hand sides whose solutions are nearly known.

    A product is one step of iterative refinement, z + M (b - A z), where z is the known solution
    and M one application of a factor of a nearby matrix. It is accurate only for a right-hand side
    b for which A z is close to b.

    Parameters
    ----------
    A : Operator, (N, N)
    factor : Factor
        A factor of a matrix near A.
    solution, adjoint_solution : (N,) or (N, k) array, optional
        The known solutions with A and with its adjoint, for products with A^-1 and its adjoint.
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
