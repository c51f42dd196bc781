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

from ...arrays import jit
from ...arrays.backend import host
from ...arrays.sparse import sparse_on_host, to_canonical_format
from . import graphs

LANDMARKS = 14  # vertices from which distances are measured
DIMENSIONS = 4  # principal components of the distances that serve as coordinates
# A vertex is a hub if its number of neighbors exceeds HUB_DEGREE_RATIO times the square root of the
# number of vertices. Hubs become the root if they have at most MAX_HUB_UNKNOWNS unknowns together.
HUB_DEGREE_RATIO, MAX_HUB_UNKNOWNS = 10.0, 64
MAX_CUT_OFFSET = 0.1  # distance of a cut from the middle, as a share of the part's unknowns

# A bisection maps (vertices of all parts, part after part; sizes of the parts; the two ends of each
# edge inside a part) to a boolean array over all vertices, True for those in the second half.
Bisection = Callable[[Any, Any, Any, Any], Any]


def loops(entries: int) -> Any:
    """Return the module with the loops for a graph with so many entries: compiled, or `graphs`."""
    if not jit.pays(entries):
        return graphs
    from . import compiled_graphs

    return compiled_graphs


class Graph:
    """A graph without loops.

    Attributes
    ----------
    starts, neighbors : arrays of int
        The rows of the adjacency matrix in CSR format, with sorted indices.
    size : int
        The number of vertices.
    loops : module
        `graphs` or its compiled version.
    """

    def __init__(self, starts: Any, neighbors: Any) -> None:
        self.starts, self.neighbors = starts, neighbors
        self.size = starts.shape[0] - 1
        self.loops = loops(neighbors.shape[0])

    @classmethod
    def of(cls, A: Any) -> Graph:
        """Return the pattern of A + A' without its diagonal, for a sparse matrix."""
        matrix = to_canonical_format(sparse_on_host(A))
        loop = loops(matrix.nnz)
        return cls(*loop.adjacency(matrix.indptr, matrix.indices))

    @property
    def matrix(self) -> Any:
        """The adjacency matrix."""
        data = host.ones(self.neighbors.shape[0])
        return csr_matrix((data, self.neighbors, self.starts), shape=(self.size, self.size))

    def part(self, vertices: Any) -> Graph:
        """Return the graph of some vertices, an array of their numbers or of booleans."""
        return Graph._of_matrix(self.matrix[vertices][:, vertices])

    @classmethod
    def _of_matrix(cls, matrix: Any) -> Graph:
        matrix.sort_indices()
        return cls(matrix.indptr, matrix.indices)


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
    return dissect_graph(Graph.of(A), max_part_size, use_metis)


def dissect_graph(graph: Graph, max_part_size: int, use_metis: bool = False) -> Dissection:
    """Cut a graph into parts of at most `max_part_size` vertices."""
    graph, group, weight = _merge_twins(graph)
    degree = host.diff(graph.starts)
    hub = degree > HUB_DEGREE_RATIO * math.sqrt(graph.size)
    if not 0.0 < weight[hub].sum() <= MAX_HUB_UNKNOWNS:
        front, parent = _dissect(graph, weight, max_part_size, use_metis)
    else:  # Front 0 has the hubs and is the parent of the former roots.
        rest = ~hub
        front = host.zeros(graph.size, dtype=host.int64)
        inner, parent = _dissect(graph.part(rest), weight[rest], max_part_size, use_metis)
        front[rest] = inner + 1
        parent = host.concatenate([[-1], host.where(parent < 0, 0, parent + 1)])
    return Dissection(*_remove_empty_fronts(front[group], parent))


def _dissect(graph: Graph, weight: Any, max_part_size: int, use_metis: bool) -> tuple[Any, Any]:
    """Return the front of each vertex and the parent of each front, empty fronts included."""
    loop, n = graph.loops, graph.size
    parts, part = csgraph.connected_components(graph.matrix, directed=False)
    part = part.astype(host.int64)
    bisection = (
        _metis_bisection(graph, weight, max_part_size)
        if use_metis
        else _coordinate_bisection(graph, weight, max_part_size, part)
    )
    i, j = host.repeat(host.arange(n, dtype="int32"), host.diff(graph.starts)), graph.neighbors
    upper = i < j
    i, j = i[upper], j[upper]
    right = host.zeros(n, dtype=bool)
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
        i, j = loop.remaining_edges(i, j, front, right)
        right = bisection(inside, sizes, i, j)
        number = host.empty(n, dtype=host.int64)
        number[inside] = host.repeat(node, sizes)
        separator = _minimum_vertex_cover(loop, i, j, right)
        front[separator] = number[separator]
        inside, sizes = loop.halves(inside, sizes, front, right)
        parent.append(host.repeat(node, 2))
        node = fronts + host.arange(2 * node.shape[0])
        fronts += node.shape[0]
        node, sizes = node[sizes > 0], sizes[sizes > 0]
    return front, host.concatenate(parent)


