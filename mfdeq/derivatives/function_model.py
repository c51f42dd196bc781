"""Models of a function of arrays that is differentiated numerically."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import AccuracyWarning, ArgumentError, warn
from ..locks import Once
from ..models.linearization import DeferredLinearization, Linearization
from ..models.model import FixedPointModel, ResidualModel
from .configured_model import ConfiguredModel
from .data import PLAIN, convert_args
from .directional_derivatives import DirectionalDerivatives
from .numerical_jacobians import NumericalJacobians
from .references import References, Unchanged
from .second_derivatives import SecondDerivatives
from .sparsity import DETECT, Sparsity
from .steps import StepRule

MAX_COLUMNS = 5_000  # columns without a pattern, each of which takes an evaluation of f
COMPARISON_STEP_FACTOR = 2.0  # factor of the steps of `linearize_for_comparison`


class FunctionModel(ConfiguredModel):
    """Common base class of maps and residuals that are differentiated numerically."""

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        sizes: tuple[int, int],
        sparsity: Any,
        step_rule: StepRule,
        order: int = 2,
        args: Any = None,
    ) -> None:
        self.f = f
        self._set_data(convert_args(PLAIN, args))
        self.state_size, self.param_size = sizes
        self.step_rule, self.order = step_rule, order
        self._refusal = ""  # why the complex step is not valid for f, once that is known
        self._warned = self._warned_of_second = False
        self._sparsity = Sparsity(sparsity, *sizes)
        patterns = self._sparsity.patterns
        columns = sum(n for n, pattern in zip(sizes, patterns, strict=True) if pattern is None)
        if columns > MAX_COLUMNS:
            raise ArgumentError(
                f"mfdeq.from_function: expected at most {MAX_COLUMNS:,} columns without a sparsity "
                f"pattern, got {columns:,}. Pass sparsity=(state pattern, parameter pattern), or "
                'sparsity="detect" to detect them. For dense derivatives define '
                "linearize(h, theta), or use mfdeq.from_jax, whose adjoint products cost a few "
                "evaluations"
            )
        self._sparsity.patterns = tuple(DETECT if p is None else p for p in patterns)

    caller = "mfdeq.from_function"

    def _set_data(self, data: tuple[Any, ...]) -> None:
        super()._set_data(data)
        self._references = References(self.f, data)

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta), with the data as a third argument if there are any."""
        return self.f(h, theta, *self._data)

    @property
    def display_name(self) -> str:
        """The name of the public function that created the model, and that of f."""
        return f"mfdeq.from_function({getattr(self.f, '__name__', 'f')})"

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Differentiate at (h, theta) by the complex step or by differences."""
        return self._linearize(h, theta, 1.0)

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Differentiate in the same way with larger steps."""
        return self._linearize(h, theta, COMPARISON_STEP_FACTOR)

    def _linearize(self, h: Array, theta: Array, step_factor: float) -> Linearization:
        duplicate = Backend.of(h, theta).xp.asarray
        unchanged = Unchanged(self._references, lambda: jacobians.check_unchanged())
        derivatives = DirectionalDerivatives(
            self.evaluate if self._data else self.f,
            f"{self.function_name} of mfdeq.from_function",
            duplicate(h, copy=True),
            duplicate(theta, copy=True),
            self.step_rule,
            step_factor,
            state_scale=self._state_scale(h, theta),
            refusal=self._refusal,
        )
        if derivatives.verdict.lasting:
            self._refusal = derivatives.verdict.reason
        jacobians = NumericalJacobians(derivatives, self._sparsity)

        def first_derivative(which: int) -> Any:
            matrix = jacobians.matrix(which)
            matrix = matrix if which else self._state_matrix(matrix, derivatives.backend)
            if not self._warned and (message := jacobians.describe_lost_digits()):
                self._warned = True
                warn(f"{self.display_name}: {message}", AccuracyWarning)
            return matrix

        once = Once[SecondDerivatives]()

        def second_derivatives() -> SecondDerivatives:
            return once(
                lambda: SecondDerivatives(
                    jacobians.second_differences(self._warn_of_second), unchanged
                )
            )

        second_order: dict[str, Any] = {
            "curvature": lambda lam: second_derivatives().curvature(lam),
            "second": lambda a, b: second_derivatives().along(a, b),
        }

        d_state = first_derivative(0)
        unchanged.settle()
        return DeferredLinearization(
            d_state,
            lambda: first_derivative(1),
            **(second_order if self.order == 2 else {}),
            sources=lambda: jacobians.sources(self.order),
            accuracy=lambda: jacobians.accuracy,
            state_accuracy=jacobians.state_accuracy,
            unchanged=unchanged,
        )

    def _state_matrix(self, matrix: Any, backend: Backend) -> Any:
        """Return the derivative with respect to the state in the form that the model has it."""
        return matrix

    def _warn_of_second(self, message: str) -> None:
        if not self._warned_of_second:
            self._warned_of_second = True
            warn(f"{self.display_name}: {message}", AccuracyWarning)

    def _state_scale(self, h: Array, theta: Array) -> Array | None:
        scale = self.state_scale(theta)
        return None if scale is None else abs(Backend.of(h).asarray(scale)) + 0.0 * h


class FunctionMap(FunctionModel, FixedPointModel):
    """A fixed-point map with numerical derivatives."""

    def map(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)


class FunctionResidual(FunctionModel, ResidualModel):
    """A residual with numerical derivatives."""

    def residual(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)
