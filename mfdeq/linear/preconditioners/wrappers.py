"""Preconditioners made of a factor, a user's LinearOperator, or a function that builds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...arrays.backend import Array
from ...errors import ArgumentError, short_repr
from ...operators.operator import Operator
from ...operators.user_operators import as_operator
from ..factor import Factor
from ..operands import matrix_or_products, operator_of
from ..protocols import Preconditioner, PreconditionerOperator, Solver


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


class BuiltPreconditioner(Preconditioner):
    """The description of a preconditioner that a function of a user's builds for each A.

    Parameters
    ----------
    build : callable
        A -> M.
    name : str
        The name of the function in reports and errors.
    """

    def __init__(self, build: Callable[[Any], Any], name: str) -> None:
        self.build, self.name = build, name

    @property
    def description(self) -> str:
        """The name of the function."""
        return self.name

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Call the function with the matrix of A, or with A if only products are known."""
        A = operator_of(A)
        with A.backend.user_call(self.name):
            given = self.build(matrix_or_products(A))
        if isinstance(given, Factor):
            return FactorApplication(given)
        try:
            described = as_preconditioner(given)
        except ArgumentError:
            described = None
        if described is None or isinstance(described, BuiltPreconditioner):
            raise ArgumentError(
                f"{self.name}, which builds a preconditioner: expected a LinearOperator or matrix "
                f"of shape {A.shape}, or a preconditioner or factor of mfdeq, got "
                f"{short_repr(given)}"
            )
        return described.setup(A)


def as_preconditioner(given: Any) -> Preconditioner | None:
    """Return the description of what a caller passes as ``preconditioner=``; None for None."""
    if given is None or isinstance(given, Preconditioner):
        return given
    if isinstance(given, (str, type)):
        raise _unexpected(given)
    # scipy's LinearOperators are callable, and solvers have a set-up, which returns a factor.
    if not hasattr(given, "shape") and not isinstance(given, Solver):
        if callable(setup := getattr(given, "setup", None)):
            return BuiltPreconditioner(setup, f"{type(given).__name__}.setup")
        if callable(given):
            name = getattr(given, "__name__", type(given).__name__)
            return BuiltPreconditioner(given, "a function" if name == "<lambda>" else name)
    return OperatorPreconditioner(given)


def _unexpected(given: Any, of_shape: str = "") -> ArgumentError:
    if isinstance(given, type):
        advice = f"; pass an instance, {given.__name__}(...)"
    elif isinstance(given, Solver):
        advice = "; pass a solver as solver=, or a function A -> M that sets one up"
    else:
        advice = ""
    return ArgumentError(
        "preconditioner: expected mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), mfdeq.FieldSplit(...), "
        "mfdeq.Approximate(...), an mfdeq.linear.Preconditioner of your own, a LinearOperator"
        f"{of_shape}, a function A -> M or None, got {short_repr(given)}{advice}"
    )
