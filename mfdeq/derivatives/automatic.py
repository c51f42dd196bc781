"""Models and losses by automatic differentiation, whatever library does it.

Products with d_state and its adjoint, with d_params and its, and with the curvature are the linear
parts of f and of the gradient of lam'f at the equilibrium, kept there. An `Engine` is the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..arguments import one_of
from ..arrays.backend import Array, Backend, host
from ..errors import ArgumentError, ModelError
from ..models.curvature import Curvature
from ..models.losses import Loss
from ..models.model import Derived, FixedPointModel, Linearization, Model, ResidualModel
from ..operators.compiled_solves import CompiledSolve, compiled_krylov
from ..operators.operator import Operator
from .sparsity import KINDS, Sparsity, place_near, typical_sizes

FIELDS = ("d_state", "d_params", "curvature", "second")
Function = Callable[..., Any]
Product = Callable[[Any], Any]  # of a vector or of a block


class Flat(Protocol):
    """A structure of arrays, as an example, and as a vector."""

    size: int
    example: Any

    def tree(self, vector: Any) -> Any:
        """The structure of a vector."""
        ...

    def ravel(self, tree: Any) -> Any:
        """The vector of a structure."""
        ...

    def shapes(self, tree: Any) -> Any:
        """Of a structure, what two that are alike agree in."""
        ...


class Engine(Protocol):
    """What a library of automatic differentiation does for a model."""

    name: str
    caller: str

    def flat(self, tree: Any, name: str) -> Flat:
        """An example of the state or the parameters."""
        ...

    def shapes_of(self, f: Function, *examples: Any) -> Any:
        """The structure, shapes and dtypes that f returns."""
        ...

    def into(self, *arrays: Array) -> list[Any]:
        """Arrays as the library's, without a copy where both sides can."""
        ...

    def out(self, backend: Backend, x: Any) -> Array:
        """One of its arrays as a fresh one of the backend."""
        ...

    def value(self, flat: Function) -> Function:
        """(h, theta) -> f."""
        ...

    def gradient(self, scalar: Function) -> Function:
        """(h, theta) -> the two gradients."""
        ...

    def linear(self, flat: Function) -> Function:
        """(h, theta) -> of df/dh and df/dtheta: product, adjoint product, what else is kept."""
        ...

    def second(self, flat: Function) -> Function:
        """(h, theta, a, b) -> f''[a, b]."""
        ...

    def curvature(self, scalar: Function) -> Function:
        """(h, theta, lam) -> the product (dtheta, dh) -> (a_theta, a_h) with its curvature."""
        ...

    def compiled_krylov(self, kept: Any, method: str, identity_minus: bool) -> Any:
        """A `CompiledSolve` on its own arrays, with df/dh or with I - df/dh; or None."""
        ...


def model_from(
    engine: Engine, f: Function, state: Any, params: Any, kind: str, sparsity: Any
) -> Model:
    """A model from a function of (state, params)."""
    one_of(kind, KINDS, f"kind of {engine.caller}")
    if not callable(f):
        raise ArgumentError(f"f of {engine.caller} is a {type(f).__name__}, not a function")
    made = _AutomaticMap if kind == "map" else _AutomaticResidual
    return made(engine, f, state, params, sparsity)


def loss_from(engine: Engine, L: Function, state: Any, params: Any) -> Loss:
    """A loss from a function of (state, params)."""
    states, parameters = engine.flat(state, "state"), engine.flat(params, "params")

    def flat(h: Any, theta: Any) -> Any:
        return L(states.tree(h), parameters.tree(theta)).reshape(())

    value, gradient = engine.value(flat), engine.gradient(flat)
    along = engine.curvature(lambda h, theta, _: flat(h, theta))

    def partial(which: int) -> Callable[[Array, Array], Array]:
        return lambda h, theta: engine.out(Backend.of(h), gradient(*engine.into(h, theta))[which])

    return Loss(
        lambda h, theta: float(value(*engine.into(h, theta))),
        d_state=partial(0),
        d_params=partial(1),
        curvature=lambda h, theta: _curvature(engine, along, h, theta, h[:0]),  # there is no lam
    )


