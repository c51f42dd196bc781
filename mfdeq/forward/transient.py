"""Pseudo-transient continuation: implicit steps in time that grow until they are Newton's."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays.backend import Array
from ..arrays.library import is_sparse
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear import Solver
from ..models.problem import Problem
from ..operators.matrix_operator import Diagonal, Matrix
from ..operators.operator import Operator
from .convergence import ConvergenceMonitor
from .protocol import ForwardMethod

FIRST_STEP = 1.0  # of time, in the time scales of the unknowns
MAX_STEP_GROWTH = 10.0  # of the time step from one step to the next
STEP_REDUCTION = 0.25  # of the time step after a step that was rejected
MIN_STEP = 1e-10  # in the time scales of the unknowns
MAX_REVERSED = 0.3  # the share of the forces that a step may go against
STEP_RTOL = 1e-3  # relative residual of the linear solve of a step


class Transient(ForwardMethod):
    """Pseudo-transient continuation, (V / dt + A) d = R, where h follows its natural dynamics.

    Notes
    -----
    An equilibrium of a map is approached by dh/dt = f(h) - h, one of a residual by
    dh/dt = ± R(h), with the model's `time_sign`. A step is one of the implicit Euler method,
    linearized. Each unknown has the time scale of its own equation, the larger of |A_ii| and
    |R_i| / max |h_i| (one for a map), on the diagonal of V, so that steps do not depend on the
    units of equations and unknowns. The time step grows as the residual falls (switched evolution
    relaxation [1]_), and the method becomes Newton's. A step that goes against the dynamics, as a
    long one may where they are unstable, is shortened. Unlike Newton's method with a line search it
    may pass a state where A is singular or where the residual is least without being zero, and it
    ends at an equilibrium that is stable in time.

    References
    ----------
    .. [1] W. A. Mulder and B. van Leer, Experiments with implicit upwind methods for the Euler
       equations, J. Comput. Phys. 59 (1985).

    .. [2] C. T. Kelley and D. E. Keyes, Convergence analysis of pseudo-transient continuation, SIAM
       J. Numer. Anal. 35 (1998).
    """

    max_iterations = 500

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        sign = time_sign(problem)
        residual = problem.residual(h)
        monitor.record(h, residual)
        monitor.stall_iterations = self.max_iterations
        dt, size = FIRST_STEP, abs(h)
        while not monitor.done:
            A = problem.linearize(h).A
            rates = _rates(problem, A, size, residual)
            while True:
                shifted = A.plus(_diagonal(A, -sign / dt * rates))
                step = _implicit_step(problem, solver, monitor, shifted, h, residual)
                if step is not None:
                    monitor.A = A
                    level = monitor.level(h, residual, step.correction)
                    before, after = level(residual), level(step.residual)
                    if after < before or not (
                        _is_reversed(problem, step, residual, -sign * rates)
                        or _overshoots(problem, step, residual, -sign / dt * rates)
                    ):
                        break
                dt *= STEP_REDUCTION
                if dt < MIN_STEP:
                    raise monitor.failure("stalled: no step in time is short enough")
            dt *= min(max(before / after, STEP_REDUCTION), MAX_STEP_GROWTH) if after > 0.0 else 1.0
            h, residual = step.h, step.residual
            size = problem.backend.xp.maximum(size, abs(h))  # not the current one: it may pass zero
            monitor.record(h, residual)


@dataclass(frozen=True)
class _Step:
    """The state after a time step, its residual, and the step to it."""

    h: Array
    residual: Array
    correction: Array


def _is_reversed(problem: Problem, step: _Step, residual: Array, rates: Array) -> bool:
    """Return whether much of a step is against the dynamics dh/dt = -R / rates."""
    xp, norm = problem.backend.xp, problem.backend.norm
    size = xp.maximum(xp.abs(step.h), xp.abs(step.correction))
    unit = xp.abs(rates) * size
    forces = xp.where(unit > 0.0, residual / xp.where(unit > 0.0, unit, xp.ones_like(unit)), 0.0)
    against = step.correction * forces * xp.sign(rates) < 0.0
    return norm(xp.where(against, forces, xp.zeros_like(forces))) > MAX_REVERSED * norm(forces)


def _overshoots(problem: Problem, step: _Step, residual: Array, rates: Array) -> bool:
    """Return whether the step is far from one of the implicit Euler method, V d / dt = R(h - d).

    A force that changes fast, as at a front, takes the linearized step far beyond an equilibrium,
    where it is as large and points back.
    """
    norm = problem.backend.norm
    unit = problem.backend.xp.maximum(abs(residual), abs(step.residual))
    unit = problem.backend.xp.where(unit > 0.0, unit, 1.0 + unit)
    defect = (rates * step.correction - step.residual) / unit
    return norm(defect) > norm(residual / unit)


def time_sign(problem: Problem) -> int:
    """Return the sign of dh/dt = ± R by which the equilibrium is reached in time.

    Raises
    ------
    ArgumentError
        If the model does not say.
    """
    if problem.is_map:
        return -1
    sign = problem.model.time_sign
    if sign is None or sign not in (1, -1):
        raise ArgumentError(
            f"{problem.name}.time_sign: expected +1 or -1, the sign of dh/dt = ± R(h, theta) by "
            f"which the equilibrium is reached in time, got {sign!r}; method='transient' needs it"
        )
    return int(sign)


def _rates(problem: Problem, A: Operator, size: Array, residual: Array) -> Array:
    """Return the rate at which each unknown changes in its equation, (N,)."""
    xp = problem.backend.xp
    if problem.is_map:
        return xp.ones_like(size)
    safe = xp.where(size > 0.0, size, xp.ones_like(size))
    rates = xp.where(size > 0.0, xp.abs(residual) / safe, xp.zeros_like(size))
    if A.array is None:
        return xp.maximum(rates, A.abs_apply(size) / safe)
    diagonal = A.array.diagonal() if is_sparse(A.array) else xp.linalg.diagonal(A.array)
    return xp.maximum(rates, xp.abs(problem.backend.asarray(diagonal)))


def _diagonal(A: Operator, diagonal: Array) -> Operator:
    """Return a diagonal matrix in the format of A."""
    if A.array is None:
        return Diagonal(A.backend, diagonal)
    if is_sparse(A.array):
        return Matrix(A.backend, A.backend.sparse.diags(diagonal, format=A.array.format))
    return Matrix(A.backend, A.backend.eye(*A.shape) * diagonal)


def _implicit_step(
    problem: Problem,
    solver: Solver,
    monitor: ConvergenceMonitor,
    shifted: Operator,
    h: Array,
    residual: Array,
) -> _Step | None:
    """Take a time step; None if it must be shorter."""
    try:
        factor = solver.setup(shifted, monitor.report.forward)
        correction = factor.solve(residual, rtol=STEP_RTOL)
    except (ConvergenceError, SingularStateError):
        return None
    trial = problem.limited(h, h - correction)
    after, _ = problem.trial_residual(trial)
    return None if after is None else _Step(trial, after, correction)
