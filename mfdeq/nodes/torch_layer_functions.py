"""Functions of PyTorch's autograd for the equilibria of a batch and the inverse of its A.

Their operands are tensors and their results have no hidden state, as the transforms of `torch.func`
need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.optional_packages import import_optional
from ..errors import ConvergenceError
from .last_error import record_error
from .torch_gmres import MatrixFree
from .torch_layer_inputs import NAME

torch: Any = import_optional("torch", "torch")

SOLVE_RTOL = 1e-12  # relative residual of a linear solve
SOLVE_ROUNDINGS = 100.0  # of the same, where that is more
MAX_EXCESS = 100.0  # of that residual, beyond which it is an error


def batch_after_batch(apply: Callable[..., Any], info: Any, axes: Any, operands: Any) -> Any:
    """Apply a function to operands with batch axes, to one batch after the other."""
    results = []
    for i in range(info.batch_size):
        at = [
            t if axis is None else t.select(axis, i) for t, axis in zip(operands, axes, strict=True)
        ]
        results.append(apply(*at))
    if torch.is_tensor(results[0]):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


class Solve(torch.autograd.Function):
    """The states of a batch and the factor of A, which have no derivatives."""

    @staticmethod
    def forward(layer: Any, x: Any, start: Any, *tensors: Any) -> Any:
        """Solve with the values of the tensors, without their derivatives."""
        module = layer.module_with(t.detach() for t in tensors)
        h, factor = layer.solve_batch(module, x.detach(), start.detach(), dense=True)
        return (h, *factor.tensors())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Mark the results as constants."""
        ctx.mark_non_differentiable(*output)
        ctx.shapes = [(x.shape, x.dtype, x.device) for x in output]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return no gradients."""
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return no tangents."""
        return (None,) * len(ctx.shapes)

    @staticmethod
    def vmap(info: Any, axes: Any, layer: Any, *operands: Any) -> Any:
        """Solve for one batch after the other."""
        return batch_after_batch(lambda *x: Solve.apply(layer, *x), info, axes[1:], operands)


class Step:
    """A step h - A^-1 R(h) of a layer, whose steps follow each other from the equilibrium.

    In a first backward pass the cotangent of each but the last one is zero up to rounding, which
    needs no linear solve.

    Parameters
    ----------
    following : Step or None
        The next step, or None for the last.
    """

    def __init__(self, following: Step | None) -> None:
        self.following = following
        self._latest: tuple[int, float] | None = None  # a backward pass, and the cotangent's norm

    def is_rounding(self, y: Any) -> bool:
        """Return whether a cotangent is rounding beside that of the following step."""
        if torch._C._are_functorch_transforms_active():
            return False
        this_pass, size = torch._C._current_graph_task_id(), float(y.detach().norm())
        self._latest = this_pass, size
        if self.following is None or self.following._latest is None:
            return False
        other_pass, other_size = self.following._latest
        return this_pass == other_pass and size <= 10.0 * solve_rtol(y) * other_size


def solve_rtol(b: Any) -> float:
    """Return the relative residual to which GMRES solves for a right-hand side."""
    return max(SOLVE_RTOL, SOLVE_ROUNDINGS * float(torch.finfo(b.dtype).eps))


class Inverse(torch.autograd.Function):
    """A^-1, or the first terms of its Neumann series, as a linear function of R.

    A is a constant. The operands are a function that makes A of some tensors, the number of terms
    (0 for A^-1), whether to apply the adjoint, whether R is more than rounding (otherwise its value
    is passed on, and only its derivative counts), the step to which it belongs, R, and the tensors.
    """

    @staticmethod
    def forward(
        make: Callable[..., MatrixFree],
        terms: int,
        adjoint: bool,
        whole: bool,
        step: Step | None,
        R: Any,
        *tensors: Any,
    ) -> Any:
        """Apply it."""
        if not whole:
            return R.clone()
        A = make(*tensors)
        if terms:
            x = R
            for _ in range(terms - 1):
                x = R + x - A.apply(x, adjoint)
            return x
        x, residual = A.solve(R, adjoint, solve_rtol(R))
        worst, limit = float(residual.max()), MAX_EXCESS * solve_rtol(R)
        if not worst <= limit:
            error = ConvergenceError(
                f"sample {int(residual.argmax())} of {len(R)} of {NAME}: GMRES for its derivative "
                f"stopped at a relative residual of {worst:.1e}, expected "
                f"{limit:.1e}: A is close to singular. Use float64, or "
                'backward="truncated", whose gradient is inexact',
                best=x,
            )
            record_error(error)
            raise error
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Store all but R, in which the function is linear."""
        ctx.settings = inputs[:5]
        ctx.save_for_backward(*inputs[6:])
        ctx.save_for_forward(*inputs[6:])

    @staticmethod
    def backward(ctx: Any, y: Any) -> Any:
        """Apply the adjoint."""
        make, terms, adjoint, _, step = ctx.settings
        whole = step is None or not step.is_rounding(y)
        w = Inverse.apply(make, terms, not adjoint, whole, None, y, *ctx.saved_tensors)
        return (None, None, None, None, None, w, *(None for _ in ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Apply it to the tangent."""
        make, terms, adjoint, *_ = ctx.settings
        return Inverse.apply(make, terms, adjoint, True, None, tangents[5], *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any,
        axes: Any,
        make: Any,
        terms: int,
        adjoint: bool,
        whole: bool,
        step: Any,
        *operands: Any,
    ) -> Any:
        """Apply it to one batch after the other."""
        return batch_after_batch(
            lambda *x: Inverse.apply(make, terms, adjoint, whole, step, *x),
            info,
            axes[5:],
            operands,
        )
