"""Second derivatives of a scalar of (theta, h): as users give them, and as one operator K.

Stacking is (dtheta, dh), parameters first:

    K = [[params_params, state_params*], [state_params, state_state]].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import Array, Backend
from ..errors import ModelError
from ..operators.dot_tests import check_columns, check_symmetric
from ..operators.operator import Operator, SelfAdjoint, Zero, columnwise
from ..operators.user_operators import as_operator


@dataclass(frozen=True)
class Curvature:
    """The Hessian of a scalar function of (theta, h), by its blocks or by its product.

    Parameters
    ----------
    params_params, state_params, state_state : array, sparse matrix or LinearOperator, optional
        Blocks of shape (P, P), (N, P) and (N, N); None is a zero block. The block (P, N) is
        the transpose of ``state_params`` and is not given.
    apply : callable, optional
        ``apply(dtheta, dh) -> (a_theta, a_h)`` in place of the blocks.
    blocks : bool, optional
        Whether ``apply`` takes (P, k) and (N, k); otherwise it is called column by column.
    """

    params_params: Any = None
    state_params: Any = None
    state_state: Any = None
    apply: Callable[[Array, Array], tuple[Array, Array]] | None = None
    blocks: bool = False
    by_hand: ClassVar[bool] = True  # whether blocks are held against columns

    def __post_init__(self) -> None:
        given = (self.params_params, self.state_params, self.state_state)
        if self.apply is not None and any(block is not None for block in given):
            raise ModelError("Curvature takes either blocks or apply=, both were given")
        if self.apply is not None and not callable(self.apply):
            raise ModelError(f"apply must be callable, {type(self.apply).__name__} came")


class CurvatureOperator(SelfAdjoint):
    """∇²_(θ,h) of a scalar, (P+N, P+N).

    Attributes
    ----------
    params_params, state_params, state_state : Operator
        The blocks, (P, P), (N, P) and (N, N).
    """

    def __init__(self, source: Any, param_size: int, state_size: int) -> None:
        size = param_size + state_size
        super().__init__(source, (size, size))
        self.param_size, self.state_size = param_size, state_size

    def split(self, x: Array) -> tuple[Array, Array]:
        """Stacked (dtheta, dh) in its two parts."""
        return x[: self.param_size, ...], x[self.param_size :, ...]

    params_params: Operator
    state_params: Operator
    state_state: Operator


class BlockCurvature(CurvatureOperator):
    """A curvature given by blocks; None is a zero block, which is skipped."""

    def __init__(
        self, backend: Backend, param_size: int, state_size: int, blocks: list[Operator | None]
    ) -> None:
        super().__init__(backend, param_size, state_size)
        self.blocks = blocks
        P, N = param_size, state_size
        self.params_params, self.state_params, self.state_state = (
            Zero(backend, shape) if block is None else block
            for block, shape in zip(blocks, [(P, P), (N, P), (N, N)], strict=True)
        )

    def _apply(self, x: Array) -> Array:
        u, z = self.split(x)
        pp, sp, ss = self.blocks
        upper = _total([pp and pp._apply(u), sp and sp._apply_adjoint(z)])
        lower = _total([sp and sp._apply(u), ss and ss._apply(z)])
        zeros = self.backend.zeros
        upper = zeros(*u.shape) if upper is None else upper
        lower = zeros(*z.shape) if lower is None else lower
        return self.backend.xp.concat([upper, lower], axis=0)


class AppliedCurvature(CurvatureOperator):
    """A curvature given by its product."""

    def __init__(
        self, backend: Backend, param_size: int, state_size: int, given: Curvature, name: str
    ) -> None:
        super().__init__(backend, param_size, state_size)
        self.given, self.name = given, name
        self._compared = not given.by_hand  # a product of a block with those of its columns
        self.params_params = _BlockOf(self, 0, 0)
        self.state_params = _BlockOf(self, 1, 0)
        self.state_state = _BlockOf(self, 1, 1)

    def _apply(self, x: Array) -> Array:
        if x.ndim == 2 and not self.given.blocks:
            return columnwise(self._call, x, self.backend, x.shape[0])
        if x.ndim == 2 and not self._compared:
            check_columns(self.backend, self._call, x.shape[0], f"the product of {self.name}")
            self._compared = True
        return self._call(x)

    def _call(self, x: Array) -> Array:
        xp, checked = self.backend.xp, self.backend.checked
        parts = self.split(x)
        shapes = tuple(parts[0].shape), tuple(parts[1].shape)
        with self.backend.user_call(
            f"{self.name}, of (dtheta, dh) of shapes {shapes[0]}, {shapes[1]}"
        ):
            result = self.given.apply(*map(self.backend.to_user, parts))  # type: ignore[misc]
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise ModelError(
                    f"{self.name} returned {type(result).__name__}; (a_theta, a_h) was expected"
                )
            if x.ndim == 1:
                sizes = self.param_size, self.state_size
                result = tuple(map(self.backend.from_user, result, sizes))
        a_u = checked(result[0], shapes[0], f"a_theta of {self.name}")
        return xp.concat([a_u, checked(result[1], shapes[1], f"a_h of {self.name}")], axis=0)


class CurvatureSum(CurvatureOperator):
    """The sum of curvatures that cannot be merged block by block."""

    def __init__(self, left: CurvatureOperator, right: CurvatureOperator) -> None:
        super().__init__(left, left.param_size, left.state_size)
        self.left, self.right = left, right
        self.params_params = left.params_params + right.params_params
        self.state_params = left.state_params + right.state_params
        self.state_state = left.state_state + right.state_state

    def _apply(self, x: Array) -> Array:
        return self.left._apply(x) + self.right._apply(x)


class _BlockOf(Operator):
    """One block of a curvature that is known by its product: pad, apply, cut."""

    def __init__(self, of: CurvatureOperator, row: int, column: int) -> None:
        sizes = (of.param_size, of.state_size)
        super().__init__(of, (sizes[row], sizes[column]))
        self.of, self.row, self.column = of, row, column

    def _through(self, x: Array, into: int, out: int) -> Array:
        parts = [
            self.of.backend.zeros(n, *x.shape[1:]) for n in (self.of.param_size, self.of.state_size)
        ]
        parts[into] = x
        return self.of.split(self.of._apply(self.of.backend.xp.concat(parts, axis=0)))[out]

    def _apply(self, x: Array) -> Array:
        return self._through(x, self.column, self.row)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._through(y, self.row, self.column)


def as_curvature(
    backend: Backend,
    given: Any,
    param_size: int,
    state_size: int,
    name: str,
    accuracy: float = 0.0,
    symmetric: bool = False,
) -> CurvatureOperator:
    """What a user's ``curvature`` returned (a `Curvature` or a callable) as an operator, checked.

    Not for symmetry where that is known, or looked into elsewhere.

    Raises
    ------
    ModelError
        Wrong kind, shape or dtype.
    DerivativeError
        If it is not symmetric.
    """
    P, N = param_size, state_size
    if callable(given) and not isinstance(given, Curvature) and not hasattr(given, "shape"):
        given = Curvature(apply=given)
    if not isinstance(given, Curvature):
        raise ModelError(
            f"{name} is a {type(given).__name__}; mfdeq.Curvature(...) or a callable "
            "(dtheta, dh) -> (a_theta, a_h) was expected"
        )
    if given.apply is not None:
        found: CurvatureOperator = AppliedCurvature(backend, P, N, given, name)
        if not symmetric:
            check_symmetric(found, name, "its apply", accuracy)
        return found
    fields = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
    blocks: list[Operator | None] = []
    for field, shape in fields.items():
        block = getattr(given, field)
        blocks.append(
            None if block is None else as_operator(backend, block, shape, f"{field} of {name}")
        )
        if blocks[-1] is not None and field != "state_params" and not symmetric:
            check_symmetric(blocks[-1], name, field, accuracy)
    return BlockCurvature(backend, P, N, blocks)


def add_curvatures(left: CurvatureOperator, right: CurvatureOperator) -> CurvatureOperator:
    """The sum, merged block by block (and entry by entry) where both are given by blocks."""
    if isinstance(left, BlockCurvature) and isinstance(right, BlockCurvature):
        merged = [_merge(a, b) for a, b in zip(left.blocks, right.blocks, strict=True)]
        return BlockCurvature(left.backend, left.param_size, left.state_size, merged)
    return CurvatureSum(left, right)


def scale_curvature(of: CurvatureOperator, factor: float) -> CurvatureOperator:
    """A real multiple of a curvature."""
    if isinstance(of, BlockCurvature):
        blocks: list[Operator | None] = [
            None if block is None else block.times(factor) for block in of.blocks
        ]
        return BlockCurvature(of.backend, of.param_size, of.state_size, blocks)
    return _ScaledCurvature(of, factor)


class _ScaledCurvature(CurvatureOperator):
    def __init__(self, of: CurvatureOperator, factor: float) -> None:
        super().__init__(of, of.param_size, of.state_size)
        self.of, self.factor = of, factor
        self.params_params = factor * of.params_params
        self.state_params = factor * of.state_params
        self.state_state = factor * of.state_state

    def _apply(self, x: Array) -> Array:
        return self.factor * self.of._apply(x)


def _merge(a: Operator | None, b: Operator | None) -> Operator | None:
    if a is None or b is None:
        return b if a is None else a
    return a.plus(b)


def _total(terms: list[Array | None]) -> Array | None:
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None
