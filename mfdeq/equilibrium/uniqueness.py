"""Whether the equilibrium is unique: the judgement of A, at the end of a solve and for derivatives.

Derivatives set up a factor of A, and `examine` computes its smallest singular value with it. At the
end of a solve there is at most a factor of A at an iterate: `judge_uniqueness` takes a few steps
with it for a random right-hand side. If A is singular, what lies along the null vector of its
adjoint stays in the residual, whatever the structure of A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from ..arrays.backend import Array
from ..errors import ConvergenceError, NearSingularWarning, SingularStateError, warn
from ..linear import Auto, Direct, Factor, Reused
from ..linear.checked_solve import LOOSE_RTOL
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..linear.scaling import Scaling
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .conditioning import digits_left
from .null_vectors import (
    MAX_DENSE_SIZE,
    MAX_FACTORIZED_SIZE,
    MinimalResidual,
    NullVectors,
    cancellation,
    find_null_vectors,
    has_preconditioner,
    minimal_residual,
)
from .singularity import Singularity, describe, digits_of
from .smallest_singular import SmallestSingular, judge_smallest_singular, smallest_singular

MAX_APPLICATIONS = 5  # of the preconditioner, in the judgement at the end of a solve
MAX_PLAIN_SIZE = 20  # unknowns up to which that many products without preconditioner are worth it
# Of the usual component 1/sqrt(N) of a random vector along a null vector: what residuals must
# resolve with a factorization and with a preconditioner. One vector in 100 (in 40) has less.
RESOLVED_SHARE, RESOLVED_SHARE_OF_ITERATIONS = 0.01, 0.03
FOLD_GROWTH_POWER = 1 / 2  # of 1 / eps: the growth of a solution above which a fold is likely
# Of a state that has grown along a null vector: |A h| beside its residual, and beside |A| |h|.
GROWN_RESIDUALS, MAX_GROWN_SHARE = 100.0, 1e-8
ADVICE = "eq.smallest_singular or the first derivative will judge it"
SLOW_CONTRACTION = 0.04  # of two Newton iterations: they contract by 1/4 each at a fold


@dataclass(frozen=True)
class Examined:
    """A factor of A with what is known about the singularity of A.

    Attributes
    ----------
    factor : Factor or None
        None if A has none, since it is singular.
    smallest : SmallestSingular
        In the scaling of the factor.
    provisional : bool
        Whether that scaling is not the identity, or the value is no more accurate than a judgement
        of A needs.
    singularity : Singularity or None
        None if A is regular.
    """

    factor: Factor | None
    smallest: SmallestSingular
    provisional: bool
    singularity: Singularity | None


def examine(
    problem: Problem,
    h: Array,
    linearized: CheckedLinearization,
    solver: Reused,
    report: SolveReport,
) -> Examined:
    """Set up a factor of A and find out how singular A is.

    Warns
    -----
    NearSingularWarning
        If a solution loses most of its digits.

    Raises
    ------
    ConvergenceError
        If the solver fails, though A is not singular.
    SingularStateError
        If the solver says that A is singular, but no null vectors were found.
    """
    A = linearized.A
    factor = smallest = None
    try:
        factor = solver.setup_for_equilibrium(A, report.linear)
        report.record_solver(factor.name, solver.choices)
        scaling = factor.working.scaling
        smallest, converged = judge_smallest_singular(factor, solver.weakest, scaling)
        solver.weakest = smallest.left
        if scaling.rows is None:
            report.smallest_singular = smallest.value
        report.digits_left = digits_left(factor, smallest, linearized, h, problem, scaling)
        report.uniqueness = "judged"
        return Examined(factor, smallest, not converged or scaling.rows is not None, None)
    except (ConvergenceError, SingularStateError) as error:
        null = find_null_vectors(A, factor or solver.held, linearized.linearization.state_accuracy)
        digits = 0.0 if null is None else digits_of(null)
        if null is None and smallest is not None and isinstance(error, SingularStateError):
            null, digits = _scaled(factor, smallest, error.right), error.digits
        if null is None:
            error.best, error.report = h, report
            if isinstance(error, SingularStateError):
                report.digits_left = error.digits
            raise
        singularity = describe(problem, h, linearized, null, digits=digits, factor=factor)
        report.digits_left, report.uniqueness = digits, f"no: {singularity.kind}"
        right, left = null.unscaled
        value = abs(A.backend.dot(left, A._apply(right)))
        report.smallest_singular = value
        return Examined(factor, SmallestSingular(value, left, right), False, singularity)


def _scaled(factor: Any, smallest: SmallestSingular, along: Array | None) -> NullVectors:
    """Return the singular vectors, or those along a direction in which A changes most."""
    A, scaling = factor.A, factor.working.scaling
    norm = A.backend.norm
    right, left = smallest.right, smallest.left
    if along is not None and along is not right:
        right = along / norm(along)
        left = factor.solve_adjoint(
            scaling.divide_columns(scaling.divide_columns(right)), rtol=LOOSE_RTOL
        )
    right, left = scaling.divide_columns(right), scaling.divide_rows(left)
    return NullVectors(A, scaling, right / norm(right), left / norm(left))


class _Examinable(Protocol):
    problem: Problem
    state: Array
    solver: Reused

    @property
    def linearized(self) -> CheckedLinearization: ...

    @property
    def report(self) -> SolveReport: ...

    @property
    def examined(self) -> Examined: ...


def judge_uniqueness(eq: _Examinable) -> None:
    """Judge at the end of a solve whether the equilibrium is unique, and record that in the report.

    Where a factor of A at an iterate is at hand, that takes one application of it, and at most five
    applications of a preconditioner. Only if they leave doubt is A examined.

    Warns
    -----
    NearSingularWarning
        At a fold, or close to one.

    Raises
    ------
    SingularStateError
        If A is singular by its structure.
    """
    _judge(eq)
    if eq.report.uniqueness.startswith("not judged") and _has_grown(eq):
        examine_singularity(eq)
        if eq.report.uniqueness.startswith("not judged"):
            raise _grown(eq)


def _judge(eq: _Examinable) -> None:
    A, report, held = eq.linearized.A, eq.report, eq.solver.held
    size = A.shape[0]
    if held is None or held.A.shape != A.shape:
        described = isinstance(eq.solver.solver, (Auto, Direct))
        cheap = size <= MAX_DENSE_SIZE or report.iterations == 0
        if A.array is not None and described and cheap:
            examine_singularity(eq)
        else:
            report.uniqueness = f"not judged: the state was found without a factor of A; {ADVICE}"
        return
    steps = _steps(held, size)
    if steps == 0:
        report.uniqueness = (
            f"not judged: A is solved with by products alone; {ADVICE}; so will a solve with a "
            "preconditioner, or with a sparse or dense d_state and mfdeq.Direct()"
        )
        return
    scaling = held.working.scaling
    resolution = _resolution(held, size)
    trial = minimal_residual(A, scaling, held, steps, resolution)
    settled = trial.size <= resolution
    if settled and not _near_fold(A, scaling, trial, report):
        report.uniqueness = "judged"
    elif settled or trial.stagnated or not held.iterative:
        examine_singularity(eq)
    else:
        report.uniqueness = (
            f"not judged: after {steps} applications of the preconditioner a null vector of A "
            f"cannot be excluded; {ADVICE}"
        )


def _has_grown(eq: _Examinable) -> bool:
    """Return whether the state is so close to a null vector of A that its residual means nothing.

    The terms |A| |h| of a residual grow with the state. Where A is singular, any residual is small
    beside those of a large multiple of the null vector, and A h is no larger than the residual.
    """
    A, worst = eq.linearized.A, eq.report.residuals[-1]
    share = cancellation(A, eq.state, Scaling.from_scales(A))
    return 0.0 < share <= min(GROWN_RESIDUALS * worst, MAX_GROWN_SHARE)


def _grown(eq: _Examinable) -> SingularStateError:
    A, report = eq.linearized.A, eq.report
    share = cancellation(A, eq.state, Scaling.from_scales(A))
    report.converged, report.uniqueness = False, "no: the state is a null vector"
    report.reason = (
        f"the state has grown until A h is {share:.0e} of its terms |A| |h|, no more than the "
        "residual: A is singular, or nearly so, and for these parameters there may be no "
        "equilibrium. Replace an equation that depends on others by a condition that fixes the "
        "state, or pass a sparse or dense matrix as d_state, whose factorization shows what is "
        "singular"
    )
    right = eq.state / A.backend.norm(eq.state)
    digits = math.log10(share / A.backend.eps)
    return SingularStateError(
        report.reason, digits=digits, right=right, best=eq.state, report=report
    )


def _steps(held: Factor, size: int) -> int:
    """Return the number of applications of the preconditioner, 0 if they could not tell."""
    return MAX_APPLICATIONS if has_preconditioner(held) or size <= MAX_PLAIN_SIZE else 0


def _resolution(held: Factor, size: int) -> float:
    """Return the residual of a random vector of unit length that excludes a null vector."""
    share = RESOLVED_SHARE_OF_ITERATIONS if held.iterative else RESOLVED_SHARE
    return share / math.sqrt(size)


def _near_fold(A: Operator, scaling: Scaling, trial: MinimalResidual, report: SolveReport) -> bool:
    """Return whether a solution grows so much, or Newton's method is so slow, as at a fold."""
    backend = A.backend
    x = backend.random(A.shape[0], seed=31)
    size = backend.norm(
        scaling.multiply_rows(A._apply(scaling.multiply_columns(x)))
    ) / backend.norm(x)
    growth, rounding = trial.growth * size, 1.0 / backend.eps
    if not growth < rounding**FOLD_GROWTH_POWER:
        return True
    # A residual of exactly zero is rounded, and does not show how fast the method converges.
    nonzero = [residual for residual in report.residuals if residual > 0.0]
    last = nonzero[-3:] if report.method == "newton" else []
    return len(last) == 3 and last[2] > SLOW_CONTRACTION * last[0]


