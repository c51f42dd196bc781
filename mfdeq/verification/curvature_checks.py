"""Checks of the curvature of models and losses, block by block.

A block of differences may be nothing but their errors, as one that is zero is. These are measured
by differences of the same derivatives with other steps, and compared with the first derivatives.
"""

from __future__ import annotations

from ..arrays.backend import Array
from ..models.curvature import CurvatureOperator
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Operator
from .checker import Checker, Error, Natural, exact
from .taylor_checks import Term


class CurvatureChecker(Checker):
    """The checks of the blocks of a curvature.

    Attributes
    ----------
    size_theta, size_h : (P,) and (N,) arrays
        The change of each parameter and unknown that changes an equation by its unit.
    """

    size_theta: Array
    size_h: Array

    def _curvature_terms(
        self,
        names: list[str],
        K: CurvatureOperator,
        along: Array,
        sizes: tuple[Array, ...],
        units: tuple[Array, ...],
        noise: float,
        second_error: float,
        other: CurvatureOperator | None = None,
    ) -> list[Term]:
        """Return the terms for the parameter part and the state part of K · along.

        Their errors as differences are those relative to their sizes, or what `other`, which has
        other errors, differs by: a block that is zero is no more than its errors.
        """
        norm, P = self.backend.norm, sizes[0].shape[0]
        product, end = K._apply(along), along.shape[0]
        error = second_error * K.abs_apply(along) if second_error else 0.0 * along
        if other is not None and other is not K:
            error = error + self.backend.xp.abs(product - other._apply(along))
        parts = zip((slice(0, P), slice(P, end)), sizes, units, strict=True)
        return [
            Term(
                name,
                product[part],
                unit,
                noise * size,
                norm(size / unit),
                self._spread(error[part], unit),
                part,
            )
            for name, (part, size, unit) in zip(names, parts, strict=True)
        ]

    def _spread(self, x: Array, unit: Array) -> Array:
        """Return a vector of the same length as x in these units, with equal entries."""
        return self.backend.norm(x / unit) / x.shape[0] ** 0.5 * unit

    def _check_block_symmetry(
        self,
        name: str,
        K: CurvatureOperator,
        error: Error = exact,
        other: CurvatureOperator | None = None,
        sizes: tuple[Array, Array] | None = None,
    ) -> None:
        """Check the symmetry of the diagonal blocks, and the adjoint of the mixed one.

        The blocks are taken in the units of the parameters and unknowns: a random vector whose
        entries are all of size one would move small ones so far that differences lose the others.
        `other` is K with other errors of differences, and `sizes` are those of the terms of the
        gradient over (theta, h).
        """
        for block, row, column, check in (
            ("params_params: symmetry", 0, 0, self._check_symmetry),
            ("state_state: symmetry", 1, 1, self._check_symmetry),
            ("state_params: adjoint", 1, 0, self._check_adjoint),
        ):
            natural = None if sizes is None else self._natural(sizes, row, column)
            field = block.partition(":")[0]
            op = self._in_units(getattr(K, field), row, column)
            same = None
            if other is not None and other is not K:
                same = self._in_units(getattr(other, field), row, column)
            check(f"{name}.{block}", op, error, same, natural)

    def _in_units(self, op: Operator, row: int, column: int) -> Operator:
        """Return a block of a curvature in the units of its rows and columns."""
        left, right = (
            Diagonal(self.backend, (self.size_theta, self.size_h)[k]) for k in (row, column)
        )
        return left @ op @ right

    def _natural(self, sizes: tuple[Array, Array], row: int, column: int) -> Natural:
        """Return directions, in units, for a block that change the equations by their sizes."""
        units = self.size_theta, self.size_h
        y, x = (
            self._random(units[k].shape[0], self.seed + seed)
            for k, seed in ((row, 108), (column, 109))
        )
        vecdot, xp = self.backend.xp.vecdot, self.backend.xp
        of_rows, of_columns = units[row] * sizes[row], units[column] * sizes[column]
        scale = vecdot(xp.abs(y), of_rows) + vecdot(xp.abs(x), of_columns)
        return Natural(y, x, float(scale))
