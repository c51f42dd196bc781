"""Elimination of fronts, compiled by numba. The arithmetic is that of BLAS and LAPACK.

Matrices are in column-major order here: a matrix of the batches, which is in row-major order, is
the transpose of what this module calls by the same name. With G for the transpose of a front F,

    lower = G21 G11^-1,   upper = G11^-1 G12,   G22 - lower G12 is added to the parent's front,

so that `lower` is what the batches store as E = F11^-1 F12. Of symmetric matrices, only the lower
triangles of G11 and G22 are computed, and G12 = G21'.
"""

from __future__ import annotations

from typing import Any

from ...arrays.backend import host
from ...arrays.jit import njit
from .compiled_inverses import invert, multiply

DIVIDED_ROWS = 512  # of `lower` that are computed by one product
MIN_BLOCK, MAX_BLOCK = 48, 256  # columns of an update that are computed by one product
BLOCKS = 8  # of an update, if they are not too small or too large
MIN_TASK_SHARE = 0.25  # operations of small subtrees grouped as one task, over the most of a task


@njit
def schedule(parent: Any, tree: Any, operations: Any, squares: Any, tasks: Any) -> Any:
    """Order the fronts such that the updates of children are used soon after they are computed.

    Subtrees with at most a share of all operations come first, each in postorder. They are
    independent tasks, small ones in groups. The fronts above them follow.

    The updates that wait in a task are on two stacks, one for fronts of even depth and one for
    those of odd depth: that of a front takes its place before those of its children are released.

    Parameters
    ----------
    parent, tree : arrays
        The parent of each front, which has a larger number, and the starts of its children with
        their numbers.
    operations, squares : (fronts,) arrays
        The operations of each front, and the entries of its update.
    tasks : int
        The operations over the most in a task; 1 has no fronts above.

    Returns
    -------
    order : (fronts,) array of int
    bounds : (tasks + 1,) array of int
        The first front of each task in this order, and then the first one above all tasks.
    places : (fronts,) array of int
        The start of the update of each front in the pool, for the fronts of tasks.
    size : int
        Entries of the pool for all tasks.
    """
    fronts = parent.shape[0]
    starts, children = tree
    work = operations.copy()
    total = 0.0
    for f in range(fronts):
        total += operations[f]
        if parent[f] >= 0:
            work[parent[f]] += work[f]
    limit = total / tasks if tasks > 1 else host.inf
    odd = host.zeros(fronts, dtype=host.int64)
    for f in range(fronts - 1, -1, -1):
        if parent[f] >= 0:
            odd[f] = 1 - odd[parent[f]]
    order, places = host.empty(fronts, dtype=host.int64), host.zeros(fronts, dtype=host.int64)
    bounds = host.zeros(fronts + 1, dtype=host.int64)
    path, following = host.empty(fronts, dtype=host.int64), starts[:fronts].copy()
    heights, peaks = host.zeros(2, dtype=host.int64), host.zeros(2, dtype=host.int64)
    count = closed = size = 0
    taken = 0.0
    for root in range(fronts):
        if work[root] > limit or (parent[root] >= 0 and work[parent[root]] <= limit):
            continue
        path[0], depth = root, 0
        while depth >= 0:
            f = path[depth]
            if following[f] < starts[f + 1]:
                depth += 1
                path[depth] = children[following[f]]
                following[f] += 1
                continue
            depth -= 1
            order[count] = f
            count += 1
            places[f] = heights[odd[f]]
            heights[odd[f]] += squares[f]
            peaks[odd[f]] = max(peaks[odd[f]], heights[odd[f]])
            for c in range(starts[f], starts[f + 1]):
                heights[1 - odd[f]] -= squares[children[c]]
        taken += work[root]
        if taken >= MIN_TASK_SHARE * limit:
            closed, size = _close_task(order, bounds, closed, count, odd, peaks, places, size)
            heights[:], taken = 0, 0.0
    if count > bounds[closed]:
        closed, size = _close_task(order, bounds, closed, count, odd, peaks, places, size)
    for f in range(fronts):
        if work[f] > limit:
            order[count] = f
            count += 1
    return order, bounds[: closed + 1].copy(), places, size


@njit
def _close_task(
    order: Any,
    bounds: Any,
    closed: Any,
    count: Any,
    odd: Any,
    peaks: Any,
    places: Any,
    size: Any,
) -> Any:
    """Put the stacks of a task behind those of others; return the tasks and the entries so far."""
    for i in range(bounds[closed], count):
        f = order[i]
        places[f] += size + odd[f] * peaks[0]
    bounds[closed + 1] = count
    size += peaks[0] + peaks[1]
    peaks[:] = 0
    return closed + 1, size


@njit
def eliminate(
    order: Any,
    first: Any,
    last: Any,
    graph: Any,
    matrix: Any,
    transposed: Any,
    tree: Any,
    layout: Any,
    factors: Any,
    pool: Any,
    scratch: Any,
) -> Any:
    """Assemble and eliminate the fronts of an order, from number `first` to before `last`.

    Returns
    -------
    int
        The number of a singular front; -1 if there is none.
    """
    sizes, starts = graph[0], graph[1]
    for i in range(first, last):
        f = order[i]
        if not begin(f, graph, matrix, transposed, tree, layout, factors, pool, scratch):
            return f
        m = starts[f + 1] - starts[f]
        for row in range(0, m, DIVIDED_ROWS):
            divide(f, row, sizes[f], m, layout, factors, scratch)
        block = update_columns(m)
        for column in range(0, m, block):
            update(f, column, sizes[f], m, layout, factors, pool, scratch)
    return -1


