"""A model as a function of JAX."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, host
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from ..models.library_function import LibraryFunction
from ..models.model import Model
from ..optimization.functional import Functional
from .functional_node import expect_data
from .jax_data import PackedData
from .jax_primitives import primitives
from .node import Node


def to_jax(model: Model | Functional, **solve_options: Any) -> JaxNode:
    """Return the equilibrium of a model as a function of JAX.

    Parameters
    ----------
    model : FixedPointModel, ResidualModel, ReducedFunctional or SumFunctional
        Any model. The function of one from `from_jax` has derivatives of any order, that of others
        first and second ones. A functional is a scalar function of the parameters.
    **solve_options
        Options of `mfdeq.solve`: method, solver, rtol, max_iterations, lower, upper.

    Returns
    -------
    JaxNode
        A function ``h = g(theta, h0=None)`` under `jax.jit`, `grad`, `jvp`, `vjp`, `jacfwd`,
        `jacrev`, `hessian`, `linearize`, `vmap` and `checkpoint`.

    Raises
    ------
    ArgumentError
        If JAX is not installed, the model is not one, or an option is unknown.

    See Also
    --------
    from_jax : the opposite, a model from a function of JAX.
    last_error : the error of a failure in a compiled program.

    Notes
    -----
    The tangent of h* along u is the solution of A z = B u, and the adjoint of a cotangent y is
    B' w with A' w = y. One forward solve and one factor of A serve all of these at the same theta.
    For a model from `from_jax` the products with A and B, and with it all higher derivatives, are
    those of JAX. For others mfdeq computes the second derivatives h''[u, v] and those of y'h*.

    Derivatives with respect to the start `h0` are zero. Under `jax.vmap` the equilibria are solved
    one after the other, and the right-hand sides at one theta as a block.

    Under `jax.jit` arrays are passed to the host by a callback, and errors are JAX's, with the
    message of ours. `last_error` returns the latter. Inside callbacks the function of a model from
    `from_jax` is computed on the CPU.

    Examples
    --------
    The exact Hessian of a loss of the equilibrium h = cos(h) + theta, in a compiled program:

    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_jax(lambda h, theta: jnp.cos(h) + theta, np.zeros(2), np.zeros(2), "map")
    >>> state = mfdeq.to_jax(model)
    >>> loss = lambda theta: jnp.sum(state(jnp.tanh(theta)))
    >>> print(jax.jit(jax.hessian(loss))(jnp.zeros(2)).round(4) + 0.0)
    [[-0.1577  0.    ]
     [ 0.     -0.1577]]
    """
    return JaxNode(model, solve_options)


class JaxNode(Node):
    """The equilibrium of a model as a function of JAX; see `to_jax`.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    solve_options : dict
        Options of `mfdeq.solve`.
    """

    def __init__(self, model: Model | Functional, solve_options: dict[str, Any]) -> None:
        self._jax: Any = import_optional("jax", "jax")
        super().__init__(model, "mfdeq.to_jax", solve_options)
        self._function: LibraryFunction | None = self.host.model.function_in("JAX")
        self._params: LibraryFunction | None = self.host.params_in("JAX")
        self.residual: Any = None  # unless JAX differentiates the model
        self._data = None if self._function is None else PackedData(self._jax, self._function.data)
        if self._function is not None and self._has_forward_mode(self._residual):
            self.residual = self._residual
            self.host.use_quick_newton(self._dense_linearization())
            self.host.split = self._split

    def __call__(self, theta: Any, *args: Any, h0: Any = None) -> Any:
        """Return the equilibrium h*(theta), or that with other data beside the parameters.

        Parameters
        ----------
        theta : (P,) array or pytree of arrays
            The parameters, in the structure of the example of `from_jax` or as a vector.
        *args : pytree of arrays, optional
            Data like the ``args`` of `from_jax`, instead of those of the model, with derivatives
            with respect to them. Several are one tuple. They may be left out if the model is a
            batch or has its data from ``model.with_args``.
        h0 : array or pytree, optional
            The start, by default that of the model. Derivatives with respect to it are zero.

        Returns
        -------
        array or pytree
            In the structure of the example of `from_jax`, otherwise an (N,) array.

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium; under `jax.jit` as the message of JAX's error.
        """
        jnp, function, model = self._jax.numpy, self._function, self.host.model
        params = self._vector(theta, "params", model.param_size)
        if args:
            params = self._with_data(params, args[0] if len(args) == 1 else args)
        else:
            expect_data(function, self.name)
        start = jnp.zeros(0, params.dtype)
        if h0 is not None:
            start = self._vector(h0, "h0", model.state_size).astype(params.dtype)
        h = primitives().state.bind(params, start, node=self)
        if function is None:
            return h.reshape(self.host.output_shape)
        return function.state_to_tree(h)

    def _with_data(self, params: Any, args: Any) -> Any:
        """Return the parameters and the data as one vector."""
        if self.residual is None or self._data is None or not self._data.size:
            raise ModelError(
                f"args of {self.name}: expected none, got data for a model that has none or is not "
                "a function of JAX: pass args=example to mfdeq.from_jax, or make a node of "
                "model.with_args(...)"
            )
        return self._jax.numpy.concatenate([params, self._data.pack(args, params.dtype, self.name)])

    def _residual(self, h: Any, theta: Any) -> Any:
        """Return R, where data may follow the parameters."""
        function, P = self._function, self.host.model.param_size
        assert function is not None
        assert self._data is not None
        data = function.data if theta.shape[-1] == P else self._data.unpack(theta[P:])
        return function.residual(h, theta[:P], *data)

    def _split(self, theta: Array) -> tuple[Model, Array]:
        """Return the model with the data behind the parameters, and the parameters."""
        model, P = self.host.model, self.host.model.param_size
        if theta.shape[0] == P:
            return model, theta
        assert self._data is not None
        return self._data.model_with(model, theta[P:]), theta[:P]

    def _vector(self, tree: Any, name: str, size: int) -> Any:
        """Return a tree as a vector, after checking its structure."""
        jax = self._jax
        tree = jax.tree_util.tree_map(self._number, tree)
        leaf = tree if hasattr(tree, "shape") else None
        if leaf is not None and leaf.shape == (size,):
            return leaf
        expected = f"an array of shape ({size},)"
        is_params = name == "params"
        function = self._params if is_params else self._function
        if function is not None:
            example = function.params if is_params else function.state
            shapes, expected_shapes = _shapes(jax, tree), _shapes(jax, example)
            if shapes == expected_shapes:
                return (function.params_to_vector if is_params else function.state_to_vector)(tree)
            if expected_shapes != (size,):
                expected += f" or the structure of the example, {expected_shapes}"
        raise ModelError(f"{name} of {self.name}: expected {expected}, got {_shapes(jax, tree)}")

    def _number(self, leaf: Any) -> Any:
        x = self._jax.numpy.asarray(leaf)
        return x if x.dtype.kind == "f" else x.astype(float)

    def _has_forward_mode(self, residual: Any) -> bool:
        """Return whether JAX can differentiate the residual in forward mode, twice."""
        jax, model = self._jax, self.host.model
        h, theta = (jax.numpy.zeros(n) for n in (model.state_size, model.param_size))

        def product(h: Any, theta: Any) -> Any:
            return jax.jvp(residual, (h, theta), (h, theta))[1]

        try:
            jax.eval_shape(product, h, theta)
        except (TypeError, NotImplementedError, ValueError):
            return False
        return True

    def _dense_linearization(self) -> Any:
        """Return the compiled function (h, theta) -> (R, A), with arrays of numpy."""
        jax, residual = self._jax, self.residual

        @jax.jit
        def linearize(h: Any, theta: Any) -> Any:
            R, along = jax.linearize(lambda h: residual(h, theta), h)
            return R, jax.vmap(along, out_axes=1)(jax.numpy.eye(h.shape[0], dtype=h.dtype))

        def on_host(h: Array, theta: Array) -> tuple[Array, Array]:
            R, A = linearize(h, theta)
            return host.asarray(R), host.asarray(A)

        return on_host


def _shapes(jax: Any, tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda leaf: tuple(leaf.shape), tree)
