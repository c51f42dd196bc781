"""A functional of equilibria as a node with one number as its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError, ModelError
from ..locks import cached_property
from ..models.library_function import LibraryFunction
from ..models.model import Model
from ..optimization.functional import Functional
from .last_error import record_error
from .solved import HostNode


@dataclass(frozen=True)
class ScalarModel:
    """The sizes and the name of a functional, in place of those of a model."""

    display_name: str
    param_size: int
    state_size: int = 1

    def function_in(self, library: str) -> None:
        """Return None: no library can differentiate the functional."""


class SolvedFunctional:
    """A functional at one theta, with the products of `solved.Solved`."""

    def __init__(self, functional: Functional, theta: Array) -> None:
        self.functional, self.theta = functional, theta
        self.equilibrium = functional.equilibrium(theta)
        value = functional.value_at(self.equilibrium)
        self.state = Backend.of(theta).zeros(1) + value

    @cached_property
    def gradient(self) -> Array:
        """The gradient, (P,)."""
        return self.functional.evaluate_gradient(self.theta)

    @cached_property
    def hessian(self) -> Any:
        """The Hessian, (P, P)."""
        return self.functional.hessian_at(self.equilibrium)

    def sensitivity(self, u: Array) -> Array:
        """Return g'u, for (P,) or (P, k) arrays."""
        return (self.gradient @ u)[None, ...]

    def sensitivity_adjoint(self, y: Array) -> Array:
        """Return y g, for (1,) or (1, k) arrays."""
        return self.gradient * y if y.ndim == 1 else self.gradient[:, None] * y

    def second_order(self, u: Array, v: Array) -> Array:
        """Return u'H v, (1,)."""
        return (u @ (self.hessian @ v))[None]

    def component_hessian(self, y: Array, v: Array) -> Array:
        """Return y H v, (P,)."""
        return y * (self.hessian @ v)


class FunctionalNode(HostNode):
    """The values of a functional at one theta after another.

    Parameters
    ----------
    functional : Functional
    caller : str
    solve_options : dict
        Must be empty: a functional has its own.
    """

    output_shape = ()

    def __init__(self, functional: Functional, caller: str, solve_options: dict[str, Any]) -> None:
        if solve_options:
            raise ArgumentError(
                f"options of {caller}: expected none for a functional, which has its own, got "
                f"{', '.join(solve_options)}"
            )
        self.functional = functional
        self._start(ScalarModel(functional.name, int(functional.sizes[1])), {})

    def params_in(self, library: str) -> LibraryFunction | None:
        """Return the function of the functional's model, for the structure of the parameters."""
        model = getattr(self.functional, "model", None)
        return None if model is None else model.function_in(library)

    def _solve(self, theta: Array, h0: Array | None) -> Any:
        if h0 is not None:
            raise ArgumentError("h0: expected None for a functional, which keeps its last states")
        return self.at(theta, theta[:0])

    def at(self, theta: Array, state: Array) -> Any:
        """Return the functional at theta."""
        return self._known.get((theta,), lambda: self._evaluate(Backend.of(theta).copied(theta)))

    def _evaluate(self, theta: Array) -> Any:
        solves = self.functional.solves
        try:
            return SolvedFunctional(self.functional, theta)
        except Exception as error:
            record_error(error)
            raise
        finally:
            self.solves += self.functional.solves - solves


def host_node(model: Model | Functional, caller: str, solve_options: dict[str, Any]) -> HostNode:
    """Return the host's side of a node of a model or of a functional."""
    if isinstance(model, Functional):
        return FunctionalNode(model, caller, solve_options)
    return HostNode(model, caller, solve_options)


def expect_data(function: LibraryFunction | None, name: str) -> None:
    """Raise `ModelError` if a node is called without data, and its model has an example alone."""
    if function is not None and function.data_are_example:
        raise ModelError(
            f"args of {name}: expected data beside the parameters, got none, and those of the "
            "model are an example of their structure: pass them after the parameters, or make a "
            "node of model.with_args(...)"
        )
