"""Models and losses from PyTorch functions, differentiated by `torch.func`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from ..models.losses import Loss
from ..models.model import Model
from .automatic import loss_from, model_from
from .source import DerivativeSource, Function, JacobianProducts, TreeLayout


def from_torch(
    f: Callable[[Any, Any], Any],
    state: Any,
    params: Any,
    kind: str,
    *,
    sparsity: Any = None,
) -> Model:
    """Create a model from a PyTorch function of (state, params).

    Parameters
    ----------
    f : callable
        The map or residual f(state, params), whose result has the structure, shapes and dtypes of
        `state`. It must support `torch.func.jvp`, `torch.func.vjp` and, for blocks of vectors,
        `torch.func.vmap`.
    state, params : tensor, array or pytree of those
        Examples that define the structure, shapes and dtype; their values do not matter. N and P
        are the numbers of their entries. For the parameters of a module pass
        ``dict(module.named_parameters())``, and use `torch.func.functional_call` in f.
    kind : {"map", "residual"}
        Whether an equilibrium is state = f(state, params) or f(state, params) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives, as for `from_jax`.

    Returns
    -------
    FixedPointModel or ResidualModel
        Its methods ``flat_state(tree)``, ``flat_params(tree)``, ``state_tree(h)`` and
        ``params_tree(theta)`` convert between pytrees of tensors and the (N,) and (P,) vectors
        that mfdeq uses.

    Raises
    ------
    ArgumentError
        If PyTorch is not installed, or if an argument has a wrong type.
    ModelError
        If f does not return the structure of `state`.
    DerivativeError
        At a linearization, if a pattern lacks entries of the derivative.

    See Also
    --------
    loss_from_torch : A loss from a PyTorch function.
    from_jax, from_function, mixed : Other sources of derivatives.

    Notes
    -----
    Nothing is compiled. Adjoint products use the values stored by `torch.func.vjp` at the
    equilibrium; other products evaluate f again in forward mode. Curvatures use forward over
    reverse mode. All derivatives are exact to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import mfdeq
    >>> model = mfdeq.from_torch(
    ...     lambda h, theta: torch.cos(h) + theta, np.zeros(1), np.zeros(1), "map"
    ... )
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    0.739085 0.597510
    """
    return model_from(TorchSource(), f, state, params, kind, sparsity)


def loss_from_torch(L: Callable[[Any, Any], Any], state: Any, params: Any) -> Loss:
    """Create a loss from a PyTorch function of (state, params).

    Parameters
    ----------
    L : callable
        ``L(state, params)`` returns a scalar tensor that `torch.func.grad` can differentiate
        twice.
    state, params : tensor, array or pytree of those
        Examples, as for `from_torch`.

    Returns
    -------
    Loss

    Raises
    ------
    ArgumentError
        If PyTorch is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> def misfit(h, theta):
    ...     return (theta * h**2).sum()
    >>> loss = mfdeq.loss_from_torch(misfit, np.zeros(1), np.zeros(1))
    >>> loss.value(np.array([3.0]), np.array([2.0]))
    18.0
    >>> loss.gradients(np.array([3.0]), np.array([2.0]))
    (array([9.]), array([12.]))
    """
    return loss_from(TorchSource(), L, state, params)


class TorchSource(DerivativeSource):
    """A source of derivatives by PyTorch, without compilation."""

    name, caller = "PyTorch", "mfdeq.from_torch"

    def __init__(self) -> None:
        self.torch = _import_torch()
        self.func: Any = self.torch.func

    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example: `name` is "state" or "params"."""
        return _TorchLayout(self.torch, tree, name)

    def describe_output(self, f: Function, state: Any, params: Any) -> Any:
        """Describe the output of f by evaluating it for the examples."""
        with self.torch.no_grad():
            return _describe(f(state, params))

    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert numpy arrays to copies, and cupy arrays to tensors that share their memory."""
        return [
            self.torch.tensor(x) if isinstance(x, host.ndarray) else self.torch.from_dlpack(x)
            for x in arrays
        ]

    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert a tensor to a new array of the backend."""
        return backend.copy_from(x.detach())

    def value(self, function: Function) -> Function:
        """Return a function (h, theta) -> f(h, theta) that records no graph."""

        def value(h: Any, theta: Any) -> Any:
            with self.torch.no_grad():
                return function(h, theta)

        return value

    def gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> (dL/dh, dL/dtheta)."""
        return self.func.grad(scalar, argnums=(0, 1))

    def jacobians(self, function: Function) -> Function:
        """Return a function (h, theta) -> the products with df/dh and with df/dtheta."""

        def jacobians(h: Any, theta: Any) -> list[JacobianProducts]:
            by_state, by_params = (lambda h: function(h, theta)), (lambda t: function(h, t))
            return [self._products(part, x) for part, x in ((by_state, h), (by_params, theta))]

        return jacobians

    def _products(self, function: Function, x: Any) -> JacobianProducts:
        pullback = self.func.vjp(function, x)[1]
        return JacobianProducts(
            self._for_blocks(self._forward_derivative(function, x)),
            self._for_blocks(lambda y: pullback(y)[0]),
        )

    def second_derivative(self, function: Function) -> Function:
        """Return a function (h, theta, a, b) -> f''[a, b], forward over forward mode."""
        jvp = self.func.jvp

        def second_derivative(h: Any, theta: Any, a: Any, b: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                return jvp(function, (h, theta), (a[1], a[0]))[1]

            return jvp(along_a, (h, theta), (b[1], b[0]))[1]

        return second_derivative

    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian, forward over reverse."""

        def curvature(h: Any, theta: Any, lam: Any) -> Any:
            gradient = self.func.grad(lambda theta, h: scalar(h, theta, lam), argnums=(0, 1))
            return self._for_blocks(self._forward_derivative(gradient, theta, h))

        return curvature

    def _forward_derivative(self, function: Function, *x: Any) -> Function:
        # torch.func.linearize traces f, and so does not support branches that depend on values.
        return lambda *v: self.func.jvp(function, x, v)[1]

    def _for_blocks(self, product: Function) -> Function:
        """Extend a product with vectors to blocks, column by column."""
        # Outputs are stacked as rows and transposed: only with out_dims=0 does vmap support
        # outputs that do not depend on the input.
        rows = self.func.vmap(product, in_dims=1)

        def block(*x: Any) -> Any:
            result = rows(*x)
            return tuple(y.mT for y in result) if isinstance(result, tuple) else result.mT

        return lambda *x: (product if x[0].ndim == 1 else block)(*x)


