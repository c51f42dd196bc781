"""Models and losses from JAX functions alone: every derivative by automatic differentiation.

Products with d_state and its adjoint, with d_params and its, and with the curvature are the linear
parts of f and of the gradient of lam'f at the equilibrium, kept there (`jax.linearize`, `jax.vjp`)
and compiled once for a model. Blocks of vectors go through `vmap`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arguments import one_of
from ..arrays import Array, Backend, host
from ..curvature import Curvature
from ..errors import ArgumentError, ModelError
from ..losses import Loss
from ..model import Derived, FixedPointModel, Linearization, Model, ResidualModel
from ..operators import Operator
from .jax_krylov import compiled
from .sparsity import KINDS, Sparsity, place_near, typical_sizes


def from_jax(
    f: Callable[[Any, Any], Any],
    state: Any,
    params: Any,
    kind: str,
    *,
    sparsity: Any = None,
) -> Model:
    """A model from a JAX function of (state, params).

    Parameters
    ----------
    f : callable
        The map f(state, params), or the residual, returning what has the structure of `state`.
        What `jax.jit`, `jax.jvp` and `jax.vjp` can trace.
    state, params : arrays or pytrees of arrays
        Examples, for their structure, shapes and dtype; their values do not matter.
    kind : {"map", "residual"}
        Whether an equilibrium is state = f(state, params) or f(state, params) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        Patterns of the derivatives with respect to the state, (N, N), and to the parameters,
        (N, P), each of which may be None; "detect" (or one of the pair) has them looked for by
        products near the first place. A derivative with a pattern is assembled, by one
        product for each colour of its columns, so that `mfdeq.Direct`, `mfdeq.ILU` and
        `mfdeq.AMG` can be used; that the pattern holds is checked by one product more.

    Returns
    -------
    FixedPointModel or ResidualModel
        With ``flat_state(tree)``, ``flat_params(tree)``, ``state_tree(h)`` and
        ``params_tree(theta)`` between pytrees and the vectors that mfdeq computes with.

    Raises
    ------
    ModelError
        If JAX is not installed, computes in lower precision than the examples have, or f does
        not return the structure of `state`.

    Examples
    --------
    >>> import jax, mfdeq, numpy as np
    >>> jax.config.update("jax_enable_x64", True)
    >>> import jax.numpy as jnp
    >>> model = mfdeq.from_jax(lambda h, theta: jnp.cos(h) + theta, np.zeros(1), np.zeros(1), "map")
    >>> print(f"{mfdeq.solve(model, np.zeros(1)).state[0]:.10f}")
    0.7390851332
    """
    one_of(kind, KINDS, "kind of mfdeq.from_jax")
    if not callable(f):
        raise ArgumentError(f"f of mfdeq.from_jax is a {type(f).__name__}, not a function")
    return (_JaxMap if kind == "map" else _JaxResidual)(f, state, params, sparsity)


def loss_from_jax(L: Callable[[Any, Any], Any], state: Any, params: Any) -> Loss:
    """A loss from a JAX function L(state, params) -> scalar.

    Parameters
    ----------
    L : callable
        What `jax.grad` can trace.
    state, params : arrays or pytrees of arrays
        Examples, as in `from_jax`.
    """
    jax = _jax()
    states, parameters = _Flat(jax, state, "state"), _Flat(jax, params, "params")

    def flat(h: Any, theta: Any) -> Any:
        return jax.numpy.reshape(L(states.tree(h), parameters.tree(theta)), ())

    value, gradient = jax.jit(flat), jax.jit(jax.grad(flat, argnums=(0, 1)))
    along = _gradient_of(jax, lambda h, theta, _: flat(h, theta))

    def curvature(h: Array, theta: Array) -> Curvature:
        return along(Backend.of(h), h, theta, h[:0])  # there is no lam

    def of(which: int) -> Callable[[Array, Array], Array]:
        return lambda h, theta: Backend.of(h).copied(gradient(*_in(jax, h, theta))[which])

    return Loss(
        lambda h, theta: float(value(*_in(jax, h, theta))),
        d_state=of(0),
        d_params=of(1),
        curvature=curvature,
    )


class _JaxModel(Model):
    """What maps and residuals from JAX have in common."""

    def __init__(
        self, f: Callable[[Any, Any], Any], state: Any, params: Any, sparsity: Any
    ) -> None:
        jax = self._jax = _jax()
        self._states, self._params = _Flat(jax, state, "state"), _Flat(jax, params, "params")
        self.state_size, self.param_size = self._states.size, self._params.size
        self._sparsity = Sparsity(sparsity, self.state_size, self.param_size)

        def flat(h: Any, theta: Any) -> Any:
            return self._states.ravel(f(self._states.tree(h), self._params.tree(theta)))

        self._check_structure(f)
        self._value = jax.jit(flat)

        @jax.jit
        def linear(h: Any, theta: Any) -> Any:
            """The linear parts of f in h and in theta, and their adjoints: pytrees all four."""
            by_state, by_params = (lambda h: flat(h, theta)), (lambda theta: flat(h, theta))
            return [
                (jax.linearize(part, x)[1], jax.vjp(part, x)[1])
                for part, x in ((by_state, h), (by_params, theta))
            ]

        self._linear = linear
        self._curvature = _gradient_of(jax, lambda h, theta, lam: lam @ flat(h, theta))

        @jax.jit
        def second(h: Any, theta: Any, a: Any, b: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                return jax.jvp(flat, (h, theta), (a[1], a[0]))[1]

            return jax.jvp(along_a, (h, theta), (b[1], b[0]))[1]

        self._second = second
        self._apply = jax.jit(lambda linear, x: linear(x))
        self._apply_adjoint = jax.jit(lambda linear, y: linear(y)[0])
        self._krylov = functools.cache(functools.partial(compiled, jax))
        blocks = {"in_axes": (None, 1), "out_axes": 1}
        self._apply_block = jax.jit(jax.vmap(lambda linear, x: linear(x), **blocks))
        self._apply_adjoint_block = jax.jit(jax.vmap(lambda linear, y: linear(y)[0], **blocks))

    def _check_structure(self, f: Callable[[Any, Any], Any]) -> None:
        examples = (self._states.example, self._params.example)
        found, expected = (
            self._jax.tree_util.tree_map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
            for tree in (self._jax.eval_shape(f, *examples), self._states.example)
        )
        if found != expected:
            raise ModelError(
                f"f of mfdeq.from_jax returned {found} (shapes and dtypes) for a state of "
                f"{expected}: both must be alike"
            )

    def flat_state(self, tree: Any) -> Array:
        """A state as a vector."""
        return host.asarray(self._states.ravel(tree))

    def flat_params(self, tree: Any) -> Array:
        """Parameters as a vector."""
        return host.asarray(self._params.ravel(tree))

    def state_tree(self, h: Array) -> Any:
        """A vector as a state of the structure of the example."""
        return self._states.tree(self._jax.numpy.asarray(h))

    def params_tree(self, theta: Array) -> Any:
        """A vector as parameters of the structure of the example."""
        return self._params.tree(self._jax.numpy.asarray(theta))

    def _values(self, h: Array, theta: Array) -> Array:
        return Backend.of(h, theta).copied(self._value(*_in(self._jax, h, theta)))

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Products by `jax.linearize` and `jax.vjp`, kept at (h, theta)."""
        backend, (x, t) = Backend.of(h, theta), _in(self._jax, h, theta)
        d_state, d_params = self._sparsity.assembled(
            self._derivatives(h, theta),
            lambda i: self._derivatives(*self._near(h, theta, i)),
            backend.eps**0.5,
        )
        return Derived(
            d_state,
            d_params,
            curvature=lambda lam: self._curvature(backend, h, theta, lam),
            second=lambda a, b: backend.copied(
                self._second(x, t, _in(self._jax, *a), _in(self._jax, *b))
            ),
            sources=dict.fromkeys(("d_state", "d_params", "curvature", "second"), "JAX"),
        )

    def _derivatives(self, h: Array, theta: Array) -> list[Operator]:
        """df/dh and df/dtheta by their products."""
        backend, widths = Backend.of(h, theta), (self.state_size, self.param_size)
        parts = self._linear(*_in(self._jax, h, theta))
        return [
            _Products(backend, self, part, (self.state_size, width))
            for part, width in zip(parts, widths, strict=True)
        ]

    def _near(self, h: Array, theta: Array, i: int) -> tuple[Array, Array]:
        return place_near(self._values, h, theta, (typical_sizes(h), typical_sizes(theta)), i)


