"""Fields, the groups of unknowns into which a system is split, and the blocks of its matrix."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host, is_dense, is_sparse
from ...arrays.sparse import to_canonical_format
from ...errors import ArgumentError, short_repr
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator

Blocks = list[list[Operator | None]]  # of a matrix, row by row; None is a block without entries
FORMS = "a size, a slice, an array of indices or a mask"


@dataclass(frozen=True)
class Fields:
    """A partition of N unknowns.

    Attributes
    ----------
    names : tuple of str
        The names of the fields in errors and reports.
    bounds : tuple of int
        Where the fields begin among the unknowns in the order of the fields, and N.
    order : (N,) array or None
        The unknowns of the first field, then those of the second, and so on; None if they are
        numbered so.
    inverse : (N,) array or None
        The inverse permutation.
    """

    names: tuple[str, ...]
    bounds: tuple[int, ...]
    order: Array | None
    inverse: Array | None

    @classmethod
    def of(cls, backend: Backend, given: Any, n: int) -> Fields:
        """Make the fields of `mfdeq.FieldSplit` for n unknowns.

        Raises
        ------
        ArgumentError
            Unless each unknown is in exactly one field.
        """
        parts = list(given.values()) if isinstance(given, Mapping) else list(given)
        names = field_names(given)
        sizes = [_as_size(part) for part in parts]
        if any(size is not None for size in sizes):
            if None in sizes:
                raise ArgumentError(
                    "fields of mfdeq.FieldSplit: expected sizes of all fields or of none, got "
                    f"sizes of some; use slices in place of sizes beside {FORMS[7:]}"
                )
            known = [0 if size is None else size for size in sizes]
            ends = host.cumsum([0, *known])
            parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
            if ends[-1] != n:
                raise ArgumentError(
                    f"fields of mfdeq.FieldSplit: expected sizes that add up to N = {n}, got "
                    f"{ends[-1]} from {known}"
                )
        indices = [_as_indices(part, name, n) for part, name in zip(parts, names, strict=True)]
        order = host.concatenate(indices)
        _check_partition(order, names, indices, n)
        bounds = tuple(int(end) for end in host.cumsum([0, *(len(part) for part in indices)]))
        if (order == host.arange(n)).all():
            return cls(names, bounds, None, None)
        xp, device = backend.xp, backend.device
        both = (xp.asarray(x, device=device) for x in (order, host.argsort(order)))
        return cls(names, bounds, *both)

    def split(self, x: Array) -> list[Array]:
        """Return the parts of an (N,) or (N, k) array."""
        if self.order is not None:
            x = Backend.of(x).xp.take(x, self.order, axis=0)
        return [x[first:last, ...] for first, last in itertools.pairwise(self.bounds)]

    def join(self, parts: list[Array]) -> Array:
        """Return the array of which these are the parts."""
        xp = Backend.of(parts[0]).xp
        x = xp.concat(parts, axis=0)
        return x if self.inverse is None else xp.take(x, self.inverse, axis=0)

    def blocks(self, A: Operator) -> Blocks:
        """Return the blocks of A; None for those without entries.

        If only products with A are known, a product with a block is one with A.
        """
        count = range(len(self.names))
        if A.array is None:
            return [[_BlockOfProducts(A, self, i, j) for j in count] for i in count]
        array = A.array
        if is_sparse(array):
            array = array.tocsr()
        if self.order is not None:
            array = array[self.order, :][:, self.order]
        parts = [slice(*self.bounds[i : i + 2]) for i in count]
        return [
            [_block(A, array[parts[i], :][:, parts[j]], self, i, j) for j in count] for i in count
        ]

    def scales(self, A: Operator, i: int, j: int) -> tuple[Any, Any] | None:
        """Return the sizes of the equations of field i and of the unknowns of field j."""
        if A.scales is None:
            return None
        equations, unknowns = (None if x is None else self.split(x) for x in A.scales)
        return None if equations is None else equations[i], None if unknowns is None else unknowns[
            j
        ]


def field_names(given: Any) -> tuple[str, ...]:
    """Return the names of fields: the keys of a mapping, or their numbers."""
    if isinstance(given, Mapping):
        return tuple(str(name) for name in given)
    return tuple(f"field {i}" for i in range(len(given)))


def _block(A: Operator, array: Any, fields: Fields, i: int, j: int) -> Operator | None:
    if is_sparse(array):
        if array.nnz == 0 or not bool((array.data != 0).any()):
            return None
        array = to_canonical_format(array)
    elif not bool(A.backend.xp.any(array != 0)):
        return None
    block = Matrix(A.backend, array)
    block.scales = fields.scales(A, i, j)
    return block


class _BlockOfProducts(Operator):
    """A block of an operator of which only products are known."""

    def __init__(self, A: Operator, fields: Fields, i: int, j: int) -> None:
        sizes = host.diff(fields.bounds)
        super().__init__(A, (int(sizes[i]), int(sizes[j])))
        self.of, self.fields, self.i, self.j = A, fields, i, j
        self.scales = fields.scales(A, i, j)
        self.advice_for_entries = A.advice_for_entries

    def _apply(self, x: Array) -> Array:
        return self.fields.split(self.of._apply(self._extended(x, self.j)))[self.i]

    def _apply_adjoint(self, y: Array) -> Array:
        return self.fields.split(self.of._apply_adjoint(self._extended(y, self.i)))[self.j]

    def _extended(self, x: Array, field: int) -> Array:
        sizes = host.diff(self.fields.bounds)
        parts = [self.backend.zeros(int(size), *x.shape[1:]) for size in sizes]
        parts[field] = x
        return self.fields.join(parts)


def _as_size(part: Any) -> int | None:
    if isinstance(part, bool) or getattr(part, "ndim", 0) > 0:
        return None
    try:
        return operator.index(part)
    except TypeError:
        return None


def _as_indices(part: Any, name: str, n: int) -> Any:
    """Return a field as an array of indices on the host."""
    if isinstance(part, slice):
        return host.arange(n)[part]
    found = array_on_host(part) if is_dense(part) else host.asarray(part)
    found = found.reshape(-1)
    if found.dtype == bool and found.size == n:
        return host.flatnonzero(found)
    if found.dtype.kind not in "iu" or found.size == 0:
        raise ArgumentError(
            f"{name} of mfdeq.FieldSplit: expected {FORMS} of all {n} unknowns, got "
            f"{short_repr(part)}"
        )
    outside = (found < -n) | (found >= n)
    if outside.any():
        raise ArgumentError(
            f"{name} of mfdeq.FieldSplit: expected indices below N = {n}, got "
            f"{int(found[outside][0])}"
        )
    return found.astype("int64") % n


def _check_partition(order: Any, names: tuple[str, ...], indices: list[Any], n: int) -> None:
    for name, part in zip(names, indices, strict=True):
        if part.size == 0:
            raise ArgumentError(f"{name} of mfdeq.FieldSplit is empty: leave it out")
    times = host.bincount(order, minlength=n)
    if (times == 1).all():
        return
    k = int(host.argmax(times != 1))
    owners = [name for name, part in zip(names, indices, strict=True) if (part == k).any()]
    where = " and ".join(owners) if len(owners) > 1 else f"{owners[0]} twice" if owners else "none"
    raise ArgumentError(
        f"fields of mfdeq.FieldSplit: expected each of the {n} unknowns in exactly one field, but "
        f"unknown {k} is in {where}"
    )
