"""The loops of `graphs`, compiled by numba."""

from __future__ import annotations

from typing import Any

from ...arrays.backend import host
from ...arrays.jit import njit
from . import compiled_axes, graphs


@njit
def adjacency(starts: Any, columns: Any) -> Any:
    """Return the pattern of A + A' without its diagonal: starts and sorted neighbors."""
    n = starts.shape[0] - 1
    places = host.zeros(n + 1, dtype=host.int32)
    for p in range(columns.shape[0]):
        places[columns[p] + 1] += 1
    for i in range(n):
        places[i + 1] += places[i]
    at = places[:n].copy()
    rows = host.empty(columns.shape[0], dtype=host.int32)
    for i in range(n):
        for p in range(starts[i], starts[i + 1]):
            j = columns[p]
            rows[at[j]] = i
            at[j] += 1
    found = host.empty(n + 1, dtype=host.int32)
    neighbors = host.empty(2 * columns.shape[0], dtype=host.int32)
    count = 0
    found[0] = 0
    for i in range(n):
        p, q, a, b = starts[i], places[i], starts[i + 1], places[i + 1]
        while p < a or q < b:
            if q == b or (p < a and columns[p] < rows[q]):
                j = columns[p]
                p += 1
            elif p == a or rows[q] < columns[p]:
                j = rows[q]
                q += 1
            else:
                j = columns[p]
                p += 1
                q += 1
            if j != i:
                neighbors[count] = j
                count += 1
        found[i + 1] = count
    return found, neighbors[:count].copy()


@njit
def merge(starts: Any, neighbors: Any, first: Any, group: Any) -> Any:
    """Return the graph of groups of vertices with the same neighbors, of which `first` are some."""
    groups = first.shape[0]
    mark = host.full(groups, -1, dtype=host.int32)
    found = host.zeros(groups + 1, dtype=host.int32)
    others = host.empty(neighbors.shape[0], dtype=host.int32)
    count = 0
    for g in range(groups):
        mark[g] = g
        v = first[g]
        for p in range(starts[v], starts[v + 1]):
            other = group[neighbors[p]]
            if mark[other] != g:
                mark[other] = g
                others[count] = other
                count += 1
        others[found[g] : count] = host.sort(others[found[g] : count])
        found[g + 1] = count
    return found, others[:count].copy()


@njit
def distances(starts: Any, neighbors: Any, source: Any) -> Any:
    """Count the edges from each vertex of a connected graph to the source."""
    n = starts.shape[0] - 1
    found = host.full(n, -1.0)
    queue = host.empty(n, dtype=host.int32)
    queue[0] = source
    found[source] = 0.0
    end = 1
    for k in range(n):
        v = queue[k]
        further = found[v] + 1.0
        for p in range(starts[v], starts[v + 1]):
            w = neighbors[p]
            if found[w] < 0.0:
                found[w] = further
                queue[end] = w
                end += 1
    return found


@njit
def cheapest_cuts(inside: Any, sizes: Any, weight: Any, i: Any, j: Any, max_offset: Any) -> Any:
    """Cut each part, in the order of its vertices, near the middle where the fewest edges cross.

    Returns whether each vertex is behind the cut of its part.
    """
    total = inside.shape[0]
    place = host.empty(weight.shape[0], dtype=host.int32)
    for k in range(total):
        place[inside[k]] = k
    change = host.zeros(total, dtype=host.int32)
    for e in range(i.shape[0]):
        a, b = place[i[e]], place[j[e]]
        change[min(a, b)] += 1
        change[max(a, b)] -= 1
    most = crossing = 0
    for k in range(total):
        crossing += change[k]
        most = max(most, crossing)
    right = host.zeros(weight.shape[0], dtype=host.bool_)
    start = crossing = 0
    for part in range(sizes.shape[0]):
        end = start + sizes[part]
        whole = 0.0
        for k in range(start, end):
            whole += weight[inside[k]]
        least, cut, before = host.inf, start, 0.0
        for k in range(start, end):
            crossing += change[k]
            before += weight[inside[k]]
            offset = abs(before / whole - 0.5)
            if offset <= max_offset:
                cost = crossing + 1e-3 * offset
            else:
                cost = (most + 1) * (1.0 + offset)
            if cost <= least:
                least, cut = cost, k
        for k in range(cut + 1, end):
            right[inside[k]] = True
        start = end
    return right


