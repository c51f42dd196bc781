"""The checked Hessian of lam'R_k with respect to (theta, previous, h), with its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ModelError
from ..models.curvature import Curvature, CurvatureOperator, as_curvature
from ..operators.dot_tests import check_symmetric
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .step_model import StepCurvature

# The fields of a `StepCurvature`, with the parts of (theta, previous, h) of their rows and columns.
BLOCKS = {
    "params_params": (0, 0),
    "previous_params": (1, 0),
    "state_params": (2, 0),
    "previous_previous": (1, 1),
    "state_previous": (2, 1),
    "state_state": (2, 2),
}


class CheckedStepCurvature:
    """The Hessian of lam'R_k, by its blocks or by its product.

    Attributes
    ----------
    sizes : tuple of three int
        P, n and n.
    blocks : dict of (int, int) to Operator, or None
        The blocks that are not zero, of parts (theta, previous, h), on and below the diagonal; None
        if only products are known.
    product : CurvatureOperator or None
        The Hessian of (theta, previous) as parameters and h, if only products are known.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        blocks: dict[tuple[int, int], Operator] | None,
        product: CurvatureOperator | None,
    ) -> None:
        self.sizes, self.blocks, self.product = sizes, blocks, product

    @classmethod
    def of(
        cls, backend: Backend, given: Any, P: int, n: int, name: str, check_symmetry: bool
    ) -> CheckedStepCurvature:
        """Check what a user's ``curvature`` returned."""
        sizes = P, n, n
        if callable(given) and not isinstance(given, StepCurvature):
            given = StepCurvature(apply=given)
        if not isinstance(given, StepCurvature):
            raise ModelError(
                f"{name}: expected an mfdeq.StepCurvature or a callable (dtheta, dprevious, dh) -> "
                f"(a_theta, a_previous, a_h), got {type(given).__name__}"
            )
        if given.apply is not None:
            stacked = Curvature(apply=_stacked(backend, given.apply, sizes, name))
            product = as_curvature(backend, stacked, P + n, n, name, check_symmetry=check_symmetry)
            return cls(sizes, None, product)
        blocks = {}
        for field, (row, column) in BLOCKS.items():
            if (entry := getattr(given, field)) is None:
                continue
            where = f"{field} of {name}"
            block = as_operator(backend, entry, (sizes[row], sizes[column]), where)
            if check_symmetry and row == column:
                check_symmetric(block, where, field)
            blocks[row, column] = block
        return cls(sizes, blocks, None)

    def apply(self, parts: list[Array | None]) -> list[Array | None]:
        """Return the product with (dtheta, dprevious, dh), where None stands for zeros."""
        if self.blocks is None:
            return self._apply_product(parts)
        out: list[Array | None] = [None, None, None]

        def add(part: int, term: Array) -> None:
            known = out[part]
            out[part] = term if known is None else known + term

        for (row, column), block in self.blocks.items():
            if (x := parts[column]) is not None:
                add(row, block._apply(x))
            if row != column and (y := parts[row]) is not None:
                add(column, block._apply_adjoint(y))
        return out

    def _apply_product(self, parts: list[Array | None]) -> list[Array | None]:
        K = self.product
        assert K is not None
        given = next((x for x in parts if x is not None), None)
        if given is None:
            return [None, None, None]
        x = K.backend.xp.concat(
            [
                K.backend.zeros(size, *given.shape[1:]) if part is None else part
                for size, part in zip(self.sizes, parts, strict=True)
            ]
        )
        y, (P, n, _) = K._apply(x), self.sizes
        return [y[:P, ...], y[P : P + n, ...], y[P + n :, ...]]


def _stacked(
    backend: Backend, apply: Callable[..., Any], sizes: tuple[int, int, int], name: str
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Return the product of the Hessian of (theta, previous) as parameters, and h."""
    P = sizes[0]

    def stacked(params: Array, dh: Array) -> tuple[Array, Array]:
        result = apply(params[:P], params[P:], dh)
        if not isinstance(result, (tuple, list)) or len(result) != 3:
            raise ModelError(
                f"{name}: expected it to return three arrays (a_theta, a_previous, a_h), got "
                f"{type(result).__name__}"
            )
        parts = [
            backend.check_array(x, (size,), f"{part} of {name}")
            for x, size, part in zip(result, sizes, ("a_theta", "a_previous", "a_h"), strict=True)
        ]
        return backend.xp.concat(parts[:2]), parts[2]

    return stacked
