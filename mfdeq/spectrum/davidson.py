"""The smallest eigenpairs with a preconditioner, by Davidson's method.

The space V is extended by M r, the preconditioned residuals of the Ritz pairs that have not yet
converged, for the Rayleigh-Ritz method with V'HV. A restart keeps the best Ritz vectors and those
of the previous step (GD+k), similar to the previous direction of conjugate gradients.

References
----------
E. R. Davidson, "The iterative calculation of a few of the lowest eigenvalues and corresponding
eigenvectors of large real-symmetric matrices", 1975. R. B. Morgan and D. S. Scott, "Generalizations
of Davidson's method for computing eigenvalues of sparse symmetric matrices", 1986. A. Stathopoulos
and Y. Saad, "Restarting techniques for the (Jacobi-)Davidson symmetric eigenvalue methods", 1998.
A. Stathopoulos, "Nearly optimal preconditioned methods for Hermitian eigenproblems under limited
memory. Part I: Seeking one eigenvalue", 2007.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..arrays.powers_of_two import exponents_of, times_power
from ..errors import ConvergenceError
from ..linear.krylov.columns import orthonormal
from ..operators.operator import Operator
from ..progress import share_of_decrease
from .checkpoint import EigenCheckpoint
from .completeness import (
    FIRST_SEED,
    probe_limit,
    record_search,
)
from .counted_operator import CountedOperator
from .eigenpairs import ROUNDING_FACTOR, Eigenpairs, orthonormalize, pairs_from_vectors
from .lanczos import select_wanted
from .lanczos_search import RECURRENCE_SHARE, SAME_PRODUCT_RTOL
from .pencil_probe import PencilProbe
from .problem import EigenMethod, EigenProblem
from .schur_complement import Complement, UnwantedPairs, smallest_distance
from .sides import Side, wanted_sides

EXTRA_RITZ_VECTORS = 4  # kept at a restart in addition to the wanted ones
RANDOM_SEED = 40_000
NEW_DIRECTION_RTOL = 1e-8  # vectors with a smaller independent part, relatively, are dropped


class Davidson:
    """A search space with an R-orthonormal basis V, its duals R V, and H V.

    Parameters
    ----------
    H : CountedOperator
    M : Operator
        An approximation of (H - mu R)^-1 for the wanted mu, symmetric and positive definite.
    start : (n, b) array
    k : int
    max_size : int
        The largest number of vectors in V.

    Attributes
    ----------
    values, residuals : (k,) host arrays
        Ritz values of the wanted pairs, ascending, and their residuals.
    norm : float
        The largest magnitude of a Ritz value so far.
    """

    def __init__(
        self, H: CountedOperator, M: Operator, start: Array, k: int, max_size: int
    ) -> None:
        self.H, self.M, self.k, self.max_size = H, M, k, max_size
        self.norm = 0.0
        self.V, self.dual = orthonormalize(H.metric, start)
        self.HV = H(self.V)
        self.previous: Any = None  # coefficients in V of the previous wanted Ritz vectors
        self._compute_ritz_pairs()

    def _compute_ritz_pairs(self) -> None:
        small = array_on_host(self.V.T @ self.HV)
        values, self.Y = host.linalg.eigh(0.5 * (small + small.T))
        self.ritz_values = values
        self.norm = max(self.norm, float(abs(values).max()))
        wanted = select_wanted(values, min(self.k, values.shape[0]), "SA")
        self.values, self.wanted = values[wanted], self.Y[:, wanted]
        backend = self.H.backend
        Y = backend.coefficients(self.wanted)
        self.residual_vectors = self.HV @ Y - (self.dual @ Y) * backend.coefficients(self.values)
        self.residuals = array_on_host(self.H.metric.dual_norms(self.residual_vectors))

    @property
    def checkpoint_state(self) -> dict[str, Any]:
        """The vectors and numbers, for a checkpoint."""
        dual = None if self.H.metric.is_identity else self.dual
        return {
            "V": self.V,
            "HV": self.HV,
            "dual": dual,
            "previous": self.previous,
            "norm": self.norm,
            "exponent": self.H.exponent,
        }

    @classmethod
    def from_checkpoint(
        cls, H: CountedOperator, M: Operator, k: int, max_size: int, checkpoint: EigenCheckpoint
    ) -> Davidson:
        """Restore a search from the `checkpoint_state` in a checkpoint."""
        self, to_device, state = cls.__new__(cls), H.backend.from_host, checkpoint.search
        assert state is not None
        self.H, self.M, self.k, self.max_size = H, M, k, max_size
        with checkpoint.decoding():
            self.previous, self.norm = state["previous"], state["norm"]
            H.exponent = state["exponent"]
            self.V, self.HV = to_device(state["V"]), to_device(state["HV"])
            self.dual = self.V if state["dual"] is None else to_device(state["dual"])
            self._compute_ritz_pairs()
        first = self.V[:, :1]
        off = H.metric.dual_norms(H.product(first) - self.HV[:, :1])
        off = off + self.norm * H.metric.dual_norms(H.metric.apply(first) - self.dual[:, :1])
        tol = SAME_PRODUCT_RTOL * self.norm
        checkpoint.restore_operators(H, float(array_on_host(off)[0]), tol)
        return self

    @property
    def vectors(self) -> Array:
        """The wanted Ritz vectors."""
        return self.V @ self.H.backend.coefficients(self.wanted)

    def extend(self, tol: float, width: int) -> bool:
        """Append the preconditioned residuals of the first `width` pairs above the tolerance.

        Return whether V has been extended; it is not if they are in V already.
        """
        backend = self.H.backend
        unconverged = host.nonzero(self.residuals > tol)[0][:width]
        which = backend.xp.asarray(unconverged, dtype=backend.xp.int64, device=backend.device)
        if self.V.shape[1] + unconverged.shape[0] > self.max_size:
            self.restart()
        t = self.M._apply(backend.xp.take(self.residual_vectors, which, axis=1))
        t = times_power(backend, t, exponents_of(backend, t))
        t = t / backend.column_norms(t)
        return self.append(t)

    def append(self, t: Array) -> bool:
        """Append vectors to V, which has room, and return whether they are not in V already."""
        backend, metric = self.H.backend, self.H.metric
        for _ in range(2):
            t = t - self.V @ (self.dual.T @ t)
        t, _ = orthonormal(backend, t)
        if t.shape[1] == 0:
            return False
        t, dual = orthonormalize(metric, t)
        concat = backend.xp.concat
        product = self.H(t)
        self.previous = host.concatenate(
            [self.wanted, host.zeros((t.shape[1], self.wanted.shape[1]))]
        )
        self.V, self.dual = concat([self.V, t], axis=1), concat([self.dual, dual], axis=1)
        self.HV = concat([self.HV, product], axis=1)
        self._compute_ritz_pairs()
        return True

    def include(self, vectors: Array, attempt: int) -> None:
        """Append vectors near missing eigenvectors; at later attempts with random ones.

        Further attempts mean that there are many copies.
        """
        backend, room = self.H.backend, max(1, self.max_size // 4)
        vectors = vectors[:, :room]
        if (columns := min(2**attempt, room) - vectors.shape[1]) > 0:
            random = backend.random(vectors.shape[0], columns, seed=RANDOM_SEED + attempt)
            random = self.M._apply(random)
            random = times_power(backend, random, exponents_of(backend, random))
            vectors = backend.xp.concat([vectors, random], axis=1)
        if self.V.shape[1] + vectors.shape[1] > self.max_size:
            self.restart()
        self.append(vectors / backend.column_norms(vectors))

    def complement(self, pairs: Eigenpairs, side: Side, tolerance: float, room: int) -> Complement:
        """Return the complement of the pairs and of at most `room` unwanted Ritz vectors."""
        k, backend, end = self.wanted.shape[1], self.H.backend, side.end(tolerance)
        unwanted = host.nonzero(self.ritz_values > -end)[0]
        unwanted = unwanted[unwanted >= k]
        values, Y = self.ritz_values[unwanted], backend.coefficients(self.Y[:, unwanted])
        off = self.HV @ Y - (self.dual @ Y) * backend.coefficients(values)
        lengths = array_on_host(self.H.metric.dual_norms(off))
        none = host.zeros((0, unwanted.shape[0]))
        others = UnwantedPairs([side], [end], values, none, lengths)
        chosen, _ = others.choose(room)
        more = self.V @ backend.coefficients(self.Y[:, unwanted[chosen]])
        known = (array_on_host(x) for x in (pairs.values, pairs.report.residuals))
        return others.complement(chosen, backend.xp.concat([pairs.vectors, more], axis=1), *known)

    def restart(self) -> None:
        """Shrink V to the best Ritz vectors and the previous wanted ones."""
        best = self.Y[:, : min(self.k + EXTRA_RITZ_VECTORS, self.Y.shape[1])]
        if self.previous is not None:
            more = self.previous - best @ (best.T @ self.previous)
            sizes = host.linalg.norm(more, axis=0)
            new = sizes > NEW_DIRECTION_RTOL
            more = host.linalg.qr(more[:, new] / sizes[new])[0]
            best = host.linalg.qr(host.concatenate([best, more], axis=1))[0]
        Y = self.H.backend.coefficients(best)
        self.V, self.dual, self.HV = self.V @ Y, self.dual @ Y, self.HV @ Y
        self.wanted = best.T @ self.wanted
        self.Y, self.previous = best.T @ self.Y, None


def _solve(problem: EigenProblem) -> Eigenpairs:
    H, k, start, M = problem.H, problem.k, problem.start, problem.preconditioner
    assert M is not None
    width, backend = start.shape[1], H.backend
    if width < k:
        more = backend.random(start.shape[0], k - width, seed=17)
        start = backend.xp.concat([start, more], axis=1)
    max_size = max(problem.max_size, 3 * k + 2 * width)
    if problem.checkpoint.search is None:
        norm = H.estimate_norm(start[:, :1])  # those of the search may all be in a null space
        start = M._apply(start)
        start = times_power(backend, start, exponents_of(backend, start))
        search = Davidson(H, M, start, k, max_size)
        search.norm = max(search.norm, norm)
    else:
        search = Davidson.from_checkpoint(H, M, k, max_size, problem.checkpoint)
    pairs = _converge(problem, search, width)
    return _complete(problem, search, width, pairs) if problem.complete else pairs


def _converge(problem: EigenProblem, search: Davidson, width: int) -> Eigenpairs:
    """Extend the space until the wanted pairs have converged."""
    H = problem.H
    while True:
        floor = ROUNDING_FACTOR * H.backend.eps * search.norm
        scale = float(abs(search.values).max())
        tol = RECURRENCE_SHARE * max(problem.rtol * scale, floor)
        converged = search.residuals <= tol
        share = share_of_decrease(search.norm, float(search.residuals.max()), tol)
        H.show_progress(f"{int(converged.sum())} of {problem.k} pairs", share)
        if converged.all():
            return pairs_from_vectors(H, search.vectors, search.norm, DAVIDSON.name)
        if H.count >= problem.search_products or not search.extend(tol, width):
            raise _not_converged(problem, search, int(converged.sum()))
        problem.checkpoint.save_search(H.count, lambda: search.checkpoint_state)


def _complete(problem: EigenProblem, search: Davidson, width: int, pairs: Eigenpairs) -> Eigenpairs:
    """Return the wanted pairs after searches for others in their complement."""
    H, M = problem.H, problem.preconditioner
    assert M is not None
    begin, attempt, strict, last = H.count, 0, False, None
    if problem.checkpoint.completion:
        with problem.checkpoint.decoding():
            begin, attempt, strict, last = problem.checkpoint.completion["davidson"]
    while True:
        if last is not None and not float(search.values[-1]) < last:
            strict = True  # what was found was perhaps a copy of the last wanted eigenvalue
        values, bounds = (array_on_host(x) for x in (pairs.values, pairs.error_bounds))
        floor = ROUNDING_FACTOR * H.backend.eps * search.norm
        tolerance = max(problem.rtol * float(abs(values).max()), floor)
        side = wanted_sides(values, bounds, "SA")[0]
        residuals = array_on_host(pairs.report.residuals)
        tolerance = smallest_distance([side], values, residuals, tolerance)
        room = 0 if strict else (search.max_size - values.shape[0]) // 2
        complement = search.complement(pairs, side, tolerance, room)
        seed = FIRST_SEED + 2 * attempt
        H.show_progress(f"looking for others than the {values.shape[0]} pairs", 0.0)
        probe = PencilProbe(H, M, complement, side, tolerance, seed, problem.max_size)
        near = probe.search(min(H.count + probe_limit(begin), problem.max_products))
        if near is not None:
            search.include(near, attempt)
            attempt, last = attempt + 1, -side.end(tolerance)
            problem.checkpoint.completion = {"davidson": [begin, attempt, strict, last]}
            pairs = _converge(problem, search, width)
            if not strict or float(search.values[-1]) < last:
                continue
        H.show_progress(f"{pairs.vectors.shape[1]} pairs", 1.0)
        record_search(pairs, probe.chance, tolerance, H.count - begin)
        pairs.report.products = H.count
        return pairs


def _not_converged(problem: EigenProblem, search: Davidson, converged: int) -> ConvergenceError:
    best = pairs_from_vectors(problem.H, search.vectors, search.norm, DAVIDSON.name)
    best.report.converged = False
    return ConvergenceError(
        f"eigsh: {converged} of {problem.k} smallest eigenpairs converged to rtol = "
        f"{problem.rtol:.1e} in {best.report.products} products. Raise max_products or rtol, or "
        "pass a better preconditioner, such as a LowRank with more pairs",
        best=best,
        report=best.report,
    )


DAVIDSON = EigenMethod("Davidson", lambda problem: problem.preconditioner is not None, _solve)
