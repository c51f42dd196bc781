"""Functions of PyTorch's autograd for equilibria and for the products with their derivatives.

As in `jax_primitives`, all operands are vectors along their last axis, with equal numbers of
leading axes, which are broadcast.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import host
from ..arrays.library import array_on_device
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from .products import DERIVATIVES, TRANSPOSES

torch: Any = import_optional("torch", "torch")


def to_array(x: Any) -> Any:
    """Return a tensor as an array of numpy, or of cupy if it is on a device."""
    try:
        x = x.detach()
    except RuntimeError as error:  # only batches of `torch.autograd` have no `detach`
        raise ModelError(
            "mfdeq.to_torch: expected tensors or those of torch.func, got a batch of cotangents "
            "of torch.autograd. Use torch.func.jacrev, jacfwd, hessian or vmap, or leave out "
            "vectorize=True or is_grads_batched=True, which computes one row after the other"
        ) from error
    return x.contiguous().numpy() if x.device.type == "cpu" else array_on_device(x.contiguous())


def to_tensor(x: Any, like: Any) -> Any:
    """Return a new tensor of an array, of the device of another tensor."""
    return torch.tensor(x) if isinstance(x, host.ndarray) else torch.from_dlpack(x).clone()


def sum_to(x: Any, shape: Any) -> Any:
    """Sum a cotangent over the leading axes along which its operand was broadcast."""
    axes = [i for i, (m, n) in enumerate(zip(x.shape, shape, strict=True)) if n == 1 != m]
    return x.sum(axes, keepdim=True) if axes else x


def batched(apply: Any, axes: Any, operands: Any) -> tuple[Any, int]:
    """Apply a function to operands with batch axes, which are moved to the front."""
    moved = [
        x.unsqueeze(0) if axis is None else x.movedim(axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    return apply(*moved), 0


class State(torch.autograd.Function):
    """h*(theta), from a start whose derivative is zero."""

    @staticmethod
    def forward(node: Any, theta: Any, h0: Any) -> Any:
        """Return the equilibria, (..., N)."""
        return to_tensor(node.states(to_array(theta), to_array(h0)), theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Store theta and h*."""
        ctx.node, theta, _ = inputs
        ctx.save_for_backward(theta, output)
        ctx.save_for_forward(theta, output)

    @staticmethod
    def backward(ctx: Any, y: Any) -> Any:
        """Return Z'y."""
        theta, h = ctx.saved_tensors
        g = Product.apply(ctx.node, "sensitivity_adjoint", theta, h.detach(), y)
        return None, sum_to(g, theta.shape), None

    @staticmethod
    def jvp(ctx: Any, _: Any, u: Any, d_start: Any) -> Any:
        """Return Z u."""
        theta, h = ctx.saved_tensors
        if u is None:
            return torch.zeros_like(h)
        return Product.apply(ctx.node, "sensitivity", theta, h.detach(), u)

    @staticmethod
    def vmap(info: Any, axes: Any, node: Any, theta: Any, h0: Any) -> Any:
        """Solve for a batch."""
        return batched(lambda *x: State.apply(node, *x), axes[1:], (theta, h0))


class Product(torch.autograd.Function):
    """A product with a derivative of h*(theta), linear in each of the vectors.

    It is a function of theta alone: h has no derivative of its own.
    """

    @staticmethod
    def forward(node: Any, name: str, theta: Any, h: Any, *vectors: Any) -> Any:
        """Return the product."""
        operands = [to_array(x) for x in (theta, h, *vectors)]
        return to_tensor(node.products(name, *operands), theta)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Store the operands."""
        ctx.node, ctx.name, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, y: Any) -> Any:
        """Return the products with the transposes."""
        theta, h, *vectors = ctx.saved_tensors
        gradients: list[Any] = [None] * (4 + len(vectors))

        def product(name: str, *x: Any) -> Any:
            return Product.apply(ctx.node, name, theta, h.detach(), *x)

        if ctx.needs_input_grad[2]:
            (x,) = vectors if ctx.name in DERIVATIVES else _refuse_third_order()
            # y'Z u and u'Z'y have the same derivative with respect to theta.
            weights, direction = (y, x) if ctx.name == "sensitivity" else (x, y)
            gradients[2] = sum_to(product("component_hessian", weights, direction), theta.shape)
        for i, x in enumerate(vectors):
            if ctx.needs_input_grad[4 + i]:
                others = [*vectors[:i], *vectors[i + 1 :]]
                name, last = TRANSPOSES[ctx.name][i]
                operands = [*others, y] if last else [y, *others]
                gradients[4 + i] = sum_to(product(name, *operands), x.shape)
        return tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, d_theta: Any, d_h: Any, *tangents: Any) -> Any:
        """Return the derivative along tangents."""
        theta, h, *vectors = ctx.saved_tensors

        def product(name: str, *x: Any) -> Any:
            return Product.apply(ctx.node, name, theta, h.detach(), *x)

        terms = [
            product(ctx.name, *vectors[:i], tangent, *vectors[i + 1 :])
            for i, tangent in enumerate(tangents)
            if tangent is not None
        ]
        if d_theta is not None:
            if ctx.name not in DERIVATIVES:
                _refuse_third_order()
            terms.append(product(DERIVATIVES[ctx.name], *vectors, d_theta))
        return sum(terms[1:], terms[0])

    @staticmethod
    def vmap(info: Any, axes: Any, node: Any, name: str, *operands: Any) -> Any:
        """Apply the product to a batch."""
        return batched(lambda *x: Product.apply(node, name, *x), axes[2:], operands)


def _refuse_third_order() -> Any:
    raise ModelError(
        "mfdeq.to_torch: expected at most second derivatives of a node, got third ones: use "
        "mfdeq.to_jax with a model from mfdeq.from_jax, or mfdeq.torch_layer, for higher orders"
    )
