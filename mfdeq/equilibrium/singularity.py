"""What is singular where A is, and whether it is so at this state only or by the model's structure.

Structural is what persists at states nearby: an unknown in no equation, equations that depend on
each other, a constant left free. Everything else is a fold of the branch of equilibria, or another
point where it is not unique.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..errors import SingularStateError
from ..linear import Factor
from ..linear.scaling import Scaling
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .naming import describe_combinations, listed, names_of
from .null_spaces import MAX_ACCURACY, NullSpaces, find_null_spaces
from .null_vectors import NullVectors, bordered_solve, find_null_vectors, null_residual

PERTURBATION = 1e-2  # of the state, relative to the size of each unknown
# Factors of the steps of unknowns that are zero, and whose size is therefore not known.
UNKNOWN_SIZE_FACTORS = (1.0, 1e3, 1e6, 1e9)
STRUCTURAL_SHARE = 1e-6  # of the largest entry of a null vector, above which an entry belongs to it
FOLD_SHARE = 0.1  # the same at a fold, whose null vectors are smooth
CONSERVED_SHARE = 1e-3  # cosine of the null vectors, above which the left one is a constraint
MAX_SHOWN = 10  # indices in a line of code
CONSTANT_RTOL = 1e-6  # by which the entries of a constant null vector differ
CURVE_STEPS = 6  # chord steps, each of which leaves a hundredth of the residual
CURVE_RTOL = 1e-11  # residual, relative to its terms, of another equilibrium
CURVE_ROUNDINGS = 30.0  # the same in rounding units, which is more in float32
FOLD, UNUSED, DEPENDENT, FREE = "fold", "unused unknown", "dependent equations", "free constant"


@dataclass(frozen=True)
class Singularity:
    """What is singular, and the error that says so.

    Attributes
    ----------
    kind : str
        "fold", "unused unknown", "dependent equations" or "free constant"; empty for a state that
        is no equilibrium, where A is regular at states nearby.
    unknowns, equations : list of int
        The unknowns and the equations that make up the null vectors.
    right, left : (N,) array
        The null vectors of A and of its adjoint; (N, k) arrays if there are several.
    digits : float
        Digits left in a solution of A x = b.
    message : str
    """

    kind: str
    unknowns: list[int]
    equations: list[int]
    right: Array
    left: Array
    digits: float
    message: str

    @property
    def structural(self) -> bool:
        """Whether A is singular at states nearby, too."""
        return self.kind not in ("", FOLD)

    def error(self, best: Array | None, report: SolveReport | None) -> SingularStateError:
        """Return a new error with this message."""
        return SingularStateError(
            self.message,
            digits=self.digits,
            kind=self.kind,
            unknowns=self.unknowns,
            equations=self.equations,
            right=self.right,
            left=self.left,
            best=best,
            report=report,
        )


def describe(
    problem: Problem,
    h: Array,
    linearized: CheckedLinearization,
    null: NullVectors,
    *,
    digits: float = 0.0,
    factor: Factor | None = None,
    elsewhere: Array | None = None,
    start_name: str = "",
) -> Singularity:
    """Name the unknowns and equations of null vectors, and find out what kind of singularity it is.

    Parameters
    ----------
    problem : Problem
    h : (N,) array
        The state.
    linearized : CheckedLinearization
        The linearization at h.
    null : NullVectors
    digits : float, optional
        Digits left in a solution of A x = b.
    factor : Factor, optional
        A factor near A, for models whose A is too large to factorize.
    elsewhere : (N,) array, optional
        Another iterate, if h is an iterate and no equilibrium. Only if A is singular there as well,
        the structure of the model is the cause.
    start_name : str, optional
        What h is, if it is the start of the iteration.
    """
    A, (right, left) = linearized.A, null.unscaled
    structural = persists(problem, h, null, factor)
    if elsewhere is None:
        structural = structural or lies_on_curve(problem, h, linearized, null)
    elif structural:
        structural = is_singular_at(problem, elsewhere, null, factor) is not False
    share = STRUCTURAL_SHARE if structural else FOLD_SHARE
    share = max(share, 1e3 * problem.backend.eps)
    v, u = array_on_host(null.right), array_on_host(null.left)
    unknowns, equations = _dominating(v, share), _dominating(u, share)
    empty_columns, empty_rows = _empty(A, unknowns, adjoint=True), _empty(A, equations)
    if not structural:
        kind = FOLD if elsewhere is None else ""
    elif empty_columns:
        kind, unknowns = UNUSED, empty_columns
        equations = empty_rows or equations
    elif _constant(array_on_host(right)[unknowns]):
        kind = FREE
    else:
        kind = DEPENDENT
        equations = empty_rows or equations
    names = names_of(problem.unknown_name, unknowns), names_of(problem.equation_name, equations)
    counts = len(unknowns), len(equations)
    text = _message(kind, names, counts, bool(empty_rows), start_name)
    if kind in (FREE, DEPENDENT):
        advice, right, left = _constraint_advice(problem, linearized, unknowns, (right, left))
        text += advice
    if kind == FOLD and _moves_with_no_parameter(linearized, left):
        text = text.replace("a fold,", "a bifurcation, or a fold that no parameter moves,")
    message = f"the state operator A is singular ({digits:.1f} digits left): {text}"
    return Singularity(kind, unknowns, equations, right, left, digits, message)


def persists(problem: Problem, h: Array, null: NullVectors, factor: Factor | None = None) -> bool:
    """Return whether A is singular at a state nearby, too.

    One of the null vectors is often the same there, and a product shows that; otherwise the null
    vectors are computed again. Unknowns of the null vector that are zero move by several
    magnitudes: where they are small, terms such as squares of them may be lost in rounding.
    """
    backend, xp = problem.backend, problem.backend.xp
    step = (
        PERTURBATION
        * _sizes(problem, h, null.scaling)
        * (0.5 + xp.abs(backend.random(h.shape[0], seed=23)))
    )
    entries = xp.abs(null.right)
    moved_far = (h == 0.0) & (entries > STRUCTURAL_SHARE * xp.max(entries))
    sizes_are_known = problem.state_scale() is not None or not backend.any(moved_far)
    singular = False
    for growth in UNKNOWN_SIZE_FACTORS[:1] if sizes_are_known else UNKNOWN_SIZE_FACTORS:
        grown = xp.where(moved_far, growth * step, step)
        for length in (1.0, -1.0, 0.01, -0.01):
            answer = is_singular_at(problem, h + length * grown, null, factor)
            if answer is not None:
                break
        if answer is False:
            return False
        singular = singular or bool(answer)
    return singular


def is_singular_at(
    problem: Problem, state: Array, null: NullVectors, factor: Factor | None = None
) -> bool | None:
    """Return whether A is singular at another state.

    None if the model has no value there, or its derivatives have too few digits to tell.
    """

    def is_singular(nearby: CheckedLinearization) -> bool | None:
        A, accuracy = nearby.A, nearby.linearization.state_accuracy
        if accuracy > MAX_ACCURACY:
            return None
        limit = max(0.1 * problem.backend.eps**0.5, 10.0 * accuracy)
        right, left = null.unscaled
        same = null_residual(A, right, null.scaling), null_residual(A, left, null.scaling, True)
        return min(same) <= limit or find_null_vectors(A, factor, accuracy) is not None

    return problem.evaluate_nearby(state, is_singular)


def lies_on_curve(
    problem: Problem, h: Array, linearized: CheckedLinearization, null: NullVectors
) -> bool:
    """Return whether the equilibrium is one of a curve of equilibria at the same parameters.

    Then A is singular along the curve, though not beside it: equations may depend on each other
    only where they are satisfied. Chord steps with A bordered by its null vectors look for another
    equilibrium a small step along the null vector. At a fold a residual remains, of the square of
    the step.
    """
    backend, (right, _) = problem.backend, null.unscaled
    xp, scaling = backend.xp, null.scaling
    solve = bordered_solve(linearized.A, null)
    if solve is None:
        return False
    state = h + PERTURBATION / float(xp.max(xp.abs(right) / _sizes(problem, h, scaling))) * right
    for _ in range(CURVE_STEPS):
        residual, _ = problem.trial_residual(state)
        if residual is None:
            return False
        state = state - scaling.multiply_columns(solve(scaling.multiply_rows(residual)))
    residual, _ = problem.trial_residual(state)
    if residual is None:
        return False
    terms = backend.norm(scaling.multiply_rows(linearized.A.abs_apply(state)))
    limit = max(CURVE_RTOL, CURVE_ROUNDINGS * backend.eps)
    return backend.norm(scaling.multiply_rows(residual)) <= limit * terms


def _sizes(problem: Problem, h: Array, scaling: Scaling) -> Array:
    """Return the sizes of the unknowns: their own, and where they are zero those of the others."""
    xp = problem.backend.xp
    sizes = problem.state_scale()
    if sizes is None:
        own = xp.abs(scaling.divide_columns(h))
        typical = float(xp.sum(own)) / h.shape[0]
        sizes = scaling.multiply_columns(xp.ones_like(h) * (typical if typical > 0.0 else 1.0))
    return xp.maximum(xp.abs(h), sizes)


def _dominating(x: Any, share: float) -> list[int]:
    """Return the indices of the entries above a share of the largest."""
    return [int(i) for i in host.flatnonzero(abs(x) > share * abs(x).max())]


def _empty(A: Operator, indices: list[int], adjoint: bool = False) -> list[int]:
    """Return those indices whose rows of A, or columns if `adjoint`, are zero."""
    backend, n = A.backend, A.shape[0]
    operator: Any = A.H if adjoint else A  # type: ignore[attr-defined]
    if A.array is not None:
        sums = operator.abs_apply(backend.xp.ones_like(backend.random(n, seed=29)))
    else:
        sums = backend.xp.abs(operator._apply(backend.random(n, seed=29)))
    sums = array_on_host(sums)
    return [i for i in indices if sums[i] == 0.0]


def _constant(x: Any) -> bool:
    """Return whether there are several entries, all the same."""
    rtol = max(CONSTANT_RTOL, 1e3 * float(host.finfo(x.dtype).eps))
    return len(x) > 1 and bool((abs(x - x[0]) <= rtol * abs(x[0])).all())


def _moves_with_no_parameter(linearized: CheckedLinearization, left: Array) -> bool:
    """Return whether w'B = 0 to rounding: the state moves along the null vector to second order."""
    backend, B = linearized.backend, linearized.B
    terms = backend.norm(B.H.abs_apply(left))  # type: ignore[attr-defined]
    return backend.norm(B._apply_adjoint(left)) <= backend.eps**0.5 * terms


