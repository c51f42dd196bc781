"""Which equations of a constrained model are redundant.

`prepare` is called at the start of a solve. The first one finds the redundant equations, checks the
constraints against the null vectors of A, and decides what takes the place of the equations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..arrays.backend import Array, host
from ..errors import ArgumentError, SingularStateError
from ..locks import lock_of
from ..models.checked_linearization import CheckedLinearization
from ..models.constrained import ConstrainedModel
from ..models.elimination import Elimination
from ..models.problem import Problem
from .constrained_starts import perturbed, projected
from .constraint_checks import MIN_FIXED, checked_constraints, unfixed
from .eliminations import eliminate, rate_of
from .naming import describe_combinations, listed
from .null_spaces import NullSpaces, find_null_spaces
from .null_vectors import MAX_FACTORIZED_SIZE


def prepare(problem: Problem, model: ConstrainedModel, start: Array, project: bool) -> Array:
    """Prepare a constrained model for a solve, and return the start projected onto constraints.

    Parameters
    ----------
    problem : Problem
    model : ConstrainedModel
        Its model.
    start : (N,) array
    project : bool
        Whether to return a start that satisfies linear constraints.

    Raises
    ------
    ArgumentError, SingularStateError
        If the constraints do not fit the redundant equations.
    """
    model.forget()
    if project:
        start = projected(problem, model, start)
    with lock_of(model):
        if model.elimination is None:
            model.elimination = _eliminate(problem, model, start)
    return start


def describe_redundant(problem: Problem, basis: Any) -> list[str]:
    """Say of each redundant combination which equations of the user's model it consists of."""
    of = getattr(problem.model, "of", problem.model)
    return describe_combinations(Problem(of, problem.theta).equation_name, basis)


def _eliminate(problem: Problem, model: ConstrainedModel, start: Array) -> Elimination:
    theta = problem.theta
    base = model.base(theta)
    size = model.constraints.value(start, theta).shape[0]
    given = model.redundant
    if given is not None and given.shape[1] != size:
        raise ArgumentError(
            f"redundant: expected a column for each of the {size} constraints, got "
            f"{given.shape[1]}: as many combinations of equations must vanish as there are "
            "constraints"
        )
    state, linearized, spaces = start, base.linearize(start), None

    # At the start, which may be zero, A may have other zeros and null vectors as well.
    def spaces_of(at: CheckedLinearization) -> tuple[CheckedLinearization, NullSpaces | None]:
        accuracy = at.linearization.state_accuracy
        return at, find_null_spaces(at.A, size, accuracy, factorize=given is None)

    for trial in (perturbed(problem, start), start):
        there = base.evaluate_nearby(trial, spaces_of)
        if there is None:
            continue
        at, found = there
        if spaces is None:
            state, linearized = trial, at
        if found is None:
            break
        if spaces is None or found.dimension == size:
            state, linearized, spaces = trial, at, found
        if spaces.dimension == size:
            break
    if given is None:
        basis = _detected(problem, model, state, spaces, size)
    else:
        basis = given
        if spaces is not None and spaces.dimension == size:
            _check_overlap(basis, spaces)
    C = checked_constraints(problem, model, state, spaces)
    rate = model.stable_sign * (1.0 if linearized.is_map else rate_of(linearized.A))
    elimination = eliminate(linearized.A, basis, C, spaces, rate)
    return replace(elimination, spread=model.imbalance_rtol is not None)


def _detected(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces | None, size: int
) -> Any:
    """Return the left null vectors, as many as there are constraints."""
    if spaces is None:
        form = "an (N, m) array with a column for each combination of equations that vanishes"
        if problem.backend.library.distributed:
            form = (
                "a list with a Vec for each combination of equations that vanishes, or set the "
                "null spaces of d_state by its setTransposeNullSpace and setNullSpace"
            )
        why = (
            f"it has more than {MAX_FACTORIZED_SIZE} unknowns and constants are not redundant"
            if problem.state_size > MAX_FACTORIZED_SIZE
            else "it is known by its products only, has too few digits, or was not factorized"
        )
        raise ArgumentError(
            f"redundant: which of the {problem.state_size} equations are redundant could not be "
            f"detected from A: {why}. Pass redundant=, {form}"
        )
    found = spaces.dimension
    if found > size:
        missing = unfixed(problem, model, state, spaces)
        redundant = listed(describe_redundant(problem, spaces.left))
        raise SingularStateError(
            f"{found} combinations of equations vanish ({redundant}), but there "
            f"{_are(size, 'constraint')}. Add one for each group of unknowns that is not fixed: "
            f"{listed(missing)}",
            kind="dependent equations",
            equations=[int(i) for i in host.flatnonzero(abs(spaces.left).max(axis=1))],
            unknowns=[int(i) for i in host.flatnonzero(abs(spaces.right).max(axis=1))],
            left=spaces.left,
            right=spaces.right,
        )
    if found < size:
        redundant = listed(describe_redundant(problem, spaces.left)) or "A is regular"
        raise ArgumentError(
            f"constraints: expected as many as there are combinations of equations that vanish, "
            f"{found} ({redundant}), got {size}: leave out the constraints that are not needed"
        )
    return spaces.left


def _check_overlap(basis: Any, spaces: NullSpaces) -> None:
    """Raise `ArgumentError` unless a given basis can take the place of the left null vectors."""
    orthonormal = (host.linalg.qr(x / spaces.rows[:, None])[0] for x in (basis, spaces.left))
    q, left = orthonormal
    if host.linalg.svd(left.T @ q, compute_uv=False)[-1] < MIN_FIXED:
        raise ArgumentError(
            "redundant: expected combinations of equations that vanish, with W'A = 0, got others: "
            'pass the left null vectors of A, or redundant="detect" to find them'
        )


def _are(count: int, noun: str) -> str:
    return f"is 1 {noun}" if count == 1 else f"are {count} {noun}s"
