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
from ..factor import Factor
from ..krylov.krylov import Krylov
from ..preconditioners.wrappers import FactorApplication
from ..scaling import Scaling
from .dense_blocks import DenseBlocks
from .package import MAX_RENEWED_BYTES, DirectPackage, Factorization, passes_trial_solve


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
        solver = Krylov("gmres", FactorApplication(self), self.rtol, max_iterations)
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
