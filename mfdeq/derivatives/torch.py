"""Models and losses from PyTorch functions alone, by `torch.func`."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from ..models.losses import Loss
from ..models.model import Model
from .automatic import Flat, loss_from, model_from


def from_torch(f: Any, state: Any, params: Any, kind: str, *, sparsity: Any = None) -> Model:
    """A model from a PyTorch function of (state, params).

    Parameters
    ----------
    f : callable
        The map f(state, params), or the residual, returning what has the structure of `state`.
        What `torch.func.jvp`, `vjp` and, for blocks, `vmap` can transform.
    state, params : tensors, arrays or pytrees of those
        Examples, for their structure, shapes and dtype; their values do not matter. The parameters
        of a module are ``dict(module.named_parameters())``, with `torch.func.functional_call` in f.
    kind : {"map", "residual"}
        Whether an equilibrium is state = f(state, params) or f(state, params) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        As in `from_jax`.

    Returns
    -------
    FixedPointModel or ResidualModel
        With ``flat_state(tree)``, ``flat_params(tree)``, ``state_tree(h)`` and
        ``params_tree(theta)`` between pytrees of tensors and mfdeq's vectors.

    Raises
    ------
    ModelError
        If PyTorch is not installed, or f does not return the structure of `state`.
    """
    return model_from(_Torch(), f, state, params, kind, sparsity)


def loss_from_torch(L: Any, state: Any, params: Any) -> Loss:
    """A loss from a PyTorch function L(state, params) -> scalar.

    Parameters
    ----------
    L : callable
        What `torch.func.grad` can transform.
    state, params : tensors, arrays or pytrees of those
        Examples, as in `from_torch`.
    """
    return loss_from(_Torch(), L, state, params)


class _Torch:
    """PyTorch as the engine: eager; adjoints are kept at the equilibrium, products evaluate f."""

    name, caller = "PyTorch", "mfdeq.from_torch"

    def __init__(self) -> None:
        self.torch = _torch()
        self.func: Any = self.torch.func

    def flat(self, tree: Any, name: str) -> Flat:
        """An example of the state or the parameters."""
        return _Flat(self.torch, tree, name)

    def shapes_of(self, f: Any, *examples: Any) -> Any:
        """What f returns of the examples."""
        with self.torch.no_grad():
            return _shapes(self.torch, f(*examples))

    def into(self, *arrays: Array) -> list[Any]:
        """Arrays as tensors: of numpy a copy, of cupy the same memory."""
        return [
            self.torch.tensor(x) if isinstance(x, host.ndarray) else self.torch.from_dlpack(x)
            for x in arrays
        ]

    def out(self, backend: Backend, x: Any) -> Array:
        """A tensor as a fresh array of the backend."""
        return backend.copy_from(x.detach())

    def value(self, flat: Any) -> Any:
        """(h, theta) -> f."""

        def value(h: Any, theta: Any) -> Any:
            with self.torch.no_grad():
                return flat(h, theta)

        return value

    def gradient(self, scalar: Any) -> Any:
        """(h, theta) -> the two gradients."""
        return self.func.grad(scalar, argnums=(0, 1))

    def linear(self, flat: Any) -> Any:
        """(h, theta) -> the linear parts of f in h and in theta, and their adjoints."""

        def products(h: Any, theta: Any) -> list[Any]:
            found = []
            for part, x in ((lambda h: flat(h, theta), h), (lambda t: flat(h, t), theta)):
                straight = self._along(part, x)
                back = self.func.vjp(part, x)[1]
                transposed = functools.partial(_first, back)
                found.append((self._for_blocks(straight), self._for_blocks(transposed), None))
            return found

        return products

    def second(self, flat: Any) -> Any:
        """(h, theta, a, b) -> f''[a, b], forward over forward."""
        jvp = self.func.jvp

        def second(h: Any, theta: Any, a: Any, b: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                return jvp(flat, (h, theta), (a[1], a[0]))[1]

            return jvp(along_a, (h, theta), (b[1], b[0]))[1]

        return second

    def curvature(self, scalar: Any) -> Any:
        """(h, theta, lam) -> the product with the curvature, forward over reverse."""

        def at(h: Any, theta: Any, lam: Any) -> Any:
            gradient = self.func.grad(lambda theta, h: scalar(h, theta, lam), argnums=(0, 1))
            return self._for_blocks(self._along(gradient, theta, h))

        return at

    def compiled_krylov(self, kept: Any, method: str, identity_minus: bool) -> Any:
        """None: a loop of eager products is compiled by nobody."""
        return None

    def _along(self, function: Any, *x: Any) -> Any:
        # Not torch.func.linearize: it traces, and refuses branches on values.
        return lambda *v: self.func.jvp(function, x, v)[1]

    def _for_blocks(self, product: Any) -> Any:
        # By rows: an output that no input touches has no batch, which only dimension 0 forgives.
        rows = self.func.vmap(product, in_dims=1)

        def block(*x: Any) -> Any:
            found = rows(*x)
            return tuple(y.mT for y in found) if isinstance(found, tuple) else found.mT

        return lambda *x: (product if x[0].ndim == 1 else block)(*x)


def _first(function: Any, y: Any) -> Any:
    return function(y)[0]


class _Flat:
    """A pytree of real tensors as a vector and back."""

    def __init__(self, torch: ModuleType, tree: Any, name: str) -> None:
        self._torch = torch
        self._pytree: Any = importlib.import_module("torch.utils._pytree")
        leaves, self._structure = self._pytree.tree_flatten(tree)
        try:
            leaves = [torch.as_tensor(leaf).detach() for leaf in leaves]
        except (TypeError, ValueError, RuntimeError) as error:
            raise _unexpected(tree, name) from error
        if not leaves or any(leaf.is_complex() for leaf in leaves):
            raise _unexpected(tree, name)
        floats = [leaf.dtype for leaf in leaves if leaf.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floats) if floats else torch.float64
        leaves = [leaf.to(dtype) for leaf in leaves]
        self._shapes = [leaf.shape for leaf in leaves]
        self._sizes = [leaf.numel() for leaf in leaves]
        self.size = sum(self._sizes)
        self.example = self._pytree.tree_unflatten(leaves, self._structure)

    def tree(self, vector: Any) -> Any:
        """The pytree of a vector."""
        parts = self._torch.split(vector, self._sizes)
        shaped = [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return self._pytree.tree_unflatten(shaped, self._structure)

    def ravel(self, tree: Any) -> Any:
        """The vector of a pytree."""
        leaves = self._pytree.tree_leaves(tree)
        return self._torch.cat([self._torch.as_tensor(leaf).reshape(-1) for leaf in leaves])

    def shapes(self, tree: Any) -> Any:
        """Structure, shapes and dtypes."""
        return _shapes(self._torch, tree)


def _shapes(torch: ModuleType, tree: Any) -> Any:
    pytree: Any = importlib.import_module("torch.utils._pytree")
    return pytree.tree_map(
        lambda leaf: (tuple(leaf.shape), str(leaf.dtype)) if torch.is_tensor(leaf) else leaf, tree
    )


def _unexpected(tree: Any, name: str) -> ModelError:
    return ModelError(
        f"{name} of mfdeq.from_torch is {tree!r}; a tensor, an array or a pytree of real ones, as "
        "an example of its shapes, was expected"
    )


def _torch() -> ModuleType:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torch.func")
    except ImportError as error:
        raise ModelError(
            f"PyTorch cannot be imported ({error}): install the extra mfdeq[torch]; in a clone, "
            'pip install -e ".[torch]"'
        ) from error
    with warnings.catch_warnings():
        # What forward mode imports at its first use warns of itself.
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
    return torch
