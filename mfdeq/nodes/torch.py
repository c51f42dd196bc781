"""A model as a function of PyTorch tensors."""

from __future__ import annotations

from typing import Any

from ..arrays.optional_packages import import_optional
from ..derivatives.torch import from_torch
from ..errors import ArgumentError, ModelError
from ..models.library_function import LibraryFunction
from ..models.model import FixedPointModel, Model
from ..optimization.functional import Functional
from .functional_node import expect_data
from .node import Node
from .solved import HostNode


def to_torch(model: Model | Functional, **solve_options: Any) -> TorchNode:
    """Return the equilibrium of a model as a function of PyTorch tensors.

    Parameters
    ----------
    model : FixedPointModel, ResidualModel, ReducedFunctional or SumFunctional
        Any model; it needs second derivatives only where they are asked for. A functional is a
        scalar function of the parameters.
    **solve_options
        Options of `mfdeq.solve`: method, solver, rtol, max_iterations, lower, upper.

    Returns
    -------
    TorchNode
        A function ``h = g(theta, h0=None)`` with derivatives of first and second order, by
        ``backward`` and double backward, and under `torch.func.grad`, `jvp`, `vmap` and `hessian`.

    Raises
    ------
    ArgumentError
        If PyTorch is not installed, the model is not one, or an option is unknown.

    See Also
    --------
    torch_layer : the equilibrium of a module for each sample of a batch.
    from_torch : the opposite, a model from a function of PyTorch.

    Notes
    -----
    The gradient of y'h* is Z'y, and the product of its Hessian with v is that of the reduced
    Hessian. One forward solve and one factor of A serve all of these at the same theta.
    Derivatives with respect to the start `h0` are zero. Under `torch.vmap` the equilibria are
    solved one after the other. A model from `from_torch` has no derivative along the dual tensors
    of `torch.autograd.forward_ad`, since PyTorch does not nest these: use `torch.func.jvp`.

    A failure raises the error of `mfdeq.solve`. Under `torch.compile` the call is a graph break.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> state = mfdeq.to_torch(model)
    >>> theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    >>> (slope,) = torch.autograd.grad(state(theta).sum(), theta, create_graph=True)
    >>> (second,) = torch.autograd.grad(slope.sum(), theta)
    >>> print(f"{slope.item():.4f} {second.item():.4f}")
    0.5975 -0.1577
    """
    return TorchNode(model, solve_options)


