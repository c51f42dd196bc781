"""`mfdeq.step_from_model`: a time step from a model whose parameters begin with the last state."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.constrained_equilibrium import bind
from ..errors import ArgumentError
from ..models.checked_linearization import CheckedLinearization
from ..models.model import FixedPointModel, Model, ResidualModel
from ..models.problem import Problem
from ..operators.operator import Operator
from .step_model import StepCurvature, StepLinearization, StepModel


def step_from_model(model: Model) -> StepModel:
    """Make a time step of a model whose parameters are the state before, followed by theta.

    A step whose equations depend on each other is one of `mfdeq.constrain`, and one of many
    independent samples is a model with ``batched=True``.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
        An equilibrium of n unknowns and n + P parameters (previous, theta).

    Returns
    -------
    StepModel
        With n unknowns and P parameters.

    Raises
    ------
    ArgumentError
        If `model` is no model, or has no more parameters than unknowns.

    See Also
    --------
    trajectory : All steps as one equilibrium.

    Examples
    --------
    Potentials of a network that are determined by their sum, which decays:

    >>> import mfdeq, numpy as np
    >>> K = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    >>> def currents(h, given):
    ...     return K @ h - given[3] * np.array([1.0, 0.0, -1.0])
    >>> total = mfdeq.LinearConstraint(
    ...     np.ones(3),
    ...     lambda given: 0.5 * given[:3].sum(),
    ...     lambda given: np.array([0.5, 0.5, 0.5, 0.0]),
    ... )
    >>> network = mfdeq.constrain(mfdeq.from_function(currents, 3, 4, "residual"), total)
    >>> model = mfdeq.trajectory(mfdeq.step_from_model(network), 2, np.ones(3))
    >>> print(mfdeq.solve(model, np.array([0.25])).steps.round(3) + 0.0)
    [[0.75 0.5  0.25]
     [0.5  0.25 0.  ]]
    """
    given: Any = model
    if not isinstance(given, (FixedPointModel, ResidualModel)):
        raise ArgumentError(
            "model of mfdeq.step_from_model: expected an mfdeq.FixedPointModel or an "
            f"mfdeq.ResidualModel, got a {type(given).__name__}"
        )
    if not model.param_size > model.state_size:
        raise ArgumentError(
            "model of mfdeq.step_from_model: expected more parameters than unknowns, the state "
            f"before and theta, got {model.param_size} and {model.state_size}"
        )
    return StepFromModel(model)


class StepFromModel(StepModel):
    """A step from a model whose parameters are (previous, theta).

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    counted : bool, optional
        Whether the number of the step is the last parameter.
    """

    def __init__(self, model: Model, counted: bool = False) -> None:
        self.model, self.counted = model, counted
        self.state_size = model.state_size
        self.param_size = model.param_size - model.state_size - counted
        self.state_names, self.equation_names = model.state_names, model.equation_names
        self._prepared = False

    @property
    def display_name(self) -> str:
        """The name of the model."""
        return self.model.display_name

    def _stacked(self, previous: Array, theta: Array, k: float) -> Array:
        xp = Backend.of(theta).xp
        number = [xp.full_like(theta[:1], float(k))] if self.counted else []
        return xp.concat([previous, theta, *number])

    def _params(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return the parameters of the model, which is prepared before its first use."""
        params = self._stacked(previous, theta, k)
        if not self._prepared:
            bind(Problem(self.model, params, h), h, project=False)
            self._prepared = True
        return params

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return R_k(h, previous, theta), that of a map being h - f."""
        value = self.model.map_or_residual(h, self._params(h, previous, theta, k))
        return h - value if isinstance(self.model, FixedPointModel) else value

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Return the derivatives, those with respect to (previous, theta) split."""
        problem = Problem(self.model, self._params(h, previous, theta, k), h)
        found = problem.linearize(h)
        n, P, B = self.state_size, self.param_size, -found.B
        if B.array is None:
            d_previous: Any = Columns(B, 0, n)
            d_theta: Any = Columns(B, n, P)
        else:
            d_previous, d_theta = B.array[:, :n], B.array[:, n : n + P]
        given = found.linearization
        return StepLinearization(
            found.A,
            d_previous,
            d_theta,
            None if given.curvature is None else lambda lam: self._curvature(found, lam),
            None if given.second is None else lambda a, b: self._second(found, a, b),
        )

    def _curvature(self, found: CheckedLinearization, lam: Array) -> StepCurvature:
        n, P, backend = self.state_size, self.param_size, found.backend
        K = found.curvature(-lam, check_symmetry=False)  # of f = h - R

        def apply(u: Array, q: Array, z: Array) -> tuple[Array, Array, Array]:
            y = K._apply(backend.xp.concat([self._stacked(q, u, 0), z]))
            return y[n : n + P], y[:n], y[n + P + self.counted :]

        return StepCurvature(apply=apply)

    def _second(self, found: CheckedLinearization, a: Any, b: Any) -> Array:
        (u, q, z), (v, r, y) = a, b
        concat = found.backend.xp.concat
        sides = concat([self._stacked(q, u, 0), z]), concat([self._stacked(r, v, 0), y])
        return -found.second(*sides)


class Columns(Operator):
    """Some columns of an operator.

    Parameters
    ----------
    of : Operator, (n, m)
    first, count : int
    """

    def __init__(self, of: Operator, first: int, count: int) -> None:
        super().__init__(of, (of.shape[0], count))
        self.of, self.first = of, first

    def _apply(self, x: Array) -> Array:
        padded = self.backend.zeros(self.of.shape[1], *x.shape[1:])
        padded[self.first : self.first + self.shape[1], ...] = x
        return self.of._apply(padded)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.of._apply_adjoint(y)[self.first : self.first + self.shape[1], ...]
