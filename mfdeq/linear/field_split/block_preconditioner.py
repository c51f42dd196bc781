"""Block preconditioners, composed of those of the fields of a system."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from ...arrays.backend import Array, Backend
from ...arrays.sparse import stored_bytes
from ...errors import ArgumentError, SingularStateError
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator, Zero
from ..costs import BYTES_PER_ENTRY
from ..factor import Factor
from ..krylov.factors import matrix_for
from ..null_space import PinnedMatrix, are_null
from ..operands import matrix_of
from ..preconditioners.wrappers import OperatorPreconditioner
from ..protocols import Preconditioner, PreconditionerOperator, Solver
from .fields import Blocks, Fields
from .schur import schur_complement

# Of the constants, the Rayleigh quotient of the Schur complement in its approximation, over that of
# a random vector, below which they are corrected.
MAX_WEAK_RATIO = 0.05
SINGULAR_FACTOR = 100.0  # the same in units of eps, up to which S is singular on the constants


class BlockPreconditioner(PreconditionerOperator):
    """The block preconditioner of one matrix.

    Parameters
    ----------
    A : Operator, (N, N)
    fields : Fields
    described : sequence of Preconditioner or Solver
        What is set up for the fields.
    kind, schur
        As in `mfdeq.FieldSplit`.
    """

    def __init__(
        self,
        A: Operator,
        fields: Fields,
        described: Sequence[Preconditioner | Solver],
        kind: str,
        schur: Any,
    ) -> None:
        super().__init__(A, A.shape)
        self.fields, self.described, self.kind, self.schur = fields, described, kind, schur
        blocks = self._blocks(A)
        targets = self._targets(A, blocks)
        parts = [self._set_up(i, target, A) for i, target in enumerate(targets)]
        self._adopt(blocks, parts, targets[-1])

    def _blocks(self, A: Operator) -> Blocks:
        """Return the blocks of A, from its entries if they are known or needed."""
        if A.array is None and isinstance(self.schur, str):
            entries = matrix_of(A, "schur='selfp' of mfdeq.FieldSplit")
            scales, A = A.scales, Matrix(A.backend, entries)
            A.scales = scales
        return self.fields.blocks(A)

    def _targets(self, A: Operator, blocks: Blocks) -> list[Operator]:
        """Return the matrices that the preconditioners of the fields are set up for."""
        fields, targets = self.fields, []
        for i, described in enumerate(self.described):
            target = blocks[i][i]
            if self.schur is not None and i == len(blocks) - 1:
                target = schur_complement(A, blocks, fields, self.schur)
            if target is None and isinstance(described, OperatorPreconditioner):
                size = fields.bounds[i + 1] - fields.bounds[i]
                target = Zero(A, (size, size))  # An operator that is passed does not depend on it.
            if target is None:
                raise ArgumentError(
                    f"{fields.names[i]} of mfdeq.FieldSplit: the diagonal block of A is zero. Make "
                    "it the last field, and pass schur='selfp' or a matrix that approximates the "
                    "Schur complement, such as the mass matrix of the pressure for Stokes"
                )
            targets.append(target)
        return targets

    def _set_up(self, i: int, target: Operator, A: Operator) -> PreconditionerOperator:
        described = self.described[i]
        try:
            matrix = self._matrix_for(i, target, A)
            if isinstance(described, Solver):
                return FactorSolves(described.setup(matrix))
            return described.setup(matrix)
        except ArgumentError as error:
            raise ArgumentError(f"{self.fields.names[i]} of mfdeq.FieldSplit: {error}") from error
        except SingularStateError as error:
            last = i == len(self.described) - 1
            block, advice = "the diagonal block of A", "pass schur='selfp' if it is the last field"
            if last and self.schur is not None:
                block, advice = "the approximate Schur complement", "pass another schur"
            raise SingularStateError(
                f"{self.fields.names[i]} of mfdeq.FieldSplit: {block} is singular, which A itself "
                f"need not be: {advice}, or another preconditioner for this field",
                digits=error.digits,
            ) from error

    def _matrix_for(self, i: int, target: Operator, A: Operator) -> Operator:
        """Return the matrix that is set up for a field whose matrix may be singular."""
        pinned, described = self._pinned(i, target, A), self.described[i]
        return pinned if isinstance(described, Solver) else matrix_for(described, pinned)

    def _pinned(self, i: int, target: Operator, A: Operator) -> Operator:
        """Return the matrix of a field with the null vectors of A, if they are its own as well.

        The constant of a pressure is one of a Schur complement, but not of a mass matrix.
        """
        if A.null_space is None or A.null_space.right is None or target.array is None:
            return target
        both = (self.fields.split(x)[i] for x in (A.null_space.left, A.null_space.right))
        left, right = (_nonzero_columns(x) for x in both)
        if not 0 < left.shape[1] == right.shape[1]:
            return target
        if not (are_null(target, right) and are_null(target.H, left)):  # type: ignore[attr-defined]
            return target
        return PinnedMatrix.of(target, left, right)

    def _adopt(self, blocks: Blocks, parts: list[PreconditionerOperator], target: Operator) -> None:
        below, above = (self.kind in (kind, "full") for kind in ("lower", "upper"))
        self.coupling = {
            (i, j): block
            for i, row in enumerate(blocks)
            for j, block in enumerate(row)
            if block is not None and ((below and i > j) or (above and i < j))
        }
        self.parts = parts
        uneven = [part for part in parts if part.flexible]
        self.flexible = bool(uneven)
        if uneven:
            self.linear_alternative = uneven[0].linear_alternative
        self._sign, self._weak = 1.0, None
        if self.schur is not None:
            y = self.backend.random(target.shape[0], seed=4)
            product = self._schur_product(blocks, y)
            self._sign = self._sign_of_schur(y, product)
            self._weak = self._weak_constant(blocks, target, _quotient(y, product, target))

    def _sign_of_schur(self, y: Array, product: Array) -> float:
        """Return the sign with which the preconditioner of the last field is applied.

        Parameters
        ----------
        y, product : (m,) arrays
            A random vector, and the Schur complement times it.
        """
        backend, (first, *_, last) = self.backend, self.parts
        if self.kind == "diagonal":
            x = backend.random(first.shape[0], seed=5)
            pairs = (x, first._apply(x)), (y, last._apply(y))
            return math.prod(_sign(float(backend.xp.vecdot(*pair))) for pair in pairs)
        return _sign(float(backend.xp.vecdot(y, last._apply(product))))

    def _schur_product(self, blocks: Blocks, y: Array) -> Array:
        """Multiply by the Schur complement, with the preconditioners of the other fields."""
        D = blocks[-1][-1]
        product = 0.0 * y if D is None else D._apply(y)
        for part, row, C in zip(self.parts[:-1], blocks, blocks[-1], strict=False):
            if row[-1] is not None and C is not None:
                product = product - C._apply(part._apply(row[-1]._apply(y)))
        return product

    def _weak_constant(
        self, blocks: Blocks, target: Operator, usual: float
    ) -> tuple[Array, float] | None:
        """Return z and c, for c z z' to be added to the inverse of the approximation of S.

        A pressure that is only fixed at a point is nearly free by a constant z: z'S z is small
        beside z'Ŝ z for a mass matrix Ŝ, and less so the finer the mesh. c makes up for it, such
        that Ŝ^-1 S is on z what it is on other vectors.

        Parameters
        ----------
        blocks : Blocks
        target : Operator
            Ŝ.
        usual : float
            y'S y over y'Ŝ y for a random y.
        """
        z = self.backend.zeros(target.shape[0]) + 1.0
        if target.scales is not None and target.scales[1] is not None:
            z = z * target.scales[1]
        product = self._schur_product(blocks, z)
        ratio = _quotient(z, product, target) / usual if usual else 1.0
        if not SINGULAR_FACTOR * self.backend.eps < ratio < MAX_WEAK_RATIO:
            return None
        return z, abs(usual / float(self.backend.xp.vecdot(z, product)))

    def refresh(self, A: Operator) -> bool:
        """Become the preconditioner of another matrix, if that of a field can be refreshed.

        Those of the other fields are set up again.
        """
        blocks = self._blocks(A)
        targets = self._targets(A, blocks)
        parts = [copy.copy(part) for part in self.parts]
        refreshed = [
            part.refresh(self._matrix_for(i, target, A))
            for i, (part, target) in enumerate(zip(parts, targets, strict=True))
        ]
        if not any(refreshed):
            return False
        self._adopt(
            blocks,
            [
                parts[i] if refreshed[i] else self._set_up(i, target, A)
                for i, target in enumerate(targets)
            ],
            targets[-1],
        )
        return True

    def forget(self) -> None:
        """Discard what the solvers of fields would reuse from earlier solves."""
        for part in self.parts:
            part.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of the preconditioners of the fields, and of the blocks that couple them."""
        blocks = (stored_bytes(block.array) for block in self.coupling.values())
        return sum(part.nbytes for part in self.parts) + sum(blocks)

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the cost of the preconditioners of the fields, and of the products between."""
        costs = [part.application_cost(product_entry, triangular_entry) for part in self.parts]
        twice = sum(costs[:-1]) if self.kind == "full" else 0.0
        blocks = sum(stored_bytes(block.array) for block in self.coupling.values())
        return sum(costs) + twice + product_entry * blocks / BYTES_PER_ENTRY

    def _apply(self, x: Array) -> Array:
        return self._solve(x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._solve(y, True)

    def _solve(self, x: Array, adjoint: bool) -> Array:
        parts, kind = self.fields.split(x), self.kind
        count, found = len(parts), list(parts)
        if kind == "full":
            for i in range(count):
                found[i] = self._part(
                    i, self._without(parts[i], i, range(i), found, adjoint), adjoint
                )
            for i in range(count - 2, -1, -1):
                r = self._without(0.0 * parts[i], i, range(i + 1, count), found, adjoint)
                found[i] = found[i] + self._part(i, r, adjoint)
        else:  # "diagonal" couples no fields.
            upwards = (kind == "upper") != adjoint
            for i in range(count - 1, -1, -1) if upwards else range(count):
                known = range(i + 1, count) if upwards else range(i)
                r = self._without(parts[i], i, known, found, adjoint)
                found[i] = self._part(i, r, adjoint)
        return self.fields.join(found)

    def _part(self, i: int, r: Array, adjoint: bool) -> Array:
        """Apply the preconditioner of field i."""
        part = self.parts[i]
        x = part._apply_adjoint(r) if adjoint else part._apply(r)
        if i < len(self.parts) - 1:
            return x
        if self._weak is not None:
            z, c = self._weak
            x = x + (z * (c * (z @ r)) if r.ndim == 1 else z[:, None] * (c * (z @ r)))
        return -x if self._sign < 0 else x

    def _without(self, r: Array, i: int, others: range, found: list[Array], adjoint: bool) -> Array:
        """Subtract the products of row i with the solutions that were found for other fields."""
        for j in others:
            block = self.coupling.get((j, i) if adjoint else (i, j))
            if block is not None:
                product = block._apply_adjoint(found[j]) if adjoint else block._apply(found[j])
                r = r - product
        return r


class FactorSolves(PreconditionerOperator):
    """Solves with a factor, to its tolerance and without a check of their residuals.

    Parameters
    ----------
    factor : Factor

    Raises
    ------
    ArgumentError
        If an iterative method returns zero for a random vector.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor = factor
        self.flexible = factor.flexible or factor.iterative
        self.description = factor.name
        if factor.iterative and not bool(
            self.backend.xp.any(self @ self.backend.random(self.shape[0]))
        ):
            raise ArgumentError(
                f"{factor.name} gives up at once: the method may not suit the block ('cg' needs a "
                "positive definite one)"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the factor."""
        return self.factor.nbytes

    def _apply(self, x: Array) -> Array:
        return self._solve(x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._solve(y, True)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        null_space = self.factor.A.null_space
        if null_space is not None:
            b = null_space.balanced(b, adjoint)
        return self.factor._attempt(b, self.factor.rtol, adjoint)

    def forget(self) -> None:
        """Discard what the factor would reuse from earlier solves."""
        self.factor.forget()


def _quotient(x: Array, product: Array, target: Operator) -> float:
    """Return x'S x over x'Ŝ x for the product S x; infinity if Ŝ is zero on x."""
    vecdot = target.backend.xp.vecdot
    size = float(vecdot(x, target._apply(x)))
    return float(vecdot(x, product)) / size if size else math.inf


def _nonzero_columns(x: Array) -> Array:
    xp = Backend.of(x).xp
    kept = [k for k in range(x.shape[1]) if bool(xp.any(x[:, k] != 0.0))]
    return xp.take(x, xp.asarray(kept, dtype=xp.int64, device=Backend.of(x).device), axis=1)


def _sign(x: float) -> float:
    return -1.0 if x < 0 else 1.0
