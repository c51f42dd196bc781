"""What a sparse LU of A would cost, before it is computed.

Graphs of space (meshes of surfaces and volumes): two compact parts are factorized. The entries of
L and U and the operations grow like a power of the size, about 1.2 and 1.5 for a surface, 1.4 and
2 for a volume, and that power is what the two parts show; no kind of mesh has to be known.

Graphs with long edges have no compact parts (no fewer edges leave the larger one): vertices of low
degree are eliminated as a minimum degree ordering would, until what is left fills up.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

from ...arrays.sparse import sparse_on_host
from .scaling import Scaling
from .superlu import options_for

PARTS = (2_000, 8_000)  # unknowns of the parts
SHRINKING = 0.8  # of the share of edges that leave the smaller part, for the larger at most
HIGHEST_DEGREE = 24  # of a vertex that is eliminated one by one
DENSE_CORE = 0.83  # side of the dense block that what is left fills, in unknowns of it
LARGEST_GRAPH = 300_000  # unknowns; a larger graph with long edges is not looked at


@dataclass(frozen=True)
class Fill:
    """Entries of L and U, and multiplications of their computation."""

    entries: float
    operations: float
    compact: bool = True  # whether the graph has compact parts, as those of space have


HOPELESS = Fill(math.inf, math.inf)


def estimated_fill(A: Any) -> Fill:
    """The fill of a sparse matrix; infinite where a part is singular or N too large to tell."""
    host = sparse_on_host(A).astype("float64")
    host = Scaling.of(host).applied(host)
    n = host.shape[0]
    around = _around_the_middle(host)
    found, leaving = [], []
    for size in PARTS:
        rows = host[around[:size]]
        part = rows[:, around[:size]].tocsc()
        found.append(_factorized(part))
        if n <= size or found[-1] is HOPELESS:
            return found[-1]
        leaving.append(1.0 - part.nnz / rows.nnz)
    if leaving[1] > SHRINKING * leaving[0]:
        return _with_long_edges(host) if n <= LARGEST_GRAPH else HOPELESS
    small, large = found
    return Fill(
        _extrapolated(small.entries, large.entries, n),
        _extrapolated(small.operations, large.operations, n),
    )


def _around_the_middle(A: Any) -> Any:
    """The unknowns by their distance from one in the middle; other components after its own."""
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    order = csgraph.reverse_cuthill_mckee(A, symmetric_mode=False)
    middle = order[order.shape[0] // 2]
    ball = csgraph.breadth_first_order(A, middle, directed=False, return_predecessors=False)
    known = set(ball.tolist())
    return [*ball.tolist(), *(i for i in order.tolist() if i not in known)]


def _factorized(part: Any) -> Fill:
    linalg = importlib.import_module("scipy.sparse.linalg")
    part.sort_indices()
    try:
        lu = linalg.splu(part, **options_for(part))
    except RuntimeError:
        return HOPELESS
    columns, rows = lu.L.tocsc().indptr, lu.U.tocsr().indptr
    operations = (1.0 * (columns[1:] - columns[:-1]) * (rows[1:] - rows[:-1])).sum()
    return Fill(float(lu.nnz), float(operations))


def _extrapolated(small: float, large: float, n: int) -> float:
    first, second = PARTS
    power = math.log(large / small) / math.log(second / first)
    return large * (n / second) ** power


def _with_long_edges(A: Any) -> Fill:
    """Fill by eliminating vertices of least degree; the rest is taken for a dense block."""
    pattern = (A + A.T).tocsr()
    starts, ends, indices = pattern.indptr[:-1], pattern.indptr[1:], pattern.indices
    neighbours = [
        set(indices[a:b].tolist()) - {i} for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]
    of_degree: list[list[int]] = [[] for _ in range(HIGHEST_DEGREE + 1)]
    for i, near in enumerate(neighbours):
        if len(near) <= HIGHEST_DEGREE:
            of_degree[len(near)].append(i)
    left = len(neighbours)
    entries = operations = 0.0
    degree = 0
    while degree <= HIGHEST_DEGREE:
        if not of_degree[degree]:
            degree += 1
            continue
        i = of_degree[degree].pop()
        near = neighbours[i]
        if i in near or len(near) != degree:  # gone, or of another degree since
            continue
        neighbours[i] = {i}
        left -= 1
        entries += 2 * degree + 1
        operations += degree * degree
        for j in near:
            others = neighbours[j]
            others |= near
            others -= {i, j}
            if len(others) <= HIGHEST_DEGREE:
                of_degree[len(others)].append(j)
                degree = min(degree, len(others))
    core = DENSE_CORE * left
    return Fill(entries + core**2, operations + core**3 / 3, compact=False)