def _constraint_advice(
    problem: Problem,
    linearized: CheckedLinearization,
    unknowns: list[int],
    null: tuple[Array, Array],
) -> tuple[str, Array, Array]:
    """Return the line that adds what is missing to the model, and the null vectors that it uses."""
    if problem.model.has_constraints:
        return ". The constraints of the model do not fix them", *null
    A, accuracy = linearized.A, linearized.linearization.state_accuracy
    spaces = find_null_spaces(A, 1, accuracy)
    if spaces is None or spaces.dimension == 1:
        return f": mfdeq.constrain(model, {_single_constraint(unknowns, null)})", *null
    combinations = describe_combinations(problem.equation_name, spaces.left)
    text = (
        f". mfdeq.constrain(model, {_several_constraints(spaces)}) does that with a row for each "
        f"combination of equations that vanishes: {listed(combinations)}"
    )
    n = A.shape[0]
    return text, *(A.backend.from_host(x, n) for x in (spaces.right, spaces.left))


def _several_constraints(spaces: NullSpaces) -> str:
    """Return the code of constraints that fix several null vectors, such as conserved totals."""
    left, right = spaces.left, spaces.right
    lengths = (host.linalg.norm(x, axis=0) for x in (left, right))
    cosines = host.linalg.svd((left / next(lengths)).T @ (right / next(lengths)))[1]
    # Conserved totals fix what the equations leave open, unless they are orthogonal to it.
    name, rows = ("left", left.T) if cosines[-1] > CONSERVED_SHARE else ("right", right.T)
    short = rows.shape[1] < MAX_SHOWN and bool((rows == host.round(rows)).all())
    code = f"np.array({rows.astype(int).tolist()})" if short else f"error.{name}.T"
    return f"mfdeq.LinearConstraint({code}, totals)"


