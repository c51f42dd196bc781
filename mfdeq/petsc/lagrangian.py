"""(H - sigma I)^-1 by the Lagrangian system (`mfdeq.lagrangian`) as a Mat, and a KSP for it."""

from __future__ import annotations

from typing import Any

from .. import lagrangian
from ..curvature import BlockCurvature
from ..hessian import Reduced
from ..operators import Operator
from .assembly import assembled, diagonal
from .ksp import KSP
from .mats import FromMat

RTOL = 1e-10


class ShiftedInverse(lagrangian.ShiftedInverse):
    """(H - sigma I)^-1, (P, P), by one LU factorization of the Lagrangian system.

    Parameters
    ----------
    H : Reduced
        With A, B and the blocks of K as Mats that are assembled, or made of such.
    sigma : float
    prefix : str, optional
        Of the options of the KSP.
    options : dict, optional
        The same without the prefix, where the command line has none.
    """

    below = None  # an LU tells no inertia

    def __init__(
        self,
        H: Reduced,
        sigma: float = 0.0,
        prefix: str = "mfdeq_lagrangian_",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.prefix, self.options = prefix, options
        super().__init__(H, sigma)

    def _factorized(self, H: Reduced, M: Any) -> Any:
        from petsc4py import PETSc

        states, params = H.eq.param_operator.shape
        rows = H.backend.device.rows(params + states + states)
        system = FromMat(H.backend, _system(H, self.sigma), rows)
        defaults = {"ksp_type": "preonly", "pc_type": "lu"}
        if PETSc.Sys.hasExternalPackage("mumps"):  # PETSc's own does not pivot
            defaults["pc_factor_mat_solver_type"] = "mumps"
        ksp = KSP(self.prefix, {**defaults, **(self.options or {})}, RTOL)
        factor: Any = ksp.setup(system)
        b = system.backend.random(system.shape[0], seed=5)
        rest = b - system._apply(factor._attempt(b, RTOL, False))
        factor.off = system.backend.norm(rest) / system.backend.norm(b)
        return factor


def _system(H: Reduced, sigma: float) -> Any:
    """[[pp - sigma I, sp', -B'], [sp, ss, A'], [-B, A, 0]]."""
    from petsc4py import PETSc

    if not isinstance(H.K, BlockCurvature):
        raise lagrangian.unsuited("the curvature is known by its product only: give its blocks")
    names = ("params_params", "state_params", "state_state")
    pp, sp, ss = (_entries(getattr(H.K, name), f"{name} of the curvature") for name in names)
    A, B = _entries(H.eq.state_operator, "A"), _entries(H.eq.param_operator, "B")
    ranks = H.backend.device
    pp.axpy(-sigma, diagonal(H, H.backend.xp.ones(H.shape[0], device=ranks).local))
    B.scale(-1.0)
    blocks = [[pp, _transposed(sp), _transposed(B)], [sp, ss, _transposed(A)], [B, A, None]]
    nest = PETSc.Mat().createNest(blocks, comm=ranks.comm)
    return nest.convert("aij", PETSc.Mat())


def _transposed(mat: Any) -> Any:
    from petsc4py import PETSc

    return mat.transpose(PETSc.Mat())


def _entries(op: Operator, name: str) -> Any:
    try:
        return assembled(op)
    except LookupError as error:
        raise lagrangian.unsuited(
            f"of {name}, {error.args[0]} is known by its products only: give an assembled Mat"
        ) from error
