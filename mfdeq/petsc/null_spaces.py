"""Null spaces that users' Mats carry: Mat.setNullSpace and Mat.setTransposeNullSpace."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, host
from ..equilibrium.null_spaces import NullSpaces, null_defects
from ..errors import ModelError
from ..operators.operator import Operator
from .arrays import DistributedArray

MAX_DEFECT = 1e-6  # |A'w| beside |A|'|w|, of a right null vector that is a left one, too


def declared_null_spaces(A: Operator, mat: Any) -> NullSpaces | None:
    """Return the null spaces of a Mat and of its transpose that the user has set, or None.

    A null space that is set for one side only is that of the other, too, if the Mat has it.

    Raises
    ------
    ModelError
        If one of them is missing, or has another dimension.
    """
    sides = [_basis(A, of) for of in (mat.getNullSpace(), mat.getTransposeNullSpace())]
    right, left = sides
    if right is None and left is None:
        return None
    if left is None:
        assert right is not None
        if max(null_defects(A, right)) > MAX_DEFECT:
            raise ModelError(
                "d_state: expected a Mat with setTransposeNullSpace beside setNullSpace, since its "
                "null space is not that of its transpose: set the combinations of equations that "
                "vanish"
            )
        left = right
    elif right is None:
        if max(null_defects(A.H, left)) > MAX_DEFECT:  # type: ignore[attr-defined]
            raise ModelError(
                "d_state: expected a Mat with setNullSpace beside setTransposeNullSpace, since the "
                "null space of its transpose is not its own: set what the equations leave open"
            )
        right = left
    assert right is not None
    assert left is not None
    if right.shape != left.shape:
        raise ModelError(
            "d_state: expected a Mat with as many null vectors as its transpose, got "
            f"{right.shape[1]} of setNullSpace and {left.shape[1]} of setTransposeNullSpace"
        )
    ones, none = host.ones(int(A.shape[0])), host.zeros(int(A.shape[0]), dtype=int)
    return NullSpaces(_on_host(right), _on_host(left), ones, ones, none, none)


def copy_null_spaces(source: Any, target: Any) -> None:
    """Attach the null spaces of a Mat to another one, such as a copy, which drops them."""
    for get, attach in (
        (source.getNullSpace, target.setNullSpace),
        (source.getTransposeNullSpace, target.setTransposeNullSpace),
        (source.getNearNullSpace, target.setNearNullSpace),
    ):
        if space := get():
            attach(space)


def _basis(A: Operator, space: Any) -> Array | None:
    """Return the vectors of a null space as an (n, k) array, or None."""
    if not space:
        return None
    vectors = [DistributedArray.from_petsc(vec) for vec in space.getVecs()]
    if space.hasConstant():
        vectors.insert(0, A.backend.zeros(A.shape[1]) + 1.0)
    return A.backend.xp.stack(vectors, axis=1) if vectors else None


def _on_host(basis: Array) -> Any:
    """Return a basis on the host, in which the largest entry of each column is one."""
    whole = basis.gathered()
    return whole / whole[abs(whole).argmax(axis=0), host.arange(whole.shape[1])]
