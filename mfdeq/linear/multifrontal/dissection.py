"""Nested dissection: separators that cut the graph of A into parts, and those again.

Distances from a few far-apart vertices are coordinates in which meshes look like themselves
(Harel and Koren, Graph drawing by high-dimensional embedding, 2002). Each part is cut across the
longest axis of its coordinates, near the middle, where the fewest edges cross. Graphs with long
edges look like nothing in coordinates: for those METIS may be asked, where it is installed.

The least set of vertices that touches all crossing edges (Kőnig's theorem) is the separator. All
parts of a depth are cut at once. Unknowns with the same neighbours (those of one point) are never
parted. A few that touch nearly all others, as a parameter of a whole domain does, would be the
shortest way from everywhere to everywhere: they are the root, and the rest is cut without them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arrays.backend import host
from ...arrays.sparse import sparse_on_host

LANDMARKS = 14  # vertices that distances are measured from
DIMENSIONS = 4  # that are kept of these coordinates
HUB, HUBS = 10.0, 64  # neighbours, by the root of their number, of a hub; unknowns of all hubs
MIDDLE = 0.1  # how far from the middle, as a share of the part, a cut may be

# Of the vertices inside, part by part in their sizes, and the edges (i, j): which go right.
Halved = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Dissection:
    """A forest of separators: eliminated leaves first, each touches its ancestors only.

    Attributes
    ----------
    front : (N,) host array of int
        Number of the separator or uncut part that an unknown is in.
    parent : (fronts,) host array of int
        The separator above; -1 of roots. Parents come before their children.
    """

    front: Any
    parent: Any


def dissection(A: Any, largest: int, by_metis: bool = False) -> Dissection:
    """Cut the graph of a sparse matrix until no part has more than `largest` unknowns."""
    graph, group, weight = _without_twins(_graph(A))
    degree = host.diff(graph.indptr)
    hub = degree > HUB * math.sqrt(graph.shape[0])
    if not 0.0 < weight[hub].sum() <= HUBS:
        front, parent = _cut(graph, weight, largest, by_metis)
    else:  # the root of all: what they touch is everything, and without them there is a geometry
        kept = ~hub
        front = host.zeros(graph.shape[0], dtype=host.int64)
        inner, parent = _cut(graph[kept][:, kept], weight[kept], largest, by_metis)
        front[kept] = inner + 1
        parent = host.concatenate([[-1], host.where(parent < 0, 0, parent + 1)])
    return Dissection(*_without_empty(front[group], parent))


def _cut(graph: Any, weight: Any, largest: int, by_metis: bool) -> tuple[Any, Any]:
    """Fronts of the vertices, and their parents."""
    halved = (_by_metis if by_metis else _by_coordinates)(graph, weight, largest)
    n = graph.shape[0]
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    parts, part = csgraph.connected_components(graph, directed=False)
    part = part.astype(host.int64)
    edges = graph.tocoo()
    upper = edges.row < edges.col
    i, j = edges.row[upper], edges.col[upper]
    front = host.full(n, -1)
    parent, node, fronts = [host.full(parts, -1)], host.arange(parts), parts
    inside = host.argsort(part, kind="stable")  # part by part, of those not yet closed
    sizes = host.bincount(part, minlength=parts)
    while True:
        total = host.add.reduceat(weight[inside], host.cumsum(sizes) - sizes)
        whole = (total <= largest) | (sizes == 1)
        closed = host.repeat(whole, sizes)
        front[inside[closed]] = host.repeat(node, sizes)[closed]
        inside, node, sizes = inside[~closed], node[~whole], sizes[~whole]
        if not inside.shape[0]:
            break
        still = (front[i] < 0) & (front[j] < 0)
        i, j = i[still], j[still]
        right = halved(inside, sizes, i, j)
        across = right[i] != right[j]
        separator = _cover(i[across], j[across], right)
        i, j = i[~across], j[~across]
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


def _graph(A: Any) -> Any:
    """The pattern of A + A' without its diagonal, in CSR with sorted indices."""
    pattern = sparse_on_host(A).astype("float64")  # a copy
    pattern.data[:] = 1.0  # stored zeros are entries too
    return _off_diagonal(pattern + pattern.T)


def _off_diagonal(matrix: Any) -> Any:
    """Without the diagonal, in CSR with sorted indices."""
    entries = matrix.tocoo()
    kept = entries.row != entries.col
    found = importlib.import_module("scipy.sparse").csr_matrix(
        (entries.data[kept], (entries.row[kept], entries.col[kept])), shape=matrix.shape
    )
    found.sort_indices()
    return found


