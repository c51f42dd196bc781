"""How SuperLU is called: the ordering and the pivots that suit a matrix."""

from __future__ import annotations

from typing import Any

# Diagonal pivots are kept unless a column holds one 1/0.01 times larger: the symmetric
# ordering's fill survives, and a zero diagonal is still pivoted away.
SYMMETRIC = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}


def options_for(matrix: Any) -> dict[str, Any]:
    """SuperLU's options for a CSC matrix with sorted indices."""
    return SYMMETRIC if has_symmetric_pattern(matrix) else {}


def has_symmetric_pattern(matrix: Any) -> bool:
    """Whether a CSC matrix with sorted indices has an entry (j, i) for each (i, j)."""
    transposed = matrix.T.tocsc()
    transposed.sort_indices()
    return bool(
        (matrix.indptr == transposed.indptr).all() and (matrix.indices == transposed.indices).all()
    )
