"""Loops over the vertices and edges of the graph of a matrix, by numpy.

Dissections and the layout of fronts consist of them. `compiled_graphs` has the same functions,
compiled by numba; `dissection.loops` chooses. In a graph, `starts` and `neighbors` are the rows of
its adjacency matrix in CSR format; edges are arrays of both ends.
"""

from __future__ import annotations

from typing import Any

from scipy.sparse import csgraph, csr_matrix

from ...arrays.backend import host


def adjacency(starts: Any, columns: Any) -> tuple[Any, Any]:
    """Return the pattern of A + A' without its diagonal: starts and sorted neighbors."""
    n = starts.shape[0] - 1
    pattern = csr_matrix((host.ones(columns.shape[0]), columns, starts), shape=(n, n))
    entries = (pattern + pattern.T).tocoo()
    off_diagonal = entries.row != entries.col
    i, j = entries.row[off_diagonal], entries.col[off_diagonal]
    result = csr_matrix((host.ones(i.shape[0]), (i, j)), shape=(n, n))
    result.sort_indices()
    return result.indptr, result.indices


def merge(starts: Any, neighbors: Any, first: Any, group: Any) -> tuple[Any, Any]:
    """Return the graph of groups of vertices with the same neighbors, of which `first` are some."""
    n, groups = group.shape[0], first.shape[0]
    graph = csr_matrix((host.ones(neighbors.shape[0]), neighbors, starts), shape=(n, n))
    members = csr_matrix((host.ones(n), (host.arange(n), group)), shape=(n, groups))
    merged = (graph[first] @ members).tocsr()
    merged.sort_indices()
    return adjacency(merged.indptr, merged.indices)


def distances(starts: Any, neighbors: Any, source: int) -> Any:
    """Count the edges from each vertex of a connected graph to the source."""
    n = starts.shape[0] - 1
    graph = csr_matrix((host.ones(neighbors.shape[0]), neighbors, starts), shape=(n, n))
    order, predecessor = csgraph.breadth_first_order(graph, source, directed=True)
    place = host.empty(n, dtype=host.int64)
    place[order] = host.arange(n)
    # Places of the predecessors ascend, because each level is reached from the one before. A level
    # ends where the predecessors of the next one begin.
    predecessors = place[predecessor[order[1:]]]
    ends = [1]
    while ends[-1] < n:
        ends.append(1 + int(host.searchsorted(predecessors, ends[-1])))
    distance = host.empty(n)
    distance[order] = host.repeat(host.arange(len(ends)), host.diff([0, *ends]))
    return distance


def order_along_axes(coordinates: Any, inside: Any, sizes: Any) -> Any:
    """Sort the vertices of each part along the direction of their greatest variance."""
    coordinates, dimensions = coordinates[inside].T, coordinates.shape[1]
    start = host.cumsum(sizes) - sizes
    means = host.add.reduceat(coordinates, start, axis=1) / sizes
    centered = coordinates - host.repeat(means, sizes, axis=1)
    covariance = host.empty((sizes.shape[0], dimensions, dimensions))
    for a in range(dimensions):
        for b in range(a + 1):
            products = host.add.reduceat(centered[a] * centered[b], start)
            covariance[:, a, b] = covariance[:, b, a] = products
    axis = host.linalg.eigh(covariance)[1][:, :, -1]
    largest = host.take_along_axis(axis, abs(axis).argmax(axis=1)[:, None], axis=1)
    axis = (axis * host.where(largest < 0.0, -1.0, 1.0)).T
    along = host.einsum("dv,dv->v", centered, host.repeat(axis, sizes, axis=1))
    reach = host.maximum(host.maximum.reduceat(abs(along), start), 1.0)
    # One sort for all parts: the number of the part, plus less than a half along its axis.
    number = host.repeat(host.arange(sizes.shape[0]), sizes)
    keys = number + 0.49 * along / host.repeat(reach, sizes)
    return inside[host.argsort(keys, kind="stable")]