def _merge_twins(graph: Graph) -> tuple[Graph, Any, Any]:
    """Merge vertices that have the same closed neighborhood.

    Returns the graph of the groups, the group of each vertex, and the sizes of the groups.
    """
    n = graph.size
    # Closed neighborhoods are compared by a hash: the sum of random numbers, modulo 2^64.
    mark = host.random.default_rng(0).integers(2**64, size=n, dtype=host.uint64)
    ones = host.ones(graph.neighbors.shape[0], dtype=host.uint64)
    sums = csr_matrix((ones, graph.neighbors, graph.starts), shape=(n, n)) @ mark + mark
    order = host.argsort(sums)
    new = host.ones(n, dtype=bool)
    new[1:] = sums[order][1:] != sums[order][:-1]
    if bool(new.all()):
        return graph, host.arange(n), host.ones(n)
    group = host.empty(n, dtype=host.int64)
    group[order] = host.cumsum(new) - 1
    groups = int(group.max()) + 1
    first = order[new]
    merged = graph.loops.merge(graph.starts, graph.neighbors, first, group)
    return Graph(*merged), group, host.bincount(group, minlength=groups).astype("float64")


def _coordinate_bisection(
    graph: Graph, weight: Any, max_part_size: int, component: Any
) -> Bisection:
    """Cut each part across the longest axis of its coordinates."""
    coordinates = host.zeros((graph.size, DIMENSIONS))
    sizes = host.bincount(component, weight)
    for c in host.flatnonzero(sizes > max_part_size):
        if sizes.shape[0] == 1:
            coordinates = _coordinates(graph)
        else:
            members = host.flatnonzero(component == c)
            coordinates[members] = _coordinates(graph.part(members))

    def bisection(inside: Any, sizes: Any, i: Any, j: Any) -> Any:
        inside = graph.loops.order_along_axes(coordinates, inside, sizes)
        return graph.loops.cheapest_cuts(inside, sizes, weight, i, j, MAX_CUT_OFFSET)

    return bisection


def _metis_bisection(graph: Graph, weight: Any, max_part_size: int) -> Bisection:
    """Cut as METIS's recursive bisection does, by the bits of its part numbers."""
    pymetis = importlib.import_module("pymetis")
    n = graph.size
    depth = max(1, math.ceil(math.log2(weight.sum() / max_part_size)))
    adjacency = pymetis.CSRAdjacency(adj_starts=graph.starts, adjacent=graph.neighbors)
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


def _coordinates(graph: Graph) -> Any:
    """Embed a connected graph in `DIMENSIONS` dimensions; a row for each vertex."""

    def distances(source: int) -> Any:
        return graph.loops.distances(graph.starts, graph.neighbors, source)

    found = host.empty((LANDMARKS, graph.size))
    found[0] = nearest = distances(int(host.argmax(distances(0))))
    for row in found[1:]:
        row[:] = distances(int(host.argmax(nearest)))
        nearest = host.minimum(nearest, row)
    found -= found.mean(axis=1, keepdims=True)
    axes = host.linalg.eigh(found @ found.T)[1]
    return found.T @ axes[:, -DIMENSIONS:]


def _minimum_vertex_cover(loop: Any, i: Any, j: Any, right: Any) -> Any:
    """Return the fewest vertices that touch all edges between the two halves.

    By Kőnig's theorem, they are the left vertices that alternating paths of a maximum matching from
    the unmatched left vertices do not reach, and the right vertices that these paths reach.
    """
    left, rights, starts, others = loop.crossing_graph(i, j, right)
    if not left.shape[0]:
        return left
    data = host.ones(others.shape[0])
    crossing = csr_matrix((data, others, starts), shape=(left.shape[0], rights.shape[0]))
    matched = csgraph.maximum_bipartite_matching(crossing, perm_type="column")
    reached_left, reached_right = loop.reach(starts, others, matched, rights.shape[0])
    return host.concatenate([left[~reached_left], rights[reached_right]])


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
