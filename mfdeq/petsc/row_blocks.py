"""A few rows of numbers, such as constraints, as the transpose of a distributed block."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import host, is_sparse
from ..errors import ModelError
from .arrays import DistributedArray, TransposedArray, is_petsc
from .ranks import Ranks


def rows_of(ranks: Ranks, given: Any, count: int, size: int) -> TransposedArray:
    """Return a Vec, a sequence of Vecs, a Mat or a numpy array as (count, size) rows.

    Parameters
    ----------
    ranks : Ranks
    given : Vec, sequence of Vecs, Mat of `count` rows, or array or sparse matrix on every rank
        Rows of numpy are in PETSc's numbering.
    count, size : int

    Raises
    ------
    ModelError
        If it is something else, or of another shape.
    """
    if is_petsc(given, "Mat"):
        block = _columns_of_mat(ranks, given, count, size)
    elif is_petsc(given, "Vec") or _are_vecs(given):
        vecs = [DistributedArray.from_petsc(x) for x in _sequence(given)]
        if len(vecs) != count or any(vec.shape != (size,) for vec in vecs):
            shapes = ", ".join(str(tuple(map(int, vec.shape))) for vec in vecs)
            raise ModelError(f"expected {count} Vecs of {size} entries, got shapes {shapes}")
        block = vecs[0].like(host.stack([vec.local for vec in vecs], axis=1))
    else:
        array = _array(given, count)
        if array.shape != (count, size):
            raise ModelError(f"expected shape {(count, int(size))}, got {array.shape}")
        block = DistributedArray.namespace.asarray(
            array.T.astype("float64"), device=ranks, rows=size
        )
    xp = DistributedArray.namespace
    if not xp.all(xp.isfinite(block)):  # on all ranks
        raise ModelError("it holds NaN or infinity", non_finite=True)
    return block.T


def _sequence(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _are_vecs(given: Any) -> bool:
    several = isinstance(given, list | tuple) and len(given) > 0
    return several and all(is_petsc(x, "Vec") for x in given)


def _array(given: Any, count: int) -> Any:
    if isinstance(given, DistributedArray | TransposedArray):
        given = given.gathered()
    array = given.toarray() if is_sparse(given) or hasattr(given, "toarray") else given
    try:
        array = host.asarray(array, dtype="float64")
    except (TypeError, ValueError):
        raise ModelError(
            "expected a Vec, a list of Vecs, a Mat of few rows, or an array or sparse matrix that "
            f"every rank has, got a {type(given).__name__}"
        ) from None
    return array[None, :] if array.ndim == 1 and count == 1 else array


def _columns_of_mat(ranks: Ranks, mat: Any, count: int, size: int) -> DistributedArray:
    """Return the transpose of a Mat with few rows, of which each rank gets some columns."""
    if tuple(mat.getSize()) != (count, size):
        raise ModelError(f"expected a Mat of size {(count, int(size))}, got {mat.getSize()}")
    own = [(i, *map(host.array, mat.getRow(i))) for i in range(*mat.getOwnershipRange())]
    whole = host.zeros((size, count))
    for rows in ranks.allgather(own):
        for i, columns, values in rows:
            whole[columns, i] = values
    return DistributedArray.namespace.asarray(whole, device=ranks, rows=size)
