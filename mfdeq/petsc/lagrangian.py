"""Solves with H - sigma I on ranks, by factorizing the Lagrangian system as one Mat.

The method is that of `mfdeq.equilibrium.lagrangian_system`, with MUMPS as the factorization.
"""

from __future__ import annotations

from typing import Any

from ..equilibrium import lagrangian_system as lagrangian
from ..equilibrium.reduced_curvature import ReducedCurvature
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ArgumentError
from ..linear.direct.package import trial_residual
from ..models.curvature import BlockCurvature
from ..operators.operator import Operator
from .assembly import assemble_mat, diagonal_mat
from .ldl import SymmetricDirect, inertia
from .library import PETSC
from .mats import MatOperator


class ShiftedInverse(lagrangian.ShiftedInverse):
    """(H - sigma I)^-1, (P, P), by one L D L' factorization (MUMPS) of the Lagrangian system.

    Parameters
    ----------
    H : Mat or ReducedCurvature
        A symmetric Mat, or the Hessian of a loss at an equilibrium or one of its parts. A, B and
        the blocks of K have to be assembled Mats, or sums and products of such.
    sigma : float, optional
    M : Mat, (P, P), optional
        Takes the place of the identity: (H - sigma M)^-1.
    prefix : str, optional
        Prefix of the options of its KSP.
    options : dict, optional
        Options without the prefix. Those on the command line take precedence.

    Attributes
    ----------
    below : int or None
        The number of eigenvalues of H below sigma.

    Raises
    ------
    ArgumentError
        If a part of the system is known by its products only, or PETSc has no MUMPS.
    SingularStateError
        If sigma is an eigenvalue of H.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> import mfdeq
    >>> import mfdeq.petsc
    >>> from mfdeq.petsc.lagrangian import ShiftedInverse
    >>> diagonal = scipy.sparse.identity(3, format="csr")
    >>> model = mfdeq.petsc.distributed(
    ...     mfdeq.from_function(
    ...         lambda h, theta: np.array([1.0, 2.0, 3.0]) * theta,
    ...         *(3, 3, "map"),
    ...         sparsity=(diagonal, diagonal),
    ...     )
    ... )
    >>> eq = mfdeq.petsc.solve(model, model.params(np.ones(3)))
    >>> H = eq.hessian(model.loss(mfdeq.LeastSquares(np.arange(3), np.zeros(3))))
    >>> ShiftedInverse(H, 2.0).below  # of the eigenvalues 1, 4 and 9
    1
    """

    def __init__(
        self,
        H: Any,
        sigma: float = 0.0,
        M: Any = None,
        prefix: str = "mfdeq_lagrangian_",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.solver = SymmetricDirect(prefix, options or {})
        super().__init__(H, sigma, M)

    def _factorize(self, H: Any, M: Any) -> Any:
        rows = self.shape[0]
        if isinstance(H, ReducedOperator):
            matrix = _system(H, self.sigma, M)
            states = H.backend.device.rows(H.parts[0][1].eq.forcing.shape[0]).total
            rows = H.backend.device.rows(rows).total + states + states
        else:
            matrix = assemble(H, "H")
            matrix.axpy(-self.sigma, _identity(H) if M is None else M)
            matrix.setOption(_symmetric(), True)
        system = MatOperator(H.backend, matrix, H.backend.device.rows(rows))
        try:
            factor: Any = self.solver.setup(system)
        except ArgumentError as error:
            raise lagrangian.factorization_error(str(error)) from error
        factor.unrefined_residual = trial_residual(
            system.backend,
            system._apply,
            lambda b: factor._attempt(b, factor.rtol, False),
            rows,  # with the summands, since other arrays of as many rows may be split otherwise
        )
        factor.negative_pivots = lambda: _negative_pivots(factor)
        return factor


def _negative_pivots(factor: Any) -> int | None:
    """Return the number of negative pivots; None if some are zero or they are unknown."""
    negative, zero = inertia(factor) or (0, 1)
    return None if zero else negative


def assemble_blocks(H: ReducedOperator) -> tuple[Any, ...]:
    """Return A, B and the blocks of K as new Mats, or raise an `ArgumentError`."""
    if not isinstance(H, ReducedCurvature):
        raise lagrangian.factorization_error("it is a sum over several equilibria")
    if not isinstance(H.K, BlockCurvature):
        raise lagrangian.factorization_error(
            "the curvature is known by its products only: pass its blocks"
        )
    names = ("params_params", "state_params", "state_state")
    blocks = (assemble(getattr(H.K, name), f"{name} of the curvature") for name in names)
    return assemble(H.eq.linearized.A, "A"), assemble(H.eq.forcing, "B"), *blocks


def _system(H: ReducedOperator, sigma: float, M: Any) -> Any:
    """Assemble the Lagrangian system, with h = u + v and nu = c (u - v) in place of h and nu.

    [[pp - sigma M, sp', -B'],          [[pp - sigma M, (sp - c B)',        (sp + c B)'       ],
     [sp,           ss,   A'],   ->      [sp - c B,     ss + c (A + A'),    ss + c (A - A')   ],
     [-B,           A,    0 ]]           [sp + c B,     ss - c (A - A'),    ss - c (A + A')   ]]

    The change of variables keeps the inertia, and the solution x of a right-hand side (b, 0, 0).
    It makes the diagonal nonzero: on several ranks MUMPS takes the matrix for singular at a zero
    pivot whose partner is on another rank.
    """
    from petsc4py import PETSc

    A, B, pp, sp, ss = assemble_blocks(H)
    ranks = H.backend.device
    M = _identity(H) if M is None else M
    infinity = PETSc.NormType.NORM_INFINITY
    c = (ss.norm(infinity) or pp.norm(infinity) or 1.0) / (A.norm(infinity) or 1.0)
    pp.axpy(-sigma, M)
    adjoint = _transpose(A)
    symmetric, skew = _add(A, 1.0, adjoint), _add(A, -1.0, adjoint)
    uu, uv, vv = _add(ss, c, symmetric), _add(ss, c, skew), _add(ss, -c, symmetric)
    up, vp = _add(sp, -c, B), _add(sp, c, B)
    blocks = [
        [pp, _transpose(up), _transpose(vp)],
        [up, uu, uv],
        [vp, _transpose(uv), vv],
    ]
    system = PETSc.Mat().createNest(blocks, comm=ranks.comm).convert("aij", PETSc.Mat())
    system.setOption(_symmetric(), True)
    return system


def _identity(H: Operator) -> Any:
    ones = H.backend.xp.ones(H.shape[0], device=H.backend.device)
    return diagonal_mat(H, ones.local)


def _symmetric() -> Any:
    from petsc4py import PETSc

    return PETSc.Mat.Option.SYMMETRIC


def _add(left: Any, factor: float, right: Any) -> Any:
    total = left.copy()
    total.axpy(factor, right)
    return total


def _transpose(mat: Any) -> Any:
    from petsc4py import PETSc

    return mat.transpose(PETSc.Mat())


def assemble(op: Operator, name: str) -> Any:
    """Return a new Mat with an operator's entries, or raise an `ArgumentError`."""
    try:
        return assemble_mat(op)
    except LookupError as error:
        raise lagrangian.factorization_error(
            f"{name} is known by its products only ({error.args[0]}): give an assembled Mat"
        ) from error


lagrangian.register_solver(
    PETSC, lagrangian.LagrangianSolver(ShiftedInverse, assemble_blocks, assemble)
)
