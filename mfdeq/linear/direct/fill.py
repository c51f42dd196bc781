"""Cost estimates of a sparse LU of A, made before it is computed.

For meshes of surfaces and volumes, two compact parts of A are factorized. The entries of L and U
and the operations grow like powers of the number of unknowns, about 1.2 and 1.5 for a surface, 1.4
and 2 for a volume [1]_. The two parts reveal these powers; the kind of mesh need not be known.

Random graphs and others with long edges have no compact parts: the share of edges that leave the
larger part is not smaller. Their vertices of low degree are eliminated, as by a minimum degree
ordering [2]_, until the remaining graph fills up.

References
----------
.. [1] A. George, "Nested dissection of a regular finite element mesh", SIAM Journal on Numerical
       Analysis 10(2), 345-363, 1973.
.. [2] A. George and J. W. H. Liu, "The evolution of the minimum degree ordering algorithm", SIAM
       Review 31(1), 1-19, 1989.
"""

from __future__ import annotations

import math
from typing import Any

from scipy.sparse import csgraph
from scipy.sparse.linalg import splu

from ...arrays.backend import host
from ...arrays.sparse import sparse_on_host
from ..scaling import Scaling
from .costs import UNKNOWN_FILL, Fill
from .superlu import superlu_options

SAMPLE_SIZES = (1_000, 4_000)  # unknowns of the two parts
# The same of a matrix with at most so many unknowns, whose own LU costs but a few times as much.
SMALL_SAMPLE_SIZES, MAX_SMALL_SIZE = (500, 2_000), 20_000
# Share of edges that leave the larger part, over that of the smaller part, up to which both are
# compact. The ratio is 4^(-1/2) = 0.5 on a surface and 4^(-1/3) = 0.63 in a volume.
MAX_BOUNDARY_RATIO = 0.8
# Unknowns over those of the larger part whose boundary counts. Of half of a random graph only half
# of the edges can leave.
BOUNDARY_SHARE = 8
# Operations of a whole LU, if the mesh is one of a volume, up to which the smaller part suffices.
MAX_UNESTIMATED_OPERATIONS = 3e7
MAX_ELIMINATED_DEGREE = 24  # of vertices that are eliminated one by one
DENSE_CORE_RATIO = 0.83  # unknowns of the final dense block per vertex that is not eliminated
MAX_LONG_EDGE_SIZE = 300_000  # unknowns; larger graphs with long edges are not estimated


def estimate_fill(A: Any) -> Fill:
    """Estimate the fill of the LU of a sparse matrix.

    Returns
    -------
    Fill
        `UNKNOWN_FILL`, which is infinite, if a part of A is singular or A is too large to estimate.
    """
    matrix = sparse_on_host(A).astype("float64").tocsr()
    n = matrix.shape[0]
    order = _by_distance_from_center(matrix)
    if n > SAMPLE_SIZES[1] and _has_long_edges(matrix, order):
        return _fill_with_long_edges(matrix) if n <= MAX_LONG_EDGE_SIZE else UNKNOWN_FILL
    sizes = SMALL_SAMPLE_SIZES if n <= MAX_SMALL_SIZE else SAMPLE_SIZES
    part = _part(matrix, order, sizes[1])
    part = Scaling.by_sums(part).apply(part)  # costs less than `Scaling.of`, and fills as much
    fills = []
    for size in sizes:
        fills.append(exact_fill(part[:size, :size].tocsc()))
        if n <= size or fills[-1] is UNKNOWN_FILL:
            return fills[-1]
        small = fills[0]
        most = small.operations * (n / sizes[0]) ** 2
        if most <= MAX_UNESTIMATED_OPERATIONS:  # It costs no more than the larger part would.
            return Fill(small.entries * (n / sizes[0]) ** (4 / 3), most)
    small, large = fills
    return Fill(
        _extrapolate(sizes, small.entries, large.entries, n),
        _extrapolate(sizes, small.operations, large.operations, n),
    )


def _by_distance_from_center(A: Any) -> Any:
    """Order the unknowns by their distance from a central one; other components come last."""
    order = csgraph.reverse_cuthill_mckee(A, symmetric_mode=False)
    center = order[order.shape[0] // 2]
    ball = csgraph.breadth_first_order(A, center, directed=False, return_predecessors=False)
    outside = host.ones(A.shape[0], dtype=bool)
    outside[ball] = False
    return host.concatenate([ball, order[outside[order]]])


def _part(A: Any, order: Any, size: int) -> Any:
    return A[order[:size]][:, order[:size]]


def _has_long_edges(A: Any, order: Any) -> bool:
    """Return whether the share of edges that leave a part does not fall with its size."""
    larger = min(SAMPLE_SIZES[1], A.shape[0] // BOUNDARY_SHARE)
    shares = []
    for size in (larger // 4, larger):
        entries = int((A.indptr[order[:size] + 1] - A.indptr[order[:size]]).sum())
        shares.append((entries - _part(A, order, size).nnz) / max(entries, 1))
    return bool(shares[1] > MAX_BOUNDARY_RATIO * shares[0])


def exact_fill(matrix: Any) -> Fill:
    """Count the fill by factorizing a CSC matrix; return `UNKNOWN_FILL` if it is singular."""
    matrix.sort_indices()
    try:
        lu = splu(matrix, **superlu_options(matrix))
    except RuntimeError:
        return UNKNOWN_FILL
    columns, rows = lu.L.tocsc().indptr, lu.U.tocsr().indptr
    operations = (1.0 * (columns[1:] - columns[:-1]) * (rows[1:] - rows[:-1])).sum()
    return Fill(float(lu.nnz), float(operations))


def _extrapolate(sizes: tuple[int, int], small: float, large: float, n: int) -> float:
    """Extrapolate by a power law from two parts of these sizes to n unknowns."""
    first, second = sizes
    power = math.log(large / small) / math.log(second / first)
    return large * (n / second) ** power


def _fill_with_long_edges(A: Any) -> Fill:
    """Estimate the fill by eliminating vertices of least degree; the rest becomes a dense block."""
    pattern = (A + A.T).tocsr()
    starts, ends, indices = pattern.indptr[:-1], pattern.indptr[1:], pattern.indices
    neighbors = [
        set(indices[a:b].tolist()) - {i} for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]
    by_degree: list[list[int]] = [[] for _ in range(MAX_ELIMINATED_DEGREE + 1)]
    for i, adjacent in enumerate(neighbors):
        if len(adjacent) <= MAX_ELIMINATED_DEGREE:
            by_degree[len(adjacent)].append(i)
    remaining = len(neighbors)
    entries = operations = 0.0
    degree = 0
    while degree <= MAX_ELIMINATED_DEGREE:
        if not by_degree[degree]:
            degree += 1
            continue
        i = by_degree[degree].pop()
        adjacent = neighbors[i]
        # Entries of the lists become stale: the vertex has been eliminated (and marked as its own
        # only neighbor), or its degree has changed.
        if i in adjacent or len(adjacent) != degree:
            continue
        neighbors[i] = {i}
        remaining -= 1
        entries += 2 * degree + 1
        operations += degree * degree
        for j in adjacent:
            others = neighbors[j]
            others |= adjacent
            others -= {i, j}
            if len(others) <= MAX_ELIMINATED_DEGREE:
                by_degree[len(others)].append(j)
                degree = min(degree, len(others))
    core = DENSE_CORE_RATIO * remaining
    return Fill(entries + core**2, operations + core**3 / 3, compact=False)
