"""Models that combine the derivatives of several models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import AccuracyWarning, ArgumentError, ModelError, warn
from ..locks import Once, cached_property
from ..models.linearization import DeferredLinearization, Linearization
from ..models.model import FixedPointModel, Model, ResidualModel
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .function import from_function
from .function_model import COMPARISON_STEP_FACTOR
from .jacobian_differences import JacobianDifferences
from .numerical_jacobians import lost_second_accuracy

FIRST_DERIVATIVES = ("d_state", "d_params")
SECOND_DERIVATIVES = ("curvature", "second")
FIELDS = FIRST_DERIVATIVES + SECOND_DERIVATIVES


def mixed(*models: Model) -> Model:
    """Combine models, taking each derivative from the first model that provides it.

    Parameters
    ----------
    *models : FixedPointModel or ResidualModel
        Models of one kind and of the same sizes N and P. The first defines the map or residual,
        the initial state and the scale. A field of its `Linearization` that is None is taken from
        the next model, and so on. Derivatives that no model provides are computed by differences:
        first derivatives as in `from_function`, with the same limit on the size, and second
        derivatives from two linearizations for each product.

    Returns
    -------
    FixedPointModel or ResidualModel

    Raises
    ------
    ArgumentError
        If the models are not all maps or all residuals, have different sizes, or one of them has
        constraints: constrain the mixed model instead.

    See Also
    --------
    verify : Check whether the derivatives are those of the same function.

    Notes
    -----
    ``report.derivatives`` of an equilibrium lists the source of each field. A model is linearized
    only if the models before it lack a required field.

    Examples
    --------
    A hand-written Jacobian, with all other derivatives computed from the function:

    >>> import numpy as np
    >>> import mfdeq
    >>> class Cosine(mfdeq.FixedPointModel):
    ...     state_size = 1
    ...     param_size = 1
    ...
    ...     def map(self, h, theta):
    ...         return np.cos(h) + theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(d_state=-np.diag(np.sin(h)), d_params=None)
    >>> model = mfdeq.mixed(Cosine(), mfdeq.from_function(Cosine().map, 1, 1, "map"))
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> for field, source in eq.report.derivatives.items():
    ...     print(f"{field}: {source}")
    d_state: Cosine.linearize
    d_params: the complex step
    curvature: differences of the complex step
    second: differences of the complex step
    """
    for cls in (FixedPointModel, ResidualModel):
        if models and all(isinstance(model, cls) for model in models):
            break
    else:
        kinds = ", ".join(type(model).__name__ for model in models) or "nothing"
        raise ArgumentError(
            f"mfdeq.mixed: expected only FixedPointModels or only ResidualModels, got {kinds}"
        )
    for model in models:
        if model.has_constraints:
            raise ArgumentError(
                "mfdeq.mixed: expected models without constraints, got "
                f"{model.display_name}: mix the models first, and constrain the result, "
                "mfdeq.constrain(mfdeq.mixed(...), constraints)"
            )
    sizes = {(model.state_size, model.param_size) for model in models}
    if len(sizes) != 1:
        raise ArgumentError(
            f"mfdeq.mixed: expected models of the same size, got (N, P) = {sorted(sizes)}"
        )
    return (MixedMap if cls is FixedPointModel else MixedResidual)(models)


class MixedModel(Model):
    """Common base class of mixed maps and residuals."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        first = models[0]
        self.state_size, self.param_size = first.state_size, first.param_size
        self.state_names, self.equation_names = first.state_names, first.equation_names
        self.time_sign = first.time_sign
        self._warned = False

    @property
    def display_name(self) -> str:
        """The names of the combined models."""
        return f"mfdeq.mixed({', '.join(model.display_name for model in self.models)})"

    def initial_state(self, theta: Array) -> Array | None:
        """Return the initial state of the first model."""
        return self.models[0].initial_state(theta)

    def _defines(self, method: str) -> bool:
        return self.models[0]._defines(method)

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the residual scale of the first model."""
        return self.models[0].residual_scale(h, theta)

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the state scale of the first model."""
        return self.models[0].state_scale(theta)

    @property
    def first_function(self) -> Callable[[Array, Array], Array]:
        """The method ``map`` or ``residual`` of the first model."""
        raise NotImplementedError

    @cached_property
    def numerical_model(self) -> Model:
        """The model that provides missing first derivatives by numerical differentiation."""
        return from_function(
            self.first_function, self.state_size, self.param_size, self.function_name
        )

    def judge_second_derivatives(self, error: float, eps: float) -> None:
        """Warn once if second derivatives by differences have few digits, for a rounding unit."""
        if error > lost_second_accuracy(eps) and not self._warned:
            self._warned = True
            warn(
                f"{self.display_name}: its second derivatives, by differences of first "
                f"derivatives, have a relative error of about {error:.0e}, since they are small "
                "beside the first derivatives in the same rows, whose rounding hides them, or "
                "since the function bends over a small part of the size of a variable. Pass a "
                "model with the curvature",
                AccuracyWarning,
            )

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the linearization with each field from the first model that provides it."""
        return self._linearize(h, theta, comparison=False)

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Return the same by `linearize_for_comparison` of the models."""
        return self._linearize(h, theta, comparison=True)

    def _linearize(self, h: Array, theta: Array, comparison: bool) -> Linearization:
        copy = Backend.of(h, theta).xp.asarray
        point = _Point(self, copy(h, copy=True), copy(theta, copy=True), comparison)
        d_state = point.field("d_state")
        return DeferredLinearization(
            d_state.value,
            lambda: point.field("d_params").value,
            curvature=lambda lam: point.field("curvature").value(lam),
            second=lambda a, b: point.field("second").value(a, b),
            sources=lambda: {name: point.field(name).source for name in FIELDS},
            accuracy=lambda: (
                point.accuracy(FIRST_DERIVATIVES),
                point.accuracy(SECOND_DERIVATIVES),
            ),
            state_accuracy=d_state.accuracy,
            unchanged=point.check_unchanged,
        )


