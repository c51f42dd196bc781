"""What `Direct.setup` returns: factors of sparse and block-diagonal matrices.

`dense` has that of a dense matrix.
"""

from __future__ import annotations

import math
from typing import Any

from ...arrays.backend import Array
from ...arrays.sparse import stored_bytes
from ...locks import cached_property
from ...operators.operator import Operator
from ...report import LinearCounts
from ..costs import BYTES_PER_ENTRY, compiled_threads, machine_of
from ..factor import Factor
from ..krylov.krylov import Krylov
from ..preconditioners.wrappers import FactorApplication
from ..scaling import Scaling
from .costs import Fill
from .dense_blocks import DenseBlocks
from .package import MAX_RENEWED_BYTES, DirectPackage, Factorization, passes_trial_solve

# Multiplications of a factorization, over the entries of L and U times those of a mean row: 0.3 to
# 1.2 on lines, surfaces and in volumes.
OPERATIONS_PER_ENTRY_OF_ROW = 0.6


class DirectFactor(Factor):
    """Base class of the factors that are exact up to rounding."""

    iterative = False
    max_renewed_bytes: float = MAX_RENEWED_BYTES
    advice = "a larger rtol, or other units of the equations and unknowns"

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor for a nearby matrix, by GMRES preconditioned by this factorization.

        None if a factorization of that matrix is cheaper.
        """
        if self.nbytes <= self.max_renewed_bytes:
            return None
        counts.add(setups=-1)  # nothing is set up
        # Few iterations are needed, too few for a space that columns share to pay for its upkeep.
        solver = Krylov("gmres", FactorApplication(self), self.rtol, max_iterations, block=1)
        return solver.setup(A, counts, scaling=self.scaling)


class SparseFactor(DirectFactor):
    """A factor of a sparse matrix, computed by one of the packages.

    Parameters
    ----------
    A : Matrix, (N, N)
        A sparse matrix.
    package : DirectPackage
        A package without an obstacle to A.
    rtol : float or None
    counts : LinearCounts
    max_operations : float
        Operations above which the factorization is not worth it.

    Attributes
    ----------
    scaling : Scaling
        R and C: the package factorizes R A C.
    factorization : Factorization
        The factors of R A C.

    Raises
    ------
    UnsuitableMatrixError
        If the package cannot factorize A.
    """

    def __init__(
        self,
        A: Any,
        package: DirectPackage,
        rtol: float | None,
        counts: LinearCounts,
        max_operations: float = math.inf,
    ) -> None:
        self.package, self.max_renewed_bytes = package, package.max_renewed_bytes
        self.name = f"Direct ({package.title})"
        self.scaling = Scaling.of_operator(A) if package.equilibrates else Scaling()
        self.matrix = self.scaling.apply(A.array)
        self.factorization = package.factorize(A, self.matrix, max_operations)
        super().__init__(A, rtol, counts)
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the factors, including those of A' once they are needed."""
        transposed = self.__dict__.get("_transposed")
        return self.factorization.nbytes + (0 if transposed is None else transposed.nbytes)

    def iterations_per_setup(self, columns: int) -> float:
        """Estimate it from the size of the factors and the time model of the package."""
        cost = self.package.cost(self.A)
        if cost is None or self.nbytes == 0:  # some packages do not report it
            return super().iterations_per_setup(columns)
        n = self.A.shape[0]
        entries = self.factorization.nbytes / BYTES_PER_ENTRY
        fill = Fill(entries, OPERATIONS_PER_ENTRY_OF_ROW * entries**2 / n)
        setup = cost.setup(n, fill, compiled_threads())
        return setup / (machine_of(self.A).gmres_iteration + cost.block_solve(n, fill, columns))

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        if self.scaling.rows is None and (self.factorization.solves_adjoint or not adjoint):
            return self.factorization.solve(b, adjoint)  # the usual case
        return self.scaling.solve(self._solve_scaled, b, adjoint)

    def _solve_scaled(self, b: Array, adjoint: bool) -> Array:
        if not adjoint or self.factorization.solves_adjoint:
            return self.factorization.solve(b, adjoint)
        return self._transposed.solve(b)

    @cached_property
    def _transposed(self) -> Factorization:
        """The factors of (R A C)', only where a package needs them."""
        found = self.package.factorize(self.A.H, self.matrix.T)  # type: ignore[attr-defined]
        self.counts.add(setups=1)
        self.counts.bytes = self.factorization.nbytes + found.nbytes
        return found


class BlockInverseFactor(DirectFactor):
    """A factor of a sparse matrix of dense blocks: the inverses of the blocks.

    Raises
    ------
    ArithmeticError
        If a block is singular or badly conditioned.
    """

    name = "Direct (dense blocks)"

    def __init__(
        self, A: Operator, blocks: DenseBlocks, rtol: float | None, counts: LinearCounts
    ) -> None:
        self.scaling = Scaling.of_operator(A)
        self.blocks, scaled = blocks, blocks.scaled(self.scaling)
        self.inverse = scaled.inverse()
        if not passes_trial_solve(A.backend, scaled.apply, self.inverse.apply, A.shape[0]):
            raise ArithmeticError("a block is badly conditioned")
        super().__init__(A, rtol, counts)
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks and of their inverses."""
        return stored_bytes(self.blocks.values) + stored_bytes(self.inverse.values)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(self.inverse.apply, b, adjoint)

    def _product(self, A: Operator, x: Array) -> Array:
        return self.blocks.apply(x, adjoint=A is not self.A)
