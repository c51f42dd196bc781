"""Nested dissection: recursive cuts of the graph of a matrix by small separators [1]_.

The distances of a vertex from a few far-apart vertices serve as its coordinates; in their leading
principal components, a mesh has its own shape [2]_. Each part is cut across the longest axis of its
coordinates, near the middle, where the fewest edges cross. Graphs with long edges have no shape in
coordinates: METIS [3]_ cuts them, if it is installed.

The smallest set of vertices that touches all edges of a cut is the separator (Kőnig's theorem gives
it from a maximum matching). All parts of a level are cut at once. Unknowns with the same closed
neighborhood, such as those of one grid point, are merged and stay together. A few unknowns that
touch a large share of the others, such as a parameter of a whole domain, would be shortcuts between
all vertices: they become the root, and the rest is cut without them.

References
----------
.. [1] A. George, "Nested dissection of a regular finite element mesh", SIAM Journal on Numerical
       Analysis 10(2), 345-363, 1973.
.. [2] D. Harel and Y. Koren, "Graph drawing by high-dimensional embedding", Graph Drawing 2002,
       Lecture Notes in Computer Science 2528, 207-219.
.. [3] G. Karypis and V. Kumar, "A fast and high quality multilevel scheme for partitioning
       irregular graphs", SIAM Journal on Scientific Computing 20(1), 359-392, 1998.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy.sparse import csgraph, csr_matrix

from ...arrays.backend import host
from ...arrays.sparse import sparse_on_host

LANDMARKS = 14  # vertices from which distances are measured
DIMENSIONS = 4  # principal components of the distances that serve as coordinates
# A vertex is a hub if its number of neighbors exceeds HUB_DEGREE_RATIO times the square root of the
# number of vertices. Hubs become the root if they have at most MAX_HUB_UNKNOWNS unknowns together.
HUB_DEGREE_RATIO, MAX_HUB_UNKNOWNS = 10.0, 64
MAX_CUT_OFFSET = 0.1  # distance of a cut from the middle, as a share of the part's unknowns

# A bisection maps (vertices of all parts, part after part; sizes of the parts; the two ends of each
# edge inside a part) to a boolean array over all vertices, True for those in the second half.
Bisection = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Dissection:
    """A forest of separators, each adjacent only to its ancestors and descendants.

    Attributes
    ----------
    front : (N,) array of int
        The separator, or the part that was not cut further, that contains each unknown.
    parent : (fronts,) array of int
        The separator above each of them; -1 for roots. Parents come before their children.
    """

    front: Any
    parent: Any


def dissect(A: Any, max_part_size: int, use_metis: bool = False) -> Dissection:
    """Cut the graph of a sparse (N, N) matrix into parts of at most `max_part_size` unknowns."""
    graph, group, weight = _merge_twins(_adjacency(A))
    degree = host.diff(graph.indptr)
    hub = degree > HUB_DEGREE_RATIO * math.sqrt(graph.shape[0])
    if not 0.0 < weight[hub].sum() <= MAX_HUB_UNKNOWNS:
        front, parent = _dissect_graph(graph, weight, max_part_size, use_metis)
    else:  # Front 0 has the hubs and is the parent of the former roots.
        rest = ~hub
        front = host.zeros(graph.shape[0], dtype=host.int64)
        inner, parent = _dissect_graph(graph[rest][:, rest], weight[rest], max_part_size, use_metis)
        front[rest] = inner + 1
        parent = host.concatenate([[-1], host.where(parent < 0, 0, parent + 1)])
    return Dissection(*_remove_empty_fronts(front[group], parent))


def _dissect_graph(graph: Any, weight: Any, max_part_size: int, use_metis: bool) -> tuple[Any, Any]:
    """Return the front of each vertex and the parent of each front, empty fronts included."""
    bisection = (_metis_bisection if use_metis else _coordinate_bisection)(
        graph, weight, max_part_size
    )
    n = graph.shape[0]
    parts, part = csgraph.connected_components(graph, directed=False)
    part = part.astype(host.int64)
    edges = graph.tocoo()
    upper = edges.row < edges.col
    i, j = edges.row[upper], edges.col[upper]
    front = host.full(n, -1)
    parent, node, fronts = [host.full(parts, -1)], host.arange(parts), parts
    inside = host.argsort(part, kind="stable")  # vertices that have no front yet, part after part
    sizes = host.bincount(part, minlength=parts)
    while True:
        total = host.add.reduceat(weight[inside], host.cumsum(sizes) - sizes)
        small = (total <= max_part_size) | (sizes == 1)
        finished = host.repeat(small, sizes)
        front[inside[finished]] = host.repeat(node, sizes)[finished]
        inside, node, sizes = inside[~finished], node[~small], sizes[~small]
        if not inside.shape[0]:
            break
        uncut = (front[i] < 0) & (front[j] < 0)
        i, j = i[uncut], j[uncut]
        right = bisection(inside, sizes, i, j)
        crosses = right[i] != right[j]
        separator = _minimum_vertex_cover(i[crosses], j[crosses], right)
        i, j = i[~crosses], j[~crosses]
        number = host.empty(n, dtype=host.int64)
        number[inside] = host.repeat(host.arange(sizes.shape[0]), sizes)
        front[separator] = node[number[separator]]
        inside = inside[front[inside] < 0]
        inside = inside[host.lexsort((right[inside], number[inside]))]
        sizes = host.bincount(2 * number[inside] + right[inside], minlength=2 * sizes.shape[0])
        parent.append(host.repeat(node, 2))
        node = fronts + host.arange(2 * node.shape[0])
        fronts += node.shape[0]
        node, sizes = node[sizes > 0], sizes[sizes > 0]
    return front, host.concatenate(parent)


def _adjacency(A: Any) -> Any:
    """Return the pattern of A + A' without its diagonal, in CSR with sorted indices."""
    pattern = sparse_on_host(A).astype("float64")  # a copy
    pattern.data[:] = 1.0  # stored zeros are entries too
    return _remove_diagonal(pattern + pattern.T)


