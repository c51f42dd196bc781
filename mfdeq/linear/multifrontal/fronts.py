"""The symbolic part of a multifrontal factorization, which depends only on the pattern of A.

Each separator of a dissection becomes a front. Its own unknowns are those of the separator. It
updates the unknowns of its ancestors that it is adjacent to, by entries of A or through its
descendants (in the elimination tree of the separators [1]_). Fronts of one height and of similar
size are padded to one size and form a batch.

References
----------
.. [1] J. W. H. Liu, "The role of elimination trees in sparse factorization", SIAM Journal on Matrix
       Analysis and Applications 11(1), 134-172, 1990.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

from scipy.sparse import csr_matrix

from ...arrays.backend import host
from ...locks import cached_property
from .dissection import Graph, dissect_graph, loops

MAX_LEAF_SIZE = 24  # unknowns of a part that is not cut further
# A front joins a batch if the padding stays below a constant, the cost of another batch, plus a
# share of the batch, and if the batch does not get too many entries.
BATCH_COST = 40_000  # entries
MAX_PADDING_SHARE = 0.2
MAX_BATCH_ENTRIES = 4_000_000
# A separator is small if it has, with the unknowns it updates, at most SMALL_FRONT_SIZE unknowns or
# MAX_FRONT_RATIO N^(2/3). The largest separator of a mesh in three dimensions has about N^(2/3).
SMALL_FRONT_SIZE = 1_000
MAX_FRONT_RATIO = 4


@dataclass(frozen=True)
class Cut:
    """The fronts of a dissection, with the unknowns of their ancestors that they update.

    Attributes
    ----------
    front : (N,) array of int
        The front of each unknown.
    parent : (fronts,) array of int
        The front above each of them; -1 for roots. Parents come before their children.
    height : (fronts,) array of int
        The steps to the farthest leaf below.
    updating, row : arrays of int
        The pairs of a front and an unknown that it updates.
    """

    front: Any
    parent: Any
    height: Any
    updating: Any
    row: Any

    @cached_property
    def sizes(self) -> Any:
        """The number of own unknowns of each front."""
        return host.bincount(self.front, minlength=self.height.shape[0])

    @cached_property
    def updated_sizes(self) -> Any:
        """The number of unknowns that each front updates."""
        return host.bincount(self.updating, minlength=self.height.shape[0])

    @cached_property
    def own(self) -> list[Any]:
        """The own unknowns of each front."""
        order = host.argsort(self.front, kind="stable")
        return host.split(order, host.cumsum(self.sizes)[:-1])

    @cached_property
    def updated(self) -> list[Any]:
        """The unknowns that each front updates."""
        order = host.argsort(self.updating, kind="stable")
        return host.split(self.row[order], host.cumsum(self.updated_sizes)[:-1])

    @cached_property
    def operations(self) -> float:
        """The multiplications and additions of the factorization."""
        return _operations(self.sizes, self.updated_sizes)


def cut_into_fronts(
    matrix: Any, max_leaf_size: int, max_front_size: float, max_operations: float = math.inf
) -> Cut:
    """Dissect the graph of a CSR matrix.

    Raises
    ------
    ArithmeticError
        If no dissection has small fronts and takes at most `max_operations`.
    """
    graph = Graph.of(matrix)
    for use_metis in (False, True) if has_metis() else (False,):
        cut = dissect_graph(graph, max_leaf_size, use_metis)
        height = host.asarray(graph.loops.heights(graph.loops.as_arguments(cut.parent)))
        updates = graph.loops.ancestor_updates(graph.starts, graph.neighbors, cut.front, cut.parent)
        found = Cut(cut.front, cut.parent, height, *updates)
        largest = int((found.sizes + found.updated_sizes).max())
        small = largest <= max_front_size
        if small and found.operations <= max_operations:
            return found
    raise ArithmeticError(
        "the graph of A has no small separators (the largest front has "
        f"{largest} of {matrix.shape[0]} unknowns)"
        if not small
        else f"its fronts take {found.operations:.2g} operations, more than the limit of "
        f"{max_operations:.2g}"
    )


@dataclass(frozen=True)
class LevelPattern:
    """The symbolic part of a `Level`, with the numbers of its batches."""

    own: slice
    incoming: Any
    above: Any
    batches: range


@dataclass(frozen=True)
class Fronts:
    """The symbolic part of a factorization. Fronts are numbered from the leaves to the roots.

    The unknowns are permuted and padded, front after front; a "place" is an index in this order.

    Attributes
    ----------
    order : (places,) array of int
        The unknown at each place; for padding, any unknown.
    position : (N,) array of int
        The place of each unknown.
    sizes : (fronts,) array of int
        Number of own unknowns of each front.
    parent, batch, number : lists of int, one for each front
        Its parent (-1 for roots), its batch, and its number in the batch.
    own : (N,) array of int
        The own unknowns, front after front.
    updated, update_starts : arrays of int
        The unknowns that each front updates, front after front, in the order in which they are
        eliminated; those of front f are ``updated[update_starts[f] : update_starts[f + 1]]``.
    shapes : list of (first front, number of fronts, k, m), one for each batch
        k and m are the padded numbers of own unknowns and of updated ones.
    levels : list of LevelPattern
        From the leaves to the roots.
    updates : int
        Number of unknowns that all fronts update, padding included.
    operations : float
        Multiplications and additions of the factorization.
    """

    order: Any
    position: Any
    sizes: Any
    parent: list[int]
    batch: list[int]
    number: list[int]
    own: Any
    updated: Any
    update_starts: Any
    shapes: list[tuple[int, int, int, int]]
    levels: list[LevelPattern]
    updates: int
    operations: float

    @classmethod
    def of(cls, matrix: Any, max_operations: float = math.inf) -> Fronts:
        """Dissect the graph of a CSR matrix and lay out its fronts.

        Raises
        ------
        ArithmeticError
            If no dissection has small fronts and takes at most `max_operations`.
        """
        n = matrix.shape[0]
        max_front_size = max(SMALL_FRONT_SIZE, MAX_FRONT_RATIO * n ** (2 / 3))
        cut = cut_into_fronts(matrix, MAX_LEAF_SIZE, max_front_size, max_operations)
        height, sizes, updated = cut.height, cut.sizes, cut.updated_sizes
        updating, row = cut.updating, cut.row

        # Sort the fronts of each height by size, so that those of similar size are consecutive.
        order = host.lexsort((updated, sizes, height))
        renumbered = host.argsort(order)
        front, updating = renumbered[cut.front], renumbered[updating]
        parent = host.where(cut.parent < 0, -1, renumbered[cut.parent])[order]
        height, sizes, updated = height[order], sizes[order], updated[order]
        loop = loops(matrix.nnz)
        shapes = loop.batch_shapes(
            *(loop.as_arguments(x) for x in (height, sizes, updated)),
            BATCH_COST,
            MAX_PADDING_SHARE,
            MAX_BATCH_ENTRIES,
        )
        first, fronts, k, m = (host.asarray(column) for column in zip(*shapes, strict=True))
        batch = host.repeat(host.arange(len(shapes)), fronts)
        number = host.arange(batch.shape[0]) - first[batch]

        # Places of the own unknowns, front after front.
        local = host.empty(n, dtype=host.int64)
        local[host.argsort(front, kind="stable")] = _count_within(sizes)
        start = _starts(fronts * k)[batch] + number * k[batch]
        position = start[front] + local
        places = int((fronts * k).sum())
        unknown = host.zeros(places, dtype=host.int64)
        unknown[position] = host.arange(n)

        # Updated unknowns of each front, in the order in which the ancestors are eliminated.
        updating, row = loop.sort_pairs(updating, row, position, batch.shape[0], places)
        # Each front sends its updates, batch after batch, to places of its ancestors.
        sent = _starts(fronts * m)[batch][updating] + number[updating] * m[batch][updating]
        sent += _count_within(updated)
        updates = int((fronts * m).sum())
        above = host.zeros(updates, dtype=host.int64)
        above[sent] = position[row]
        return cls(
            unknown,
            position,
            sizes,
            parent.tolist(),
            batch.tolist(),
            number.tolist(),
            host.argsort(position),
            row,
            host.concatenate([[0], host.cumsum(updated)]),
            shapes,
            _levels(height[first], fronts * k, fronts * m, above, sent, position[row]),
            updates,
            cut.operations,
        )

    @cached_property
    def in_parent(self) -> list[Any]:
        """The rows of the parent's front that belong to the unknowns that each front updates."""
        counts = host.diff(self.update_starts)
        parents = host.repeat(host.asarray(self.parent), counts)
        return host.split(self.rows_in_fronts(parents, self.updated), self.update_starts[1:-1])

    def entries(self, matrix: Any) -> list[tuple[Any, Any]]:
        """Return the entries of a matrix in each batch, and their places in its fronts.

        Entries are numbered in the order of the matrix in COO format.
        """
        batch, number = host.asarray(self.batch), host.asarray(self.number)
        _, _, k, m = (host.asarray(column) for column in zip(*self.shapes, strict=True))
        front = self._front
        entries = matrix.tocoo()
        at = host.minimum(front[entries.row], front[entries.col])
        side = (k + m)[batch[at]]
        i, j = self.rows_in_fronts(at, entries.row), self.rows_in_fronts(at, entries.col)
        flat = (number[at] * side + i) * side + j
        by_batch = host.argsort(batch[at], kind="stable")
        ends = host.cumsum(host.bincount(batch[at], minlength=len(self.shapes)))[:-1]
        return list(zip(host.split(by_batch, ends), host.split(flat[by_batch], ends), strict=True))

    def rows_in_fronts(self, f: Any, unknown: Any) -> Any:
        """Return the rows of own or updated unknowns in the fronts f, two arrays of one length."""
        places, updated = self.order.shape[0], host.diff(self.update_starts)
        updating = host.repeat(host.arange(updated.shape[0]), updated)
        keys = updating * places + self.position[self.updated]
        rank = host.searchsorted(keys, f * places + self.position[unknown]) - self.update_starts[f]
        k = host.asarray(self.shapes)[:, 2]
        batch = host.asarray(self.batch)
        local = host.empty(self.position.shape[0], dtype=host.int64)
        local[self.own] = _count_within(self.sizes)
        return host.where(self._front[unknown] == f, local[unknown], k[batch[f]] + rank)

    @cached_property
    def _front(self) -> Any:
        """The front of each unknown."""
        front = host.empty(self.position.shape[0], dtype=host.int64)
        front[self.own] = host.repeat(host.arange(self.sizes.shape[0]), self.sizes)
        return front

    def padding(self, b: int) -> tuple[Any, Any]:
        """Return the own rows of batch b that are padding, as arrays (front, row)."""
        first, f, k, _ = self.shapes[b]
        front, row = host.nonzero(host.arange(k) >= self.sizes[first : first + f, None])
        return front, row


