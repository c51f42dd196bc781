"""The fronts of a multifrontal factorization: what depends on the pattern of A only.

Each separator of a dissection is a front, with the unknowns of its ancestors that it touches, by
entries of A or through its descendants. Fronts of one height and like size are batches.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import host
from .dissection import dissection

LARGEST_LEAF = 24  # unknowns of a part that is not cut further
WORTH = 40_000  # entries of padding that one more batch costs as much as
PADDED = 0.2  # share of padding that a batch may have anyway
SMALL = 1_000  # unknowns that one front may always have
FRONT = 4  # times N^(2/3), about a mesh of space's largest, that a front may be
BATCH = 4_000_000  # entries of the fronts of one batch


@dataclass(frozen=True)
class LevelPattern:
    """What of a `Level` depends on the pattern only; its batches by number."""

    own: slice
    incoming: Any
    above: Any
    batches: range


@dataclass(frozen=True)
class Fronts:
    """What of a factorization depends on the pattern only; fronts are numbered leaves first.

    Attributes
    ----------
    order : (places,) array of int
        The unknown at each place; padding repeats some unknown.
    position : (N,) array of int
        The place of each unknown.
    own : array of int
        Unknowns of each front.
    parent, batch, number : lists of int
        The front above (-1 of roots), the batch of each front, and its number there.
    in_parent : list of arrays of int
        Rows in the parent's front of the unknowns that each front touches.
    shapes : list of (first front, fronts, k, m)
        Of the batches.
    entries : list of two arrays of int
        For each batch the entries of A in it, and where in its fronts they go.
    levels : list of LevelPattern
    updates : int
        Unknowns that all fronts touch, padding included.
    operations : float
        Multiplications and additions of the factorization.
    """

    order: Any
    position: Any
    own: Any
    parent: list[int]
    batch: list[int]
    number: list[int]
    in_parent: list[Any]
    shapes: list[tuple[int, int, int, int]]
    entries: list[tuple[Any, Any]]
    levels: list[LevelPattern]
    updates: int
    operations: float

    @classmethod
    def of(cls, matrix: Any, most: float = math.inf) -> Fronts:
        """Dissect the graph of a CSR matrix, and find what goes where."""
        n = matrix.shape[0]
        for by_metis in (False, True) if has_metis() else (False,):
            cut = dissection(matrix, LARGEST_LEAF, by_metis)
            height = _heights(cut.parent)
            touching, row = _above(matrix, cut.front, cut.parent, height)
            own = host.bincount(cut.front, minlength=height.shape[0])
            touched = host.bincount(touching, minlength=height.shape[0])
            widest, operations = (own + touched).max(), _operations(own, touched)
            if widest <= max(SMALL, FRONT * n ** (2 / 3)) and operations <= most:
                break
        else:
            raise ArithmeticError(
                f"the graph of A has no small separators (one touches {widest} of {n} unknowns)"
            )

        # Fronts of a height in runs of like size.
        order = host.lexsort((touched, own, height))
        renumbered = host.argsort(order)
        front, touching = renumbered[cut.front], renumbered[touching]
        parent = host.where(cut.parent < 0, -1, renumbered[cut.parent])[order]
        height, own, touched = height[order], own[order], touched[order]
        shapes = _batched(height, own, touched)
        first, fronts, k, m = (host.asarray(column) for column in zip(*shapes, strict=True))
        batch = host.repeat(host.arange(len(shapes)), fronts)
        number = host.arange(batch.shape[0]) - first[batch]

        # Places of the own unknowns, front after front.
        local = host.empty(n, dtype=host.int64)
        local[host.argsort(front, kind="stable")] = _counted(own)
        start = _starts(fronts * k)[batch] + number * k[batch]
        position = start[front] + local
        places = int((fronts * k).sum())
        unknown = host.zeros(places, dtype=host.int64)
        unknown[position] = host.arange(n)

        # Updates, in the order in which the ancestors are eliminated.
        row = row[host.lexsort((position[row], touching))]
        touching = host.sort(touching)
        keys = touching * places + position[row]

        def within(f: Any, unknown: Any) -> Any:
            rank = host.searchsorted(keys, f * places + position[unknown]) - _starts(touched)[f]
            return host.where(front[unknown] == f, local[unknown], k[batch[f]] + rank)

        in_parent = within(parent[touching], row)
        entries = matrix.tocoo()
        at = host.minimum(front[entries.row], front[entries.col])
        side = (k + m)[batch[at]]
        flat = (number[at] * side + within(at, entries.row)) * side + within(at, entries.col)
        by_batch = host.argsort(batch[at], kind="stable")
        ends = host.cumsum(host.bincount(batch[at], minlength=len(shapes)))[:-1]

        sent = _starts(fronts * m)[batch][touching] + number[touching] * m[batch][touching]
        sent += _counted(touched)
        updates = int((fronts * m).sum())
        above = host.zeros(updates, dtype=host.int64)
        above[sent] = position[row]
        return cls(
            unknown,
            position,
            own,
            parent.tolist(),
            batch.tolist(),
            number.tolist(),
            host.split(in_parent, host.cumsum(touched)[:-1]),
            shapes,
            list(zip(host.split(by_batch, ends), host.split(flat[by_batch], ends), strict=True)),
            _levels(height[first], fronts * k, fronts * m, above, sent, position[row]),
            updates,
            operations,
        )

    def padding(self, b: int) -> tuple[Any, Any]:
        """(front, row) of the own rows of a batch that are padding."""
        first, f, k, _ = self.shapes[b]
        front, row = host.nonzero(host.arange(k) >= self.own[first : first + f, None])
        return front, row


def fronts_of(matrix: Any, most: float = math.inf) -> Fronts:
    """`Fronts.of`, kept for the pattern that came last: Newton's matrices share theirs."""
    pattern = hashlib.blake2b(matrix.indptr.tobytes())
    pattern.update(matrix.indices.tobytes())
    key = pattern.digest()
    found = _last.get(key)
    if found is None or found.operations > most:
        found = Fronts.of(matrix, most)
        forget()
        _last[key] = found
    return found