def _without_twins(graph: Any) -> tuple[Any, Any, Any]:
    """The graph of groups with one closed neighbourhood, each vertex's group, their sizes."""
    n = graph.shape[0]
    pattern = graph.astype("uint64")
    pattern.data[:] = 1
    mark = host.random.default_rng(0).integers(2**64, size=n, dtype=host.uint64)
    sums = pattern @ mark + mark  # modulo 2^64, of each closed neighbourhood
    order = host.argsort(sums, kind="stable")
    new = host.ones(n, dtype=bool)
    new[1:] = sums[order][1:] != sums[order][:-1]
    group = host.empty(n, dtype=host.int64)
    group[order] = host.cumsum(new) - 1
    if bool(new.all()):
        return graph, host.arange(n), host.ones(n)
    groups = int(group.max()) + 1
    first = order[new]
    members = importlib.import_module("scipy.sparse").csr_matrix(
        (host.ones(n), (host.arange(n), group)), shape=(n, groups)
    )
    return _off_diagonal(graph[first] @ members), group, host.bincount(group).astype("float64")


def _by_coordinates(graph: Any, weight: Any, largest: int) -> Halved:
    """Cuts across the longest axes of the parts."""
    coordinates = host.zeros((DIMENSIONS, graph.shape[0]))
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    components, component = csgraph.connected_components(graph, directed=False)
    sizes = host.bincount(component, weight, components)
    for c in host.flatnonzero(sizes > largest):
        members = host.flatnonzero(component == c)
        coordinates[:, members] = _coordinates(graph[members][:, members])

    def halved(inside: Any, sizes: Any, i: Any, j: Any) -> Any:
        inside = inside[_order(coordinates[:, inside], sizes)]
        return _right(inside, sizes, weight, i, j)

    return halved


