"""Models and losses that a source of automatic derivatives differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array, Backend, host
from ..errors import ArgumentError, ModelError
from ..models.curvature import Curvature
from ..models.losses import Loss
from ..models.model import (
    KINDS,
    ComputedLinearization,
    FixedPointModel,
    Linearization,
    Model,
    ResidualModel,
)
from ..operators.compiled_solves import CompiledSolve, compiled_krylov
from ..operators.operator import Operator
from .nearby_points import nearby_point, typical_sizes
from .source import DerivativeSource, Function, JacobianProducts
from .sparsity import Sparsity

FIELDS = ("d_state", "d_params", "curvature", "second")


def model_from(
    source: DerivativeSource, f: Function, state: Any, params: Any, kind: str, sparsity: Any
) -> Model:
    """Create a model from a function of (state, params).

    Parameters
    ----------
    source : DerivativeSource
    f, state, params, kind, sparsity
        As in `mfdeq.from_jax`.
    """
    one_of(kind, KINDS, f"kind of {source.caller}")
    if not callable(f):
        raise ArgumentError(f"f of {source.caller}: expected a function, got {type(f).__name__}")
    cls = AutomaticMap if kind == "map" else AutomaticResidual
    return cls(source, f, state, params, sparsity)


def loss_from(source: DerivativeSource, L: Function, state: Any, params: Any) -> Loss:
    """Create a loss from a scalar function of (state, params), given examples of both."""
    states, parameters = source.layout(state, "state"), source.layout(params, "params")

    def flat(h: Any, theta: Any) -> Any:
        return L(states.to_tree(h), parameters.to_tree(theta)).reshape(())

    value, gradient = source.value(flat), source.gradient(flat)
    curvature = source.curvature(lambda h, theta, _: flat(h, theta))

    def gradient_part(which: int) -> Callable[[Array, Array], Array]:
        return lambda h, theta: source.from_library(
            Backend.of(h), gradient(*source.to_library(h, theta))[which]
        )

    return Loss(
        lambda h, theta: float(value(*source.to_library(h, theta))),
        d_state=gradient_part(0),
        d_params=gradient_part(1),
        # A loss has no weights lam, so pass an empty array.
        curvature=lambda h, theta: _curvature_at(source, curvature, h, theta, h[:0]),
    )


class AutomaticModel(Model):
    """Common base class of maps and residuals with automatic derivatives.

    Parameters
    ----------
    source : DerivativeSource
    f : callable
        The map or residual f(state, params).
    state, params : arrays or pytrees
        Examples of the state and of the parameters.
    sparsity : None, "detect" or pair
        As in `mfdeq.from_jax`.
    """

    def __init__(
        self, source: DerivativeSource, f: Function, state: Any, params: Any, sparsity: Any
    ) -> None:
        self.source, self.f = source, f
        states, parameters = source.layout(state, "state"), source.layout(params, "params")
        self._states, self._parameters = states, parameters
        self.state_size, self.param_size = states.size, parameters.size
        self._sparsity = Sparsity(sparsity, self.state_size, self.param_size)
        output = source.describe_output(f, states.example, parameters.example)
        expected = states.describe(states.example)
        if output != expected:
            raise ModelError(
                f"f of {source.caller}: expected it to return the structure, shapes and dtypes of "
                f"the state, {expected}, got {output}"
            )

        def flat(h: Any, theta: Any) -> Any:
            return states.to_vector(f(states.to_tree(h), parameters.to_tree(theta)))

        self._value, self._jacobians = source.value(flat), source.jacobians(flat)
        self._second = source.second_derivative(flat)
        self._curvature = source.curvature(lambda h, theta, lam: lam @ flat(h, theta))

    @property
    def display_name(self) -> str:
        """The name of the public function that created the model, and that of f."""
        return f"{self.source.caller}({getattr(self.f, '__name__', 'f')})"

    def flat_state(self, tree: Any) -> Array:
        """Convert a state with the structure of the example to an (N,) vector."""
        return host.asarray(self._states.to_vector(tree))

    def flat_params(self, tree: Any) -> Array:
        """Convert parameters with the structure of the example to a (P,) vector."""
        return host.asarray(self._parameters.to_vector(tree))

    def state_tree(self, h: Array) -> Any:
        """Convert an (N,) vector to a state with the structure of the example."""
        return self._states.to_tree(*self.source.to_library(h))

    def params_tree(self, theta: Array) -> Any:
        """Convert a (P,) vector to parameters with the structure of the example."""
        return self._parameters.to_tree(*self.source.to_library(theta))

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta) as an (N,) vector."""
        value = self._value(*self.source.to_library(h, theta))
        return self.source.from_library(Backend.of(h, theta), value)

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Differentiate at (h, theta), and store intermediate values of f for later products."""
        source, backend = self.source, Backend.of(h, theta)
        d_state, d_params = self._sparsity.assemble(
            self._operators(h, theta),
            lambda i: self._operators(*self._nearby_point(h, theta, i)),
            backend.eps**0.5,
        )

        def second(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
            point = source.to_library(h, theta)
            value = self._second(*point, source.to_library(*a), source.to_library(*b))
            return source.from_library(backend, value)

        return ComputedLinearization(
            d_state,
            d_params,
            curvature=lambda lam: _curvature_at(source, self._curvature, h, theta, lam),
            second=second,
            sources=dict.fromkeys(FIELDS, source.name),
        )

    def _operators(self, h: Array, theta: Array) -> list[Operator]:
        """Return df/dh and df/dtheta as operators."""
        backend, columns = Backend.of(h, theta), (self.state_size, self.param_size)
        jacobians = self._jacobians(*self.source.to_library(h, theta))
        return [
            Jacobian(backend, self.source, products, (self.state_size, n))
            for products, n in zip(jacobians, columns, strict=True)
        ]

    def _nearby_point(self, h: Array, theta: Array, i: int) -> tuple[Array, Array]:
        return nearby_point(self.evaluate, h, theta, (typical_sizes(h), typical_sizes(theta)), i)


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


class Jacobian(Operator):
    """A Jacobian of f at one point, given by its products."""

    def __init__(
        self,
        backend: Backend,
        source: DerivativeSource,
        products: JacobianProducts,
        shape: tuple[int, int],
    ) -> None:
        super().__init__(backend, shape)
        self.source, self.products = source, products

    def _apply(self, x: Array) -> Array:
        return self._multiply(self.products.product, x, self.shape[0])

    def _apply_adjoint(self, y: Array) -> Array:
        return self._multiply(self.products.adjoint_product, y, self.shape[1])

    def _multiply(self, product: Function, x: Array, rows: int) -> Array:
        if x.ndim == 2 and x.shape[1] == 0:
            return self.backend.zeros(rows, 0)
        return self.source.from_library(self.backend, product(*self.source.to_library(x)))


@compiled_krylov.register(Jacobian)
def _(J: Jacobian, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    """Return a solve with J or I − J that the source compiles, or None."""
    solve = J.source.compiled_krylov(J.products.compiled, method, identity_minus)
    if solve is None:
        return None

    def solve_arrays(
        B: Array, rtol: float, max_iterations: int, restart: int, adjoint: bool
    ) -> Any:
        results = solve(J.source.to_library(B)[0], rtol, max_iterations, restart, adjoint)
        return tuple(J.backend.copy_from(result) for result in results)

    return solve_arrays


def _curvature_at(
    source: DerivativeSource, curvature: Function, h: Array, theta: Array, lam: Array
) -> Curvature:
    backend, product = Backend.of(h), curvature(*source.to_library(h, theta, lam))

    def apply(u: Array, z: Array) -> tuple[Array, ...]:
        if u.ndim == 2 and u.shape[1] == 0:
            return u, z
        return tuple(
            source.from_library(backend, part) for part in product(*source.to_library(u, z))
        )

    return _AutomaticCurvature(apply=apply, blocks=True)


class _AutomaticCurvature(Curvature):
    """A curvature whose products with blocks are not tested.

    They are correct by construction, since sources map the product over the columns, and a test
    would compile the product for another shape.
    """

    check_blocks = False
