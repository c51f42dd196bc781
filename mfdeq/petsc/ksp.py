"""PETSc's KSP as the factor of A: one solver for A and its adjoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, host
from ..errors import ArgumentError
from ..linear.factor import Factor
from ..linear.protocols import Solver
from ..operators.operator import Operator, columnwise
from ..report import LinearCounts
from .cleanup import drop_python_context, register_for_cleanup
from .errors import last_line, raise_on_all_ranks, reason_name, translate_petsc_errors
from .mats import call_on_vecs, create_dense_mat
from .null_spaces import copy_null_spaces
from .options import (
    check_options,
    set_from_options,
    temporary_options,
    warn_of_unused_options,
)
from .pivots import empty_rows, is_zero_pivot, setup_error
from .ranks import Ranks
from .shell_mats import GuardedContext, as_mat, shell_mat

PETSC_ERR_SUP = 56  # PETSc's code for "not supported"


@dataclass(frozen=True)
class KSP(Solver):
    """A PETSc linear solver (KSP with its preconditioner PC), configured by PETSc's options.

    Parameters
    ----------
    prefix : str, optional
        Prefix of the solver's options on the command line, as in any PETSc program:
        ``-mfdeq_ksp_type cg -mfdeq_pc_type gamg``. By default ``"mfdeq_"``.
    options : dict, optional
        Options without the dash and the prefix, ``{"pc_type": "gamg"}``. Those on the command line
        take precedence.
    rtol : float, optional
        Relative true residual that each solve reaches, 1e-10 by default.

    Raises
    ------
    ArgumentError
        If the names of `options` have a dash or the prefix. From `setup`, if PETSc refuses one.

    Notes
    -----
    Threads cannot share its factors: all ranks call them, in one order.

    Without options the solver is GMRES, preconditioned from the right so that it monitors the true
    residual, with PETSc's default preconditioner for the matrix (ILU, on several ranks block
    Jacobi with ILU on each). The option ``ksp_rtol`` is not read: every solve has its own
    tolerance, and its true residual is computed and decides.

    Examples
    --------
    >>> from mfdeq import petsc
    >>> solver = petsc.KSP(options={"ksp_type": "cg", "pc_type": "jacobi"}, rtol=1e-12)
    >>> solver.prefix
    'mfdeq_'

    The solver is passed to `mfdeq.petsc.solve`:

    >>> import numpy as np
    >>> import mfdeq
    >>> model = petsc.distributed(
    ...     mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, kind="residual")
    ... )
    >>> eq = petsc.solve(model, model.params(np.array([0.0, 2.0, 10.0])), solver=solver)
    >>> model.gathered_state(eq.state).round(4) + 0.0
    array([0., 1., 2.])
    >>> eq.of.factor.name
    'KSP cg with jacobi'
    """

    prefix: str = "mfdeq_"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    rtol: float | None = None

    def __post_init__(self) -> None:
        """Refuse options that PETSc would not find."""
        check_options(self.prefix, self.options)

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Create the KSP of A and set up its preconditioner.

        Parameters
        ----------
        A : Operator, (N, N)
            On distributed arrays: a Mat, assembled or known by its products.
        counts : LinearCounts, optional
            Where set-ups, solves and iterations are counted.

        Returns
        -------
        Factor
            With ``solve(b)`` and ``solve_adjoint(b)``, for (N,) and (N, k).
        """
        return KSPFactor(A, self, LinearCounts() if counts is None else counts)


class _PCContext:
    """The Python context of a PC that applies a preconditioner set up for another matrix."""

    def __init__(self, pc: Any) -> None:
        self.pc = pc

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        """Compute y = M x."""
        self.pc.apply(x, y)

    def applyTranspose(self, pc: Any, x: Any, y: Any) -> None:
        """Compute y = M' x."""
        self.pc.applyTranspose(x, y)


