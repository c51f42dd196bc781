"""Models of a function that a source of automatic derivatives differentiates, of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from ..arguments import one_of
from ..arrays.backend import Array
from ..errors import ArgumentError
from ..models.model import FixedPointModel, Model, ResidualModel
from .automatic_model import AutomaticModel
from .configured_model import ModelFields
from .source import DerivativeSource, Function


def model_from(
    source: DerivativeSource,
    f: Function,
    state: Any,
    params: Any,
    kind: str,
    sparsity: Any = None,
    args: Any = None,
    classes: Mapping[str, type[AutomaticModel]] | None = None,
    **fields: Unpack[ModelFields],
) -> Model:
    """Create a model from a function of (state, params).

    Parameters
    ----------
    source : DerivativeSource
    f, state, params, kind, sparsity, args
        As in `mfdeq.from_jax`.
    classes : mapping of str to type, optional
        The class of models of each kind, by default `CLASSES`.
    **fields
        The keywords of `ModelFields`.
    """
    classes = CLASSES if classes is None else classes
    one_of(kind, tuple(classes), f"kind of {source.caller}")
    if not callable(f):
        raise ArgumentError(f"f of {source.caller}: expected a function, got {type(f).__name__}")
    model = classes[kind](source, f, state, params, sparsity, args)
    model.configure(source.caller, **fields)
    return model


class AutomaticMap(AutomaticModel, FixedPointModel):
    """A fixed-point map with automatic derivatives."""

    def map(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)


class AutomaticResidual(AutomaticModel, ResidualModel):
    """A residual with automatic derivatives."""

    def residual(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)


class AutomaticArgmin(AutomaticResidual):
    """The gradient of a scalar function with respect to the state, as a residual.

    Its derivative is symmetric, and positive definite at a minimum.
    """

    symmetric = True

    def _check_output(self) -> None:
        examples = self._states.example, self._parameters.example, *self._example_data()
        self.source.check_scalar(self.f, self.source.caller, *examples)

    def _flat_function(self) -> Function:
        f, states, parameters = self.f, self._states, self._parameters
        return self.source.state_gradient(
            lambda h, theta, *data: f(states.to_tree(h), parameters.to_tree(theta), *data).reshape(
                ()
            )
        )


CLASSES: dict[str, type[AutomaticModel]] = {
    "map": AutomaticMap,
    "residual": AutomaticResidual,
    "argmin": AutomaticArgmin,
}
