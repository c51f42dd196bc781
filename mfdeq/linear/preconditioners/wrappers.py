"""A factor, or a LinearOperator of the user's, as a preconditioner."""

from __future__ import annotations

from typing import Any

from ...arrays.backend import Array
from ...errors import ArgumentError
from ...operators.operator import Operator
from ...operators.user_operators import as_operator
from ..factor import Factor
from ..protocols import Preconditioner, PreconditionerOperator


class FactorApplication(PreconditionerOperator):
    """One application of a factor in place of the inverse.

    Parameters
    ----------
    factor : Factor
        Of a nearby matrix.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor = factor
        self.flexible = factor.flexible

    @property
    def description(self) -> str:
        """The factor's name."""
        return f"{self.factor.name} of a nearby matrix"

    @property
    def nbytes(self) -> int:
        """Bytes of the factor."""
        return self.factor.nbytes

    def _apply(self, x: Array) -> Array:
        return self.factor._approximate(x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor._approximate(y, True)

    def forget(self) -> None:
        """Drop what earlier solves have left in the factor."""
        self.factor.forget()


class OperatorApplication(PreconditionerOperator):
    """An operator of the user's, which says nothing about itself, in place of the inverse."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of, of.shape)
        self.of = of

    def _apply(self, x: Array) -> Array:
        return self.of._apply(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.of._apply_adjoint(y)


class OperatorPreconditioner(Preconditioner):
    """The description of a preconditioner that has been set up already.

    Parameters
    ----------
    given : PreconditionerOperator, LinearOperator, sparse matrix or array, (N, N)
    """

    def __init__(self, given: Any) -> None:
        self.given = given

    @property
    def description(self) -> str:
        """What the operator calls itself."""
        own = isinstance(self.given, PreconditionerOperator)
        return self.given.description if own else "a LinearOperator"

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Check that it is one for A."""
        if tuple(getattr(self.given, "shape", ())) != A.shape:
            raise ArgumentError(
                "expected preconditioner to be mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), "
                f"mfdeq.Approximate(...), None or a LinearOperator of shape {A.shape}, got "
                f"{_in_words(self.given)}"
            )
        found = as_operator(A.backend, self.given, A.shape, "the preconditioner")
        return found if isinstance(found, PreconditionerOperator) else OperatorApplication(found)


def as_preconditioner(given: Any) -> Preconditioner | None:
    """The description that a caller passes as ``preconditioner=``; None for none."""
    if given is None or isinstance(given, Preconditioner):
        return given
    return OperatorPreconditioner(given)


def _in_words(given: Any) -> str:
    shape = getattr(given, "shape", None)
    if shape is None or isinstance(given, type):
        return repr(given)
    return f"a {type(given).__name__} of shape {tuple(shape)}"