def _single_constraint(unknowns: list[int], null: tuple[Array, Array]) -> str:
    """Return the code of the constraint that fixes one null vector."""
    right, left = (array_on_host(x) for x in null)
    n = right.shape[0]
    if _constant(right[unknowns]):
        ones = f"np.ones({n})" if len(unknowns) == n else f"np.isin(np.arange({n}), {unknowns})"
        ones = ones if len(unknowns) in (n, *range(MAX_SHOWN)) else "error.right"
        return f"mfdeq.LinearConstraint({ones}, total)"
    conserved = abs(left @ right) > CONSERVED_SHARE  # both are of unit length
    weights = "error.left" if conserved else "error.right"
    if conserved and _constant(left[_dominating(left, STRUCTURAL_SHARE)]):
        members = _dominating(left, STRUCTURAL_SHARE)
        if len(members) == n:
            weights = f"np.ones({n})"
        elif len(members) < MAX_SHOWN:
            weights = f"np.isin(np.arange({n}), {members})"
    return f"mfdeq.LinearConstraint({weights}, total)"


def _message(
    kind: str,
    names: tuple[str, str],
    counts: tuple[int, int],
    empty_rows: bool,
    start_name: str,
) -> str:
    """Return what is singular, and what to do."""
    unknowns, equations = names
    is_or_are = "is" if counts[0] == 1 else "are"
    dependent = (
        f"{equations} contain{'s' if counts[1] == 1 else ''} no unknown"
        if empty_rows
        else f"{equations} depend on each other"
    )
    if kind == UNUSED:
        return (
            f"{unknowns} {is_or_are} in no equation, which leaves {_it(counts[0])} undetermined "
            f"(and {dependent}). Remove the unknown, or add an equation that determines it"
        )
    if kind == FREE:
        return (
            f"a constant that is added to {unknowns} changes no equation, which leaves it "
            f"undetermined (and {dependent}). Give one of these unknowns its value in place of one "
            "of these equations, or fix their sum"
        )
    if kind == DEPENDENT:
        return (
            f"{dependent}, at states nearby as well, which leaves {unknowns} undetermined. If the "
            "equations contradict each other, as loads do that do not balance, there is no "
            "solution. Otherwise replace one of them by a condition that fixes the state, a "
            "conserved total, a normalization or a boundary value"
        )
    if kind == FOLD:
        return (
            f"the state is at a fold, where the branch of equilibria turns around "
            f"(null vector in {unknowns}; {equations}). Move the parameters away from the fold, or "
            "pass it with mfdeq.follow"
        )
    undetermined = f"though not at others, {unknowns} {is_or_are} undetermined ({dependent})"
    if start_name:
        return (
            f"at {start_name}, {undetermined}. Pass an h0, or an initial_state to the model, where "
            "the equations determine the state, such as typical values of the unknowns"
        )
    return (
        f"at this iterate, {undetermined}. Use a better start h0: start where the equations "
        "determine the state. There may also be no solution for these parameters"
    )


def _it(count: int) -> str:
    return "it" if count == 1 else "them"


def digits_of(null: NullVectors) -> float:
    """Return the digits that a solution of A x = b has, at most 0, from the null vectors."""
    eps = null.A.backend.eps
    return min(math.log10(max(null.cancellation, 0.1 * eps) / eps), 0.0)
