"""`mfdeq.ReducedFunctional`: the loss as a function of the parameters alone."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from ..arguments import fraction, one_of
from ..arrays.backend import Array, Backend
from ..arrays.collective import collective
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.reduced_hessian import ReducedHessian
from ..errors import ArgumentError
from ..locks import lock_of, state_to_pickle
from ..models.losses import LossBase, check_loss
from ..models.model import Model
from ..models.vectors import flatten_params, flatten_state
from .equilibria import Equilibria
from .functional import ON_FAILURE_VALUES, copy_of
from .sum_functional import Summable

# Options of `mfdeq.solve`.
SOLVE_OPTIONS = (
    "method",
    "solver",
    "rtol",
    "max_iterations",
    "lower",
    "upper",
    "progress",
    "error_estimates",
)
# Attributes that are computed again when needed: they are not pickled, and dropped by `forget`.
CACHED_ATTRIBUTES = ("_hessian", "_inexact_hessian")


class ReducedFunctional(Summable):
    """The reduced functional theta -> L(h*(theta), theta), with its gradient and exact Hessian.

    All calls with an equal theta share one equilibrium and one factorization. The next solve starts
    from the last state. `value`, `gradient` and `hessp` can be passed to `scipy.optimize.minimize`
    as ``fun``, ``jac`` and ``hessp``.

    Several threads may use one functional, but take turns to solve. Give each a copy of its own
    (`copy.deepcopy`) to solve at several theta at once.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
        A model of N unknowns and P parameters.
    loss : Loss
        The loss L(h, theta).
    h0 : float or (N,) array, optional
        The start of the first solve; by default the model's own start.
    on_failure : {"raise", "inf", "mask"}, optional
        Whether to raise the error if there is no equilibrium or a function of the model or the loss
        fails (the default), or to return inf as the value and NaN as the gradient, from which line
        searches step back; see Notes. With "mask", samples of a batch without an equilibrium have
        weight zero in the loss, as in `mfdeq.solve`.
    accuracy : float, optional
        The allowed relative error of gradients and products with the Hessian, as estimated, from
        which the tolerances of solves follow. By default the solver's own tolerance is used.
    **solve_options
        Options of `mfdeq.solve`: method, solver, rtol, max_iterations, lower, upper, progress,
        error_estimates.

    Attributes
    ----------
    solves : int
        The number of forward solves so far, including failed ones.
    equilibria : Equilibria
        The equilibria so far, and the solver that they share.

    Raises
    ------
    ArgumentError
        If the model is not an instance of a model class, the loss is not a loss, or an option is
        unknown.

    Notes
    -----
    With Z = dh*/dtheta, T = [I; Z] and the adjoint state lam, the gradient is dL/dtheta + B' lam
    and the Hessian is T' K T, where K is the Hessian of the Lagrangian L + lam'(f - h).

    A failure is a `ConvergenceError`, a `SingularStateError`, an `mfdeq.DomainError`, NaN or any
    other exception of a user's function except those that are mistakes (`TypeError`, `NameError`,
    `AttributeError`, `ImportError`, `SyntaxError`, `NotImplementedError`, `MemoryError`, a
    `ModelError` of shapes or dtypes), which are raised always. The solve after a failure starts
    from the last state that was found. If a solve from the last state fails, it is repeated from
    `h0` and from the model's own start.

    Examples
    --------
    The parameter for which the solution of h = cos h + theta is 1:

    >>> import numpy as np
    >>> import scipy.optimize
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> loss = mfdeq.LeastSquares(np.array([0]), np.array([1.0]))
    >>> F = mfdeq.ReducedFunctional(model, loss)
    >>> theta = np.zeros(1)
    >>> round(F.value(theta), 4)
    0.034
    >>> bool(np.allclose(F.hessp(theta, np.ones(1)), F.hessian(theta).toarray()[:, 0]))
    True

    All of these use the same equilibrium:

    >>> F.gradient(theta).shape, F.solves
    ((1,), 1)

    Minimization by scipy, to h = 1 and theta = 1 - cos 1:

    >>> found = scipy.optimize.minimize(
    ...     F.value, theta, jac=F.gradient, hessp=F.hessp, method="trust-krylov"
    ... )
    >>> bool(abs(found.x[0] - (1.0 - np.cos(1.0))) < 1e-4)
    True
    """

    @collective
    def __init__(
        self,
        model: Model,
        loss: LossBase,
        h0: Array | float | None = None,
        *,
        on_failure: str = "raise",
        accuracy: float | None = None,
        **solve_options: Any,
    ) -> None:
        one_of(on_failure, (*ON_FAILURE_VALUES, "mask"), "on_failure")
        if not isinstance(model, Model):
            raise ArgumentError(
                "model: expected an instance of mfdeq.FixedPointModel or mfdeq.ResidualModel, got "
                f"{_describe(model)}"
            )
        check_loss(loss, model)
        unknown = sorted(set(solve_options) - set(SOLVE_OPTIONS))
        if unknown:
            raise ArgumentError(
                f"solve_options: expected options of mfdeq.solve ({', '.join(SOLVE_OPTIONS)}), got "
                f"{', '.join(unknown)}"
            )
        self.model, self.loss = model, loss
        self.on_failure = on_failure
        self.accuracy = None if accuracy is None else fraction(accuracy, "accuracy")
        start = (
            h0 if h0 is None or isinstance(h0, Real) else copy_of(flatten_state(model, h0), "h0")
        )
        if on_failure == "mask":
            model.tolerating_failures()  # or an error here rather than in the first solve
            solve_options["on_failure"] = "mask"
        self.equilibria = Equilibria(model, start, solve_options)
        self._hessian: ReducedHessian | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out Hessians, whose factors cannot be pickled."""
        return {**state_to_pickle(self), **dict.fromkeys(CACHED_ATTRIBUTES)}

    def forget(self, start: Array) -> None:
        """Drop everything but a start for the next solve.

        Later results depend on the start and on theta alone, as after a restart from a checkpoint.

        Parameters
        ----------
        start : (N,) array
        """
        with lock_of(self):
            self.__dict__.update(dict.fromkeys(CACHED_ATTRIBUTES))
            self.equilibria.forget(start)

    @property
    def solves(self) -> int:
        """The number of forward solves so far, including failed ones."""
        return self.equilibria.solves

    @property
    def solve_options(self) -> dict[str, Any]:
        """The options of `mfdeq.solve`, with the solver that all solves share."""
        return self.equilibria.solve_options

    @collective
    def equilibrium(self, theta: Array) -> Equilibrium:
        """Solve for the equilibrium at theta, unless it is that of the last call.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        Equilibrium

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium, also if `on_failure` is "inf".
        Exception
            Any exception of the model's functions, also if `on_failure` is "inf".
        """
        with lock_of(self):
            eq = self.equilibria.at(copy_of(flatten_params(self.model, theta)))
            if self._hessian is not None and self._hessian.eq is not eq:
                self.__dict__.update(dict.fromkeys(CACHED_ATTRIBUTES))  # which hold the last factor
            return eq

    def gradient_at(self, theta: Array, state: Array) -> Array:
        """Compute the gradient with a state in place of the equilibrium, leaving all else as it is.

        Parameters
        ----------
        theta : (P,) array
        state : (N,) array

        Returns
        -------
        (P,) array
        """
        return self.equilibria.with_state(theta, state).gradient(self.loss)

    def state_rtol(self, backend: Backend) -> float:
        """Return the relative tolerance of the states."""
        rtol = self.solve_options.get("rtol")
        return backend.default_rtol if rtol is None else rtol

    @property
    def linear_solves(self) -> int:
        """The number of linear solves so far, in forward iterations, adjoints and products.

        Each right-hand side counts as one. Failed forward solves are included.
        """
        return self.equilibria.linear_solves

    def add_counts(self, equilibria: int, linear_solves: int) -> None:
        """Add the counts of an earlier process when its run is resumed."""
        self.equilibria.add_counts(equilibria, linear_solves)

    def evaluate(self, theta: Array) -> float:
        """Evaluate the loss like `value`, but raise every error, whatever `on_failure` is.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        float
        """
        return self.value_at(self.equilibrium(theta))

    def value_at(self, eq: Equilibrium) -> float:
        """Return the loss at an equilibrium."""
        return eq.value(self.loss)

    def partial_gradient(self, eq: Equilibrium) -> Array:
        """Return the derivative of the loss in theta with h held fixed, (P,)."""
        return eq.loss_gradients(self.loss)[0]

    def evaluate_gradient(self, theta: Array) -> Array:
        """Compute the gradient like `gradient`, but raise every error, whatever `on_failure` is.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        (P,) array
        """
        return self.gradient_of(self.equilibrium(theta))

    def gradient_of(self, eq: Equilibrium) -> Array:
        """Return the gradient at an equilibrium."""
        return eq.gradient(self.loss, rtol=self.accuracy)

    @collective
    def hessian(self, theta: Array) -> ReducedHessian:
        """Return the exact Hessian at theta, (P, P), as an operator.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        ReducedHessian
            The Hessian, with products to the solver's own tolerance; see `products`.

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium, also if `on_failure` is "inf".
        """
        with lock_of(self):
            eq = self.equilibrium(theta)
            if self._hessian is None:
                self._hessian = self.hessian_at(eq)
            return self._hessian

    def hessian_at(self, eq: Equilibrium, evaluate: bool = True) -> ReducedHessian:
        """Return the Hessian of the loss at an equilibrium, with or without its curvatures."""
        return eq.hessian(self.loss) if evaluate else eq.unevaluated_hessian(self.loss)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.display_name

    @property
    def sizes(self) -> tuple[Any, Any]:
        """The number of unknowns and of parameters."""
        return self.model.state_size, self.model.param_size

    @property
    def priors(self) -> Sequence[tuple[float, LossBase]]:
        """The factors and terms of the loss."""
        return self.loss.weighted_terms


def _describe(model: Any) -> str:
    return f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