def _remove_diagonal(matrix: Any) -> Any:
    """Return a matrix without its diagonal, in CSR with sorted indices."""
    entries = matrix.tocoo()
    off_diagonal = entries.row != entries.col
    i, j = entries.row[off_diagonal], entries.col[off_diagonal]
    result = csr_matrix((entries.data[off_diagonal], (i, j)), shape=matrix.shape)
    result.sort_indices()
    return result


def _merge_twins(graph: Any) -> tuple[Any, Any, Any]:
    """Merge vertices that have the same closed neighborhood.

    Returns the graph of the groups, the group of each vertex, and the sizes of the groups.
    """
    n = graph.shape[0]
    pattern = graph.astype("uint64")
    pattern.data[:] = 1
    # Closed neighborhoods are compared by a hash: the sum of random numbers, modulo 2^64.
    mark = host.random.default_rng(0).integers(2**64, size=n, dtype=host.uint64)
    sums = pattern @ mark + mark
    order = host.argsort(sums, kind="stable")
    new = host.ones(n, dtype=bool)
    new[1:] = sums[order][1:] != sums[order][:-1]
    group = host.empty(n, dtype=host.int64)
    group[order] = host.cumsum(new) - 1
    if bool(new.all()):
        return graph, host.arange(n), host.ones(n)
    groups = int(group.max()) + 1
    first = order[new]
    members = csr_matrix((host.ones(n), (host.arange(n), group)), shape=(n, groups))
    return _remove_diagonal(graph[first] @ members), group, host.bincount(group).astype("float64")


def _coordinate_bisection(graph: Any, weight: Any, max_part_size: int) -> Bisection:
    """Cut each part across the longest axis of its coordinates."""
    coordinates = host.zeros((DIMENSIONS, graph.shape[0]))
    components, component = csgraph.connected_components(graph, directed=False)
    sizes = host.bincount(component, weight, components)
    for c in host.flatnonzero(sizes > max_part_size):
        members = host.flatnonzero(component == c)
        coordinates[:, members] = _coordinates(graph[members][:, members])

    def bisection(inside: Any, sizes: Any, i: Any, j: Any) -> Any:
        inside = inside[_order_along_axes(coordinates[:, inside], sizes)]
        return _cheapest_cuts(inside, sizes, weight, i, j)

    return bisection