class KSPFactor(Factor):
    """Solves with A and its adjoint by one KSP, which threads cannot share.

    Parameters
    ----------
    A : Operator, (N, N)
    solver : KSP
    counts : LinearCounts
    base : KSPFactor, optional
        The factor of an earlier matrix, whose preconditioner is used in place of A's own.
    max_iterations : int, optional
        The limit of a solve with that preconditioner.
    """

    def __init__(
        self,
        A: Operator,
        solver: KSP,
        counts: LinearCounts,
        base: KSPFactor | None = None,
        max_iterations: int | None = None,
    ) -> None:
        from petsc4py import PETSc

        super().__init__(A, solver.rtol, counts)
        if not isinstance(A.backend.device, Ranks):
            raise ArgumentError(
                "mfdeq.petsc.KSP: expected a PETSc Mat, or an operator on PETSc Vecs, got a "
                f"{type(A).__name__} on {A.backend.library} arrays"
            )
        self.solver = solver
        self._wrapped_pc: Any = None  # applies the preconditioner of `base`
        self._base = base
        with counts.add_time(), temporary_options(solver.prefix, solver.options) as database:
            # Frees the factors and matrices of earlier iterates before this one is made.
            PETSc.garbage_cleanup(A.backend.device.comm)
            self.ksp = ksp = PETSc.KSP().create(comm=A.backend.device.comm)
            register_for_cleanup(ksp, A.backend.device)
            ksp.setOptionsPrefix(solver.prefix)
            if not database.hasName("ksp_type"):
                self._use_right_gmres()
            self.mat = as_mat(A)  # cleanup finds only Mats that Python still refers to
            # PETSc calls the products of A by a Mat of ours, through which no exception passes.
            self._products = None if A.has_entries else GuardedContext(A)
            self._guarded = self.mat if self._products is None else shell_mat(self._products)
            if self._guarded is not self.mat:
                copy_null_spaces(self.mat, self._guarded)
            ksp.setOperators(self._guarded, self.mat)
            set_from_options(ksp, solver.prefix)
            ksp.setErrorIfNotConverged(False)
            kind = ksp.getPC().getType()
            if base is not None:
                self._wrapped_pc = _wrap_pc(base.ksp.getPC())
                register_for_cleanup(self._wrapped_pc, A.backend.device)
                ksp.setPC(self._wrapped_pc)
                ksp.setOperators(self._guarded, self.mat)
                ksp.setTolerances(max_it=max_iterations)
                if ksp.getType() == "preonly":
                    self._use_right_gmres()
            self._set_up(kind)
            if base is None:
                warn_of_unused_options(A.backend.device, solver.prefix, solver.options)
        self.advice = (
            f"other options (-{solver.prefix}pc_type, -{solver.prefix}ksp_max_it, or "
            'ksp_type "preonly" with pc_type "lu")'
        )
        self.iterative = ksp.getType() != "preonly"
        self.name = f"KSP {ksp.getType()} with {kind}"

    def __del__(self, drop: Any = drop_python_context) -> None:
        drop(getattr(self, "_wrapped_pc", None))
        if getattr(self, "_products", None) is not None:
            drop(self._guarded)

    def _set_up(self, kind: str) -> None:
        """Set up the KSP, or raise the error for a preconditioner of A that is not defined."""
        from petsc4py import PETSc

        ksp, ranks = self.ksp, self.A.backend.device
        if self._base is None and (rows := empty_rows(self.mat)):
            # Some packages would crash, or never return.
            raise setup_error(self.A, ksp, f"row {rows[0]} of the matrix is empty")
        with (
            translate_petsc_errors(f"the options of -{self.solver.prefix} cannot set up a KSP"),
            raise_on_all_ranks(ranks, "the set-up of a KSP"),
        ):
            why = ""
            try:
                ksp.setUp()
                ksp.setUpOnBlocks()
            except PETSc.Error as error:
                if not is_zero_pivot(error):
                    raise
                why = last_line(error)
        if ksp.getConvergedReason() == PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED:
            why = why or f"the set-up of {kind} failed, as by a pivot that is zero"
        if reasons := [reason for reason in ranks.allgather(why) if reason]:
            raise setup_error(self.A, ksp, reasons[0])

    def _use_right_gmres(self) -> None:
        """Use GMRES preconditioned from the right, which monitors the true residual."""
        from petsc4py import PETSc

        self.ksp.setType("gmres")
        self.ksp.setPCSide(PETSc.PC.Side.RIGHT)

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor:
        """Return a factor for a nearby matrix, preconditioned by the PC of this one."""
        counts.add(setups=-1)  # no preconditioner is set up
        return KSPFactor(A, self.solver, counts, self, max_iterations)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor for a nearby matrix, preconditioned by this one; None for an LU."""
        if not self.iterative:
            return None
        return self.preconditioned_factor(A, counts, self.ksp.getTolerances()[3])

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        if b.ndim == 2:
            if b.shape[1] > 1 and (solve := self._block_solve(adjoint)):
                return self._block(solve, b)
            return columnwise(
                lambda c: self._attempt(c, rtol, adjoint), b, self.backend, b.shape[0]
            )
        ksp = self.ksp
        ksp.setTolerances(rtol=rtol, atol=0.0)
        x = b.like(host.zeros_like(b.local))
        with _translate_unsupported(self.name, self.solver.prefix):
            call_on_vecs(ksp.solveTranspose if adjoint else ksp.solve, b, x)
        if self._products is not None:
            self._products.raise_failure()
        self._record()
        return x

    def _block_solve(self, adjoint: bool) -> Any:
        """Return PETSc's function that solves all columns at once, or None."""
        kind = self.ksp.getPC().getType()
        if self.ksp.getType() != "preonly" or kind not in ("lu", "cholesky"):
            return None
        if adjoint and kind == "lu":
            return getattr(self.ksp, "matSolveTranspose", None)  # petsc4py 3.18 does not wrap it
        return self.ksp.getPC().getFactorMatrix().matSolve

    def _block(self, solve: Any, b: Array) -> Array:
        rhs, solution = create_dense_mat(b), create_dense_mat(b.like(host.zeros_like(b.local)))
        solve(rhs, solution)
        self.count_iterations(1)
        x = b.like(host.array(solution.getDenseArray(), order="C"))
        rhs.destroy()
        solution.destroy()
        return x

    def _record(self) -> None:
        """Record the iterations of the last solve, and why it stopped."""
        from petsc4py import PETSc

        reason = self.ksp.getConvergedReason()
        self.count_iterations(self.ksp.getIterationNumber(), self.ksp.getResidualNorm())
        if reason < 0:
            self.stopped = f"PETSc says {reason_name(PETSc.KSP, reason)}"

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        if r.ndim == 2:
            return columnwise(lambda c: self._approximate(c, adjoint), r, self.backend, r.shape[0])
        pc, x = self.ksp.getPC(), r.like(host.zeros_like(r.local))
        call_on_vecs(pc.applyTranspose if adjoint else pc.apply, r, x)
        return x


def _wrap_pc(pc: Any) -> Any:
    """Return a PC that applies another one, whatever matrix it is given."""
    from petsc4py import PETSc

    wrapped = PETSc.PC().create(comm=pc.getComm())
    wrapped.setType("python")
    wrapped.setPythonContext(_PCContext(pc))
    return wrapped


@contextlib.contextmanager
def _translate_unsupported(name: str, prefix: str) -> Iterator[None]:
    """Context that raises an `ArgumentError` for PETSc's "not supported"."""
    from petsc4py import PETSc

    try:
        yield
    except PETSc.Error as error:
        if PETSC_ERR_SUP not in (error.ierr, getattr(error.__cause__, "ierr", None)):
            raise
        raise ArgumentError(
            f"{name} does not support an operation that mfdeq needs (a preconditioner needs its "
            f"transpose, too): {last_line(error)}. Choose another one by -{prefix}pc_type, such as "
            "jacobi, bjacobi, gamg or lu"
        ) from error
