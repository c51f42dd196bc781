"""Solving for equilibria of models on PETSc's Vecs and Mats."""

from __future__ import annotations

from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array
from ..equilibrium import solve as solving
from ..equilibrium.constrained_equilibrium import bind
from ..equilibrium.uniqueness import explain_failure
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..forward import METHODS, ConvergenceMonitor
from ..models.problem import Problem
from ..report import SolveReport
from .agreement import on_all_ranks
from .arrays import check_vec
from .ksp import KSP
from .shell_mats import attribute_to_petsc
from .snes import solve_by_snes

# Relative to the residual at the start. The state is tested by mfdeq's own criteria afterwards.
SNES_DEFAULTS = {"snes_rtol": 1e-12}


class Equilibrium:
    """An equilibrium on PETSc's vectors, as `mfdeq.petsc.solve` returns it.

    It has the attributes and methods of `mfdeq.Equilibrium`. Their vectors are Vecs, of length N or
    P, and their operators are Mats. Every access makes a new Vec, so that writing into one changes
    nothing here. It cannot be pickled, and all ranks call it in one thread.

    Parameters
    ----------
    of : mfdeq.Equilibrium
        The same equilibrium on distributed arrays, by which everything is computed.

    Attributes
    ----------
    of : mfdeq.Equilibrium
        As above. Its operators can be added, scaled and multiplied; `mfdeq.petsc.as_mat` makes a
        Mat of the result.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import petsc
    >>> model = petsc.distributed(
    ...     mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, kind="residual")
    ... )
    >>> eq = petsc.solve(model, model.params(np.array([0.0, 2.0, 10.0])))
    >>> eq.sensitivity.getSize()  # Z, a Mat: here diagonal, 1 / (1 + 3 h²)
    (3, 3)
    >>> dtheta, dh = eq.sensitivity.createVecs()
    >>> dtheta.set(1.0)
    >>> eq.sensitivity.mult(dtheta, dh)
    >>> model.gathered_state(dh).round(4)
    array([1.    , 0.25  , 0.0769])
    """

    def __init__(self, of: Any) -> None:
        self.of = of

    def __repr__(self) -> str:
        return repr(self.of)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.of)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "of":
            raise AttributeError(name)
        return attribute_to_petsc(self.of, name)


