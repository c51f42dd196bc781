"""Which equations of a constrained model are redundant, and whether its constraints fix the rest.

`bind` is called at the start of a solve. The first one finds the redundant equations, checks the
constraints against the null vectors of A, and decides what takes the place of the equations.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array, array_on_host, host, is_sparse
from ..errors import ArgumentError, SingularStateError
from ..locks import lock_of
from ..models.constrained import ConstrainedModel
from ..models.constrained_linearization import ConstrainedLinearization
from ..models.elimination import Elimination
from ..models.problem import CheckedLinearization, Problem
from ..operators.operator import Matrix, Operator, Product
from .naming import describe_combinations, names_of
from .null_spaces import NullSpaces, find_null_spaces, pivotal_rows
from .null_vectors import (
    MAX_CANCELLATION_ROUNDINGS,
    MAX_DECOMPOSED_SIZE,
    cancellation,
    scaling_of,
)

PERTURBATION = 0.1  # of the start, relative to the size of each unknown
RANK_RTOL = 1e-10  # of rows of unit length that depend on each other
MIN_FIXED = 1e-8  # of a null vector of unit length, in constraints of unit length
ZERO_ROUNDINGS = 100.0  # of an unknown beside others, which is zero
PROJECTION_ROUNDINGS = 100.0  # of a constraint that the start satisfies
STABLE_RATE = 4.0  # relative to A, of the eigenvalues that take the place of zeros
MIN_PINNED = 0.1  # singular value of typical entries of null vectors, which a symmetric A keeps
MAX_PAIRED_CONDITION = 1e3  # of C U, for constraints that are conserved totals


def bind(problem: Problem, start: Array, project: bool = True) -> Array:
    """Prepare a constrained model for a solve, and return the start projected onto constraints.

    Any other model is left alone.

    Parameters
    ----------
    problem : Problem
    start : (N,) array
    project : bool, optional
        Whether to return a start that satisfies linear constraints.

    Raises
    ------
    ArgumentError, SingularStateError
        If the constraints do not fit the redundant equations.
    """
    model = problem.model
    distributed = isinstance(getattr(model, "of", None), ConstrainedModel)
    if not isinstance(model, ConstrainedModel) and not distributed:
        return start
    if distributed or problem.backend.library.default_solver() is not None:
        raise ArgumentError(
            "mfdeq.constrain: expected a model for arrays of numpy or cupy, got one for "
            f"{problem.backend.library_name}: write the constraint in place of one of the equations"
        )
    assert isinstance(model, ConstrainedModel)
    model.forget()
    if project:
        start = _projected(problem, model, start)
    with lock_of(model):
        if model.elimination is None:
            model.elimination = _eliminate(problem, model, start)
    return start


def dynamics_of(linearized: CheckedLinearization) -> Operator:
    """Return an operator with the eigenvalues of A that say whether an equilibrium is stable.

    It is A but for a constrained model, whose A has a zero eigenvalue for each quantity that dh/dt
    conserves. With the left null vectors W and W'U = I, those of A + rate U W' are the others, and
    the rate, which counts as stable, in place of each zero.

    Raises
    ------
    ArgumentError
        If the conserved quantities depend on the state, and A is too large to be decomposed.
    """
    linearization = linearized.linearization
    if not isinstance(linearization, ConstrainedLinearization):
        return linearized.A
    base, projection = linearization.base, linearization.projection
    A, W = base.A, array_on_host(projection.basis).astype("float64")
    limit = max(MAX_CANCELLATION_ROUNDINGS * A.backend.eps, 10.0 * linearization.state_accuracy)
    if max(null_defects(A, projection.basis)) > limit:
        found = find_null_spaces(A, W.shape[1], linearization.state_accuracy)
        if found is None or found.dimension != W.shape[1]:
            raise ArgumentError(
                "eigenvalues: expected conserved quantities that do not depend on the state, or at "
                f"most {MAX_DECOMPOSED_SIZE} unknowns, got {A.shape[0]}: pass eigenvalues=0"
            )
        W = found.left
    columns = array_on_host(projection.columns).astype("float64")
    dual = W @ host.linalg.inv(columns.T @ W)
    rate = linearization.stable_sign * STABLE_RATE * _rate(A)
    backend = A.backend
    if is_sparse(A.array):
        update = backend.sparse.csr_matrix(
            backend.sparse.csr_matrix(backend.from_host(columns))
            @ backend.sparse.csr_matrix(backend.from_host(rate * dual.T))
        )
        return Matrix(backend, (A.array + update).tocsr())
    U, L = (backend.from_host(x, A.shape[0]) for x in (columns, rate * dual))
    if A.array is not None:
        return Matrix(backend, A.array + U @ L.T)
    return A + Product(Matrix(backend, U), Matrix(backend, L).H)  # type: ignore[attr-defined]


def null_defects(A: Operator, W: Array) -> list[float]:
    """Return |A'w| / |A|'|w| of each column w."""
    scaling = scaling_of(A)
    return [cancellation(A, W[:, k], scaling, True) for k in range(W.shape[1])]


def describe_redundant(problem: Problem, basis: Any) -> list[str]:
    """Say of each redundant combination which equations of the user's model it consists of."""
    of = getattr(problem.model, "of", problem.model)
    return describe_combinations(Problem(of, problem.theta).equation_name, basis)