@njit
def begin(
    f: Any,
    graph: Any,
    matrix: Any,
    transposed: Any,
    tree: Any,
    layout: Any,
    factors: Any,
    pool: Any,
    scratch: Any,
) -> Any:
    """Assemble front f and invert G11; return whether it is regular."""
    assemble(f, graph, matrix, transposed, tree, layout, pool, scratch)
    return invert(f, graph[0][f], graph[1][f + 1] - graph[1][f], layout, factors, scratch)


@njit
def assemble(
    f: Any,
    graph: Any,
    matrix: Any,
    transposed: Any,
    tree: Any,
    layout: Any,
    pool: Any,
    scratch: Any,
) -> None:
    """Add the entries of A and the updates of the children to the columns of front f."""
    sizes, starts, updated, own_starts, own, position = graph
    panel, wide, local, rows = scratch[0], scratch[1], scratch[2], scratch[3]
    runs = scratch[10]
    symmetric = transposed[0].shape[0] == 0
    k, m = sizes[f], starts[f + 1] - starts[f]
    side, at = k + m, layout[3][f]
    panel[: side * k] = 0.0
    if symmetric:
        for j in range(m):
            pool[at + j * m + j : at + j * m + m] = 0.0
    else:
        pool[at : at + m * m] = 0.0
        wide[: k * m] = 0.0
    o = own_starts[f]
    for i in range(k):
        local[own[o + i]] = i
    for i in range(m):
        local[updated[starts[f] + i]] = k + i
    begin = position[own[o]]
    indptr, indices, data = matrix
    for i in range(k):
        u, column = own[o + i], i * side
        for p in range(indptr[u], indptr[u + 1]):
            v = indices[p]
            if position[v] >= begin:
                j = local[v]
                if not symmetric or j >= i:
                    panel[column + j] += data[p]
    if not symmetric:
        indptr, indices, data = transposed
        for i in range(k):
            u = own[o + i]
            for p in range(indptr[u], indptr[u + 1]):
                v = indices[p]
                if position[v] >= begin and local[v] >= k:
                    wide[(local[v] - k) * k + i] += data[p]
    child_starts, children = tree
    for c in range(child_starts[f], child_starts[f + 1]):
        child = children[c]
        begin, count = starts[child], starts[child + 1] - starts[child]
        split = 0
        for i in range(count):
            j = local[updated[begin + i]]
            rows[i] = j
            if j < k:
                split = i + 1
        end = count  # of the run of consecutive rows to which row i belongs
        for i in range(count - 1, -1, -1):
            if i + 1 < count and rows[i + 1] != rows[i] + 1:
                end = i + 1
            runs[i] = end
        source = layout[3][child]
        for j in range(split):
            i = j if symmetric else 0
            add_runs(panel, rows[j] * side, pool, source + j * count, rows, runs, i, count)
        for j in range(split, count):
            if not symmetric:
                to = (rows[j] - k) * k
                add_runs(wide, to, pool, source + j * count, rows, runs, 0, split)
            to, i = at + (rows[j] - k) * m - k, j if symmetric else split
            add_runs(pool, to, pool, source + j * count, rows, runs, i, count)


@njit
def add_runs(
    target: Any, to: Any, source: Any, at: Any, rows: Any, runs: Any, first: Any, last: Any
) -> None:
    """Add ``source[at + i]`` to ``target[to + rows[i]]`` for i from `first` to before `last`.

    Indices without a sign let the compiler add several entries of a run at once.
    """
    i = first
    while i < last:
        end = min(runs[i], last)
        a, b = host.uint64(to + rows[i]), host.uint64(at + i)
        for p in range(host.uint64(end - i)):
            target[a + p] += source[b + p]
        i = end


@njit
def update_columns(m: Any) -> Any:
    """Return the columns of an update that are computed by one product."""
    return min(max(m // BLOCKS, MIN_BLOCK), MAX_BLOCK)


@njit
def divide(f: Any, row: Any, k: Any, m: Any, layout: Any, factors: Any, scratch: Any) -> None:
    """Compute `DIVIDED_ROWS` of `lower` from a row on, and the same columns of `upper`."""
    panel, wide = scratch[0], scratch[1]
    size, side, rows = factors.itemsize, k + m, min(DIVIDED_ROWS, m - row)
    kpad, mpad = layout[4][f], layout[5][f]
    base = factors.ctypes.data
    inverse = base + layout[0][f] * size
    lower = base + (layout[1][f] + row) * size
    below = panel.ctypes.data + (k + row) * size
    multiply(False, rows, k, k, 1.0, below, side, inverse, kpad, 0.0, lower, mpad, scratch)
    if wide.shape[0]:
        upper = base + (layout[2][f] + row * kpad) * size
        right = wide.ctypes.data + row * k * size
        multiply(False, k, rows, k, 1.0, inverse, kpad, right, k, 0.0, upper, kpad, scratch)


@njit
def update(
    f: Any, column: Any, k: Any, m: Any, layout: Any, factors: Any, pool: Any, scratch: Any
) -> None:
    """Subtract lower G12 from the update in `update_columns` from a column on."""
    panel, wide = scratch[0], scratch[1]
    symmetric = wide.shape[0] == 0
    size, side, mpad = factors.itemsize, k + m, layout[5][f]
    columns, top = min(update_columns(m), m - column), column if symmetric else 0
    a = factors.ctypes.data + (layout[1][f] + top) * size
    c = pool.ctypes.data + (layout[3][f] + column * m + top) * size
    if symmetric:
        b = panel.ctypes.data + (k + column) * size
        multiply(True, m - top, columns, k, -1.0, a, mpad, b, side, 1.0, c, m, scratch)
    else:
        b = wide.ctypes.data + column * k * size
        multiply(False, m, columns, k, -1.0, a, mpad, b, k, 1.0, c, m, scratch)
