"""PETSc's KSP as the factor of A: one for A and its adjoint, its options from PETSc's database."""

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
from .cleanup import emptied, made
from .mats import apply, dense_mat
from .objects import as_mat, in_short
from .ranks import Ranks

UNSUPPORTED = 56  # PETSC_ERR_SUP


@dataclass(frozen=True)
class KSP(Solver):
    """PETSc's linear solvers.

    Parameters
    ----------
    prefix : str, optional
        Of the options that set it up: ``-mfdeq_ksp_type cg -mfdeq_pc_type gamg`` and so on, as in
        every program of PETSc's.
    options : dict, optional
        The same without the prefix, where the command line has none: ``{"pc_type": "gamg"}``.
    rtol : float, optional
        Relative true residual, 1e-10 by default. `ksp_rtol` is not read: every solve has its own
        tolerance.

    Notes
    -----
    Without options it is GMRES, preconditioned from the right, so that what it watches is the true
    residual, by PETSc's default for the matrix (ILU, on several ranks in blocks).
    """

    prefix: str = "mfdeq_"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    rtol: float | None = None

    def __post_init__(self) -> None:
        """Refuse options that PETSc would not find."""
        _check_options(self.prefix, self.options)

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Make the KSP of A, and set its preconditioner up."""
        return KSPFactor(A, self, LinearCounts() if counts is None else counts)


class _Application:
    """What PETSc calls of a preconditioner that was set up for another matrix."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        """y = M x."""
        self.of.apply(x, y)

    def applyTranspose(self, pc: Any, x: Any, y: Any) -> None:
        """y = M' x."""
        self.of.applyTranspose(x, y)


