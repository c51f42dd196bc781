"""Multifrontal factorization whose solves are dense products of many fronts at once.

Nested dissection (`dissection`) splits the unknowns into fronts. With 1 a front's own unknowns and
2 those of its ancestors that it touches, eliminating it is

    D = F21 F11⁻¹,   E = F11⁻¹ F12,   F22 - D F12 is added to the ancestors' fronts,

and a solve with A is, over the fronts from the leaves to the roots and back,

    y2 -= D y1,   then   x1 = F11⁻¹ y1 - E x2.

(Duff and Reid, The multifrontal solution of indefinite sparse linear equations, 1983.) Fronts of
one height do not depend on each other: those of like size are padded to one size and are one
batched product, on any array library. The set-up is on the host. Pivots are sought inside F11
only; what that costs in accuracy, the true residual shows.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Any

from ..arrays import Array, Backend, host, sparse_on_host
from .dissection import dissection

LARGEST_LEAF = 24  # unknowns of a part that is not cut further
WORTH = 40_000  # entries of padding that one more batch costs as much as
PADDED = 0.2  # share of padding that a batch may have anyway
SMALL = 1_000  # unknowns that one front may always have
FRONT = 4  # times N^(2/3), about a mesh of space's largest, that a front may be
WIDEST = 32  # columns that are solved for at once
ROWS = 256  # of an update that are added at once
BATCH = 4_000_000  # entries of the fronts of one batch


@dataclass(frozen=True)
class Batch:
    """Like fronts of one height, padded to k own unknowns and m of their ancestors.

    Attributes
    ----------
    inverse, lower, upper : (fronts, k, k), (fronts, m, k) and (fronts, k, m) arrays
        F11⁻¹, D and E.
    """

    inverse: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Level:
    """The fronts of one height.

    Attributes
    ----------
    own : slice
        Places of their own unknowns, batch after batch and front after front.
    incoming : sparse matrix, (own, updates sent from below), or None
        Adds up what descendants send.
    above : (updates of this level,) array of int
        Places of the ancestors' unknowns that each update is for.
    batches : list of Batch
    """

    own: slice
    incoming: Any
    above: Array
    batches: list[Batch]


class Multifrontal:
    """Factors of a sparse matrix.

    Parameters
    ----------
    A : sparse matrix, (N, N)
    backend : Backend
        Where the solves are to be.
    symmetric : bool
        Whether A' = A: half of the factors is then a view of the other.

    Raises
    ------
    ArithmeticError
        If the graph has no small separators, or a front is singular (A may be regular
        nevertheless).
    """

    def __init__(self, A: Any, backend: Backend, symmetric: bool) -> None:
        self.backend, self.symmetric = backend, symmetric
        fronts = _fronts_of(sparse_on_host(A))
        self.order = _indices(backend, fronts.order)
        self.position = _indices(backend, fronts.position)
        self.updates = fronts.updates
        self._spare: list[Array] = []
        try:
            self.levels = list(_factorized(sparse_on_host(A), fronts, backend, symmetric))
        except host.linalg.LinAlgError as error:
            raise ArithmeticError("a front is singular") from error

    @property
    def entries(self) -> int:
        """Numbers stored."""
        twice = 1 if self.symmetric else 2
        batches = [batch for level in self.levels for batch in level.batches]
        return sum(_size(batch.inverse) + twice * _size(batch.lower) for batch in batches)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """A⁻¹ b or A⁻ᵀ b, of (N,) and (N, c)."""
        xp = self.backend.xp
        if b.ndim == 1:
            return self._solve(b[:, None], adjoint)[:, 0]
        if b.shape[1] <= WIDEST:
            return self._solve(b, adjoint)
        starts = range(0, b.shape[1], WIDEST)
        return xp.concat([self._solve(b[:, j : j + WIDEST], adjoint) for j in starts], axis=1)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        xp, (n, c) = self.backend.xp, b.shape
        levels = self.levels if self.symmetric or not adjoint else self._transposed()
        places = self.order.shape[0]
        # Kept for the next solve: fresh memory costs more than what is computed in it. Taken out
        # meanwhile, so that another thread takes its own.
        spare = self._spare.pop() if self._spare else self.backend.zeros(0)
        if spare.shape[0] < (needed := (n + places + self.updates) * c):
            spare = self.backend.zeros(needed)
        given = xp.reshape(spare[: n * c], (n, c))
        x = xp.reshape(spare[n * c : (n + places) * c], (places, c))
        sent = xp.reshape(spare[(n + places) * c : needed], (self.updates, c))
        given[:, :] = b  # whatever its strides
        end = 0
        for level in levels:
            x[level.own, :] = xp.take(given, self.order[level.own], axis=0)
            if level.incoming is not None:
                x[level.own, :] -= level.incoming @ sent[:end, :]
            start = level.own.start
            for batch in level.batches:
                f, m, k = batch.lower.shape
                own = xp.reshape(x[start : start + f * k, :], (f, k, c))
                sent[end : end + f * m, :] = xp.reshape(batch.lower @ own, (f * m, c))
                start, end = start + f * k, end + f * m
        for level in reversed(levels):
            start, end = level.own.start, 0
            for batch in level.batches:
                f, m, k = batch.lower.shape
                here = slice(start, start + f * k)
                above = xp.take(x, level.above[end : end + f * m], axis=0)
                own = batch.inverse @ xp.reshape(x[here, :], (f, k, c))
                own -= batch.upper @ xp.reshape(above, (f, m, c))
                x[here, :] = xp.reshape(own, (f * k, c))
                start, end = here.stop, end + f * m
        x = xp.take(x, self.position, axis=0)
        self._spare[:] = [spare]
        return x

    def _transposed(self) -> list[Level]:
        flip = self.backend.xp.matrix_transpose
        return [
            replace(
                level,
                batches=[
                    Batch(flip(batch.inverse), flip(batch.upper), flip(batch.lower))
                    for batch in level.batches
                ],
            )
            for level in self.levels
        ]


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

    @classmethod
    def of(cls, matrix: Any) -> Fronts:
        """Dissect the graph of a CSR matrix, and find what goes where."""
        n = matrix.shape[0]
        for by_metis in (False, True) if has_metis() else (False,):
            cut = dissection(matrix, LARGEST_LEAF, by_metis)
            height = _heights(cut.parent)
            touching, row = _above(matrix, cut.front, cut.parent, height)
            own = host.bincount(cut.front, minlength=height.shape[0])
            touched = host.bincount(touching, minlength=height.shape[0])
            if (widest := (own + touched).max()) <= max(SMALL, FRONT * n ** (2 / 3)):
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
        )

    def padding(self, b: int) -> tuple[Any, Any]:
        """(front, row) of the own rows of a batch that are padding."""
        first, f, k, _ = self.shapes[b]
        front, row = host.nonzero(host.arange(k) >= self.own[first : first + f, None])
        return front, row


def _fronts_of(matrix: Any) -> Fronts:
    """`Fronts.of`, kept for the pattern that came last: Newton's matrices share theirs."""
    pattern = (matrix.shape, matrix.indptr.tobytes(), matrix.indices.tobytes())
    if _last.get("pattern") != pattern:
        _last.update(pattern=pattern, fronts=Fronts.of(matrix))
    return _last["fronts"]