class _JaxMap(_JaxModel, FixedPointModel):
    def map(self, h: Array, theta: Array) -> Array:
        return self._values(h, theta)


class _JaxResidual(_JaxModel, ResidualModel):
    def residual(self, h: Array, theta: Array) -> Array:
        return self._values(h, theta)


class _Products(Operator):
    """A derivative of f by its products."""

    def __init__(
        self, backend: Backend, model: _JaxModel, parts: Any, shape: tuple[int, int]
    ) -> None:
        super().__init__(backend, shape)
        self.model, (self.linear, self.transposed) = model, parts

    def _apply(self, x: Array) -> Array:
        apply = self.model._apply if x.ndim == 1 else self.model._apply_block
        return self._through(apply, self.linear, x, self.shape[0])

    def _apply_adjoint(self, y: Array) -> Array:
        apply = self.model._apply_adjoint if y.ndim == 1 else self.model._apply_adjoint_block
        return self._through(apply, self.transposed, y, self.shape[1])

    def compiled_krylov(self, method: str, identity_minus: bool = False) -> Any:
        """The whole of a solve by JAX, with this or with I minus this."""
        solve, jax = self.model._krylov(method), self.model._jax
        sides = [
            jax.tree_util.Partial(_identity_minus if identity_minus else _plain, self.linear),
            jax.tree_util.Partial(
                _identity_minus_adjoint if identity_minus else _adjoint, self.transposed
            ),
        ]

        def solved(B: Array, rtol: float, most: int, restart: int, adjoint: bool) -> Any:
            found = solve(sides[adjoint], _in(jax, B)[0], rtol, most, restart)
            return tuple(self.backend.copied(part) for part in found)

        return solved

    def _through(self, apply: Any, linear: Any, x: Array, rows: int) -> Array:
        if x.ndim == 2 and x.shape[1] == 0:
            return self.backend.zeros(rows, 0)
        return self.backend.copied(apply(linear, *_in(self.model._jax, x)))


