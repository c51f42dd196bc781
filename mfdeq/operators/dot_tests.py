"""Dot tests of adjoints and of the symmetry of Hessians."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array, Backend
from ..arrays.powers_of_two import exponents_of, scaled_by, times_power
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
            "check rmatvec",
            field=_field(name),
        )


def check_symmetric(
    op: Operator, name: str, field: str, accuracy: Callable[[], float] = lambda: 0.0
) -> None:
    """Raise `DerivativeError` unless <y, K x> = <K y, x> for a random pair.

    The relative tolerance is the larger of sqrt(eps) and ten times the accuracy of K, which is
    asked for after the products: that of differences is known once they are computed.
    """
    mismatch, scale = symmetry_mismatch(op)
    if mismatch > max(op.backend.eps**0.5, 10 * accuracy()) * scale:
        raise DerivativeError(
            f"{name}: {field} is not symmetric (<y, K x> and <K y, x> differ by {mismatch:.3g} on "
            f"a scale of {scale:.3g}); a Hessian must be symmetric; check for a transposed or "
            "missing term",
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
    """Raise `DerivativeError` unless a product acts on a block column by column.

    One linear combination of two random columns is compared, with relative tolerance `rtol`, by
    default sqrt(eps).
    """
    mismatch, scale = columns_mismatch(backend, product, size)
    if mismatch > (rtol or backend.eps**0.5) * scale:
        raise DerivativeError(
            f"{name} with a block differs from the products with its columns (by {mismatch:.3g} on "
            f"a scale of {scale:.3g} for a combination of two columns): check the code for (n, k) "
            "arrays, or support only (n,) arrays (without matmat or blocks=True)",
            field=_field(name.partition(" of ")[2]),
        )


def columns_mismatch(
    backend: Backend, product: Callable[[Array], Array], size: int
) -> tuple[float, float]:
    """Return by how much a product with a block differs from those with its columns, and a scale.

    One linear combination of two random columns is compared.
    """
    X, c = backend.random(size, 2, seed=2), backend.random(2, seed=3)
    block, column = product(X) @ c, product(X @ c)
    return backend.norm(block - column), backend.norm(block) + backend.norm(column)


def is_symmetric(op: Operator) -> bool:
    """Test whether <y, K x> = <K y, x> for a random pair, to relative tolerance sqrt(eps).

    The Jacobian of a gradient is known to be symmetric and is not tested. A matrix is tested once.
    """
    if op.known_symmetric:
        return True
    found = vars(op).get("_symmetric")
    if found is None:
        mismatch, scale = symmetry_mismatch(op)
        found = mismatch <= op.backend.eps**0.5 * scale
        if op.array is not None:  # the choice of a solver and the solver itself need it
            vars(op)["_symmetric"] = found
    return found


def symmetry_mismatch(op: Operator, seed: int = 0) -> tuple[float, float]:
    """Return |<y, K x> - <K y, x>| for a random pair, and its scale."""
    return adjoint_mismatch(as_self_adjoint(op), seed)


def as_self_adjoint(op: Operator) -> Operator:
    """Return an operator that is declared self-adjoint, for a dot test of its symmetry."""
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
    op.product_size = float(backend.xp.max(backend.xp.abs(ax)))
    # The same power of two for both, if squares of the larger one are out of range.
    exponent = min(int(exponents_of(backend, ax)), int(exponents_of(backend, ay)))
    if exponent:
        ax, ay = (times_power(backend, product, exponent) for product in (ax, ay))
    mismatch = abs(backend.dot(y, ax) - backend.dot(ay, x))
    norm = backend.norm
    # Subnormal numbers have fewer digits, whose loss must not fail the test.
    least = backend.smallest_normal / backend.eps
    if exponent:
        least = scaled_by(least, exponent)
    return mismatch, norm(y) * norm(ax) + norm(ay) * norm(x) + least


def balanced_pair(op: Operator, seed: int = 0) -> tuple[Array, Array]:
    """Return random vectors (y, x) that weight the rows and columns of A equally."""
    random = op.backend.random
    y = _balanced(
        op, random(op.shape[0], seed=seed), op.abs_apply(op.backend.zeros(op.shape[1]) + 1)
    )
    x = _balanced(op, random(op.shape[1], seed=seed + 1), op._adjoint().abs_apply(y))
    return y, x


def mismatch_along(op: Operator, y: Array, x: Array) -> tuple[float, float]:
    """Return |<y, A x> - <A* y, x>|, and the sum of the sizes of the terms of both products."""
    xp = op.backend.xp
    left, right = y * op._apply(x), x * op._apply_adjoint(y)
    mismatch, scale = xp.sum(left) - xp.sum(right), xp.sum(xp.abs(left)) + xp.sum(xp.abs(right))
    return abs(float(mismatch)), float(scale)


def _balanced(op: Operator, x: Array, size: Array) -> Array:
    """Return x / size, with small sizes, which may be rounding errors, replaced by a bound."""
    xp, greatest = op.backend.xp, float(op.backend.xp.max(size))
    least = op.backend.eps**0.25 * greatest
    return x / xp.where(size > least, size, xp.full_like(size, least)) if greatest > 0 else x