def cheapest_cuts(inside: Any, sizes: Any, weight: Any, i: Any, j: Any, max_offset: float) -> Any:
    """Cut each part, in the order of its vertices, near the middle where the fewest edges cross.

    Returns whether each vertex is behind the cut of its part.
    """
    total = inside.shape[0]
    place = host.empty(weight.shape[0], dtype=host.int64)
    place[inside] = host.arange(total)
    one, other = place[i], place[j]
    opened = host.bincount(host.minimum(one, other), minlength=total)
    crossing = host.cumsum(opened - host.bincount(host.maximum(one, other), minlength=total))
    end = host.cumsum(sizes)
    cumulated = host.cumsum(weight[inside])
    before = host.concatenate([host.zeros(1), cumulated])[end - sizes]
    part_weight = cumulated[end - 1] - before
    share = (cumulated - host.repeat(before, sizes)) / host.repeat(part_weight, sizes)
    offset = abs(share - 0.5)
    near_middle = offset <= max_offset
    cost = host.where(near_middle, crossing + 1e-3 * offset, (crossing.max() + 1) * (1 + offset))
    least = host.minimum.reduceat(cost, end - sizes)
    cheapest = host.flatnonzero(cost == host.repeat(least, sizes))
    cut = host.empty(sizes.shape[0], dtype=host.int64)
    cut[host.repeat(host.arange(sizes.shape[0]), sizes)[cheapest]] = cheapest
    right = host.zeros(weight.shape[0], dtype=bool)
    right[inside] = host.arange(total) > host.repeat(cut, sizes)
    return right


def crossing_graph(i: Any, j: Any, right: Any) -> tuple[Any, Any, Any, Any]:
    """Return the vertices on both sides of edges that cross, and the graph between them.

    Returns
    -------
    left, right : arrays of int
        The vertices.
    starts, others : arrays of int
        The edges of each left vertex, as numbers of right vertices.
    """
    crosses = right[i] != right[j]
    i, j = i[crosses], j[crosses]
    left, a = host.unique(host.where(right[i], j, i), return_inverse=True)
    rights, b = host.unique(host.where(right[i], i, j), return_inverse=True)
    graph = csr_matrix((host.ones(a.shape[0]), (a, b)), shape=(left.shape[0], rights.shape[0]))
    return left, rights, graph.indptr, graph.indices


def reach(starts: Any, others: Any, matched: Any, rights: int) -> tuple[Any, Any]:
    """Return the vertices on both sides that alternating paths from unmatched left ones reach.

    `matched` has the partner of each left vertex, or -1; there are `rights` right vertices.
    """
    partner = host.full(rights, -1)
    partner[matched[matched >= 0]] = host.flatnonzero(matched >= 0)
    reached_left, reached_right = matched < 0, host.zeros(rights, dtype=bool)
    ends = host.flatnonzero(reached_left)
    while ends.shape[0]:
        adjacent = _neighbors(starts, others, ends)
        adjacent = host.unique(adjacent[~reached_right[adjacent]])
        reached_right[adjacent] = True
        ends = partner[adjacent]
        ends = ends[~reached_left[ends]]
        reached_left[ends] = True
    return reached_left, reached_right


def _neighbors(starts: Any, neighbors: Any, vertices: Any) -> Any:
    """Return the neighbors of all these vertices, one vertex after the other."""
    start = starts[vertices]
    count = starts[vertices + 1] - start
    end = host.cumsum(count)
    total = int(end[-1]) if end.shape[0] else 0
    return neighbors[host.arange(total) + host.repeat(start - end + count, count)]


