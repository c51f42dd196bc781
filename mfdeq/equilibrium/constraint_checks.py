"""Whether the constraints of a model are independent, and fix what its equations leave open."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..errors import ArgumentError
from ..models.constrained import ConstrainedModel
from ..models.problem import Problem
from .constrained_starts import dense_on_host, perturbed, sizes_of
from .naming import listed, names_of
from .null_spaces import NullSpaces

RANK_RTOL = 1e-10  # of rows of unit length that depend on each other
MIN_FIXED = 1e-8  # of a null vector of unit length, in constraints of unit length


def checked_constraints(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces | None
) -> Any:
    """Return C, or raise `ArgumentError` if its rows depend on each other or leave a vector free.

    Those of nonlinear constraints may do so at the start alone, so they must at another state, too.
    """
    C = dense_on_host(model.constraints.d_state(state, problem.theta))
    error = _constraint_error(problem, model, state, C, spaces)
    if error is not None and not model.constraints.is_linear:
        state = perturbed(problem, state)
        C = dense_on_host(model.constraints.d_state(state, problem.theta))
        error = _constraint_error(problem, model, state, C, spaces)
    if error is not None:
        raise error
    return C


def _constraint_error(
    problem: Problem, model: ConstrainedModel, state: Array, C: Any, spaces: NullSpaces | None
) -> ArgumentError | None:
    columns = host.ones(C.shape[1]) if spaces is None else spaces.columns
    scaled = C * columns
    lengths = host.linalg.norm(scaled, axis=1)
    if (lengths == 0.0).any():
        k = int(lengths.argmin())
        return ArgumentError(
            f"constraints: expected each to depend on the state, got constraint {k}, whose "
            "derivative with respect to the state is zero"
        )
    scaled = scaled / lengths[:, None]
    u, sigma, _ = host.linalg.svd(scaled, full_matrices=False)
    if sigma[-1] <= RANK_RTOL:
        weights = u[:, -1] / lengths
        members = [int(k) for k in host.flatnonzero(abs(u[:, -1]) > 1e-6)]
        c = array_on_host(model.constraints.value(state, problem.theta)).astype("float64")
        names = " and ".join(f"constraint {k}" for k in members)
        disagree = abs(weights @ c) > 1e-8 * (abs(weights) @ (abs(C) @ sizes_of(problem, state)))
        return ArgumentError(
            f"constraints: {names} {'contradict' if disagree else 'repeat'} each other: their "
            "derivatives with respect to the state depend on each other. Pass independent ones"
        )
    if spaces is None or spaces.right.shape[1] == 0:
        return None
    missing = unfixed(problem, model, state, spaces)
    if missing and spaces.dimension <= C.shape[0]:
        return ArgumentError(
            "constraints: expected constraints that fix what the equations leave open, got "
            f"{_counted(C.shape[0])} that {'does' if C.shape[0] == 1 else 'do'} not fix "
            f"{listed(missing)}"
        )
    return None


def _counted(count: int) -> str:
    return "1 constraint" if count == 1 else f"{count} constraints"


def unfixed(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces
) -> list[str]:
    """Name the groups of unknowns that the equations and the constraints leave open."""
    C = dense_on_host(model.constraints.d_state(state, problem.theta))
    scaled = C * spaces.columns
    lengths = host.linalg.norm(scaled, axis=1)
    scaled = scaled / host.where(lengths > 0.0, lengths, 1.0)[:, None]
    null = host.linalg.qr(spaces.right / spaces.columns[:, None])[0]
    _, sigma, v = host.linalg.svd(scaled @ null, full_matrices=True)
    rank = int((sigma > MIN_FIXED).sum())
    free = null @ v[rank:].T  # combinations of null vectors that no constraint sees
    texts, seen = [], abs(free).max(axis=1, initial=0.0)
    for label in dict.fromkeys(spaces.column_labels[seen > MIN_FIXED]):
        inside = host.flatnonzero((spaces.column_labels == label) & (seen > MIN_FIXED))
        names = names_of(problem.unknown_name, [int(j) for j in inside])
        missing = int((host.linalg.svd(free[inside], compute_uv=False) > MIN_FIXED).sum())
        texts.append(names if missing == 1 else f"{names} ({missing} constraints)")
    return texts