_last: dict[str, Any] = {}


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


def _factorized(matrix: Any, fronts: Fronts, backend: Backend, symmetric: bool) -> Any:
    """The levels, from the leaves to the roots."""
    heap = _Assembly(fronts, matrix)
    transposed = backend.xp.matrix_transpose
    for level in fronts.levels:
        batches = []
        for b in level.batches:
            _, _, k, m = fronts.shapes[b]
            F = heap.pop(b)
            inverse = host.linalg.inv(F[:, :k, :k])
            front, row = fronts.padding(b)
            inverse[front, row, row] = 0.0
            upper = inverse @ F[:, :k, k:]
            if m:
                heap.send(b, F[:, k:, k:] - F[:, k:, :k] @ upper)
            lower = None if symmetric else backend.from_host(F[:, k:, :k] @ inverse)
            upper = backend.from_host(upper)
            lower = transposed(upper) if symmetric else lower
            batches.append(Batch(backend.from_host(inverse), lower, upper))
        incoming = level.incoming
        if incoming is not None:
            incoming = backend.sparse.csr_matrix(incoming.astype(matrix.dtype))
        yield Level(level.own, incoming, _indices(backend, level.above), batches)


class _Assembly:
    """Fronts that entries of A and updates of descendants are added up in."""

    def __init__(self, fronts: Fronts, matrix: Any) -> None:
        self.fronts, self.data = fronts, matrix.data
        self.waiting: dict[int, Any] = {}

    def pop(self, b: int) -> Any:
        """The assembled fronts of a batch; the diagonal of padding is 1."""
        F = self._of(b)
        del self.waiting[b]
        entries, places = self.fronts.entries[b]
        F.reshape(-1)[places] += self.data[entries]
        front, row = self.fronts.padding(b)
        F[front, row, row] = 1.0
        return F

    def send(self, b: int, updates: Any) -> None:
        """Add the updates of a batch to the parents' fronts."""
        fronts = self.fronts
        for child, update in enumerate(updates, fronts.shapes[b][0]):
            parent, at = fronts.parent[child], fronts.in_parent[child]
            if parent < 0:
                continue
            F = self._of(fronts.batch[parent])[fronts.number[parent]]
            side, m = F.shape[0], at.shape[0]
            for i in range(0, m, ROWS):  # the indices of all rows would take as much as F
                rows = at[i : i + ROWS, None] * side + at
                host.add.at(
                    F.reshape(-1), rows.reshape(-1), update[i : min(i + ROWS, m), :m].reshape(-1)
                )

    def _of(self, b: int) -> Any:
        if b not in self.waiting:
            _, f, k, m = self.fronts.shapes[b]
            self.waiting[b] = host.zeros((f, k + m, k + m), dtype=self.data.dtype)
        return self.waiting[b]


def _indices(backend: Backend, of_host: Any) -> Array:
    return backend.xp.asarray(of_host, device=backend.device)


def _size(x: Array) -> int:
    return math.prod(x.shape)
