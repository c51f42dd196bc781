"""Models and losses from JAX functions alone, compiled once for a model.

Linear parts are those of `jax.linearize` and `jax.vjp`; blocks of vectors go through `vmap`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from ..models.losses import Loss
from ..models.model import Model
from .automatic import Flat, loss_from, model_from
from .jax_krylov import compiled


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
    return model_from(_Jax(), f, state, params, kind, sparsity)


def loss_from_jax(L: Callable[[Any, Any], Any], state: Any, params: Any) -> Loss:
    """A loss from a JAX function L(state, params) -> scalar.

    Parameters
    ----------
    L : callable
        What `jax.grad` can trace.
    state, params : arrays or pytrees of arrays
        Examples, as in `from_jax`.
    """
    return loss_from(_Jax(), L, state, params)


class _Jax:
    """JAX as the engine: everything compiled once for a model."""

    name, caller = "JAX", "mfdeq.from_jax"

    def __init__(self) -> None:
        self.jax = jax = _jax()
        self._apply = _for_blocks(jax, lambda linear, x: linear(x), (None, 1))
        self._adjoint = _for_blocks(jax, lambda transposed, y: transposed(y)[0], (None, 1))
        self._along = _for_blocks(jax, lambda linear, u, z: linear(u, z), (None, 1, 1))
        self._krylov = functools.cache(functools.partial(compiled, jax))

    def flat(self, tree: Any, name: str) -> Flat:
        """An example of the state or the parameters."""
        return _Flat(self.jax, tree, name)

    def shapes_of(self, f: Any, *examples: Any) -> Any:
        """What f returns, by an abstract evaluation."""
        return _shapes(self.jax, self.jax.eval_shape(f, *examples))

    def into(self, *arrays: Array) -> list[Any]:
        """Arrays as JAX's, without a copy where both sides can."""
        return _in(self.jax, *arrays)

    def out(self, backend: Backend, x: Any) -> Array:
        """An array of JAX as a fresh one of the backend."""
        return backend.copy_from(x)

    def value(self, flat: Any) -> Any:
        """(h, theta) -> f."""
        return self.jax.jit(flat)

    def gradient(self, scalar: Any) -> Any:
        """(h, theta) -> the two gradients."""
        return self.jax.jit(self.jax.grad(scalar, argnums=(0, 1)))

    def linear(self, flat: Any) -> Any:
        """(h, theta) -> the linear parts of f in h and in theta, and their adjoints."""
        jax = self.jax

        @jax.jit
        def parts(h: Any, theta: Any) -> Any:
            by_state, by_params = (lambda h: flat(h, theta)), (lambda theta: flat(h, theta))
            return [
                (jax.linearize(part, x)[1], jax.vjp(part, x)[1])
                for part, x in ((by_state, h), (by_params, theta))
            ]

        def products(h: Any, theta: Any) -> list[Any]:
            return [
                (
                    functools.partial(self._apply, linear),
                    functools.partial(self._adjoint, transposed),
                    (linear, transposed),
                )
                for linear, transposed in parts(h, theta)
            ]

        return products

    def second(self, flat: Any) -> Any:
        """(h, theta, a, b) -> f''[a, b], forward over forward."""
        jax = self.jax

        @jax.jit
        def second(h: Any, theta: Any, a: Any, b: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                return jax.jvp(flat, (h, theta), (a[1], a[0]))[1]

            return jax.jvp(along_a, (h, theta), (b[1], b[0]))[1]

        return second

    def curvature(self, scalar: Any) -> Any:
        """(h, theta, lam) -> the product with the curvature, forward over reverse."""
        jax = self.jax

        @jax.jit
        def linear(h: Any, theta: Any, lam: Any) -> Any:
            gradient = jax.grad(lambda theta, h: scalar(h, theta, lam), argnums=(0, 1))
            return jax.linearize(gradient, theta, h)[1]

        return lambda h, theta, lam: functools.partial(self._along, linear(h, theta, lam))

    def compiled_krylov(self, kept: Any, method: str, identity_minus: bool) -> Any:
        """A compiled solve with f', or with I - f': a function of (B, rtol, ..., adjoint)."""
        partial = self.jax.tree_util.Partial
        sides = [
            partial(_identity_minus if identity_minus else _plain, kept[0]),
            partial(_identity_minus_adjoint if identity_minus else _adjoint, kept[1]),
        ]
        if method == "cg":  # A is symmetric then, and its own product the cheaper one
            sides[1] = sides[0]
        solve = self._krylov(method)
        return lambda B, rtol, max_iterations, restart, adjoint: solve(
            sides[adjoint], B, rtol, max_iterations, restart
        )


def _for_blocks(jax: ModuleType, product: Any, axes: tuple[Any, ...]) -> Any:
    """A product, compiled for vectors and for blocks."""
    vector = jax.jit(product)
    block = jax.jit(jax.vmap(product, in_axes=axes, out_axes=1))
    return lambda linear, *x: (vector if x[0].ndim == 1 else block)(linear, *x)


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

    def shapes(self, tree: Any) -> Any:
        """Structure, shapes and dtypes."""
        return _shapes(self._jax, tree)


def _shapes(jax: ModuleType, tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def _in(jax: ModuleType, *arrays: Array) -> list[Any]:
    """Arrays as JAX's, without a copy where both sides can."""
    found = []
    for x in arrays:
        if isinstance(x, host.ndarray):
            y = jax.numpy.asarray(x)
        else:
            y = jax.dlpack.from_dlpack(Backend.of(x).row_major(x))
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
            f"JAX cannot be imported ({error}): install the extra mfdeq[jax]; in a clone, "
            'pip install -e ".[jax]"'
        ) from error
    return jax