@njit
def crossing_graph(i: Any, j: Any, right: Any) -> Any:
    """Return the vertices on both sides of edges that cross, and the graph between them.

    Returns
    -------
    left, right : arrays of int
        The vertices.
    starts, others : arrays of int
        The edges of each left vertex, as numbers of right vertices.
    """
    n = right.shape[0]
    number = host.full(n, -1, dtype=host.int32)
    count = 0
    for e in range(i.shape[0]):
        count += right[i[e]] != right[j[e]]
    ends = host.empty((2, count), dtype=host.int32)
    lefts, rights = host.empty(count, dtype=host.int64), host.empty(count, dtype=host.int64)
    a = b = c = 0
    for e in range(i.shape[0]):
        u, v = i[e], j[e]
        if right[u] == right[v]:
            continue
        if right[u]:
            u, v = v, u
        if number[u] < 0:
            number[u] = a
            lefts[a] = u
            a += 1
        if number[v] < 0:
            number[v] = b
            rights[b] = v
            b += 1
        ends[0, c], ends[1, c] = number[u], number[v]
        c += 1
    starts = host.zeros(a + 1, dtype=host.int32)
    for e in range(count):
        starts[ends[0, e] + 1] += 1
    for u in range(a):
        starts[u + 1] += starts[u]
    at = starts[:a].copy()
    others = host.empty(count, dtype=host.int32)
    for e in range(count):
        u = ends[0, e]
        others[at[u]] = ends[1, e]
        at[u] += 1
    return lefts[:a].copy(), rights[:b].copy(), starts, others


@njit
def reach(starts: Any, others: Any, matched: Any, rights: Any) -> Any:
    """Return the vertices on both sides that alternating paths from unmatched left ones reach.

    `matched` has the partner of each left vertex, or -1; there are `rights` right vertices.
    """
    lefts = matched.shape[0]
    partner = host.full(rights, -1, dtype=host.int32)
    reached_left, reached_right = (
        host.zeros(lefts, dtype=host.bool_),
        host.zeros(rights, dtype=host.bool_),
    )
    queue = host.empty(lefts, dtype=host.int32)
    end = 0
    for u in range(lefts):
        if matched[u] >= 0:
            partner[matched[u]] = u
        else:
            reached_left[u] = True
            queue[end] = u
            end += 1
    k = 0
    while k < end:
        u = queue[k]
        k += 1
        for p in range(starts[u], starts[u + 1]):
            v = others[p]
            if not reached_right[v]:
                reached_right[v] = True
                w = partner[v]
                if w >= 0 and not reached_left[w]:
                    reached_left[w] = True
                    queue[end] = w
                    end += 1
    return reached_left, reached_right


@njit
def halves(inside: Any, sizes: Any, front: Any, right: Any) -> Any:
    """Return the vertices without a front, the left ones of each part first, and their numbers."""
    rest = host.empty_like(inside)
    counts = host.zeros(2 * sizes.shape[0], dtype=host.int64)
    start = count = 0
    for part in range(sizes.shape[0]):
        end = start + sizes[part]
        for side in range(2):
            before = count
            for k in range(start, end):
                v = inside[k]
                if front[v] < 0 and right[v] == (side == 1):
                    rest[count] = v
                    count += 1
            counts[2 * part + side] = count - before
        start = end
    return rest[:count].copy(), counts


@njit
def remaining_edges(i: Any, j: Any, front: Any, right: Any) -> Any:
    """Return the edges between vertices of one half without a front."""
    a, b = host.empty_like(i), host.empty_like(j)
    count = 0
    for e in range(i.shape[0]):
        u, v = i[e], j[e]
        if front[u] < 0 and front[v] < 0 and right[u] == right[v]:
            a[count], b[count] = u, v
            count += 1
    return a[:count].copy(), b[:count].copy()


