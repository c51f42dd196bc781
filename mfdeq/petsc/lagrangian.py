"""(H - sigma I)^-1 by the Lagrangian system as a Mat, and a KSP for it."""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import shape_of
from ..equilibrium import lagrangian_system as lagrangian
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..errors import ArgumentError
from ..models.curvature import BlockCurvature
from ..operators.operator import Operator
from ..operators.user_operators import as_operator, backend_of
from ..spectrum.arguments import require_hessian
from .assembly import assembled, diagonal
from .library import PETSC
from .mats import FromMat
from .symmetric import Symmetric, inertia


class ShiftedInverse(lagrangian.ShiftedInverse):
    """(H - sigma I)^-1, (P, P), by one LDL' factorization (MUMPS) of the Lagrangian system.

    Parameters
    ----------
    H : Mat or ReducedCurvature
        A Hessian of an equilibrium or one of its parts, with A, B and the blocks of K as Mats that
        are assembled, or made of such.
    sigma : float
    M : Mat, (P, P), optional
        In place of the identity: (H - sigma M)^-1.
    prefix : str, optional
        Of the options of the KSP.
    options : dict, optional
        The same without the prefix, where the command line has none.
    """

    def __init__(
        self,
        H: Any,
        sigma: float = 0.0,
        M: Any = None,
        prefix: str = "mfdeq_lagrangian_",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.solver = Symmetric(prefix, options or {})
        if not isinstance(H, ReducedCurvature):
            P = shape_of(H)[0]
            H = require_hessian(as_operator(backend_of(H), H, (P, P), "H"))
        super().__init__(H, sigma, M)

    def _factorize(self, H: ReducedCurvature, M: Any) -> Any:
        states, params = H.eq.param_operator.shape
        rows = H.backend.device.rows(params + states + states)
        system = FromMat(H.backend, _system(H, self.sigma, M), rows)
        try:
            factor: Any = self.solver.setup(system)
        except ArgumentError as error:
            raise lagrangian.factorization_error(str(error)) from error
        b = system.backend.random(system.shape[0], seed=5)
        rest = b - system._apply(factor._attempt(b, factor.rtol, False))
        factor.unrefined_residual = system.backend.norm(rest) / system.backend.norm(b)
        return factor

    @functools.cached_property
    def below(self) -> int | None:
        """The number of eigenvalues of H below sigma; None where the pivots' signs may be wrong."""
        if not self.factor.unrefined_residual <= lagrangian.MAX_COUNTING_RESIDUAL:
            return None
        negative, zero = inertia(self.factor) or (0, 1)
        states = (self.factor.A.shape[0] - self.shape[0]) // 2
        return None if zero else negative - states


def assemble_blocks(H: ReducedCurvature) -> tuple[Any, ...]:
    """A, B and the blocks of K as new Mats, or an `ArgumentError`."""
    if not isinstance(H.K, BlockCurvature):
        raise lagrangian.factorization_error(
            "the curvature is known by its product only: give its blocks"
        )
    names = ("params_params", "state_params", "state_state")
    blocks = (assemble(getattr(H.K, name), f"{name} of the curvature") for name in names)
    return assemble(H.eq.state_operator, "A"), assemble(H.eq.param_operator, "B"), *blocks


def _system(H: ReducedCurvature, sigma: float, M: Any) -> Any:
    """The Lagrangian system with h = u + v and nu = c (u - v) in place of h and nu.

    [[pp - sigma M, sp', -B'],          [[pp - sigma M, (sp - c B)',        (sp + c B)'       ],
     [sp,           ss,   A'],   ->      [sp - c B,     ss + c (A + A'),    ss + c (A - A')   ],
     [-B,           A,    0 ]]           [sp + c B,     ss - c (A - A'),    ss - c (A + A')   ]]

    The inertia is the same, so is x where the right-hand side is (b, 0, 0), and the diagonal is
    not zero: on several ranks MUMPS takes pivots of zero for a singular matrix, whose partners are
    on another rank.
    """
    from petsc4py import PETSc

    A, B, pp, sp, ss = assemble_blocks(H)
    ranks = H.backend.device
    if M is None:
        M = diagonal(H, H.backend.xp.ones(H.shape[0], device=ranks).local)
    size = PETSc.NormType.NORM_INFINITY
    c = (ss.norm(size) or pp.norm(size) or 1.0) / (A.norm(size) or 1.0)
    pp.axpy(-sigma, M)
    transposed = _transposed(A)
    both, skew = _sum(A, 1.0, transposed), _sum(A, -1.0, transposed)
    uu, uv, vv = _sum(ss, c, both), _sum(ss, c, skew), _sum(ss, -c, both)
    up, vp = _sum(sp, -c, B), _sum(sp, c, B)
    blocks = [
        [pp, _transposed(up), _transposed(vp)],
        [up, uu, uv],
        [vp, _transposed(uv), vv],
    ]
    system = PETSc.Mat().createNest(blocks, comm=ranks.comm).convert("aij", PETSc.Mat())
    system.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    return system


def _sum(left: Any, factor: float, right: Any) -> Any:
    found = left.copy()
    found.axpy(factor, right)
    return found


def _transposed(mat: Any) -> Any:
    from petsc4py import PETSc

    return mat.transpose(PETSc.Mat())


def assemble(op: Operator, name: str) -> Any:
    """A new Mat of an operator's entries, or an `ArgumentError`."""
    try:
        return assembled(op)
    except LookupError as error:
        raise lagrangian.factorization_error(
            f"of {name}, {error.args[0]} is known by its products only: give an assembled Mat"
        ) from error


lagrangian.register_solver(
    PETSC, lagrangian.LagrangianSolver(ShiftedInverse, assemble_blocks, assemble)
)
