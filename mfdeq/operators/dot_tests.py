"""Dot tests: whether an adjoint is the adjoint, and a Hessian is symmetric."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array, Backend
from ..errors import DerivativeError
from .operator import Operator, SelfAdjoint


def check_adjoint(op: Operator, name: str, seed: int = 0) -> None:
    """Apply the dot test <y, A x> = <A* y, x> to one random pair.

    Raises
    ------
    DerivativeError
        If the two sides differ by more than sqrt(eps) of ||y|| ||A x|| + ||A* y|| ||x||.
    """
    mismatch, scale = adjoint_mismatch(op, seed)
    if mismatch > op.backend.eps**0.5 * scale:
        raise DerivativeError(
            f"{name}: the adjoint product is not the adjoint of the product "
            f"(<y, A x> and <A* y, x> differ by {mismatch:.3g} on a scale of {scale:.3g}); "
            "correct its rmatvec",
            field=_field(name),
        )


def check_symmetric(op: Operator, name: str, field: str, accuracy: float = 0.0) -> None:
    """Raise `DerivativeError` unless <y, K x> = <K y, x> for a random pair.

    The tolerance is sqrt(eps), or ten times the relative accuracy of K if that is more.
    """
    mismatch, scale = symmetry_mismatch(op)
    if mismatch > max(op.backend.eps**0.5, 10 * accuracy) * scale:
        raise DerivativeError(
            f"{name}: {field} is not symmetric (<y, K x> and <K y, x> differ by {mismatch:.3g} on "
            f"a scale of {scale:.3g}); every Hessian is: look for a transposed or missing term",
            field=_field(name if field.startswith("it") else f"{field} of {name}"),
        )


def _field(name: str) -> str:
    """Return "curvature.state_params" for "state_params of curvature of Model.linearize"."""
    return ".".join(reversed(name.split(" of ")[:-1]))


def check_columns(
    backend: Backend,
    product: Callable[[Array], Array],
    size: int,
    name: str,
    rtol: float | None = None,
) -> None:
    """Raise `DerivativeError` unless the product of a block is that of its columns.

    One combination of two random columns is compared, to `rtol` or by default to sqrt(eps).
    """
    X, c = backend.random(size, 2, seed=2), backend.random(2, seed=3)
    block, column = product(X) @ c, product(X @ c)
    mismatch, scale = backend.norm(block - column), backend.norm(block) + backend.norm(column)
    if mismatch > (rtol or backend.eps**0.5) * scale:
        raise DerivativeError(
            f"{name} of a block is not that of its columns (for one combination of them it differs "
            f"by {mismatch:.3g} on a scale of {scale:.3g}): correct what it does with (n, k) "
            "arrays, or give it for (n,) only (no matmat, no blocks=True)"
        )


def is_symmetric(op: Operator) -> bool:
    """Whether <y, K x> = <K y, x> for a random pair, to sqrt(eps)."""
    mismatch, scale = symmetry_mismatch(op)
    return mismatch <= op.backend.eps**0.5 * scale


def symmetry_mismatch(op: Operator, seed: int = 0) -> tuple[float, float]:
    """Return |<y, K x> - <K y, x>| for a random pair, and the scale to compare it with."""
    return adjoint_mismatch(as_self_adjoint(op), seed)


def as_self_adjoint(op: Operator) -> Operator:
    """Return an operator that claims to be its own adjoint, for a dot test of symmetry."""
    return _AsSelfAdjoint(op)


class _AsSelfAdjoint(SelfAdjoint):
    def __init__(self, of: Operator) -> None:
        super().__init__(of, of.shape)
        self.of = of

    def _apply(self, x: Array) -> Array:
        return self.of._apply(x)

    def abs_apply(self, x: Array) -> Array:
        return self.of.abs_apply(x)


def adjoint_mismatch(op: Operator, seed: int = 0) -> tuple[float, float]:
    """Return |<y, A x> - <A* y, x>| for random x and y, and ||y|| ||A x|| + ||A* y|| ||x||."""
    backend = op.backend
    x = backend.random(op.shape[1], seed=seed)
    y = backend.random(op.shape[0], seed=seed + 1)
    ax, ay = op._apply(x), op._apply_adjoint(y)
    mismatch = abs(float(backend.xp.vecdot(y, ax)) - float(backend.xp.vecdot(ay, x)))
    norm = backend.norm
    # Subnormal numbers have fewer digits, which is not the fault of an adjoint.
    least = float(backend.xp.finfo(backend.dtype).smallest_normal) / backend.eps
    return mismatch, norm(y) * norm(ax) + norm(ay) * norm(x) + least


def balanced_mismatch(op: Operator, seed: int = 0) -> tuple[float, float]:
    """Do as `adjoint_mismatch` with rows and columns scaled to the same size."""
    xp, random = op.backend.xp, op.backend.random
    y = _balanced(
        op, random(op.shape[0], seed=seed), op.abs_apply(op.backend.zeros(op.shape[1]) + 1)
    )
    x = _balanced(op, random(op.shape[1], seed=seed + 1), op._adjoint().abs_apply(y))
    left, right = y * op._apply(x), x * op._apply_adjoint(y)
    mismatch, scale = xp.sum(left) - xp.sum(right), xp.sum(xp.abs(left)) + xp.sum(xp.abs(right))
    return abs(float(mismatch)), float(scale)


def _balanced(op: Operator, x: Array, size: Array) -> Array:
    """Return x / size, except where the size may be rounding of larger entries."""
    xp, greatest = op.backend.xp, float(op.backend.xp.max(size))
    least = op.backend.eps**0.25 * greatest
    return x / xp.where(size > least, size, xp.full_like(size, least)) if greatest > 0 else x
