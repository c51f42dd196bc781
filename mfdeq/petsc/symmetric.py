"""Factorizations L D L' by MUMPS, the signs of their pivots, and R^-1 of a prior's precision R."""

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

RTOL = 1e-13  # a step of refinement where pivoting has cost digits
# Inertia counts need a root that one rank factorizes (13), and pivots of zero told apart (24).
MUMPS = {
    "ksp_type": "preonly",
    "pc_type": "cholesky",
    "pc_factor_mat_solver_type": "mumps",
    "mat_mumps_icntl_13": 1,
    "mat_mumps_icntl_24": 1,
}
NAMES = ("pc_type", "pc_factor_mat_solver_type")  # by either, another factorization is asked for


@dataclass(frozen=True)
class Symmetric(Solver):
    """One factorization of a symmetric matrix that may be indefinite.

    Parameters
    ----------
    prefix : str
        Of its options.
    options : dict, optional
        The same without the prefix, where the command line has none.
    rtol : float, optional
        Relative true residual of solves.
    """

    prefix: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    rtol: float = RTOL

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize A."""
        return KSP(self.prefix, self._options(), self.rtol).setup(A, counts)

    def _options(self) -> dict[str, Any]:
        from petsc4py import PETSc

        known = PETSc.Options(self.prefix)
        if any(name in self.options or known.hasName(name) for name in NAMES):
            return {"ksp_type": "preonly", "pc_type": "lu", **self.options}
        if not PETSc.Sys.hasExternalPackage("mumps"):
            raise ArgumentError(
                "this PETSc is built without MUMPS, and its own factorizations do not pivot: name "
                f"another package by -{self.prefix}pc_factor_mat_solver_type"
            )
        return {**MUMPS, **self.options}


class Definite(Symmetric):
    """The same of a matrix that is positive definite, which the signs of the pivots show."""

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize A."""
        factor = super().setup(A, counts)
        negative, zero = inertia(factor) or (0, 0)
        if negative or zero:
            raise indefinite(f"{negative} eigenvalues are negative, {zero} zero")
        return factor


def inertia(factor: Factor) -> tuple[int, int] | None:
    """How many eigenvalues are negative, and zero; None where that is not known."""
    pc = factor.ksp.getPC()  # type: ignore[attr-defined]
    if pc.getType() != "cholesky":
        return None
    negative, zero, _ = pc.getFactorMatrix().getInertia()
    return negative, zero