class MixedMap(MixedModel, FixedPointModel):
    """A fixed-point map with derivatives from several models."""

    @property
    def first_function(self) -> Callable[[Array, Array], Array]:
        """The method ``map`` of the first model."""
        first: Any = self.models[0]
        return first.map

    def map(self, h: Array, theta: Array) -> Array:
        """Return the map of the first model."""
        return self.first_function(h, theta)


class MixedResidual(MixedModel, ResidualModel):
    """A residual with derivatives from several models."""

    @property
    def first_function(self) -> Callable[[Array, Array], Array]:
        """The method ``residual`` of the first model."""
        first: Any = self.models[0]
        return first.residual

    def residual(self, h: Array, theta: Array) -> Array:
        """Return the residual of the first model."""
        return self.first_function(h, theta)


@dataclass(frozen=True)
class _Field:
    """A field of a linearization with its source and relative accuracy."""

    linearization: Linearization
    name: str
    default_source: str = ""

    @property
    def value(self) -> Any:
        return getattr(self.linearization, self.name)

    @property
    def source(self) -> str:
        return self.linearization.sources.get(self.name, self.default_source)

    @property
    def accuracy(self) -> float:
        if self.name == "d_state":
            return self.linearization.state_accuracy
        return self.linearization.accuracy[self.name in SECOND_DERIVATIVES]


class _Point:
    """The models at one (h, theta), each of which is linearized on first use."""

    def __init__(self, mixture: MixedModel, h: Array, theta: Array, comparison: bool) -> None:
        self.mixture, self.h, self.theta, self.comparison = mixture, h, theta, comparison
        self.backend = Backend.of(h, theta)
        self._linearizations: dict[int, Once[Linearization]] = {}  # of the models used so far

    def shift(self, dtheta: Array, dh: Array) -> _Point:
        """Return the point (h + dh, theta + dtheta)."""
        return _Point(self.mixture, self.h + dh, self.theta + dtheta, self.comparison)

    def field(self, name: str) -> _Field:
        """Return a field from the first model that provides it, or by differences."""
        for i, model in enumerate(self.mixture.models):
            linearization = self._linearization(i, model)
            deferred = name == "d_params" and isinstance(linearization, DeferredLinearization)
            if deferred or getattr(linearization, name) is not None:
                return _Field(linearization, name, f"{model.display_name}.linearize")
        if name in FIRST_DERIVATIVES:
            return _Field(self._linearization(-1, self.mixture.numerical_model), name)
        return _Field(self._second_differences, name)

    @cached_property
    def _second_differences(self) -> Linearization:
        """The second derivatives by differences, as a linearization without first derivatives."""
        factor = COMPARISON_STEP_FACTOR if self.comparison else 1.0
        differences = JacobianDifferences(
            self,
            factor,
            lambda error: self.mixture.judge_second_derivatives(error, self.backend.eps),
        )
        return DeferredLinearization(
            None,
            lambda: None,
            curvature=differences.curvature,
            second=differences.second,
            sources=lambda: dict.fromkeys(SECOND_DERIVATIVES, "differences of first derivatives"),
            accuracy=lambda: (0.0, differences.accuracy()),
        )

    def first_derivatives(self) -> tuple[Operator, Operator]:
        """Return df/dh and df/dtheta as operators."""
        h, theta = self.h.shape[0], self.theta.shape[0]
        return self._operator("d_state", h), self._operator("d_params", theta)

    def first_accuracy(self) -> float:
        """Return the relative accuracy of both."""
        return self.accuracy(FIRST_DERIVATIVES)

    def check_unchanged(self, compare: bool = False) -> None:
        """Raise `ModelError` if a model that has been linearized here has changed since."""
        for once in list(self._linearizations.values()):
            if (linearization := once.value) is not None:
                linearization.check_unchanged(compare)

    def accuracy(self, names: tuple[str, ...]) -> float:
        """Return the relative accuracy of the worst of several fields."""
        return max(self.field(name).accuracy for name in names)

    def _operator(self, name: str, columns: int) -> Operator:
        derivative = self.field(name).value
        return as_operator(self.backend, derivative, (self.h.shape[0], columns), name)

    def _linearization(self, i: int, model: Model) -> Linearization:
        linearization = self._linearizations.setdefault(i, Once())
        return linearization(lambda: self._linearize(model))

    def _linearize(self, model: Model) -> Linearization:
        method = "linearize_for_comparison" if self.comparison else "linearize"
        linearize = model.linearize_for_comparison if self.comparison else model.linearize
        # Each model gets copies, since it may change its arguments.
        copy = self.backend.xp.asarray
        linearization = linearize(copy(self.h, copy=True), copy(self.theta, copy=True))
        if not isinstance(linearization, Linearization):
            raise ModelError(
                f"{model.display_name}.{method}: expected it to return an "
                f"mfdeq.Linearization, got {type(linearization).__name__}"
            )
        return linearization
