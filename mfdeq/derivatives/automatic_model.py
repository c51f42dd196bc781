"""The common base class of models that a source of automatic derivatives differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import AccuracyWarning, ModelError, is_evaluation_failure, warn
from ..locks import lock_of, state_to_pickle
from ..models.library_function import LibraryFunction
from ..models.linearization import DeferredLinearization, Linearization
from ..models.model import FixedPointModel
from ..models.vectors import flatten_state
from ..operators.operator import Operator
from .configured_model import ConfiguredModel
from .data import DataConverter, convert_args
from .difference_check import find_wrong_rows
from .hessians import Hessians
from .jacobian import Entries, check_matrix, jacobian_operator
from .nearby_points import nearby_point, typical_sizes
from .references import References
from .source import DerivativeSource, Function
from .sparsity import Sparsity
from .steps import variable_sizes

FIELDS = ("d_state", "d_params", "curvature", "second")
REPEATED_VALUE_RTOL = 1e3  # times the machine epsilon: the rounding of sums in another order


class AutomaticModel(ConfiguredModel):
    """Common base class of maps and residuals with automatic derivatives.

    Parameters
    ----------
    source : DerivativeSource
    f : callable
        The map or residual f(state, params).
    state, params : arrays or pytrees
        Examples of the state and of the parameters.
    sparsity : None, "detect" or pair
    args : object
        As in `mfdeq.from_jax`.
    """

    symmetric = False  # whether df/dh is symmetric

    def __init__(
        self,
        source: DerivativeSource,
        f: Function,
        state: Any,
        params: Any,
        sparsity: Any,
        args: Any = None,
    ) -> None:
        self.source, self.f, self._references = source, f, References(f)
        self._set_data(convert_args(source, args))
        states, parameters = source.layout(state, "state"), source.layout(params, "params")
        self._states, self._parameters = states, parameters
        self.state_size, self.param_size = self._total_size(states.size), parameters.size
        self._sparsity = Sparsity(sparsity, self.state_size, self.param_size)
        self._check_output()
        flat = self._flat = source.trace_once(self._combined(self._flat_function()))
        self._value, self._jacobians = source.value(flat), source.jacobians(flat)
        self._second = source.second_derivative(flat)
        self._hessians = Hessians(
            source,
            lambda h, theta, lam, *data: lam @ flat(h, theta, *data),
            self.state_size,
            self.param_size,
            assemble=any(pattern is not None for pattern in self._sparsity.patterns),
        )
        self._arguments_of_init = f, states.example, parameters.example, sparsity
        self._repeatable = False  # whether two values at one point were compared
        self._unchecked = {0, 1}  # derivatives that were not compared with differences

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the functions that the source makes, which `__setstate__` makes again."""
        made = ("_value", "_jacobians", "_second", "_hessians", "_flat", "_states", "_parameters")
        return {name: x for name, x in state_to_pickle(self).items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        f, example, params, sparsity = state["_arguments_of_init"]
        args = state["_data"][0] if state["_data"] else None
        AutomaticModel.__init__(self, state["source"], f, example, params, sparsity, args)
        self.__dict__.update(state)

    # What differs in a batch, where f is for one sample.

    def _total_size(self, size: int) -> int:
        """Return the number of unknowns, where the state of f has `size`."""
        return size

    def _combined(self, flat: Function) -> Function:
        """Return the function of all unknowns, given f as a function of vectors."""
        return flat

    def _example_data(self) -> tuple[Any, ...]:
        """Return the data for the examples of the state and of the parameters."""
        return self._data

    def _derivative(self, which: int, h: Array, theta: Array, unchanged: Function) -> Operator:
        """Return df/dh (0) or df/dtheta (1), assembled if there is a pattern."""
        derivative = self._sparsity.assemble(
            which,
            self._operator(which, h, theta, unchanged),
            lambda i: self._operator(which, *self._nearby_point(h, theta, i), unchanged),
            Backend.of(h).eps ** 0.5,
        )
        check_matrix(derivative, self._entries(FIELDS[which], unchanged))
        return derivative

    def _check_output(self) -> None:
        """Raise `ModelError` unless f returns the structure of the state for the examples."""
        source, states = self.source, self._states
        output = source.describe_output(
            self.f, states.example, self._parameters.example, *self._example_data()
        )
        expected = states.describe(states.example)
        if output != expected:
            raise ModelError(
                f"f of {source.caller}: expected it to return the structure, shapes and dtypes of "
                f"the state, {expected}, got {output}"
            )

    def _flat_function(self) -> Function:
        """Return f as a function of vectors of the library, whose result has the dtype of h."""
        f, states, parameters = self.f, self._states, self._parameters

        def flat(h: Any, theta: Any, *data: Any) -> Any:
            value = f(states.to_tree(h), parameters.to_tree(theta), *data)
            return states.to_vector_like(value, h)

        return flat

    @property
    def converter(self) -> DataConverter:
        """The source, which converts data beside the parameters."""
        return self.source

    @property
    def caller(self) -> str:
        """The public function that made the model."""
        return self.source.caller

    @property
    def display_name(self) -> str:
        """The name of the public function that created the model, and that of f."""
        return f"{self.source.caller}({getattr(self.f, '__name__', 'f')})"

    def flat_state(self, tree: Any) -> Array:
        """Convert a state with the structure of the example to an (N,) vector."""
        return self._states.flatten(tree)

    def flat_params(self, tree: Any) -> Array:
        """Convert parameters with the structure of the example to a (P,) vector."""
        return self._parameters.flatten(tree)

    def state_tree(self, h: Array) -> Any:
        """Convert an (N,) vector to a state with the structure of the example."""
        return self._states.to_tree(*self.source.to_library(h))

    def params_tree(self, theta: Array) -> Any:
        """Convert a (P,) vector to parameters with the structure of the example."""
        return self._parameters.to_tree(*self.source.to_library(theta))

    def function_in(self, library: str) -> LibraryFunction | None:
        """Return the function of flat vectors, if `library` is that of the source."""
        if library != self.source.name:
            return None
        flat, states, parameters = self._flat, self._states, self._parameters
        is_map = self.function_name == FixedPointModel.function_name

        def residual(h: Any, theta: Any, *data: Any) -> Any:
            value = flat(h, theta, *data)
            return h - value if is_map else value

        return LibraryFunction(
            residual,
            states.to_tree,
            parameters.to_tree,
            states.to_vector,
            parameters.to_vector,
            states.example,
            parameters.example,
            self._data,
            bool(self._data) and self._data_are_example,
        )

    def _arguments(self, *states: Array, theta: Array) -> tuple[Any, ...]:
        return *map(self.state_tree, states), self.params_tree(theta), *self._data

    def _state_vector(self, value: Any, theta: Array) -> Any:
        return flatten_state(self, value, f"state of {self.source.caller}")

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta) as an (N,) vector."""
        value = self._evaluate(h, theta)
        if not self._repeatable:
            self._repeatable = True
            self._check_repeatable(h, theta, value)
        return value

    def _evaluate(self, h: Array, theta: Array) -> Array:
        value = self._value(*self.source.operands(h, theta), *self._data)
        return self.source.from_library(Backend.of(h, theta), value)

    def _check_repeatable(self, h: Array, theta: Array, value: Array) -> None:
        """Raise `ModelError` if two evaluations at one point, away from zero, differ."""
        backend = Backend.of(h, theta)
        xp = backend.xp
        with backend.ignore_overflow():
            if not bool(xp.all(h != 0.0)):
                try:
                    h, theta = self._nearby_point(h, theta, 0)
                    value = self._evaluate(h, theta)
                except Exception as error:
                    if not is_evaluation_failure(error):
                        raise
                    return
            difference = xp.abs(self._evaluate(h, theta) - value)
            size = float(xp.max(xp.abs(value)))
            differs = difference > REPEATED_VALUE_RTOL * backend.eps * size
        if bool(xp.any(differs)):
            raise ModelError(
                f"{self.display_name}: expected the same value at the same point, got values that "
                f"differ by {float(xp.max(difference)):.2g} on a scale of {size:.2g}, in "
                f"{int(xp.sum(xp.astype(differs, xp.int64)))} of {self.state_size} entries. The "
                "function draws random numbers or keeps a state, as dropout and normalizations do "
                "in training: call module.eval() first, or draw the numbers once outside of it"
            )

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Differentiate at (h, theta), and store intermediate values of f for later products."""
        source, backend = self.source, Backend.of(h, theta)
        h, theta = backend.copied(h), backend.copied(theta)
        unchanged = source.watch(
            lambda *x: self._flat(*x, *self._data), self._references, *source.operands(h, theta)
        )

        def first_derivative(which: int) -> Operator:
            unchanged()
            return self._derivative(which, h, theta, unchanged)

        def first_derivative_by_params() -> Operator:
            unchanged(compare=True)
            derivative = first_derivative(1)
            for which, jacobian in ((0, d_state), (1, derivative)):
                self._compare_with_differences(which, jacobian, h, theta, unchanged)
            return derivative

        def second(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
            unchanged(compare=True)
            point = source.operands(h, theta)
            value = self._second(*point, source.operands(*a), source.operands(*b), *self._data)
            return source.from_library(backend, value)

        d_state = first_derivative(0)
        if backend.all(h != 0.0):  # derivatives may be zero at a start of zeros
            self._compare_with_differences(0, d_state, h, theta, unchanged)
        return DeferredLinearization(
            d_state,
            first_derivative_by_params,
            curvature=lambda lam: self._hessians.at(
                h, theta, lam, unchanged, lambda i: self._nearby_point(h, theta, i), self._data
            ),
            second=second,
            sources=lambda: dict.fromkeys(FIELDS, source.name),
            unchanged=unchanged,
        )

    def _compare_with_differences(
        self, which: int, jacobian: Operator, h: Array, theta: Array, unchanged: Function
    ) -> None:
        """Warn if a first derivative is not that of f; once for each model and derivative."""
        with lock_of(self):
            if which not in self._unchecked:
                return
            self._unchecked.remove(which)
        backend = Backend.of(h, theta)
        h_size, theta_size = (variable_sizes(backend, x, None, None, "")[0] for x in (h, theta))
        errors = find_wrong_rows(
            self._evaluate,
            jacobian,
            lambda h, theta: self._operator(which, h, theta, unchanged),
            which,
            (h, theta),
            (h_size, theta_size),
        )
        if errors is None:
            return
        xp, worst = backend.xp, int(backend.xp.argmax(errors))
        names = self._entries(FIELDS[which], unchanged)
        warn(
            f"{names.name}: the derivative with respect to the {('state', 'parameters')[which]} is "
            "not that of f. Along a random direction it differs from differences of f by "
            f"{float(errors[worst]):.2g} of its size in {names.row(worst)}, and in "
            f"{int(xp.sum(xp.astype(errors > 0, xp.int64)))} of {self.state_size} equations. Look "
            f"for what cuts derivatives in f: {self.source.cuts}. mfdeq.verify shows more",
            AccuracyWarning,
        )

    def _operator(self, which: int, h: Array, theta: Array, unchanged: Function) -> Operator:
        """Return df/dh (0) or df/dtheta (1) as an operator."""
        return jacobian_operator(
            Backend.of(h, theta),
            self.source,
            self._jacobians[which](*self.source.operands(h, theta), *self._data),
            (self.state_size, (self.state_size, self.param_size)[which]),
            self._entries(FIELDS[which], unchanged),
            self.symmetric and which == 0,
        )

    def _entries(self, field: str, unchanged: Function) -> Entries:
        """Return the names of a Jacobian, of its rows and of its columns."""

        def name(names: Sequence[str] | None, default: str) -> Callable[[int], str]:
            return lambda i: f"{default} {i}" if names is None else str(names[i])

        return Entries(
            f"{field} of {self.display_name}",
            name(self.equation_names, "equation"),
            name(self.state_names, "unknown") if field == "d_state" else name(None, "parameter"),
            unchanged,
        )

    def _nearby_point(self, h: Array, theta: Array, i: int) -> tuple[Array, Array]:
        return nearby_point(self._evaluate, h, theta, (typical_sizes(h), typical_sizes(theta)), i)
