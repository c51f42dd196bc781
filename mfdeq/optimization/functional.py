"""The base class of functions of the parameters with gradients and Hessians.

It states what `mfdeq.minimize` needs of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..arrays.backend import Array, Backend
from ..arrays.collective import collective
from ..equilibrium.reduced_operator import InexactReducedCurvature, ReducedOperator
from ..errors import is_evaluation_failure
from ..locks import lock_of
from ..models.losses import LossBase
from ..models.vectors import flatten_params

ON_FAILURE_VALUES = ("raise", "inf")


class Functional:
    """Base class of functionals theta -> L, with gradients and exact Hessians.

    A subclass defines `evaluate`, `evaluate_gradient`, `hessian`, `equilibrium` and what
    `mfdeq.minimize` needs besides.

    Attributes
    ----------
    model : Model
        The model, or the first of several, whose form the parameters have.
    on_failure : {"raise", "inf", "mask"}
        Whether `value` and `gradient` raise the error if there is no equilibrium, or return inf and
        NaN.
    accuracy : float or None
        The allowed relative error of products with the Hessian; None is that of the solver.
    processes : object or None
        The processes that compute the functional together, of which the first one writes files, if
        each of them has the parameters whole.
    """

    model: Any
    processes: Any = None
    on_failure: str
    accuracy: float | None
    _inexact_hessian: InexactReducedCurvature | None = None

    def evaluate(self, theta: Array) -> float:
        """Evaluate the functional like `value`, but raise every error."""
        raise NotImplementedError

    def evaluate_gradient(self, theta: Array) -> Array:
        """Compute the gradient like `gradient`, but raise every error."""
        raise NotImplementedError

    def hessian(self, theta: Array) -> Any:
        """Return the exact Hessian at theta, (P, P), as an operator."""
        raise NotImplementedError

    def equilibrium(self, theta: Array) -> Any:
        """Return the equilibrium at theta, with its state and parameters."""
        raise NotImplementedError

    def hessian_at(self, eq: Any, evaluate: bool = True) -> Any:
        """Return the Hessian at an equilibrium of `equilibrium`.

        Without `evaluate` its curvatures are evaluated at the first product, and not at all if only
        its Gauss-Newton part is multiplied with.
        """
        raise NotImplementedError

    def value_at(self, eq: Any) -> float:
        """Return the value at an equilibrium of `equilibrium`."""
        raise NotImplementedError

    def partial_gradient(self, eq: Any) -> Array:
        """Return the derivative in theta with all states held fixed, (P,)."""
        raise NotImplementedError

    def gradient_at(self, theta: Array, state: Array) -> Array:
        """Compute the gradient with a state in place of the equilibrium."""
        raise NotImplementedError

    def state_rtol(self, backend: Backend) -> float:
        """Return the relative tolerance of the states."""
        raise NotImplementedError

    def forget(self, start: Array) -> None:
        """Drop everything but a start for the next solve."""
        raise NotImplementedError

    @property
    def solves(self) -> int:
        """The number of forward solves so far, including failed ones."""
        raise NotImplementedError

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far; each right-hand side counts as one."""
        raise NotImplementedError

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process when its run is resumed."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of the model or models."""
        raise NotImplementedError

    @property
    def sizes(self) -> tuple[Any, Any]:
        """The number of unknowns and of parameters."""
        raise NotImplementedError

    @property
    def priors(self) -> Sequence[tuple[float, LossBase]]:
        """The factors and terms of the losses, among them the priors."""
        raise NotImplementedError

    @collective
    def value(self, theta: Array) -> float:
        """Evaluate the functional.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        float
            The value, or inf if it cannot be evaluated and `on_failure` is "inf".

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium and `on_failure` is "raise".
        Exception
            Any exception of the user's functions that is not a failure; see Notes of
            `ReducedFunctional`.
        """
        value = self._unless_failed(self.evaluate, theta, lambda theta: math.inf)
        return math.inf if self.on_failure == "inf" and math.isnan(value) else value

    @collective
    def gradient(self, theta: Array) -> Array:
        """Compute the gradient over theta, by one adjoint solve for each equilibrium.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        (P,) array
            The gradient, or NaN if it cannot be computed and `on_failure` is "inf".

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium and `on_failure` is "raise".
        Exception
            Any exception of the user's functions that is not a failure; see Notes of
            `ReducedFunctional`.
        """
        return self._unless_failed(
            self.evaluate_gradient, theta, lambda theta: float("nan") * theta
        )

    def _unless_failed(
        self, evaluate: Callable[[Array], Any], theta: Array, substitute: Callable[[Array], Any]
    ) -> Any:
        """Evaluate at theta, or return the substitute after a failure if `on_failure` is "inf"."""
        theta = copy_of(flatten_params(self.model, theta))
        try:
            return evaluate(theta)
        except Exception as error:
            if self.on_failure != "inf" or not is_evaluation_failure(error):
                raise
            return substitute(theta)

    @collective
    def hessp(self, theta: Array, v: Array) -> Array:
        """Compute the product of the Hessian at theta with a vector.

        Parameters
        ----------
        theta, v : (P,) arrays

        Returns
        -------
        (P,) array
            H v, with a relative error of at most `accuracy`.
        """
        return self.products(theta) @ v

    @collective
    def products(self, theta: Array) -> Any:
        """Return the Hessian at theta, (P, P), with products to a relative error of `accuracy`.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        Operator
        """
        with lock_of(self):
            H: ReducedOperator = self.hessian(theta)
            if self.accuracy is None:
                return H
            if self._inexact_hessian is None or self._inexact_hessian.exact is not H:
                self._inexact_hessian = H.to_accuracy(self.accuracy)
            return self._inexact_hessian


def copy_of(x: Any, name: str = "params") -> Array:
    """Return a checked copy of a vector."""
    return Backend.of(x, name=name).check_array(x, None, name)