def _plain(linear: Any, x: Any) -> Any:
    return linear(x)


def _adjoint(transposed: Any, y: Any) -> Any:
    return transposed(y)[0]


def _identity_minus(linear: Any, x: Any) -> Any:
    return x - linear(x)


def _identity_minus_adjoint(transposed: Any, y: Any) -> Any:
    return y - transposed(y)[0]


class _Flat:
    """A pytree of real arrays as a vector and back."""

    def __init__(self, jax: ModuleType, tree: Any, name: str) -> None:
        self._jax = jax
        leaves = [host.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]
        if not leaves or any(leaf.dtype.kind not in "fiub" for leaf in leaves):
            raise ModelError(
                f"{name} of mfdeq.from_jax is {tree!r}; an array or a pytree of real arrays, as "
                "an example of its shapes, was expected"
            )
        if any(leaf.dtype == host.float64 for leaf in leaves) and not jax.config.jax_enable_x64:
            raise ModelError(
                f"{name} of mfdeq.from_jax is in float64, and JAX computes in float32: put\n"
                '    jax.config.update("jax_enable_x64", True)\n'
                "before the first use of jax, or pass float32 arrays"
            )
        dtype = host.result_type(*leaves)
        dtype = dtype if dtype.kind == "f" else host.dtype(jax.numpy.zeros(0).dtype)
        self.example = jax.tree_util.tree_map(
            lambda leaf: jax.numpy.asarray(leaf, dtype=dtype), tree
        )
        vector, self._unravel = jax.flatten_util.ravel_pytree(self.example)
        self.size, self.dtype = int(vector.size), vector.dtype

    def tree(self, vector: Any) -> Any:
        return self._unravel(vector)

    def ravel(self, tree: Any) -> Any:
        return self._jax.flatten_util.ravel_pytree(tree)[0]


def _gradient_of(jax: ModuleType, scalar: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """The curvature over (theta, h) of scalar(h, theta, lam), forward over reverse."""

    @jax.jit
    def linear(h: Any, theta: Any, lam: Any) -> Any:
        gradient = jax.grad(lambda theta, h: scalar(h, theta, lam), argnums=(0, 1))
        return jax.linearize(gradient, theta, h)[1]

    apply = jax.jit(lambda linear, u, z: linear(u, z))
    apply_block = jax.jit(
        jax.vmap(lambda linear, u, z: linear(u, z), in_axes=(None, 1, 1), out_axes=1)
    )

    def curvature(backend: Backend, h: Array, theta: Array, lam: Array) -> Curvature:
        at = linear(*_in(jax, h, theta, lam))

        def product(u: Array, z: Array) -> tuple[Array, ...]:
            if u.ndim == 2 and u.shape[1] == 0:
                return u, z
            given = (apply if u.ndim == 1 else apply_block)(at, *_in(jax, u, z))
            return tuple(backend.copied(part) for part in given)

        return Curvature(apply=product, blocks=True)

    return curvature


def _in(jax: ModuleType, *arrays: Array) -> list[Any]:
    """Arrays as JAX's, without a copy where both sides can."""
    found = []
    for x in arrays:
        y = jax.numpy.asarray(x) if isinstance(x, host.ndarray) else jax.dlpack.from_dlpack(x)
        if y.dtype != x.dtype:
            raise ModelError(
                f"an array in {x.dtype} came, and JAX computes in {y.dtype}: put\n"
                '    jax.config.update("jax_enable_x64", True)\n'
                "before the first use of jax, or pass float32 arrays"
            )
        found.append(y)
    return found


def _jax() -> ModuleType:
    try:
        jax = importlib.import_module("jax")
        importlib.import_module("jax.flatten_util")
        importlib.import_module("jax.dlpack")
    except ImportError as error:
        raise ModelError(
            f"JAX cannot be imported ({error}): install the extra mfdeq[jax]"
        ) from error
    return jax
