"""Preconditioners made of a factor, or of a user's LinearOperator."""

from __future__ import annotations

from typing import Any

from ...arrays.backend import Array
from ...errors import ArgumentError, short_repr
from ...operators.operator import Operator
from ...operators.user_operators import as_operator
from ..factor import Factor
from ..protocols import Preconditioner, PreconditionerOperator


class FactorApplication(PreconditionerOperator):
    """One application of a factor in place of the inverse.

    Parameters
    ----------
    factor : Factor
        The factor of a nearby matrix.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor = factor
        self.flexible = factor.flexible
        self.description = f"{factor.name} of a nearby matrix"

    @property
    def nbytes(self) -> int:
        """Bytes of the factor."""
        return self.factor.nbytes

    def _apply(self, x: Array) -> Array:
        return self.factor._approximate(x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor._approximate(y, True)

    def forget(self) -> None:
        """Discard what the factor would reuse from earlier solves."""
        self.factor.forget()


class OperatorApplication(PreconditionerOperator):
    """A user's operator in place of the inverse, with the defaults of a preconditioner."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of, of.shape)
        self.of = of

    def _apply(self, x: Array) -> Array:
        return self.of._apply(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.of._apply_adjoint(y)


class OperatorPreconditioner(Preconditioner):
    """The description of a preconditioner that is passed as an operator.

    Parameters
    ----------
    given : PreconditionerOperator, LinearOperator, sparse matrix or array, (N, N)
        The operator.
    """

    def __init__(self, given: Any) -> None:
        self.given = given

    @property
    def description(self) -> str:
        """The name in reports: the operator's description, or its class."""
        if not isinstance(self.given, PreconditionerOperator):
            return "a LinearOperator"
        return self.given.description or type(self.given).__name__

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Return the operator, after a check of its shape."""
        if tuple(getattr(self.given, "shape", ())) != A.shape:
            raise _unexpected(self.given, f" of shape {A.shape}")
        found = as_operator(A.backend, self.given, A.shape, "the preconditioner")
        return found if isinstance(found, PreconditionerOperator) else OperatorApplication(found)


def as_preconditioner(given: Any) -> Preconditioner | None:
    """Return the description of what a caller passes as ``preconditioner=``; None for None."""
    if given is None or isinstance(given, Preconditioner):
        return given
    if isinstance(given, (str, type)):
        raise _unexpected(given)
    return OperatorPreconditioner(given)


def _unexpected(given: Any, of_shape: str = "") -> ArgumentError:
    instance = f"; pass an instance, {given.__name__}(...)" if isinstance(given, type) else ""
    return ArgumentError(
        "preconditioner: expected mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), "
        "mfdeq.Approximate(...), an mfdeq.linear.Preconditioner of your own, a LinearOperator"
        f"{of_shape} or None, got {short_repr(given)}{instance}"
    )
