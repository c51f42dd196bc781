"""The loss of a program as a functional of its parameters, for `mfdeq.minimize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.lagrangian_system import factorization_error
from ..models.losses import LossBase
from ..operators.operator import SelfAdjoint
from ..optimization.functional import Functional
from .loss_over_data import LossOverData


@dataclass(frozen=True)
class ProgramPoint:
    """A point of a minimization, in place of an equilibrium: the program has its own states.

    Attributes
    ----------
    params : (P,) array
    state : (0,) array
    """

    params: Array
    state: Array


class ProgramHessianAt(SelfAdjoint):
    """The Hessian of the loss of a program at fixed parameters, (P, P)."""

    def __init__(self, source: Any, loss: LossOverData, theta: Array) -> None:
        super().__init__(source, (theta.shape[0], theta.shape[0]))
        self._loss, self.theta = loss, theta

    @property
    def gauss_newton(self) -> ProgramHessianAt:
        """The operator itself: a program does not say which part is that of Gauss and Newton."""
        return self

    @property
    def parts(self) -> Any:
        """Raise an `ArgumentError`: a program has no matrices of its equilibria."""
        raise factorization_error("a program of JAX or PyTorch gives its products only")

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Return H v, which is as accurate as the states of the program."""
        return self._apply(v)

    def _apply(self, x: Array) -> Array:
        with self._loss.at(self.theta):
            return self._loss.products(x.reshape(x.shape[0], -1)).reshape(x.shape)


class ProgramFunctional(Functional):
    """The loss of a program as a function of its parameters, for `mfdeq.minimize`.

    The parameters of the program are the same after each call as before. During a call they are
    others, so that a functional may not be used by several threads at once.

    Parameters
    ----------
    backend : Backend
    loss : LossOverData

    Attributes
    ----------
    solves : int
        The number of evaluations of the loss and of its gradient over all data.
    """

    model = None
    on_failure = "raise"
    accuracy = None

    def __init__(self, backend: Backend, loss: LossOverData) -> None:
        self._backend, self._loss = backend, loss
        self._solves = 0

    @property
    def solves(self) -> int:
        """The number of evaluations of the loss and of its gradient over all data."""
        return self._solves

    @property
    def linear_solves(self) -> int:
        """Zero: those of the program are not counted."""
        return 0

    @property
    def name(self) -> str:
        """The name for reports."""
        return "mfdeq.hessian_of"

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of unknowns, zero, and of parameters."""
        return 0, self._loss.program.size

    @property
    def priors(self) -> Sequence[tuple[float, LossBase]]:
        """No priors: they are part of the loss."""
        return ()

    def evaluate(self, theta: Array) -> float:
        """Return the loss over all data."""
        self._solves += 1
        with self._loss.at(theta):
            return float(self._loss.value())

    def evaluate_gradient(self, theta: Array) -> Array:
        """Return the gradient over all data."""
        self._solves += 1
        with self._loss.at(theta):
            return self._loss.gradient()

    def hessian(self, theta: Array) -> ProgramHessianAt:
        """Return the Hessian at theta, (P, P), as an operator."""
        return ProgramHessianAt(self._backend, self._loss, self._backend.copied(theta))

    def equilibrium(self, theta: Array) -> ProgramPoint:
        """Return theta as a point without a state."""
        return ProgramPoint(self._backend.copied(theta), self._backend.zeros(0))

    def hessian_at(self, eq: ProgramPoint, evaluate: bool = True) -> ProgramHessianAt:
        """Return the Hessian at a point."""
        return self.hessian(eq.params)

    def value_at(self, eq: ProgramPoint) -> float:
        """Return the value at a point."""
        return self.evaluate(eq.params)

    def partial_gradient(self, eq: ProgramPoint) -> Array:
        """Return the gradient: there are no states that could be held fixed."""
        return self.evaluate_gradient(eq.params)

    def gradient_at(self, theta: Array, state: Array) -> Array:
        """Return the gradient at theta."""
        return self.evaluate_gradient(theta)

    def state_rtol(self, backend: Backend) -> float:
        """Return zero: there is no state."""
        return 0.0

    def forget(self, start: Array) -> None:
        """Do nothing: nothing is kept."""

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process when its run is resumed."""
        self._solves += equilibria