def _by_metis(graph: Any, weight: Any, largest: int) -> Halved:
    """METIS's recursive bisection: the bits of its parts' numbers, the leading one first."""
    import pymetis

    n = graph.shape[0]
    depth = max(1, math.ceil(math.log2(weight.sum() / largest)))
    adjacency = pymetis.CSRAdjacency(adj_starts=graph.indptr, adjacent=graph.indices)
    weights = weight.astype(int).tolist()
    _, numbers = pymetis.part_graph(2**depth, adjacency, vweights=weights, recursive=True)
    part = host.asarray(numbers)
    bits = iter(range(depth - 1, -1, -1))

    def halved(inside: Any, sizes: Any, i: Any, j: Any) -> Any:
        right = host.zeros(n, dtype=bool)
        bit = next(bits, None)
        if bit is None:  # a part that came out larger than the others: in two, anyhow
            ends = host.cumsum(sizes)
            number = host.arange(inside.shape[0])
            right[inside] = number >= host.repeat(ends - sizes + (sizes + 1) // 2, sizes)
        else:
            right[inside] = (part[inside] >> bit) % 2 == 1
        return right

    return halved


def _coordinates(graph: Any) -> Any:
    """A connected graph in `DIMENSIONS` dimensions, a row of coordinates each."""
    distance = _distances(graph, int(host.argmax(_distances(graph, 0))))
    found, nearest = [distance], distance
    while len(found) < LANDMARKS:
        found.append(_distances(graph, int(host.argmax(nearest))))
        nearest = host.minimum(nearest, found[-1])
    centred = host.stack([distance - distance.mean() for distance in found])
    axes = host.linalg.eigh(centred @ centred.T)[1]
    return axes[:, -DIMENSIONS:].T @ centred


def _distances(graph: Any, source: int) -> Any:
    """Edges to the source."""
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    order, before = csgraph.breadth_first_order(graph, source, directed=True)
    n = graph.shape[0]
    place = host.empty(n, dtype=host.int64)
    place[order] = host.arange(n)
    reached_from = place[before[order[1:]]]  # ascending: a level is reached from the one before
    ends = [1]
    while ends[-1] < n:
        ends.append(1 + int(host.searchsorted(reached_from, ends[-1])))
    distance = host.empty(n)
    distance[order] = host.repeat(host.arange(len(ends)), host.diff([0, *ends]))
    return distance


def _neighbours(graph: Any, vertices: Any) -> Any:
    """Neighbours of all these vertices, one after the other."""
    start = graph.indptr[vertices]
    count = graph.indptr[vertices + 1] - start
    end = host.cumsum(count)
    total = int(end[-1]) if end.shape[0] else 0
    return graph.indices[host.arange(total) + host.repeat(start - end + count, count)]


def _order(coordinates: Any, sizes: Any) -> Any:
    """Each part's vertices, sorted along the direction of their greatest variance."""
    start = host.cumsum(sizes) - sizes
    means = host.add.reduceat(coordinates, start, axis=1) / sizes
    centred = coordinates - host.repeat(means, sizes, axis=1)
    covariance = host.empty((sizes.shape[0], DIMENSIONS, DIMENSIONS))
    for a in range(DIMENSIONS):
        for b in range(a + 1):
            products = host.add.reduceat(centred[a] * centred[b], start)
            covariance[:, a, b] = covariance[:, b, a] = products
    axis = host.linalg.eigh(covariance)[1][:, :, -1].T
    along = host.einsum("dv,dv->v", centred, host.repeat(axis, sizes, axis=1))
    reach = host.maximum(host.maximum.reduceat(abs(along), start), 1.0)
    number = host.arange(sizes.shape[0])
    return host.argsort(host.repeat(number, sizes) + 0.49 * along / host.repeat(reach, sizes))


def _right(inside: Any, sizes: Any, weight: Any, i: Any, j: Any) -> Any:
    """Whether a vertex is behind its part's cut: near the middle, where the fewest edges cross."""
    ends = inside.shape[0]
    place = host.empty(weight.shape[0], dtype=host.int64)
    place[inside] = host.arange(ends)
    one, other = place[i], place[j]
    opened = host.bincount(host.minimum(one, other), minlength=ends)
    crossing = host.cumsum(opened - host.bincount(host.maximum(one, other), minlength=ends))
    stop = host.cumsum(sizes)
    behind = host.cumsum(weight[inside])
    before = host.concatenate([host.zeros(1), behind])[stop - sizes]
    share = (behind - host.repeat(before, sizes)) / host.repeat(behind[stop - 1] - before, sizes)
    off = abs(share - 0.5)
    cost = host.where(off <= MIDDLE, crossing + 1e-3 * off, (crossing.max() + 1) * (1 + off))
    least = host.minimum.reduceat(cost, stop - sizes)
    found = host.flatnonzero(cost == host.repeat(least, sizes))
    cut = host.empty(sizes.shape[0], dtype=host.int64)
    cut[host.repeat(host.arange(sizes.shape[0]), sizes)[found]] = found
    right = host.zeros(weight.shape[0], dtype=bool)
    right[inside] = host.arange(ends) > host.repeat(cut, sizes)
    return right


def _cover(i: Any, j: Any, right: Any) -> Any:
    """The fewest vertices that touch all these edges between two sides, by Kőnig's theorem."""
    if not i.shape[0]:
        return i
    left, a = host.unique(host.where(right[i], j, i), return_inverse=True)
    right, b = host.unique(host.where(right[i], i, j), return_inverse=True)
    sparse, csgraph = (importlib.import_module(f"scipy.sparse{s}") for s in ("", ".csgraph"))
    crossing = sparse.csr_matrix(
        (host.ones(a.shape[0]), (a, b)), shape=(left.shape[0], right.shape[0])
    )
    matched = csgraph.maximum_bipartite_matching(crossing, perm_type="column")
    partner = host.full(right.shape[0], -1)
    partner[matched[matched >= 0]] = host.flatnonzero(matched >= 0)
    reached_left, reached_right = matched < 0, host.zeros(right.shape[0], dtype=bool)
    ends = host.flatnonzero(reached_left)
    while ends.shape[0]:  # along paths whose every second edge is matched
        near = _neighbours(crossing, ends)
        near = host.unique(near[~reached_right[near]])
        reached_right[near] = True
        ends = partner[near]
        ends = ends[~reached_left[ends]]
        reached_left[ends] = True
    return host.concatenate([left[~reached_left], right[reached_right]])


def _without_empty(front: Any, parent: Any) -> tuple[Any, Any]:
    """Renumbered without fronts that hold no unknown; what was below them hangs from above."""
    used = host.bincount(front, minlength=parent.shape[0]) > 0
    above = parent.tolist()
    for f, p in enumerate(above):
        if p >= 0 and not used[p]:
            above[f] = above[p]
    number = host.cumsum(used) - 1
    kept = host.asarray(above)[used]
    return number[front], host.where(kept < 0, -1, number[kept])
