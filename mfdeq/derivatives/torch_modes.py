"""What PyTorch's modes of differentiation need: locks, blocks of vectors, and attention.

PyTorch has one level of forward mode for the whole process, so one thread at a time uses it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ..arrays.optional_packages import import_optional
from ..locks import Lock, ignore_warnings
from .alternatives import Alternatives
from .source import Function

forward_mode = Lock()


def import_torch() -> Any:
    """Import PyTorch with `torch.func`, and what forward mode imports at its first use."""
    torch = import_optional("torch", "torch")
    import_optional("torch.func", "torch")  # `import torch` may not load this submodule
    # Modules that forward mode imports at its first use issue warnings.
    with forward_mode, ignore_warnings():
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
    return torch


def with_math_attention(torch: ModuleType, function: Function) -> Function:
    """Return a function whose attention is computed by operations that all modes support."""
    attention = import_optional("torch.nn.attention", "torch")

    def with_math_attention(*x: Any) -> Any:
        with attention.sdpa_kernel(attention.SDPBackend.MATH):
            return function(*x)

    return with_math_attention


def for_blocks(torch: Any, product: Function, missing: Function) -> Function:
    """Extend a product with vectors to blocks, by vmap or else column by column."""
    # Outputs are stacked as rows and transposed: only with out_dims=0 does vmap support
    # outputs that do not depend on the input.
    stack = torch.stack

    def columns(*x: Any) -> Any:
        results = [product(*column) for column in zip(*(v.unbind(1) for v in x), strict=True)]
        if isinstance(results[0], tuple):
            return tuple(stack(parts) for parts in zip(*results, strict=True))
        return stack(results)

    rows = Alternatives(
        [torch.func.vmap(product, in_dims=1), columns],
        lambda *x: product(*(v[:, 0] for v in x)),
        missing,
    )

    def block(*x: Any) -> Any:
        result = rows(*x)
        return tuple(y.mT for y in result) if isinstance(result, tuple) else result.mT

    return lambda *x: (product if x[0].ndim == 1 else block)(*x)
