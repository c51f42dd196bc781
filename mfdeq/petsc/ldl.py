"""Factorizations L D L' of symmetric matrices by MUMPS, and the inertia that their pivots show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentError
from ..linear.factor import Factor
from ..linear.protocols import Solver
from ..operators.operator import Operator
from ..priors.covariances import indefinite
from ..report import LinearCounts
from .ksp import KSP

DIRECT_RTOL = 1e-13  # refines a solve in which pivoting has cost digits
# The inertia needs a root front that one rank factorizes (ICNTL 13), and null pivots detected (24).
MUMPS_OPTIONS = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
    "mat_mumps_icntl_13": 1,
    "mat_mumps_icntl_24": 1,
}
# Either of these in the options means that the user asks for another factorization.
FACTORIZATION_OPTIONS = ("pc_type", "pc_factor_mat_solver_type")


@dataclass(frozen=True)
class SymmetricDirect(Solver):
    """A direct solver for symmetric matrices that may be indefinite: L D L' by MUMPS.

    Parameters
    ----------
    prefix : str
        Prefix of its options.
    options : dict, optional
        Options without the prefix. Those on the command line take precedence.
    rtol : float, optional
        Relative true residual of its solves.
    """

    prefix: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    rtol: float = DIRECT_RTOL

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize A."""
        return KSP(self.prefix, self._options(), self.rtol).setup(A, counts)

    def _options(self) -> dict[str, Any]:
        from petsc4py import PETSc

        database = PETSc.Options(self.prefix)
        if any(name in self.options or database.hasName(name) for name in FACTORIZATION_OPTIONS):
            return {"ksp_type": "preonly", "pc_type": "lu", **self.options}
        if not PETSc.Sys.hasExternalPackage("mumps"):
            raise ArgumentError(
                "this PETSc is built without MUMPS, and PETSc's own factorizations do not pivot: "
                f"choose another package by -{self.prefix}pc_factor_mat_solver_type"
            )
        return {**MUMPS_OPTIONS, **self.options}


class PositiveDefiniteDirect(SymmetricDirect):
    """A direct solver for positive definite matrices, which refuses others by their inertia."""

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize A, and raise an `ArgumentError` if it is not positive definite."""
        factor = super().setup(A, counts)
        negative, zero = inertia(factor) or (0, 0)
        if negative or zero:
            raise indefinite(f"{negative} eigenvalues are negative, {zero} zero")
        return factor


def inertia(factor: Factor) -> tuple[int, int] | None:
    """Return how many eigenvalues are negative and how many zero; None if that is unknown."""
    pc = factor.ksp.getPC()  # type: ignore[attr-defined]
    if pc.getType() != "cholesky":
        return None
    negative, zero, _ = pc.getFactorMatrix().getInertia()
    return negative, zero
