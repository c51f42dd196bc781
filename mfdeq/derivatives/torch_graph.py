"""Products in reverse mode by the graph of PyTorch's autograd, without `torch.func`.

For a function y(x) with cotangent u, the gradient g(u) = (dy/dx)ᵀ u is linear in u, and its own
derivative in reverse mode is the product of dy/dx with a vector. So reverse mode alone gives both
products, and in the same way those with second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from .source import Function

ERROR_NODE = "torch::autograd::Error"  # through which PyTorch cannot differentiate


class GraphProducts:
    """The products with dy/dx of a function y(x), from one recorded evaluation.

    Parameters
    ----------
    torch : module
    function : callable
        A function of one vector that returns a vector.
    x : tensor
    """

    def __init__(self, torch: ModuleType, function: Function, x: Any) -> None:
        self.torch = torch
        with torch.enable_grad():
            self.x = _leaf(x)
            self.y = function(self.x)

    def adjoint_product(self, u: Any) -> Any:
        """Return (dy/dx)ᵀ u."""
        return _gradients(self.torch, [self.y], [self.x], [u])[0]

    def differentiate_adjoint(self) -> None:
        """Record the adjoint product as a function of its cotangent."""
        with self.torch.enable_grad():
            self._u = self.torch.zeros_like(self.y).requires_grad_()
            (self._g,) = _gradients(self.torch, [self.y], [self.x], [self._u], create_graph=True)
        _check_differentiable(self._g)

    def product(self, v: Any) -> Any:
        """Return dy/dx v, after `differentiate_adjoint`."""
        return _gradients(self.torch, [self._g], [self._u], [v])[0]


class GraphGradient:
    """The gradient and the Hessian of a scalar function of two vectors.

    Parameters
    ----------
    torch : module
    scalar : callable
    *x : tensors
    """

    def __init__(self, torch: ModuleType, scalar: Function, *x: Any) -> None:
        self.torch = torch
        with torch.enable_grad():
            self.x = [_leaf(part) for part in x]
            value = scalar(*self.x)
            self._checked = False
            self._gradient = _gradients(torch, [value], self.x, [None], create_graph=True)

    def gradient(self) -> tuple[Any, ...]:
        """Return the gradient with respect to each vector."""
        return tuple(part.detach() for part in self._gradient)

    def hessian_product(self, *v: Any) -> tuple[Any, ...]:
        """Return the product of the Hessian with vectors."""
        if not self._checked:
            for part in self._gradient:
                _check_differentiable(part)
            self._checked = True
        return tuple(_gradients(self.torch, self._gradient, self.x, v))


def second_by_graph(
    torch: ModuleType, function: Function, h: Any, theta: Any, a: Any, b: Any
) -> Any:
    """Return f''[a, b], the gradient with respect to u of bᵀ (Hessian of uᵀf) a."""
    with torch.enable_grad():
        x = [_leaf(h), _leaf(theta)]
        y = function(*x)
        u = torch.zeros_like(y).requires_grad_()
        gradient = _gradients(torch, [y], x, [u], create_graph=True)
        along_a = _gradients(torch, gradient, x, (a[1], a[0]), create_graph=True)
        entry = along_a[0] @ b[1] + along_a[1] @ b[0]
    return _gradients(torch, [entry], [u], [None])[0]


def _check_differentiable(x: Any) -> None:
    """Raise `ArithmeticError` if x comes from a gradient marked with ``once_differentiable``."""
    nodes, seen = [x.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == ERROR_NODE:
            raise ArithmeticError("a gradient in it is marked with once_differentiable")
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]


def _leaf(x: Any) -> Any:
    return x.detach().clone().requires_grad_()


def _gradients(
    torch: ModuleType,
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    cotangents: Sequence[Any],
    create_graph: bool = False,
) -> list[Any]:
    """Return the gradients with respect to all inputs; zeros where nothing depends on them."""
    pairs = [(y, u) for y, u in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [y for y, _ in pairs],
        inputs,
        [u for _, u in pairs],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