def _metis_bisection(graph: Any, weight: Any, max_part_size: int) -> Bisection:
    """Cut as METIS's recursive bisection does, by the bits of its part numbers."""
    pymetis = importlib.import_module("pymetis")
    n = graph.shape[0]
    depth = max(1, math.ceil(math.log2(weight.sum() / max_part_size)))
    adjacency = pymetis.CSRAdjacency(adj_starts=graph.indptr, adjacent=graph.indices)
    weights = weight.astype(int).tolist()
    _, numbers = pymetis.part_graph(2**depth, adjacency, vweights=weights, recursive=True)
    part = host.asarray(numbers)
    bits = iter(range(depth - 1, -1, -1))  # the leading bit is the first cut

    def bisection(inside: Any, sizes: Any, i: Any, j: Any) -> Any:
        right = host.zeros(n, dtype=bool)
        bit = next(bits, None)
        if bit is None:  # METIS made this part larger than requested: cut it anywhere.
            ends = host.cumsum(sizes)
            number = host.arange(inside.shape[0])
            right[inside] = number >= host.repeat(ends - sizes + (sizes + 1) // 2, sizes)
        else:
            right[inside] = (part[inside] >> bit) % 2 == 1
        return right

    return bisection


def _coordinates(graph: Any) -> Any:
    """Embed a connected graph in `DIMENSIONS` dimensions; a row for each coordinate."""
    distance = _distances(graph, int(host.argmax(_distances(graph, 0))))
    distances, nearest = [distance], distance
    while len(distances) < LANDMARKS:
        distances.append(_distances(graph, int(host.argmax(nearest))))
        nearest = host.minimum(nearest, distances[-1])
    centered = host.stack([distance - distance.mean() for distance in distances])
    axes = host.linalg.eigh(centered @ centered.T)[1]
    return axes[:, -DIMENSIONS:].T @ centered


def _distances(graph: Any, source: int) -> Any:
    """Count the edges from each vertex of a connected graph to the source."""
    order, predecessor = csgraph.breadth_first_order(graph, source, directed=True)
    n = graph.shape[0]
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


def _neighbors(graph: Any, vertices: Any) -> Any:
    """Return the neighbors of all these vertices, one vertex after the other."""
    start = graph.indptr[vertices]
    count = graph.indptr[vertices + 1] - start
    end = host.cumsum(count)
    total = int(end[-1]) if end.shape[0] else 0
    return graph.indices[host.arange(total) + host.repeat(start - end + count, count)]


def _order_along_axes(coordinates: Any, sizes: Any) -> Any:
    """Sort the vertices of each part along the direction of their greatest variance."""
    start = host.cumsum(sizes) - sizes
    means = host.add.reduceat(coordinates, start, axis=1) / sizes
    centered = coordinates - host.repeat(means, sizes, axis=1)
    covariance = host.empty((sizes.shape[0], DIMENSIONS, DIMENSIONS))
    for a in range(DIMENSIONS):
        for b in range(a + 1):
            products = host.add.reduceat(centered[a] * centered[b], start)
            covariance[:, a, b] = covariance[:, b, a] = products
    axis = host.linalg.eigh(covariance)[1][:, :, -1].T
    along = host.einsum("dv,dv->v", centered, host.repeat(axis, sizes, axis=1))
    reach = host.maximum(host.maximum.reduceat(abs(along), start), 1.0)
    # One sort for all parts: the number of the part, plus less than a half along its axis.
    number = host.arange(sizes.shape[0])
    return host.argsort(host.repeat(number, sizes) + 0.49 * along / host.repeat(reach, sizes))


def _cheapest_cuts(inside: Any, sizes: Any, weight: Any, i: Any, j: Any) -> Any:
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
    near_middle = offset <= MAX_CUT_OFFSET
    cost = host.where(near_middle, crossing + 1e-3 * offset, (crossing.max() + 1) * (1 + offset))
    least = host.minimum.reduceat(cost, end - sizes)
    cheapest = host.flatnonzero(cost == host.repeat(least, sizes))
    cut = host.empty(sizes.shape[0], dtype=host.int64)
    cut[host.repeat(host.arange(sizes.shape[0]), sizes)[cheapest]] = cheapest
    right = host.zeros(weight.shape[0], dtype=bool)
    right[inside] = host.arange(total) > host.repeat(cut, sizes)
    return right


def _minimum_vertex_cover(i: Any, j: Any, right: Any) -> Any:
    """Return the fewest vertices that touch all these edges between the two halves.

    By Kőnig's theorem, they are the left vertices that alternating paths of a maximum matching from
    the unmatched left vertices do not reach, and the right vertices that these paths reach.
    """
    if not i.shape[0]:
        return i
    left, a = host.unique(host.where(right[i], j, i), return_inverse=True)
    right, b = host.unique(host.where(right[i], i, j), return_inverse=True)
    crossing = csr_matrix((host.ones(a.shape[0]), (a, b)), shape=(left.shape[0], right.shape[0]))
    matched = csgraph.maximum_bipartite_matching(crossing, perm_type="column")
    partner = host.full(right.shape[0], -1)
    partner[matched[matched >= 0]] = host.flatnonzero(matched >= 0)
    reached_left, reached_right = matched < 0, host.zeros(right.shape[0], dtype=bool)
    ends = host.flatnonzero(reached_left)
    while ends.shape[0]:
        adjacent = _neighbors(crossing, ends)
        adjacent = host.unique(adjacent[~reached_right[adjacent]])
        reached_right[adjacent] = True
        ends = partner[adjacent]
        ends = ends[~reached_left[ends]]
        reached_left[ends] = True
    return host.concatenate([left[~reached_left], right[reached_right]])


def _remove_empty_fronts(front: Any, parent: Any) -> tuple[Any, Any]:
    """Renumber the fronts that hold unknowns; children of an empty front move to its parent."""
    used = host.bincount(front, minlength=parent.shape[0]) > 0
    ancestor = parent.tolist()
    for f, p in enumerate(ancestor):
        if p >= 0 and not used[p]:
            ancestor[f] = ancestor[p]
    number = host.cumsum(used) - 1
    parents = host.asarray(ancestor)[used]
    return number[front], host.where(parents < 0, -1, number[parents])
