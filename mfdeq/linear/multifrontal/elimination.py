"""The numerical part of a multifrontal factorization, on the host.

Loops over fronts are compiled where numba is installed (`compiled_fronts`): each front is then a
few calls of BLAS and LAPACK. Otherwise numpy eliminates the fronts of a batch together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ...arrays import jit
from ...arrays.backend import host
from ...parallel import share, single_threaded_blas, threads
from .fronts import Fronts

UPDATE_ROWS = 256  # rows of an update that are added at once
MIN_SHARED_OPERATIONS = 5e7  # of a level that is worth the hand-over to other threads
TASKS_PER_THREAD = 4
WORK_PER_UNKNOWN = 64  # entries of workspace of an inverse

# The matrices of one batch: F11^-1, D or None if A is symmetric, and E, of all its fronts.
HostBatch = tuple[Any, Any, Any]


def eliminate(matrix: Any, fronts: Fronts, symmetric: bool) -> Iterator[HostBatch]:
    """Yield the factors of a CSR matrix batch by batch, from the leaves to the roots.

    Raises
    ------
    LinAlgError
        If a front is singular.
    """
    if jit.pays(matrix.nnz):
        return iter(_Compiled(matrix, fronts, symmetric).batches)
    return _eliminate_batches(matrix, fronts, symmetric)


class _Compiled:
    """Factors that compiled loops compute.

    All matrices of the factors are in one array, those of batch b from `offsets` on. The updates of
    the fronts of one level whose parents are in another one have a block of the `pool`, from the
    elimination of the former to that of the latter.
    """

    def __init__(self, matrix: Any, fronts: Fronts, symmetric: bool) -> None:
        from ...arrays.compiled_lapack import routines
        from . import compiled_fronts

        self.loops, self.routines = compiled_fronts, routines
        self.fronts, self.dtype = fronts, matrix.dtype
        self.symmetric = symmetric
        self.parent = host.asarray(fronts.parent)
        self.counts = host.diff(fronts.update_starts)
        self._lay_out()
        self.matrix = matrix.indptr, matrix.indices, matrix.data
        empty = tuple(part[:0] for part in self.matrix)
        self.transposed = empty
        if not symmetric:
            other = matrix.tocsc()
            self.transposed = other.indptr, other.indices, other.data
        self._run()

    def _lay_out(self) -> None:
        fronts = self.fronts
        _, f, k, m = (host.asarray(column) for column in zip(*fronts.shapes, strict=True))
        sides = [k * k, k * m] if self.symmetric else [k * k, k * m, k * m]
        sizes = host.stack([f * side for side in sides])
        starts = host.reshape(host.cumsum(sizes.ravel()) - sizes.ravel(), sizes.shape)
        self.factors = host.zeros(int(sizes.sum()), dtype=self.dtype)
        batch, number = host.asarray(fronts.batch), host.asarray(fronts.number)
        at = [starts[i][batch] + number * sides[i][batch] for i in range(len(sides))]
        lower_at = at[2] if len(at) > 2 else at[0]
        self.batches: list[HostBatch] = []
        for b, (_, count, rows, updated) in enumerate(fronts.shapes):
            shapes = [(count, rows, rows), (count, rows, updated), (count, updated, rows)]
            parts = [
                host.reshape(self.factors[starts[i][b] : starts[i][b] + sizes[i][b]], shapes[i])
                for i in range(len(sides))
            ]
            self.batches.append((parts[0], None if self.symmetric else parts[2], parts[1]))
        update_at, size = self._pool()
        self.pool = host.empty(size, dtype=self.dtype)
        self.layout = (at[0], at[1], lower_at, update_at, k[batch], m[batch])
        by_parent: Any = host.argsort(self.parent, kind="stable")
        roots = int((self.parent < 0).sum())
        children = host.bincount(self.parent[self.parent >= 0], minlength=self.parent.shape[0])
        self.tree = host.concatenate([[0], host.cumsum(children)]), by_parent[roots:]
        own_starts = host.concatenate([[0], host.cumsum(fronts.sizes)])
        self.graph = (
            fronts.sizes,
            fronts.update_starts,
            fronts.updated,
            own_starts,
            fronts.own,
            fronts.position,
        )

    def _pool(self) -> tuple[Any, int]:
        """Return where the update of each front starts in the pool, and the size of the pool."""
        fronts = self.fronts
        ends = [fronts.shapes[level.batches.stop - 1] for level in fronts.levels]
        self.ends = [first + count for first, count, _, _ in ends]
        level = host.searchsorted(host.asarray(self.ends), host.arange(len(fronts.parent)), "right")
        above = host.where(self.parent < 0, len(self.ends), level[self.parent])
        squares = self.counts**2
        at = host.zeros(squares.shape[0], dtype=host.int64)
        used: list[tuple[int, int, int]] = []  # (start, end, level up to which it is used)
        size = 0
        for h in range(len(self.ends)):
            used = [block for block in used if block[2] >= h]
            begin = self.ends[h - 1] if h else 0
            here = host.arange(begin, self.ends[h])
            for until in host.unique(above[here]).tolist():
                group = here[above[here] == until]
                needed = int(squares[group].sum())
                start = 0
                for a, b, _ in sorted(used):
                    if a - start >= needed:
                        break
                    start = max(start, b)
                used.append((start, start + needed, until))
                at[group] = start + host.cumsum(squares[group]) - squares[group]
                size = max(size, start + needed)
        return at, size

    def _scratch(self, fronts: slice) -> tuple[Any, ...]:
        """Return memory in which these fronts can be eliminated, one after the other."""
        sizes, counts = self.fronts.sizes[fronts], self.counts[fronts]
        k = int(sizes.max())
        wide = 0 if self.symmetric else max(int((sizes * counts).max()), 1)
        empty, dtype = host.empty, self.dtype
        return (
            empty(int((sizes * (sizes + counts)).max()), dtype=dtype),
            empty(wide, dtype=dtype),
            empty(self.fronts.position.shape[0], dtype=host.int64),
            empty(max(int(self.counts.max()), 1), dtype=host.int64),
            empty(k, dtype=host.int32),
            empty(8, dtype=host.int32),
            empty(WORK_PER_UNKNOWN * k, dtype=dtype),
            host.frombuffer(b"NTL", dtype=host.uint8).copy(),
            self.routines(dtype.name),
            empty(2, dtype=dtype),
        )

    def _run(self) -> None:
        """Eliminate the fronts level by level, those of one level by several threads."""
        k, m = self.fronts.sizes.astype("float64"), self.counts
        operations = k * (k + m) ** 2
        with single_threaded_blas():
            if threads() == 1:
                self._eliminate(0, self.ends[-1])
                return
            start = 0
            for end in self.ends:
                work = operations[start:end]
                if work.sum() < MIN_SHARED_OPERATIONS:
                    self._eliminate(start, end)
                elif end - start < TASKS_PER_THREAD * threads():
                    self._eliminate_large(range(start, end))
                else:
                    parts = TASKS_PER_THREAD * threads()
                    shares = host.cumsum(work) / work.sum() * parts
                    cuts = host.searchsorted(shares, host.arange(1, parts)) + 1
                    bounds = host.unique(host.concatenate([[0], cuts, [end - start]])) + start
                    share(self._eliminate, list(itertools.pairwise(bounds.tolist())))
                start = end

    def _arguments(self) -> tuple[Any, ...]:
        matrices = self.graph, self.matrix, self.transposed, self.tree
        return *matrices, self.layout, self.factors, self.pool

    def _eliminate(self, start: int, end: int) -> None:
        """Eliminate the fronts of a range, one after the other."""
        scratch = self._scratch(slice(start, end))
        if self.loops.eliminate(start, end, *self._arguments(), scratch) >= 0:
            raise host.linalg.LinAlgError("Singular matrix")

    def _eliminate_large(self, fronts: range) -> None:
        """Eliminate some independent fronts, several threads working on each."""
        loops, layout, factors, pool = self.loops, self.layout, self.factors, self.pool
        scratch = {f: self._scratch(slice(f, f + 1)) for f in fronts}

        def begin(f: int) -> None:
            if not loops.begin(f, *self._arguments(), scratch[f]):
                raise host.linalg.LinAlgError("Singular matrix")

        def of_task(f: int) -> tuple[Any, ...]:
            """Return the columns of a front, with memory for the arguments of one product."""
            parts = list(scratch[f])
            parts[5], parts[9] = host.empty(8, dtype=host.int32), host.empty(2, dtype=self.dtype)
            return tuple(parts)

        def divide(f: int, row: int) -> None:
            k, m = int(self.fronts.sizes[f]), int(self.counts[f])
            loops.divide(f, row, k, m, layout, factors, of_task(f))

        def update(f: int, column: int) -> None:
            k, m = int(self.fronts.sizes[f]), int(self.counts[f])
            loops.update(f, column, k, m, layout, factors, pool, of_task(f))

        share(begin, [(f,) for f in fronts])
        counts = {f: int(self.counts[f]) for f in fronts}
        rows = [(f, row) for f in fronts for row in range(0, counts[f], loops.DIVIDED_ROWS)]
        share(divide, rows)
        blocks = {f: loops.update_columns(counts[f]) for f in fronts}
        share(update, [(f, at) for f in fronts for at in range(0, counts[f], blocks[f])])


def _eliminate_batches(matrix: Any, fronts: Fronts, symmetric: bool) -> Iterator[HostBatch]:
    """Yield the factors as `eliminate` does, by numpy."""
    assembly = _Assembly(fronts, matrix)
    for b, (_, _, k, m) in enumerate(fronts.shapes):
        F = assembly.pop(b)
        inverse = host.linalg.inv(F[:, :k, :k])
        front, row = fronts.padding(b)
        inverse[front, row, row] = 0.0
        upper = inverse @ F[:, :k, k:]
        if m:
            F[:, k:, k:] -= F[:, k:, :k] @ upper
            assembly.send(b, F[:, k:, k:])
        yield inverse, None if symmetric else F[:, k:, :k] @ inverse, upper


class _Assembly:
    """Sums of the entries of A and of the updates from descendants, front by front.

    The memory of a batch is allocated at its first update and released when it is popped.
    """

    def __init__(self, fronts: Fronts, matrix: Any) -> None:
        self.fronts, self.data = fronts, matrix.data
        self.entries = fronts.entries(matrix)
        self.batches: dict[int, Any] = {}

    def pop(self, b: int) -> Any:
        """Return the assembled fronts of batch b, with 1 on the diagonal of padding."""
        F = self._batch(b)
        del self.batches[b]
        entries, places = self.entries[b]
        F.reshape(-1)[places] += self.data[entries]
        front, row = self.fronts.padding(b)
        F[front, row, row] = 1.0
        return F

    def send(self, b: int, updates: Any) -> None:
        """Add the updates of batch b to the fronts of the parents."""
        fronts = self.fronts
        for child, update in enumerate(updates, fronts.shapes[b][0]):
            parent, at = fronts.parent[child], fronts.in_parent[child]
            if parent < 0:
                continue
            F = self._batch(fronts.batch[parent])[fronts.number[parent]]
            m = at.shape[0]
            for i in range(0, m, UPDATE_ROWS):  # indices of all rows would be as large as F
                rows = slice(i, min(i + UPDATE_ROWS, m))
                F[at[rows, None], at] += update[rows, :m]  # the rows of one update are distinct

    def _batch(self, b: int) -> Any:
        if b not in self.batches:
            _, f, k, m = self.fronts.shapes[b]
            self.batches[b] = host.zeros((f, k + m, k + m), dtype=self.data.dtype)
        return self.batches[b]
