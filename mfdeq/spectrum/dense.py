"""Eigenpairs of a small operator from its dense matrix."""

from __future__ import annotations

from ..arrays.backend import Array, array_on_host, host
from ..errors import ArgumentError
from ..operators.library_operator import MAX_DENSE_ENTRIES
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs, pairs_from_vectors
from .lanczos import select_wanted
from .problem import EigenMethod, EigenProblem


def dense_eigenvectors(H: CountedOperator, k: int, which: str) -> tuple[Array, float]:
    """Return the k wanted eigenvectors, (P, k), and the largest magnitude of an eigenvalue."""
    P = H.H.shape[0]
    if P * P > MAX_DENSE_ENTRIES:
        raise ArgumentError(
            f"k: expected at most P - 2 = {P - 2}, got {k}, for which H must be a dense matrix of "
            f"more than {MAX_DENSE_ENTRIES} entries"
        )
    eye = H.backend.eye(P, P)
    dense, solve = array_on_host(H(eye)), host.linalg.solve
    if not H.metric.is_identity:  # L^-1 H L^-T, M = L L', both in units in which M has ones
        M = array_on_host(H.metric.apply(eye))
        units = host.sqrt(host.diagonal(M))
        L = host.linalg.cholesky(M / units[:, None] / units)
        dense = solve(L, solve(L, dense / units[:, None] / units).T)
    values, vectors = host.linalg.eigh(0.5 * (dense + dense.T))
    if not H.metric.is_identity:
        vectors = solve(L.T, vectors) / units[:, None]
    vectors = vectors[:, select_wanted(values, k, which)]
    return H.backend.from_host(vectors, eye.shape[0]), float(abs(values).max())


def _solve(problem: EigenProblem) -> Eigenpairs:
    vectors, norm = dense_eigenvectors(problem.H, problem.k, problem.which)
    pairs = pairs_from_vectors(problem.H, vectors, norm, DENSE.name)
    pairs.report.miss_chance = pairs.report.miss_gap = 0.0
    return pairs


DENSE = EigenMethod("dense", lambda problem: problem.dense, _solve)