class _TorchLayout(TreeLayout):
    """The layout of a pytree of real tensors, whose entries are concatenated in a vector."""

    def __init__(self, torch: ModuleType, tree: Any, name: str) -> None:
        self._torch, self._pytree = torch, _pytree()
        leaves, self._structure = self._pytree.tree_flatten(tree)
        try:
            leaves = [torch.as_tensor(leaf).detach() for leaf in leaves]
        except (TypeError, ValueError, RuntimeError) as error:
            kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves}))
            raise _example_error(tree, name, kinds) from error
        if not leaves or any(leaf.is_complex() for leaf in leaves):
            kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves})) or "no tensors"
            raise _example_error(tree, name, kinds)
        floats = [leaf.dtype for leaf in leaves if leaf.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floats) if floats else torch.float64
        leaves = [leaf.to(dtype) for leaf in leaves]
        self._shapes = [leaf.shape for leaf in leaves]
        self._sizes = [leaf.numel() for leaf in leaves]
        self.size = sum(self._sizes)
        self.example = self._pytree.tree_unflatten(leaves, self._structure)

    def to_tree(self, vector: Any) -> Any:
        parts = self._torch.split(vector, self._sizes)
        shaped = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return self._pytree.tree_unflatten(shaped, self._structure)

    def to_vector(self, tree: Any) -> Any:
        leaves = self._pytree.tree_leaves(tree)
        return self._torch.cat([self._torch.as_tensor(leaf).reshape(-1) for leaf in leaves])

    def describe(self, tree: Any) -> Any:
        return _describe(tree)


def _describe(tree: Any) -> Any:
    torch = import_optional("torch", "torch")
    return _pytree().tree_map(
        lambda leaf: (tuple(leaf.shape), str(leaf.dtype)) if torch.is_tensor(leaf) else leaf, tree
    )


def _example_error(tree: Any, name: str, kinds: str) -> ModelError:
    return ModelError(
        f"{name} of mfdeq.from_torch: expected a real tensor or array, or a pytree of these, got "
        f"{type(tree).__name__} of {kinds}"
    )


def _pytree() -> Any:
    return import_optional("torch.utils._pytree", "torch")


def _import_torch() -> Any:
    torch = import_optional("torch", "torch")
    import_optional("torch.func", "torch")  # `import torch` may not load this submodule
    with warnings.catch_warnings():
        # Modules that forward mode imports on first use issue warnings.
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
    return torch
