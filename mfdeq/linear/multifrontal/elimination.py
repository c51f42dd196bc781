"""The numerical part of a multifrontal factorization, on the host.

Loops over fronts are compiled where numba is installed (`compiled_fronts`): each front is then a
few calls of BLAS and LAPACK. Otherwise numpy eliminates the fronts of a batch together.
"""

from __future__ import annotations

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

    All matrices of the factors are in one array. The updates that wait for their parents are in the
    `pool`: those of independent subtrees, which are the tasks of the threads, on stacks of their
    own, and those of the few fronts above, which the threads eliminate together, level by level.
    """

    def __init__(self, matrix: Any, fronts: Fronts, symmetric: bool) -> None:
        from ...arrays.compiled_lapack import routines
        from . import compiled_fronts, compiled_inverses

        self.loops, self.inverses, self.routines = compiled_fronts, compiled_inverses, routines
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
        by_parent: Any = host.argsort(self.parent, kind="stable")
        roots = int((self.parent < 0).sum())
        children = host.bincount(self.parent[self.parent >= 0], minlength=self.parent.shape[0])
        self.tree = host.concatenate([[0], host.cumsum(children)]), by_parent[roots:]
        update_at = self._schedule()
        self.layout = (at[0], at[1], lower_at, update_at, k[batch], m[batch])
        own_starts = host.concatenate([[0], host.cumsum(fronts.sizes)])
        self.graph = (
            fronts.sizes,
            fronts.update_starts,
            fronts.updated,
            own_starts,
            fronts.own,
            fronts.position,
        )

    def _schedule(self) -> Any:
        """Divide the fronts among tasks; return where the update of each starts in the pool."""
        fronts, number = self.fronts, threads()
        k, squares = fronts.sizes.astype("float64"), self.counts**2
        operations = k * (k + self.counts) ** 2
        tasks = 1
        if number > 1 and operations.sum() >= MIN_SHARED_OPERATIONS:
            tasks = TASKS_PER_THREAD * number
        self.order, bounds, at, size = self.loops.schedule(
            self.parent, self.tree, operations, squares, tasks
        )
        cumulated = host.concatenate([[0.0], host.cumsum(operations[self.order])])
        by_size = host.argsort(-host.diff(cumulated[bounds]), kind="stable").tolist()
        self.tasks = [(int(bounds[i]), int(bounds[i + 1])) for i in by_size]  # the largest first
        self.above = self._levels_above(self.order[bounds[-1] :])
        size = self._place_above(at, squares, size)
        self.pool = host.empty(size, dtype=self.dtype)
        return at

    def _levels_above(self, above: Any) -> list[Any]:
        """Group the fronts above all tasks by their level."""
        last = [batches.batches.stop - 1 for batches in self.fronts.levels]
        ends = host.asarray([sum(self.fronts.shapes[b][:2]) for b in last])
        level = host.searchsorted(ends, above, "right")
        return host.split(above, host.flatnonzero(host.diff(level)) + 1)

    def _place_above(self, at: Any, squares: Any, size: int) -> int:
        """Place the updates of the fronts above all tasks in the pool, and return its size.

        The updates of one level have a block, as long as a parent of them has not been eliminated.
        """
        base = size
        step = {f: i for i, group in enumerate(self.above) for f in group.tolist()}
        used: list[tuple[int, int, int]] = []  # (start, end, step up to which it is used)
        for i, group in enumerate(self.above):
            used = [block for block in used if block[2] >= i]
            if not group.shape[0]:
                continue
            needed, start = int(squares[group].sum()), base
            for a, b, _ in sorted(used):
                if a - start >= needed:
                    break
                start = max(start, b)
            until = max(step.get(int(self.parent[f]), i) for f in group)
            used.append((start, start + needed, until))
            at[group] = start + host.cumsum(squares[group]) - squares[group]
            size = max(size, start + needed)
        return size

    def _scratch(self, fronts: Any) -> tuple[Any, ...]:
        """Return memory in which these fronts can be eliminated, one after the other."""
        sizes, counts = self.fronts.sizes[fronts], self.counts[fronts]
        longest = max(int(self.counts.max()), 1)
        k = int(sizes.max())
        wide = 0 if self.symmetric else max(int((sizes * counts).max()), 1)
        empty, dtype = host.empty, self.dtype
        return (
            empty(int((sizes * (sizes + counts)).max()), dtype=dtype),
            empty(wide, dtype=dtype),
            empty(self.fronts.position.shape[0], dtype=host.int64),
            empty(longest, dtype=host.int64),
            empty(k, dtype=host.int32),
            empty(8, dtype=host.int32),
            empty(self._workspace(k) * k, dtype=dtype),
            host.frombuffer(b"NTL", dtype=host.uint8).copy(),
            self.routines(dtype.name),
            empty(2, dtype=dtype),
            empty(longest, dtype=host.int64),
        )

    def _workspace(self, k: int) -> int:
        """Return the entries of workspace per unknown, to invert blocks of k unknowns."""
        if self.symmetric and k >= self.inverses.MIN_SWEPT:
            return max(WORK_PER_UNKNOWN, 2 * self.inverses.SWEPT)
        return WORK_PER_UNKNOWN

    def _run(self) -> None:
        """Eliminate the fronts, those of the tasks and then those above them."""
        with single_threaded_blas():
            share(self._eliminate, self.tasks)
            for group in self.above:
                self._eliminate_large(group.tolist())

    def _arguments(self) -> tuple[Any, ...]:
        matrices = self.graph, self.matrix, self.transposed, self.tree
        return *matrices, self.layout, self.factors, self.pool

    def _eliminate(self, start: int, end: int) -> None:
        """Eliminate the fronts of a task, one after the other."""
        scratch = self._scratch(self.order[start:end])
        if self.loops.eliminate(self.order, start, end, *self._arguments(), scratch) >= 0:
            raise host.linalg.LinAlgError("Singular matrix")

    def _eliminate_large(self, fronts: list[int]) -> None:
        """Eliminate some independent fronts, several threads working on each."""
        loops, layout, factors, pool = self.loops, self.layout, self.factors, self.pool
        inverses = self.inverses
        scratch = {f: self._scratch([f]) for f in fronts}

        def assemble(f: int) -> None:
            graph, matrix, transposed, tree, layout, _, pool = self._arguments()
            loops.assemble(f, graph, matrix, transposed, tree, layout, pool, scratch[f])

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

        def sweep_columns(f: int, p: int, column: int) -> None:
            k = int(self.fronts.sizes[f])
            inverses.sweep_columns(f, p, column, k, layout, factors, of_task(f))

        def invert(f: int) -> None:
            k, m = int(self.fronts.sizes[f]), int(self.counts[f])
            if not inverses.invert(f, k, m, layout, factors, scratch[f]):
                raise host.linalg.LinAlgError("Singular matrix")

        def invert_general(f: int) -> None:
            k, m = int(self.fronts.sizes[f]), int(self.counts[f])
            if not inverses.invert_general(f, k, m, layout, factors, scratch[f]):
                raise host.linalg.LinAlgError("Singular matrix")

        def invert_by_sweeps(f: int) -> None:
            k, m = int(self.fronts.sizes[f]), int(self.counts[f])
            definite = inverses.copy_definite(f, k, m, layout, factors, scratch[f])
            for p in range(0, k, inverses.SWEPT):
                definite = definite and inverses.sweep(f, p, k, layout, factors, scratch[f])
                if not definite:
                    return invert_general(f)
                share(sweep_columns, [(f, p, column) for column in range(0, k, inverses.SWEPT)])
            inverses.end_sweeps(f, k, layout, factors)

        share(assemble, [(f,) for f in fronts])
        large = [f for f in fronts if self.symmetric and self.fronts.sizes[f] >= inverses.MIN_SWEPT]
        share(invert, [(f,) for f in fronts if f not in large])
        for f in large:
            invert_by_sweeps(f)
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