_last: dict[bytes, Fronts] = {}


def forget() -> None:
    """Drop the dissection of the pattern that came last."""
    _last.clear()


def _levels(
    height: Any, own: Any, updates: Any, above: Any, sent: Any, to: Any
) -> list[LevelPattern]:
    """Batches of one height together; `sent` updates go `to` places."""
    sparse = importlib.import_module("scipy.sparse")
    ends = host.flatnonzero(host.diff([*height, -1])) + 1
    whole = sparse.csr_matrix(
        (host.ones(sent.shape[0]), (to, sent)), shape=(int(own.sum()), above.shape[0])
    )
    levels = []
    batch = place = update = 0
    for end in ends.tolist():
        here = slice(place, place + int(own[batch:end].sum()))
        count = int(updates[batch:end].sum())
        part = whole[here, :update]
        incoming = part if part.nnz else None
        levels.append(
            LevelPattern(here, incoming, above[update : update + count], range(batch, end))
        )
        batch, place, update = end, here.stop, update + count
    return levels


def _starts(sizes: Any) -> Any:
    return host.cumsum(sizes) - sizes


def _counted(sizes: Any) -> Any:
    """0, 1, ... anew for each size."""
    return host.arange(int(sizes.sum())) - host.repeat(_starts(sizes), sizes)


def has_metis() -> bool:
    """Whether pymetis is installed."""
    return importlib.util.find_spec("pymetis") is not None


def _operations(own: Any, touched: Any) -> float:
    """Multiplications and additions of the factorization."""
    k, m = own.astype("float64"), touched
    return float((2 * k * (k + m) ** 2).sum())


def _heights(parent: Any) -> Any:
    """Steps to the farthest leaf below; parents come before their children."""
    height = [0] * parent.shape[0]
    above = parent.tolist()
    for f in range(len(above) - 1, -1, -1):
        if (p := above[f]) >= 0:
            height[p] = max(height[p], height[f] + 1)
    return host.asarray(height)


def _above(matrix: Any, front: Any, parent: Any, height: Any) -> tuple[Any, Any]:
    """Pairs of a front and an unknown of an ancestor that it touches."""
    n = matrix.shape[0]
    entries = matrix.tocoo()
    i = host.concatenate([entries.row, entries.col])
    j = host.concatenate([entries.col, entries.row])
    up = height[front[i]] < height[front[j]]
    keys = front[i[up]].astype(host.int64) * n + j[up]
    level = height[front[i[up]]]
    found, waiting = [], [(level, keys)]
    for h in range(int(height.max())):
        level, keys = (host.concatenate(parts) for parts in zip(*waiting, strict=True))
        here = host.unique(keys[level == h])
        found.append(here)
        below, row = here // n, here % n
        passed = front[row] != parent[below]
        on = parent[below][passed]
        waiting = [(level[level != h], keys[level != h]), (height[on], on * n + row[passed])]
    pairs = host.concatenate(found) if found else host.zeros(0, dtype=host.int64)
    return pairs // n, pairs % n


def _batched(height: Any, own: Any, touched: Any) -> list[tuple[int, int, int, int]]:
    """Runs of fronts to be padded to one size: (first, fronts, k, m)."""
    shapes: list[tuple[int, int, int, int]] = []
    true = 0
    for i, (h, k, m) in enumerate(
        zip(height.tolist(), own.tolist(), touched.tolist(), strict=True)
    ):
        mine = k * (k + 2 * m)
        if shapes and h == height[i - 1]:
            first, f, most_k, most_m = shapes[-1]
            wide, high = max(k, most_k), max(m, most_m)
            padded = (f + 1) * wide * (wide + 2 * high)
            small = (f + 1) * (wide + high) ** 2 <= BATCH
            if small and padded - true - mine <= WORTH + PADDED * padded:
                shapes[-1] = (first, f + 1, wide, high)
                true += mine
                continue
        shapes.append((i, 1, k, m))
        true = mine
    return shapes