class KSPFactor(Factor):
    """Solves by a KSP, whose true residuals decide.

    Parameters
    ----------
    A : Operator, (N, N)
    solver : KSP
    counts : LinearCounts
    held : KSPFactor, optional
        Of an earlier matrix, whose preconditioner is taken.
    max_iterations : int, optional
        With that.
    """

    def __init__(
        self,
        A: Operator,
        solver: KSP,
        counts: LinearCounts,
        held: KSPFactor | None = None,
        max_iterations: int | None = None,
    ) -> None:
        from petsc4py import PETSc

        super().__init__(A, solver.rtol, counts)
        if not isinstance(A.backend.device, Ranks):
            raise ArgumentError("mfdeq.petsc.KSP solves with PETSc's matrices")
        self.solver = solver
        self._applied: Any = None  # the preconditioner of another
        with counts.timed(), database(solver.prefix, solver.options) as given:
            PETSc.garbage_cleanup(A.backend.device.comm)  # of factors and matrices before this one
            self.ksp = ksp = PETSc.KSP().create(comm=A.backend.device.comm)
            made(ksp, A.backend.device)
            ksp.setOptionsPrefix(solver.prefix)
            if not given.hasName("ksp_type"):
                self._watched()
            self.mat = as_mat(A)  # for the end, where those are known that Python still has
            ksp.setOperators(self.mat)
            configured(ksp, solver.prefix)
            ksp.setErrorIfNotConverged(False)
            kind = ksp.getPC().getType()
            if held is not None:
                self._applied = _kept(held.ksp.getPC())
                made(self._applied, A.backend.device)
                ksp.setPC(self._applied)
                ksp.setOperators(self.mat)
                ksp.setTolerances(max_it=max_iterations)
                if ksp.getType() == "preonly":
                    self._watched()
            with told(f"the KSP cannot be set up by the options of -{solver.prefix}"):
                ksp.setUp()
                ksp.setUpOnBlocks()
        self.advice = (
            f"other options (-{solver.prefix}pc_type, -{solver.prefix}ksp_max_it, or "
            'ksp_type "preonly" with pc_type "lu")'
        )
        self.iterative = ksp.getType() != "preonly"
        self.name = f"KSP {ksp.getType()} with {kind}"

    def __del__(self, emptied: Any = emptied) -> None:
        emptied(getattr(self, "_applied", None))

    def _watched(self) -> None:
        """GMRES that watches the true residual."""
        from petsc4py import PETSc

        self.ksp.setType("gmres")
        self.ksp.setPCSide(PETSc.PC.Side.RIGHT)

    def precondition(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor:
        """Solves with an A near this factor's, preconditioned by what this one has."""
        counts.setups -= 1  # nothing is set up
        return KSPFactor(A, self.solver, counts, self, max_iterations)

    def reuse_for(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """The same where it costs no more than with A's own: not by an LU, which solves at once."""
        if not self.iterative:
            return None
        return self.precondition(A, counts, self.ksp.getTolerances()[3])

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
        with _supported(self.name, self.solver.prefix):
            apply(ksp.solveTranspose if adjoint else ksp.solve, b, x)
        self._note()
        return x

    def _block_solve(self, adjoint: bool) -> Any:
        """What of PETSc's solves all columns at once; None where nothing does."""
        kind = self.ksp.getPC().getType()
        if self.ksp.getType() != "preonly" or kind not in ("lu", "cholesky"):
            return None
        if adjoint and kind == "lu":
            return getattr(self.ksp, "matSolveTranspose", None)  # which 3.18 does not have
        return self.ksp.getPC().getFactorMatrix().matSolve

    def _block(self, solve: Any, b: Array) -> Array:
        given, found = dense_mat(b), dense_mat(b.like(host.zeros_like(b.local)))
        solve(given, found)
        self.counts.iterations += 1
        x = b.like(host.array(found.getDenseArray(), order="C"))
        given.destroy()
        found.destroy()
        return x

    def _note(self) -> None:
        from petsc4py import PETSc

        reason = self.ksp.getConvergedReason()
        self.counts.iterations += self.ksp.getIterationNumber()
        self.counts.history.append(self.ksp.getResidualNorm())
        if reason < 0:
            self.stopped = f"PETSc says {in_words(PETSc.KSP, reason)}"

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        if r.ndim == 2:
            return columnwise(lambda c: self._approximate(c, adjoint), r, self.backend, r.shape[0])
        pc, x = self.ksp.getPC(), r.like(host.zeros_like(r.local))
        apply(pc.applyTranspose if adjoint else pc.apply, r, x)
        return x


def _kept(pc: Any) -> Any:
    """A PC that applies another, whatever its matrix."""
    from petsc4py import PETSc

    kept = PETSc.PC().create(comm=pc.getComm())
    kept.setType("python")
    kept.setPythonContext(_Application(pc))
    return kept


@contextlib.contextmanager
def database(prefix: str, options: dict[str, Any] | None) -> Iterator[Any]:
    """PETSc's options under a prefix, for a while with these where it has none of their names.

    For a while, or the next solver of that prefix would find them as if they had been on the
    command line.
    """
    from petsc4py import PETSc

    options = {} if options is None else options
    _check_options(prefix, options)
    known = PETSc.Options(prefix)
    added = [name for name in options if not known.hasName(name)]
    for name in added:
        known[name] = options[name]
    try:
        yield known
    finally:
        for name in added:
            known.delValue(name)


def _check_options(prefix: str, options: Any) -> None:
    """Raise an `ArgumentError` for options that PETSc would not find."""
    wrong = [options]
    if isinstance(options, dict):
        wrong = [name for name in options if str(name).startswith(("-", prefix or "-"))]
    if wrong:
        raise ArgumentError(
            f"options has {wrong[0]!r}; a dict of names without the dash and the prefix "
            f"{prefix!r} was expected: {{'pc_type': 'gamg'}}"
        )


def configured(solver: Any, prefix: str) -> None:
    """Give a solver of PETSc's its options."""
    with told(f"PETSc refuses an option of -{prefix}"):
        solver.setFromOptions()


@contextlib.contextmanager
def _supported(name: str, prefix: str) -> Iterator[None]:
    """PETSc's word for what it has not, as an `ArgumentError`."""
    from petsc4py import PETSc

    try:
        yield
    except PETSc.Error as error:
        if UNSUPPORTED not in (error.ierr, getattr(error.__cause__, "ierr", None)):
            raise
        raise ArgumentError(
            f"{name} cannot do that (of a preconditioner the transpose is needed, too): "
            f"{in_short(error)}. Choose another by -{prefix}pc_type, such as jacobi, bjacobi, gamg "
            "or lu"
        ) from error


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """An error of PETSc's as an `ArgumentError`: on all ranks, as PETSc has it."""
    from petsc4py import PETSc

    try:
        yield
    except PETSc.Error as error:
        raise ArgumentError(f"{what}: {in_short(error)}") from error


def in_words(solver: Any, reason: int) -> str:
    """The name of a reason of a class of PETSc's or SLEPc's."""
    known = vars(solver.ConvergedReason)
    names = [name for name, value in known.items() if value == reason and not name.startswith("_")]
    name = max(names, key=len, default=str(reason))
    return name if name.startswith("DIVERGED") else f"DIVERGED_{name}"