def cached_fronts(matrix: Any, max_operations: float = math.inf) -> Fronts:
    """Return `Fronts.of`, cached for the last pattern, which Newton's steps have in common."""
    pattern = hashlib.blake2b(matrix.indptr.tobytes())
    pattern.update(matrix.indices.tobytes())
    key = pattern.digest()
    fronts = _cache.get(key)
    if fronts is None or fronts.operations > max_operations:
        fronts = Fronts.of(matrix, max_operations)
        clear_cache()
        _cache[key] = fronts
    return fronts


_cache: dict[bytes, Fronts] = {}


def clear_cache() -> None:
    """Discard the fronts of the last pattern."""
    _cache.clear()


def _levels(
    height: Any, own: Any, updates: Any, above: Any, sent: Any, to: Any
) -> list[LevelPattern]:
    """Group the batches by height.

    `height`, `own` and `updates` are those of each batch; the update with number ``sent[i]`` goes
    to place ``to[i]``; `above` holds the place of every update, padding included.
    """
    ends = host.flatnonzero(host.diff([*height, -1])) + 1
    whole = csr_matrix(
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


def _count_within(sizes: Any) -> Any:
    """Return 0, 1, ..., size - 1 for each size, concatenated."""
    return host.arange(int(sizes.sum())) - host.repeat(_starts(sizes), sizes)


def has_metis() -> bool:
    """Return whether pymetis is installed."""
    return importlib.util.find_spec("pymetis") is not None


def _operations(sizes: Any, updated: Any) -> float:
    """Count the multiplications and additions of the factorization."""
    k, m = sizes.astype("float64"), updated
    return float((2 * k * (k + m) ** 2).sum())