def examine_singularity(eq: _Examinable) -> None:
    """Examine A, and warn or raise an error where it is singular; see `judge_uniqueness`."""
    try:
        found = eq.examined.singularity
    except ConvergenceError as error:
        eq.report.uniqueness = f"not judged: {error}"
        return
    if found is None:
        return
    if found.structural:
        eq.report.converged = False
        eq.report.reason = found.message
        raise found.error(eq.state, eq.report)
    warn(f"{found.message}. Derivatives do not exist here", NearSingularWarning)


def explain_failure(
    problem: Problem, error: Exception, solver: Reused, report: SolveReport, start: Array
) -> SingularStateError | None:
    """Return the error for a model whose A is singular by its structure, after a method has failed.

    Parameters
    ----------
    problem : Problem
    error : ConvergenceError, SingularStateError or ArgumentError
        Of the forward method, with the best state, or of a solver that does not suit A.
    solver : Reused
    report : SolveReport
    start : (N,) array
        Where the method started.

    Returns
    -------
    SingularStateError or None
        None if A is regular at the best state, at the start or close to them. An `error` that is
        itself a `SingularStateError` then gets the names of what is undetermined at the iterate.
    """
    best, held = getattr(error, "best", None), solver.held
    best = start if best is None else best
    if isinstance(error, ConvergenceError) and _seems_regular(problem, best, held):
        return None
    states = [(start, best), (best, start)]
    if isinstance(error, SingularStateError) and (last := problem.linearized_state) is not None:
        states.append((last, start))  # A is singular there, which need not be the best state
    for h, other in states:
        if (linearized := problem.linearize_trial(h)) is None:
            return None
        null = find_null_vectors(linearized.A, held, linearized.linearization.state_accuracy)
        if null is None or _is_regular(linearized.A):
            continue
        digits = digits_of(null)
        found: Any = describe(
            problem,
            h,
            linearized,
            null,
            digits=digits,
            factor=held,
            elsewhere=other,
            start_name=problem.start_name if problem.backend.all(h == start) else "",
        )
        if found.structural:
            report.uniqueness = f"no: {found.kind}"
            return found.error(best, report)
        if h is not start and isinstance(error, SingularStateError):
            error.args = (found.message,)
            error.unknowns, error.equations = found.unknowns, found.equations
            error.right, error.left = found.right, found.left
    return None


def _is_regular(A: Operator) -> bool:
    """Return whether a factorization of the matrix of A solves with it, in whatever scaling."""
    if A.array is None:
        return False
    try:
        factor = Direct().setup(A)
        found = smallest_singular(factor, None, factor.working.scaling)
    except (ConvergenceError, SingularStateError):
        return False
    return rounding_digits(A, found.right, found.left / found.value) >= MIN_DIGITS


def _seems_regular(problem: Problem, h: Array, held: Factor | None) -> bool:
    """Return whether a few steps with a factor do not show a large A to be singular."""
    linearized = problem.linearize_trial(h)
    if linearized is None:
        return True
    A, size = linearized.A, h.shape[0]
    if size <= MAX_DENSE_SIZE:
        return False
    if held is None or held.A.shape != A.shape or not (steps := _steps(held, size)):
        return A.array is None or size > MAX_FACTORIZED_SIZE
    resolution = _resolution(held, size)
    return minimal_residual(A, held.working.scaling, held, steps, resolution).size <= resolution