# The start.


def _projected(problem: Problem, model: ConstrainedModel, h: Array) -> Array:
    """Return the nearest state that satisfies the linear constraints, in the sizes of unknowns."""
    backend, theta = problem.backend, problem.theta
    linear = [part for part in model.constraints.parts if part.is_linear]
    if not linear:
        return h
    rows, values = [], []
    for part in linear:
        C, c = part.d_state(h, theta), part.value(h, theta)
        rows.append(_dense_on_host(C))
        values.append(array_on_host(c).astype("float64"))
    C, c = host.concatenate(rows), host.concatenate(values)
    size = _sizes(problem, h)
    terms = abs(C) @ array_on_host(backend.xp.abs(h)) + abs(c)
    if (abs(c) <= PROJECTION_ROUNDINGS * backend.eps * terms).all():
        return h
    weighted = C * size
    step = size * host.linalg.lstsq(weighted, c, rcond=None)[0]
    projected = h - backend.from_host(step, h.shape[0])
    return projected if backend.all(problem.inside(projected)) else h


def _sizes(problem: Problem, h: Array) -> Any:
    """Return the sizes of unknowns, (N,), on the host: their own, or else those of the others."""
    scale = problem.state_scale()
    size = array_on_host(problem.backend.xp.abs(h if scale is None else scale)).astype("float64")
    typical = float(size.mean())
    rounding = ZERO_ROUNDINGS * problem.backend.eps * typical
    return host.where(size > rounding, size, typical if typical > 0.0 else 1.0)


def _perturbed(problem: Problem, h: Array) -> Array:
    """Return a state without the symmetries and zeros of the start."""
    backend = problem.backend
    step = PERTURBATION * array_on_host(backend.xp.abs(backend.random(h.shape[0], seed=37)))
    return h + backend.from_host(step * _sizes(problem, h), h.shape[0])


# Redundant equations.


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
    for trial in (_perturbed(problem, start), start):
        there = base.linearize_trial(trial)
        if there is None:
            continue
        if spaces is None:
            state, linearized = trial, there
        accuracy = there.linearization.state_accuracy
        found = find_null_spaces(there.A, size, accuracy, factorize=given is None)
        if found is None:
            break
        if spaces is None or found.dimension == size:
            state, linearized, spaces = trial, there, found
        if spaces.dimension == size:
            break
    if given is None:
        basis = _detected(problem, model, state, spaces, size)
    else:
        basis = given
        if spaces is not None and spaces.dimension == size:
            _check_overlap(basis, spaces)
    C = _checked_constraints(problem, model, state, spaces)
    elimination = _elimination(linearized, basis, C, spaces, model.stable_sign)
    return replace(elimination, spread=model.imbalance_rtol is not None)


def _detected(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces | None, size: int
) -> Any:
    """Return the left null vectors, as many as there are constraints."""
    if spaces is None:
        raise ArgumentError(
            f"redundant: which of the {problem.state_size} equations are redundant could not be "
            "detected, since A is known by its products only or is too large: pass redundant=, an "
            "(N, m) array with a column for each combination of equations that vanishes"
        )
    found = spaces.dimension
    if found > size:
        missing = _unfixed(problem, model, state, spaces)
        redundant = "; ".join(describe_redundant(problem, spaces.left))
        raise SingularStateError(
            f"{found} combinations of equations vanish ({redundant}), but there "
            f"{_are(size, 'constraint')}. Add one for each group of unknowns that is not fixed: "
            f"{'; '.join(missing)}",
            kind="dependent equations",
            equations=[int(i) for i in host.flatnonzero(abs(spaces.left).max(axis=1))],
            unknowns=[int(i) for i in host.flatnonzero(abs(spaces.right).max(axis=1))],
            left=spaces.left,
            right=spaces.right,
        )
    if found < size:
        redundant = "; ".join(describe_redundant(problem, spaces.left)) or "A is regular"
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


# Constraints.