class Automatic(Model):
    """What maps and residuals have in common."""

    def __init__(self, engine: Engine, f: Function, state: Any, params: Any, sparsity: Any) -> None:
        self.engine, self.f = engine, f
        states, parameters = engine.flat(state, "state"), engine.flat(params, "params")
        self._states, self._params = states, parameters
        self.state_size, self.param_size = states.size, parameters.size
        self._sparsity = Sparsity(sparsity, self.state_size, self.param_size)
        found = engine.shapes_of(f, states.example, parameters.example)
        expected = states.shapes(states.example)
        if found != expected:
            raise ModelError(
                f"f of {engine.caller} returned {found} (shapes and dtypes) for a state of "
                f"{expected}: both must be alike"
            )

        def flat(h: Any, theta: Any) -> Any:
            return states.ravel(f(states.tree(h), parameters.tree(theta)))

        self._value, self._linear = engine.value(flat), engine.linear(flat)
        self._second = engine.second(flat)
        self._along = engine.curvature(lambda h, theta, lam: lam @ flat(h, theta))

    @property
    def described(self) -> str:
        """Where it is from."""
        return f"{self.engine.caller}({getattr(self.f, '__name__', 'f')})"

    def flat_state(self, tree: Any) -> Array:
        """A state as a vector."""
        return host.asarray(self._states.ravel(tree))

    def flat_params(self, tree: Any) -> Array:
        """Parameters as a vector."""
        return host.asarray(self._params.ravel(tree))

    def state_tree(self, h: Array) -> Any:
        """A vector as a state of the structure of the example."""
        return self._states.tree(*self.engine.into(h))

    def params_tree(self, theta: Array) -> Any:
        """A vector as parameters of the structure of the example."""
        return self._params.tree(*self.engine.into(theta))

    def values(self, h: Array, theta: Array) -> Array:
        """f(h, theta)."""
        return self.engine.out(Backend.of(h, theta), self._value(*self.engine.into(h, theta)))

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Products, kept at (h, theta)."""
        engine, backend = self.engine, Backend.of(h, theta)
        d_state, d_params = self._sparsity.assembled(
            self._derivatives(h, theta),
            lambda i: self._derivatives(*self._near(h, theta, i)),
            backend.eps**0.5,
        )

        def second(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
            x = engine.into(h, theta)
            return engine.out(backend, self._second(*x, engine.into(*a), engine.into(*b)))

        return Derived(
            d_state,
            d_params,
            curvature=lambda lam: _curvature(engine, self._along, h, theta, lam),
            second=second,
            sources=dict.fromkeys(FIELDS, engine.name),
        )

    def _derivatives(self, h: Array, theta: Array) -> list[Operator]:
        backend, widths = Backend.of(h, theta), (self.state_size, self.param_size)
        parts = self._linear(*self.engine.into(h, theta))
        return [
            Products(backend, self.engine, part, (self.state_size, width))
            for part, width in zip(parts, widths, strict=True)
        ]

    def _near(self, h: Array, theta: Array, i: int) -> tuple[Array, Array]:
        return place_near(self.values, h, theta, (typical_sizes(h), typical_sizes(theta)), i)


class _AutomaticMap(Automatic, FixedPointModel):
    def map(self, h: Array, theta: Array) -> Array:
        return self.values(h, theta)


class _AutomaticResidual(Automatic, ResidualModel):
    def residual(self, h: Array, theta: Array) -> Array:
        return self.values(h, theta)


class Products(Operator):
    """A derivative of f by its products."""

    def __init__(
        self, backend: Backend, engine: Engine, parts: Any, shape: tuple[int, int]
    ) -> None:
        super().__init__(backend, shape)
        self.engine, (self.product, self.transposed, self.kept) = engine, parts

    def _apply(self, x: Array) -> Array:
        return self._through(self.product, x, self.shape[0])

    def _apply_adjoint(self, y: Array) -> Array:
        return self._through(self.transposed, y, self.shape[1])

    def _through(self, product: Product, x: Array, rows: int) -> Array:
        if x.ndim == 2 and x.shape[1] == 0:
            return self.backend.zeros(rows, 0)
        return self.engine.out(self.backend, product(*self.engine.into(x)))


@compiled_krylov.register(Products)
def _(J: Products, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    """The whole of a solve by the engine, if it compiles one."""
    solve = J.engine.compiled_krylov(J.kept, method, identity_minus)
    if solve is None:
        return None

    def solved(B: Array, rtol: float, max_iterations: int, restart: int, adjoint: bool) -> Any:
        found = solve(J.engine.into(B)[0], rtol, max_iterations, restart, adjoint)
        return tuple(J.backend.copy_from(part) for part in found)

    return solved


def _curvature(engine: Engine, along: Function, h: Array, theta: Array, lam: Array) -> Curvature:
    backend, product = Backend.of(h), along(*engine.into(h, theta, lam))

    def apply(u: Array, z: Array) -> tuple[Array, ...]:
        if u.ndim == 2 and u.shape[1] == 0:
            return u, z
        return tuple(engine.out(backend, part) for part in product(*engine.into(u, z)))

    return _Traced(apply=apply, blocks=True)


class _Traced(Curvature):
    """Blocks are columns by construction, and every other shape is compiled anew."""

    by_hand = False