def halves(inside: Any, sizes: Any, front: Any, right: Any) -> tuple[Any, Any]:
    """Return the vertices without a front, the left ones of each part first, and their numbers."""
    without = front[inside] < 0
    number = host.repeat(host.arange(sizes.shape[0]), sizes)[without]
    inside = inside[without]
    half = 2 * number + right[inside]
    inside = inside[host.argsort(half, kind="stable")]
    return inside, host.bincount(half, minlength=2 * sizes.shape[0])


def remaining_edges(i: Any, j: Any, front: Any, right: Any) -> tuple[Any, Any]:
    """Return the edges between vertices of one half without a front."""
    remaining = (front[i] < 0) & (front[j] < 0) & (right[i] == right[j])
    return i[remaining], j[remaining]


def ancestor_updates(starts: Any, neighbors: Any, front: Any, parent: Any) -> tuple[Any, Any]:
    """Return all pairs of a front and an unknown of an ancestor that it updates, unsorted.

    Parents have smaller numbers than their children. An unknown is adjacent only to unknowns of the
    same front, of ancestors and of descendants.
    """
    n = front.shape[0]
    height = host.asarray(heights(parent.tolist()))
    i = host.repeat(host.arange(n), host.diff(starts))
    up = height[front[i]] < height[front[neighbors]]
    keys = front[i[up]].astype(host.int64) * n + neighbors[up]
    level = height[front[i[up]]]
    pairs_by_height, waiting = [], [(level, keys)]
    # From the leaves up, a front passes to its parent what it updates beyond the parent.
    for h in range(int(height.max())):
        level, keys = (host.concatenate(parts) for parts in zip(*waiting, strict=True))
        here = host.unique(keys[level == h])
        pairs_by_height.append(here)
        child, row = here // n, here % n
        beyond = front[row] != parent[child]
        parents = parent[child][beyond]
        passed_on = (height[parents], parents * n + row[beyond])
        waiting = [(level[level != h], keys[level != h]), passed_on]
    pairs = host.concatenate([host.zeros(0, dtype=host.int64), *pairs_by_height])
    return pairs // n, pairs % n


# The next two loops are compiled as they are here. As lists, their arguments are faster here.


def heights(parent: Any) -> Any:
    """Return the steps from each front to the farthest leaf below it, a list."""
    found = [0] * len(parent)
    for f in range(len(parent) - 1, -1, -1):  # parents come before their children
        p = parent[f]
        if p >= 0:
            found[p] = max(found[p], found[f] + 1)
    return found


def batch_shapes(
    height: Any, sizes: Any, updated: Any, batch_cost: int, max_share: float, max_entries: int
) -> list[tuple[int, int, int, int]]:
    """Group consecutive fronts into batches: (first front, number of fronts, k, m)."""
    shapes = []
    first = fronts = batch_k = batch_m = unpadded = 0
    for i in range(len(height)):
        k, m = sizes[i], updated[i]
        entries = k * (k + 2 * m)  # of the factors, without padding
        if fronts > 0:
            max_k, max_m = max(k, batch_k), max(m, batch_m)
            padded = (fronts + 1) * max_k * (max_k + 2 * max_m)
            fits = (fronts + 1) * (max_k + max_m) ** 2 <= max_entries
            padding = padded - unpadded - entries
            if height[i] == height[i - 1] and fits and padding <= batch_cost + max_share * padded:
                fronts, batch_k, batch_m = fronts + 1, max_k, max_m
                unpadded += entries
                continue
            shapes.append((first, fronts, batch_k, batch_m))
        first, fronts, batch_k, batch_m, unpadded = i, 1, k, m, entries
    shapes.append((first, fronts, batch_k, batch_m))
    return shapes


def as_arguments(x: Any) -> Any:
    """Return an array in the form that suits the loops over single numbers here, a list."""
    return x.tolist()


def sort_pairs(updating: Any, rows: Any, position: Any, fronts: int, places: int) -> Any:
    """Sort pairs of a front and a row by the front, and then by the position of the row."""
    order = host.lexsort((position[rows], updating))
    return updating[order], rows[order]