@njit
def ancestor_updates(starts: Any, neighbors: Any, front: Any, parent: Any) -> Any:
    """Return all pairs of a front and an unknown of an ancestor that it updates, unsorted.

    Parents have smaller numbers than their children. An unknown is adjacent only to unknowns of the
    same front, of ancestors and of descendants.
    """
    n, fronts = front.shape[0], parent.shape[0]
    own_starts = host.zeros(fronts + 1, dtype=host.int64)
    for v in range(n):
        own_starts[front[v] + 1] += 1
    for f in range(fronts):
        own_starts[f + 1] += own_starts[f]
    at = own_starts[:fronts].copy()
    own = host.empty(n, dtype=host.int32)
    for v in range(n):
        own[at[front[v]]] = v
        at[front[v]] += 1
    last = host.full(fronts, -1, dtype=host.int64)  # the first child, and the next sibling
    sibling = host.full(fronts, -1, dtype=host.int64)
    mark = host.full(n, -1, dtype=host.int64)
    begin, end = host.zeros(fronts, dtype=host.int64), host.zeros(fronts, dtype=host.int64)
    found = host.empty(4 * n + 1_000, dtype=host.int32)
    count = 0
    for f in range(fronts - 1, -1, -1):
        begin[f] = count
        child = last[f]
        needed = 0
        for k in range(own_starts[f], own_starts[f + 1]):
            needed += starts[own[k] + 1] - starts[own[k]]
        while child >= 0:
            needed += end[child] - begin[child]
            child = sibling[child]
        if count + needed > found.shape[0]:
            larger = host.empty(2 * (count + needed), dtype=host.int32)
            larger[:count] = found[:count]
            found = larger
        for k in range(own_starts[f], own_starts[f + 1]):
            u = own[k]
            for p in range(starts[u], starts[u + 1]):
                v = neighbors[p]
                if front[v] < f and mark[v] != f:
                    mark[v] = f
                    found[count] = v
                    count += 1
        child = last[f]
        while child >= 0:
            for p in range(begin[child], end[child]):
                v = found[p]
                if front[v] != f and mark[v] != f:
                    mark[v] = f
                    found[count] = v
                    count += 1
            child = sibling[child]
        end[f] = count
        if parent[f] >= 0:
            sibling[f] = last[parent[f]]
            last[parent[f]] = f
    updating, rows = host.empty(count, dtype=host.int64), host.empty(count, dtype=host.int64)
    for f in range(fronts):
        for p in range(begin[f], end[f]):
            updating[p], rows[p] = f, found[p]
    return updating, rows


@njit
def sort_pairs(updating: Any, rows: Any, position: Any, fronts: Any, places: Any) -> Any:
    """Sort pairs of a front and a row by the front, and then by the position of the row."""
    count = updating.shape[0]
    by_place = host.zeros(places + 1, dtype=host.int64)
    for p in range(count):
        by_place[position[rows[p]] + 1] += 1
    for k in range(places):
        by_place[k + 1] += by_place[k]
    order = host.empty(count, dtype=host.int64)
    for p in range(count):
        k = position[rows[p]]
        order[by_place[k]] = p
        by_place[k] += 1
    by_front = host.zeros(fronts + 1, dtype=host.int64)
    for p in range(count):
        by_front[updating[p] + 1] += 1
    for f in range(fronts):
        by_front[f + 1] += by_front[f]
    sorted_updating, sorted_rows = host.empty_like(updating), host.empty_like(rows)
    for q in range(count):
        p = order[q]
        f = updating[p]
        sorted_updating[by_front[f]], sorted_rows[by_front[f]] = f, rows[p]
        by_front[f] += 1
    return sorted_updating, sorted_rows


order_along_axes = compiled_axes.order_along_axes
heights = njit(graphs.heights)
batch_shapes = njit(graphs.batch_shapes)


def as_arguments(x: Any) -> Any:
    """Return an array as it is."""
    return x