class TorchNode(Node):
    """The equilibrium of a model as a function of PyTorch tensors; see `to_torch`.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    solve_options : dict
        Options of `mfdeq.solve`.
    """

    def __init__(self, model: Model | Functional, solve_options: dict[str, Any]) -> None:
        self._torch: Any = import_optional("torch", "torch")
        super().__init__(model, "mfdeq.to_torch", solve_options)
        self._options = solve_options
        self._function: LibraryFunction | None = self.host.model.function_in("PyTorch")
        self._params: LibraryFunction | None = self.host.params_in("PyTorch")
        self._with_data: HostNode | None = None  # whose parameters are followed by the data

    def __call__(self, theta: Any, *args: Any, h0: Any = None) -> Any:
        """Return the equilibrium h*(theta), or that with other data beside the parameters.

        Parameters
        ----------
        theta : (P,) tensor or pytree of tensors
            The parameters, in the structure of the example of `from_torch` or as a vector.
        *args : pytree of tensors, optional
            Data like the ``args`` of `from_torch`, instead of those of the model, with derivatives
            with respect to them. Several are one tuple. They may be left out if the model is a
            batch or has its data from ``model.with_args``.
        h0 : tensor or pytree, optional
            The start, by default that of the model. Derivatives with respect to it are zero.

        Returns
        -------
        tensor or pytree
            In the structure of the example of `from_torch`, otherwise an (N,) tensor.

        Raises
        ------
        ConvergenceError, SingularStateError
            If there is no equilibrium.
        """
        if self._torch.compiler.is_compiling():
            return self._torch.compiler.disable(self._state)(theta, args, h0)
        return self._state(theta, args, h0)

    def _state(self, theta: Any, args: tuple[Any, ...], h0: Any) -> Any:
        from .torch_functions import State  # it imports PyTorch

        model, function = self.host.model, self._function
        refuse_autocast(self._torch, self.name)
        params = self._vector(theta, "params", model.param_size)
        start = params.new_zeros(0)
        if h0 is not None:
            start = self._vector(h0, "h0", model.state_size).detach().to(params.dtype)
        host = self.host
        if args:
            host, leaves = self._extended(args[0] if len(args) == 1 else args)
            flat = [leaf.to(params.dtype).reshape(-1) for leaf in leaves]
            params = self._torch.cat([params, *flat])
        else:
            expect_data(function, self.name)
        h = State.apply(host, params, start)
        if host is not self.host:
            self.host.solves += host.solves
            host.solves, self.host.report = 0, host.report
        if function is None:
            return h.reshape(host.output_shape)
        return function.state_to_tree(h)

    def _extended(self, args: Any) -> tuple[HostNode, list[Any]]:
        """Return the node whose parameters are followed by the data, and the leaves of these."""
        torch, function, model = self._torch, self._function, self.host.model
        pytree = import_optional("torch.utils._pytree", "torch")
        if function is None or not function.data:
            raise ModelError(
                f"args of {self.name}: expected none, got data for a model that has none or is not "
                "a function of PyTorch: pass args=example to mfdeq.from_torch, or make a node of "
                "model.with_args(...)"
            )
        example, structure = pytree.tree_flatten(function.data)
        leaves, given = pytree.tree_flatten((args,))
        leaves = [torch.as_tensor(leaf) for leaf in leaves]
        shapes, expected = ([tuple(x.shape) for x in xs] for xs in (leaves, example))
        if given != structure or shapes != expected:
            raise ModelError(
                f"args of {self.name}: expected the structure of the args of mfdeq.from_torch, "
                f"with shapes {expected}, got {shapes}"
            )
        if self._with_data is None:
            P, residual = model.param_size, function.residual
            is_map = model.function_name == FixedPointModel.function_name

            def f(h: Any, t: Any) -> Any:
                parts = t[P:].split([leaf.numel() for leaf in example])
                data = [
                    part.reshape(leaf.shape).to(leaf.dtype)
                    for part, leaf in zip(parts, example, strict=True)
                ]
                R = residual(h, t[:P], *pytree.tree_unflatten(data, structure))
                return h - R if is_map else R

            size = P + sum(leaf.numel() for leaf in example)
            h, t = (torch.zeros(n, dtype=torch.float64) for n in (model.state_size, size))
            extended = from_torch(f, h, t, model.function_name)
            self._with_data = HostNode(extended, "mfdeq.to_torch", self._options)
        return self._with_data, leaves

    def _vector(self, tree: Any, name: str, size: int) -> Any:
        """Return a tree as a vector, after checking its structure."""
        torch = self._torch
        pytree = import_optional("torch.utils._pytree", "torch")
        tree = pytree.tree_map(torch.as_tensor, tree)
        if torch.is_tensor(tree) and tree.shape == (size,):
            return tree
        expected = f"a tensor of shape ({size},)"
        is_params = name == "params"
        function = self._params if is_params else self._function
        shapes = pytree.tree_map(lambda leaf: tuple(leaf.shape), tree)
        if function is not None:
            example = function.params if is_params else function.state
            wanted = pytree.tree_map(lambda leaf: tuple(leaf.shape), example)
            if shapes == wanted:
                return (function.params_to_vector if is_params else function.state_to_vector)(tree)
            if wanted != (size,):
                expected += f" or the structure of the example, {wanted}"
        raise ModelError(f"{name} of {self.name}: expected {expected}, got {shapes}")


def refuse_autocast(torch: Any, name: str) -> None:
    """Raise `ArgumentError` under `torch.autocast`, whose half precision solves no equilibrium."""
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        raise ArgumentError(
            f"{name}: expected full precision, got a call under torch.autocast, whose rounding "
            "leaves an equilibrium two or three digits. Call it within "
            "torch.autocast(device_type, enabled=False), with float32 or float64 tensors"
        )
