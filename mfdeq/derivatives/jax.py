"""Models and losses from JAX functions, with derivatives that are compiled once for each model.

Jacobians are computed by `jax.linearize` and `jax.vjp`, and applied to blocks by `jax.vmap`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from ..models.losses import Loss
from ..models.model import Model
from .automatic import loss_from, model_from
from .jax_krylov import compile_solve
from .source import DerivativeSource, Function, JacobianProducts, TreeLayout


def from_jax(
    f: Callable[[Any, Any], Any],
    state: Any,
    params: Any,
    kind: str,
    *,
    sparsity: Any = None,
) -> Model:
    """Create a model from a JAX function of (state, params).

    Parameters
    ----------
    f : callable
        The map or residual f(state, params), whose result has the structure, shapes and dtypes of
        `state`. It must be traceable by `jax.jit`, `jax.jvp` and `jax.vjp`.
    state, params : array or pytree of arrays
        Examples that define the structure, shapes and dtype; their values do not matter. N and P
        are the numbers of their entries.
    kind : {"map", "residual"}
        Whether an equilibrium is state = f(state, params) or f(state, params) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives with respect to the state, (N, N), and to the parameters,
        (N, P). Each may also be "detect", to detect it by products near the first point, or None,
        the default, for a derivative that is not assembled. A derivative with a pattern becomes a
        sparse matrix, which `mfdeq.Direct`, `mfdeq.ILU` and `mfdeq.AMG` require.

    Returns
    -------
    FixedPointModel or ResidualModel
        Its methods ``flat_state(tree)``, ``flat_params(tree)``, ``state_tree(h)`` and
        ``params_tree(theta)`` convert between pytrees and the (N,) and (P,) vectors that mfdeq
        uses.

    Raises
    ------
    ArgumentError
        If JAX is not installed, or if an argument has a wrong type.
    ModelError
        If JAX computes in lower precision than that of the examples, or if f does not return the
        structure of `state`.
    DerivativeError
        At a linearization, if a pattern lacks entries of the derivative.

    See Also
    --------
    loss_from_jax : A loss from a JAX function.
    from_torch, from_function, mixed : Other sources of derivatives.

    Notes
    -----
    Products with first derivatives are computed by `jax.linearize` (forward mode) and `jax.vjp`
    (reverse mode), those with second derivatives by forward over reverse mode; all are exact to
    rounding. Intermediate values at an equilibrium are stored and reused. Assembling a derivative
    takes one product for each colour of its columns [1]_, and one to check the pattern.

    JAX computes in float32 unless ``jax.config.update("jax_enable_x64", True)`` is called first.

    References
    ----------
    .. [1] A. R. Curtis, M. J. D. Powell and J. K. Reid, "On the estimation of sparse Jacobian
       matrices", IMA Journal of Applied Mathematics 13 (1974), 117-119.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_jax(lambda h, theta: jnp.cos(h) + theta, np.zeros(1), np.zeros(1), "map")
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    0.739085 0.597510
    """
    return model_from(JaxSource(), f, state, params, kind, sparsity)


def loss_from_jax(L: Callable[[Any, Any], Any], state: Any, params: Any) -> Loss:
    """Create a loss from a JAX function of (state, params).

    Parameters
    ----------
    L : callable
        ``L(state, params)`` returns a scalar that `jax.grad` can differentiate twice.
    state, params : array or pytree of arrays
        Examples, as for `from_jax`.

    Returns
    -------
    Loss

    Raises
    ------
    ArgumentError
        If JAX is not installed.
    ModelError
        If JAX computes in lower precision than that of the examples.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import numpy as np
    >>> import mfdeq
    >>> loss = mfdeq.loss_from_jax(lambda h, theta: (theta * h**2).sum(), np.zeros(1), np.zeros(1))
    >>> loss.value(np.array([3.0]), np.array([2.0]))
    18.0
    >>> loss.gradients(np.array([3.0]), np.array([2.0]))
    (array([9.]), array([12.]))
    """
    return loss_from(JaxSource(), L, state, params)


class JaxSource(DerivativeSource):
    """A source of derivatives by JAX, which compiles each function once for each model."""

    name, caller = "JAX", "mfdeq.from_jax"

    def __init__(self) -> None:
        self.jax = jax = _import_jax()
        self._apply = _for_blocks(jax, lambda linear, x: linear(x), (None, 1))
        self._adjoint = _for_blocks(jax, lambda transposed, y: transposed(y)[0], (None, 1))
        self._along = _for_blocks(jax, lambda linear, u, z: linear(u, z), (None, 1, 1))
        self._krylov = functools.cache(functools.partial(compile_solve, jax))

    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example: `name` is "state" or "params"."""
        return _JaxLayout(self.jax, tree, name)

    def describe_output(self, f: Function, state: Any, params: Any) -> Any:
        """Describe the output of f by an abstract evaluation."""
        return _describe(self.jax, self.jax.eval_shape(f, state, params))

    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert arrays to JAX arrays, without a copy if possible."""
        return [_jax_array(self.jax, x) for x in arrays]

    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert a JAX array to a new array of the backend."""
        return backend.copy_from(x)

    def value(self, function: Function) -> Function:
        """Return a compiled function (h, theta) -> f(h, theta)."""
        return self.jax.jit(function)

    def gradient(self, scalar: Function) -> Function:
        """Return a compiled function (h, theta) -> (dL/dh, dL/dtheta)."""
        return self.jax.jit(self.jax.grad(scalar, argnums=(0, 1)))

    def jacobians(self, function: Function) -> Function:
        """Return a function (h, theta) -> the products with df/dh and with df/dtheta."""
        jax = self.jax

        @jax.jit
        def linear_maps(h: Any, theta: Any) -> Any:
            by_state, by_params = (lambda h: function(h, theta)), (lambda theta: function(h, theta))
            return [
                (jax.linearize(part, x)[1], jax.vjp(part, x)[1])
                for part, x in ((by_state, h), (by_params, theta))
            ]

        def jacobians(h: Any, theta: Any) -> list[JacobianProducts]:
            return [
                JacobianProducts(
                    functools.partial(self._apply, linear),
                    functools.partial(self._adjoint, transposed),
                    (linear, transposed),
                )
                for linear, transposed in linear_maps(h, theta)
            ]

        return jacobians

    def second_derivative(self, function: Function) -> Function:
        """Return a compiled function (h, theta, a, b) -> f''[a, b], forward over forward mode."""
        jax = self.jax

        @jax.jit
        def second_derivative(h: Any, theta: Any, a: Any, b: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                return jax.jvp(function, (h, theta), (a[1], a[0]))[1]

            return jax.jvp(along_a, (h, theta), (b[1], b[0]))[1]

        return second_derivative

    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian, forward over reverse."""
        jax = self.jax

        @jax.jit
        def linear_map(h: Any, theta: Any, lam: Any) -> Any:
            gradient = jax.grad(lambda theta, h: scalar(h, theta, lam), argnums=(0, 1))
            return jax.linearize(gradient, theta, h)[1]

        return lambda h, theta, lam: functools.partial(self._along, linear_map(h, theta, lam))

    def compiled_krylov(self, compiled: Any, method: str, identity_minus: bool) -> Any:
        """Return a compiled solve with the Jacobian J or with I − J."""
        partial, (linear, transposed) = self.jax.tree_util.Partial, compiled
        sides = [
            partial(_identity_minus if identity_minus else _plain, linear),
            partial(_identity_minus_adjoint if identity_minus else _adjoint, transposed),
        ]
        if method == "cg":
            sides[1] = sides[0]  # A is symmetric, and its product is cheaper than its adjoint's
        solve = self._krylov(method)
        return lambda B, rtol, max_iterations, restart, adjoint: solve(
            sides[adjoint], B, rtol, max_iterations, restart
        )


def _for_blocks(jax: ModuleType, product: Function, axes: tuple[Any, ...]) -> Function:
    """Compile a product for vectors and for blocks of them."""
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


class _JaxLayout(TreeLayout):
    """The layout of a pytree of real arrays by `jax.flatten_util.ravel_pytree`."""

    def __init__(self, jax: ModuleType, tree: Any, name: str) -> None:
        self._jax = jax
        leaves = [host.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]
        if not leaves or any(leaf.dtype.kind not in "fiub" for leaf in leaves):
            kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "no arrays"
            raise ModelError(
                f"{name} of mfdeq.from_jax: expected a real array or a pytree of real arrays, got "
                f"{type(tree).__name__} of {kinds}"
            )
        if any(leaf.dtype == host.float64 for leaf in leaves) and not jax.config.jax_enable_x64:
            raise ModelError(
                f"{name} of mfdeq.from_jax is in float64, but JAX computes in float32: call\n"
                '    jax.config.update("jax_enable_x64", True)\n'
                "before the first use of jax, or pass float32 arrays"
            )
        dtype = host.result_type(*leaves)
        dtype = dtype if dtype.kind == "f" else host.dtype(jax.numpy.zeros(0).dtype)
        self.example = jax.tree_util.tree_map(
            lambda leaf: jax.numpy.asarray(leaf, dtype=dtype), tree
        )
        vector, self._unravel = jax.flatten_util.ravel_pytree(self.example)
        self.size = int(vector.size)

    def to_tree(self, vector: Any) -> Any:
        return self._unravel(vector)

    def to_vector(self, tree: Any) -> Any:
        return self._jax.flatten_util.ravel_pytree(tree)[0]

    def describe(self, tree: Any) -> Any:
        return _describe(self._jax, tree)


def _describe(jax: ModuleType, tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def _jax_array(jax: ModuleType, x: Array) -> Any:
    if isinstance(x, host.ndarray):
        y = jax.numpy.asarray(x)
    else:
        y = jax.dlpack.from_dlpack(Backend.of(x).row_major(x))
    if y.dtype != x.dtype:
        raise ModelError(
            f"an array is in {x.dtype}, but JAX computes in {y.dtype}: call\n"
            '    jax.config.update("jax_enable_x64", True)\n'
            "before the first use of jax, or pass float32 arrays"
        )
    return y


def _import_jax() -> ModuleType:
    jax = import_optional("jax", "jax")
    for module in ("jax.flatten_util", "jax.dlpack"):  # `import jax` may not load these
        import_optional(module, "jax")
    return jax
