"""Starts of constrained models: projected onto linear constraints, or without their symmetries."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host, is_sparse
from ..models.constrained import ConstrainedModel
from ..models.problem import Problem

PERTURBATION = 0.1  # of the start, relative to the size of each unknown
ZERO_ROUNDINGS = 100.0  # of an unknown beside others, which is zero
PROJECTION_ROUNDINGS = 100.0  # of a constraint that the start satisfies


def projected(problem: Problem, model: ConstrainedModel, h: Array) -> Array:
    """Return the nearest state that satisfies the linear constraints, in the sizes of unknowns."""
    backend, theta = problem.backend, problem.theta
    linear = [part for part in model.constraints.parts if part.is_linear]
    if not linear:
        return h
    rows, values = [], []
    for part in linear:
        C, c = part.d_state(h, theta), part.value(h, theta)
        rows.append(dense_on_host(C))
        values.append(array_on_host(c).astype("float64"))
    C, c = host.concatenate(rows), host.concatenate(values)
    size = sizes_of(problem, h)
    terms = abs(C) @ array_on_host(backend.xp.abs(h)) + abs(c)
    if (abs(c) <= PROJECTION_ROUNDINGS * backend.eps * terms).all():
        return h
    weighted = C * size
    step = size * host.linalg.lstsq(weighted, c, rcond=None)[0]
    projected = h - backend.from_host(step, h.shape[0])
    return projected if backend.all(problem.inside(projected)) else h


def sizes_of(problem: Problem, h: Array) -> Any:
    """Return the sizes of unknowns, (N,), on the host: their own, or else those of the others."""
    scale = problem.state_scale()
    size = array_on_host(problem.backend.xp.abs(h if scale is None else scale)).astype("float64")
    typical = float(size.mean())
    rounding = ZERO_ROUNDINGS * problem.backend.eps * typical
    return host.where(size > rounding, size, typical if typical > 0.0 else 1.0)


def perturbed(problem: Problem, h: Array) -> Array:
    """Return a state without the symmetries and zeros of the start."""
    backend = problem.backend
    step = PERTURBATION * array_on_host(backend.xp.abs(backend.random(h.shape[0], seed=37)))
    return h + backend.from_host(step * sizes_of(problem, h), h.shape[0])


def dense_on_host(matrix: Any) -> Any:
    """Return a matrix as a dense numpy array of float64."""
    dense = matrix.toarray() if is_sparse(matrix) else matrix
    return array_on_host(dense).astype("float64")