@on_all_ranks
def solve(
    model: Any,
    theta: Any,
    h0: Any = None,
    *,
    method: str = "auto",
    solver: Any = "auto",
    rtol: float | None = None,
    max_iterations: int | None = None,
    lower: Any = None,
    upper: Any = None,
    progress: bool = False,
    error_estimates: bool = True,
) -> Equilibrium:
    """Solve h = f(h, theta), or R(h, theta) = 0, for the equilibrium h*, on all ranks.

    Parameters
    ----------
    model : mfdeq.FixedPointModel or mfdeq.ResidualModel
        Its functions take and return Vecs; its `Linearization` and `Curvature` hold Mats.
        `state_size` and `param_size` are numbers of entries, or pairs (on this rank, on all).
        `mfdeq.petsc.distributed` makes one from a model for numpy.
    theta : Vec, (P,)
        The parameters.
    h0 : float or Vec, (N,), optional
        The start, a number for all unknowns or a Vec.
    method : {"auto", "newton", "anderson", "picard", "snes"}, optional
        As in `mfdeq.solve`, or PETSc's SNES with the options of the solver's prefix.
    solver : KSP, optional
        The linear solver of the steps and of the derivatives, by default `mfdeq.petsc.KSP()`.
    rtol, max_iterations, progress : optional
        As in `mfdeq.solve`. They are refused with method="snes": SNES has its own options,
        ``-mfdeq_snes_rtol`` and so on.
    lower, upper : float or Vec, (N,), optional
        Bounds of the unknowns, which no iterate crosses.
    error_estimates : bool, optional
        As in `mfdeq.solve`.

    Returns
    -------
    mfdeq.petsc.Equilibrium

    Raises
    ------
    MfdeqError
        As `mfdeq.solve`, on all ranks. A state at which SNES stops and that does not meet mfdeq's
        own criteria is a `ConvergenceError`. One that meets them is an equilibrium, even if SNES
        says that it could not improve it further.

    Notes
    -----
    PETSc reads options on the command line if ``petsc4py.init(sys.argv)`` is called before
    ``from petsc4py import PETSc``.

    Examples
    --------
    A model on Vecs, R = h² - θ, whose Jacobians are diagonal Mats:

    >>> import mfdeq
    >>> import mfdeq.petsc
    >>> from petsc4py import PETSc
    >>> def diagonal(x):
    ...     mat = PETSc.Mat().createAIJ((x.getSizes(), x.getSizes()), nnz=1)
    ...     mat.setDiagonal(x)
    ...     mat.assemble()
    ...     return mat
    >>> class SquareRoot(mfdeq.ResidualModel):
    ...     state_size = param_size = 3
    ...
    ...     def residual(self, h, theta):
    ...         return h * h - theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(diagonal(2.0 * h), diagonal(0.0 * theta - 1.0))
    >>> theta, h0 = (PETSc.Vec().createMPI(3) for _ in range(2))
    >>> theta.set(2.0)
    >>> h0.set(1.0)
    >>> eq = mfdeq.petsc.solve(SquareRoot(), theta, h0)
    >>> round(eq.state.max()[1], 4)
    1.4142
    """
    check_vec(theta, "theta")
    one_of(method, ("auto", *METHODS, "snes"), "method")
    if method != "snes":
        eq = solving.solve(
            model,
            theta,
            h0,
            method=method,
            solver=solver,
            rtol=rtol,
            max_iterations=max_iterations,
            lower=lower,
            upper=upper,
            progress=progress,
            error_estimates=error_estimates,
        )
        return Equilibrium(eq)
    solver = KSP() if solver == "auto" else solver
    if not isinstance(solver, KSP):
        raise ArgumentError(
            f"solver: expected 'auto' or an mfdeq.petsc.KSP with method='snes', got {solver!r}"
        )
    given = {"rtol": rtol, "max_iterations": max_iterations, "progress": progress or None}
    if refused := [name for name, value in given.items() if value is not None]:
        raise ArgumentError(
            f"method='snes' takes no {', '.join(refused)}: set options of -{solver.prefix}snes_"
        )
    problem = Problem(model, theta, h0, lower=lower, upper=upper)
    eq = _solve_by_snes(problem, bind(problem, problem.initial_state(h0)), solver)
    eq.error_estimates = error_estimates
    return Equilibrium(eq)


def _solve_by_snes(problem: Problem, start: Array, solver: KSP) -> Any:
    """Return the equilibrium at which SNES ends, judged as those of mfdeq's own methods."""
    settings = {**SNES_DEFAULTS, **solver.options}
    linear = solving.reused_solver(solver)
    monitor = ConvergenceMonitor(problem, linear, None, 1, SolveReport(method="SNES"))
    found = solve_by_snes(problem, start, solver.prefix, settings, monitor.worst_residual)
    failure = found.diverged or "ended too early"
    if found.diverged:
        advice = (
            f"Start closer to the equilibrium (h0), set options of -{solver.prefix}snes_, or leave "
            "out method='snes' to use mfdeq's own methods"
        )
    else:
        advice = f"Set -{solver.prefix}snes_rtol or -{solver.prefix}snes_atol lower"
    try:
        eq = solving.equilibrium_of_state(problem, found.state, linear, "SNES", failure, advice)
    except (ConvergenceError, SingularStateError) as error:
        singular = explain_failure(problem, error, linear, SolveReport(method="SNES"), start)
        if singular is not None:
            raise singular from error
        raise
    eq.judge_uniqueness()
    eq.report.residuals[:0] = found.history
    return eq


@on_all_ranks
def equilibrium_at(model: Any, theta: Any, state: Any, *, solver: Any = "auto") -> Equilibrium:
    """Return the equilibrium at a state that was solved for elsewhere, and check its residual.

    Parameters
    ----------
    model, theta
        As in `solve`.
    state : Vec, (N,)
    solver : KSP, optional
        The linear solver of the derivatives, by default `mfdeq.petsc.KSP()`.

    Returns
    -------
    mfdeq.petsc.Equilibrium

    Raises
    ------
    ConvergenceError
        If the state is no equilibrium, on all ranks.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import petsc
    >>> model = petsc.distributed(
    ...     mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, kind="residual")
    ... )
    >>> theta, state = model.params(np.array([0.0, 2.0, 10.0])), model.state(np.arange(3.0))
    >>> petsc.equilibrium_at(model, theta, state).report.converged
    True
    """
    check_vec(theta, "theta")
    return Equilibrium(solving.equilibrium_at(model, theta, state, solver=solver))