def _checked_constraints(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces | None
) -> Any:
    """Return C, or raise `ArgumentError` if its rows depend on each other or leave a vector free.

    Those of nonlinear constraints may do so at the start alone, so they must at another state, too.
    """
    C = _dense_on_host(model.constraints.d_state(state, problem.theta))
    error = _constraint_error(problem, model, state, C, spaces)
    if error is not None and not model.constraints.is_linear:
        state = _perturbed(problem, state)
        C = _dense_on_host(model.constraints.d_state(state, problem.theta))
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
        disagree = abs(weights @ c) > 1e-8 * (abs(weights) @ (abs(C) @ _sizes(problem, state)))
        return ArgumentError(
            f"constraints: {names} {'contradict' if disagree else 'repeat'} each other: their "
            "derivatives with respect to the state depend on each other. Pass independent ones"
        )
    if spaces is None or spaces.right.shape[1] == 0:
        return None
    missing = _unfixed(problem, model, state, spaces)
    if missing and spaces.dimension <= C.shape[0]:
        return ArgumentError(
            "constraints: expected constraints that fix what the equations leave open, got "
            f"{_counted(C.shape[0])} that {'does' if C.shape[0] == 1 else 'do'} not fix "
            f"{'; '.join(missing)}"
        )
    return None


def _counted(count: int) -> str:
    return "1 constraint" if count == 1 else f"{count} constraints"


def _unfixed(
    problem: Problem, model: ConstrainedModel, state: Array, spaces: NullSpaces
) -> list[str]:
    """Name the groups of unknowns that the equations and the constraints leave open."""
    C = _dense_on_host(model.constraints.d_state(state, problem.theta))
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


# What takes the place of redundant equations.


def _elimination(
    linearized: CheckedLinearization, basis: Any, C: Any, spaces: NullSpaces | None, sign: int
) -> Elimination:
    A, (n, m) = linearized.A, basis.shape
    scaling = scaling_of(A)
    sizes = host.ones(n)  # of equations
    if scaling.rows is not None:
        sizes = 1.0 / array_on_host(scaling.rows).astype("float64")
    units = host.ones(n)  # of unknowns
    if scaling.columns is not None:
        units = array_on_host(scaling.columns).astype("float64")
    lengths = host.linalg.norm(C * units, axis=1)
    if is_sparse(A.array):
        rows = pivotal_rows(basis, 1.0 / sizes)
        columns = host.zeros((n, m))
        columns[rows, host.arange(m)] = 1.0
        row_sizes = array_on_host(A.abs_apply(A.backend.from_host(units, n)))[rows]
        gains = host.where(row_sizes > 0.0, row_sizes, 1.0) / lengths
        known = spaces is not None and spaces.right.shape[1] == m
        right = spaces.right if spaces is not None and known else None
        pins = _pins(rows, spaces)
        return Elimination(basis, columns, columns, host.diag(gains), rows, pins, right)
    q = host.linalg.qr(sizes[:, None] * basis)[0]
    columns, dual = sizes[:, None] * q, q / sizes[:, None]
    gains = host.diag(1.0 / lengths)
    if (sizes == 1.0).all() and (units == 1.0).all():
        # One unit for all: conserved totals then decay at the rate of the model, and a map keeps
        # those of the start.
        paired = C @ columns
        if host.linalg.cond(paired) <= MAX_PAIRED_CONDITION:
            rate = 1.0 if linearized.is_map else _rate(A)
            gains = sign * rate * host.linalg.inv(paired)
    return Elimination(basis, columns, dual, gains)


def _pins(rows: list[int], spaces: NullSpaces | None) -> list[int]:
    """Return unknowns in which the null vectors of A are independent: those of the rows if so."""
    if spaces is None or spaces.right.shape[1] != len(rows):
        return rows
    scaled = spaces.right / spaces.columns[:, None]
    scaled = scaled / host.linalg.norm(scaled, axis=0) * math.sqrt(scaled.shape[0])
    independent = host.linalg.svd(scaled[rows], compute_uv=False)[-1] > MIN_PINNED
    return rows if independent else pivotal_rows(scaled, host.ones(scaled.shape[0]))


def _rate(A: Any) -> float:
    """Return the root mean square of the norms of the columns of A, to a power of two."""
    x = A.backend.random(A.shape[1], seed=43)
    size = A.backend.norm(A._apply(x)) / A.backend.norm(x)
    return 2.0 ** round(math.log2(size)) if size > 0.0 else 1.0


def _dense_on_host(matrix: Any) -> Any:
    dense = matrix.toarray() if is_sparse(matrix) else matrix
    return array_on_host(dense).astype("float64")
