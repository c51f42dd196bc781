"""Hierarchies of coarser levels, which PyAMG builds on the host."""

from __future__ import annotations

import math
from typing import Any

from ...arrays.backend import array_on_host, is_dense
from ...arrays.seeding import seed_numpy
from ...arrays.sparse import sparse_on_host
from ...operators.operator import Operator
from ..operands import matrix_of

MAX_COARSE = 400  # unknowns of a level that PyAMG does not coarsen further
# Couplings below these parts of the diagonal do not make aggregates, on the finest level, on the
# second one, and on those below. On coarse levels in three dimensions all couplings together would:
# aggregates of forty points, too large to interpolate.
STRENGTHS = (0.0, 0.03, 0.05)
SMOOTHED = "smoothed_aggregation"


def levels_of(
    matrix: Any, method: str, symmetric: bool, near_nullspace: Any = None, block_size: int = 1
) -> list[Any]:
    """Return the levels of PyAMG for a matrix on the host, from the finest to the coarsest.

    Parameters
    ----------
    matrix : sparse matrix
    method : {"smoothed_aggregation", "ruge_stuben", "air"}
    symmetric : bool
        Whether the matrix is symmetric.
    near_nullspace, block_size
        As of `mfdeq.AMG`.
    """
    import pyamg

    with seed_numpy():  # PyAMG draws from numpy's global random generator.
        if method == "ruge_stuben":
            return pyamg.ruge_stuben_solver(matrix, max_coarse=MAX_COARSE).levels
        if method == "air":
            return pyamg.air_solver(matrix, max_coarse=MAX_COARSE).levels
        B = near_nullspace
        return pyamg.smoothed_aggregation_solver(
            matrix.tobsr((block_size, block_size)) if block_size > 1 else matrix,
            B=array_on_host(B) if is_dense(B) else B,
            symmetry="hermitian" if symmetric else "nonsymmetric",
            strength=[("symmetric", {"theta": theta}) for theta in STRENGTHS],
            improve_candidates=None,
            max_coarse=MAX_COARSE,
            keep=True,
        ).levels


def air_complexity(A: Operator) -> float:
    """Predict the entries of the levels of AMG("air") for A, over those of A.

    The first coarse level is made. Those below are expected to have as many fewer unknowns, and
    rows that grow as much, up to dense ones.
    """
    import pyamg

    matrix = sparse_on_host(matrix_of(A, "mfdeq.AMG()")).astype("float64")
    with seed_numpy():
        built = pyamg.air_solver(matrix, max_coarse=MAX_COARSE, max_levels=2).levels
    sizes = [level.A.shape[0] for level in built]
    rows = [level.A.nnz / size for level, size in zip(built, sizes, strict=True)]
    if len(built) < 2:
        return 1.0
    share, growth = sizes[1] / sizes[0], rows[1] / rows[0]
    entries, size, row = 0.0, float(sizes[0]), rows[0]
    while size > MAX_COARSE and share < 1.0:
        entries += size * min(row, size)
        size, row = share * size, growth * row
    return entries / built[0].A.nnz if share < 1.0 else math.inf


def parts_of(level: Any) -> tuple[Any, ...]:
    """Return A, P and R of a level of PyAMG, the block size of A, and which points are coarse."""
    size = level.A.blocksize[0] if level.A.format == "bsr" else 1
    A, P, R = (part.tocsr() for part in (level.A, level.P, level.R))
    return A, P, R, size, getattr(level, "splitting", None)
