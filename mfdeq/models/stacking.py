"""Operators of several models at one theta as those of one: A block diagonal, B stacked.

States are stacked one after another, so that directions are (dtheta, dh_1, ..., dh_m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array
from ..operators.operator import Operator
from .curvature import CurvatureOperator


class StackedStateOperator(Operator):
    """The block diagonal operator of square blocks, (N_1 + ... + N_m, N_1 + ... + N_m).

    Parameters
    ----------
    source : Backend
    blocks : sequence of Operator, (N_e, N_e)
    """

    def __init__(self, source: Any, blocks: Sequence[Operator]) -> None:
        size = sum(block.shape[0] for block in blocks)
        super().__init__(source, (size, size))
        self.blocks = blocks

    def _apply(self, x: Array) -> Array:
        rows = split_rows(x, self.blocks)
        products = [A._apply(part) for A, part in zip(self.blocks, rows, strict=True)]
        return self.backend.xp.concat(products, axis=0)

    def _apply_adjoint(self, y: Array) -> Array:
        rows = split_rows(y, self.blocks)
        products = [A._apply_adjoint(part) for A, part in zip(self.blocks, rows, strict=True)]
        return self.backend.xp.concat(products, axis=0)


class StackedParamOperator(Operator):
    """Operators with the same columns, one above another, (N_1 + ... + N_m, P).

    Parameters
    ----------
    source : Backend
    blocks : sequence of Operator, (N_e, P)
    """

    def __init__(self, source: Any, blocks: Sequence[Operator]) -> None:
        super().__init__(source, (sum(block.shape[0] for block in blocks), blocks[0].shape[1]))
        self.blocks = blocks

    def _apply(self, x: Array) -> Array:
        return self.backend.xp.concat([B._apply(x) for B in self.blocks], axis=0)

    def _apply_adjoint(self, y: Array) -> Array:
        total = self.backend.zeros(self.shape[1], *y.shape[1:])
        for B, rows in zip(self.blocks, split_rows(y, self.blocks), strict=True):
            total += B._apply_adjoint(rows)
        return total


class StackedCurvature(CurvatureOperator):
    """The weighted sum of curvatures over one theta and states of their own.

    Parameters
    ----------
    source : Backend
    curvatures : sequence of CurvatureOperator, (P+N_e, P+N_e)
    weights : sequence of float
    """

    def __init__(
        self, source: Any, curvatures: Sequence[CurvatureOperator], weights: Sequence[float]
    ) -> None:
        first = curvatures[0]
        super().__init__(source, first.param_size, sum(K.state_size for K in curvatures))
        self.curvatures, self.weights = curvatures, weights

    def _apply(self, x: Array) -> Array:
        xp, (u, z) = self.backend.xp, self.split(x)
        upper, lower = self.backend.zeros(*u.shape), self.backend.zeros(*z.shape)
        first = 0
        for K, weight in zip(self.curvatures, self.weights, strict=True):
            last = first + K.state_size
            a, b = K.split(K._apply(xp.concat([u, z[first:last, ...]], axis=0)))
            upper += weight * a
            lower[first:last, ...] = weight * b
            first = last
        return xp.concat([upper, lower], axis=0)


def split_rows(x: Array, blocks: Sequence[Operator]) -> list[Array]:
    """Return the rows of a stacked vector or block that belong to each of the blocks."""
    parts, first = [], 0
    for block in blocks:
        parts.append(x[first : first + block.shape[0], ...])
        first += block.shape[0]
    return parts
