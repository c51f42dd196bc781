"""Eigenpairs nearest to a shift, and inertia counts, by shift-invert Lanczos.

The eigenvalues of H nearest to sigma are the largest ones of (H - sigma M)^-1, for which Lanczos
takes only a few steps (T. Ericsson and A. Ruhe, "The spectral transformation Lanczos method for the
numerical solution of large sparse generalized symmetric eigenvalue problems", 1980). The inverse is
a factorization of the Lagrangian system or, if that has no matrix, an iterative solver with a
preconditioner. Residuals and bounds are those of H itself.

By inertia counts, H has below(b) - below(a) eigenvalues in (a, b).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..arguments import real
from ..arrays.backend import Array, array_on_host
from ..equilibrium.lagrangian_system import solver_for
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear import Krylov
from ..operators.operator import Operator, Product, SelfAdjoint
from ..priors.metric import Metric
from ..priors.precision import Precision
from .arguments import require_hessian
from .completeness import complete
from .counted_operator import CountedOperator
from .dense import dense_eigenvectors
from .eigenpairs import Eigenpairs, pairs_from_vectors
from .lanczos import Lanczos
from .lanczos_search import LanczosSearch
from .problem import EigenMethod, EigenProblem

INVERSE_RTOL = 1e-8  # tolerance of the eigenpairs of an inverse
GMRES_RESTART = 60  # basis vectors of a cycle, for each column
# Distance of the inertia counts from the outermost values, relative to the largest magnitude of the
# values and to the norm of H.
COUNT_MARGIN, COUNT_ROUNDING = 1e-6, 1e-10


class IteratedInverse(SelfAdjoint):
    """The operator (H - sigma M)^-1, (P, P), by block GMRES with a preconditioner.

    Parameters
    ----------
    H : CountedOperator
    sigma : float
    preconditioner : Operator, (P, P)
        An approximate inverse, such as a `LowRank` for sigma = 0.
    """

    def __init__(self, H: CountedOperator, sigma: float, preconditioner: Operator) -> None:
        super().__init__(H, H.H.shape)
        self.sigma = real(sigma, "sigma")
        solver = Krylov("gmres", preconditioner=preconditioner, restart=GMRES_RESTART)
        self.factor = solver.setup(_Shifted(H, self.sigma))

    def _apply(self, x: Array) -> Array:
        try:
            return self.factor.solve(x)
        except SingularStateError as error:
            raise SingularStateError(
                f"H - {self.sigma:g} I is singular to working precision: sigma is an eigenvalue of "
                "H. Move it slightly to one side",
                digits=error.digits,
            ) from error
        except ConvergenceError as error:
            raise ConvergenceError(
                f"eigsh: solves with H - {self.sigma:g} I by GMRES: {error}. Use a better "
                "preconditioner, a sigma farther from all eigenvalues, or tighter solves with A",
                best=error.best,
                report=error.report,
            ) from error


class _Shifted(SelfAdjoint):
    """The operator H - sigma M, which counts its products."""

    def __init__(self, H: CountedOperator, sigma: float) -> None:
        super().__init__(H, H.H.shape)
        self.product, self.sigma = H, sigma

    def _apply(self, x: Array) -> Array:
        X = x if x.ndim == 2 else x[:, None]
        shifted = self.product(X) - self.sigma * self.product.metric.apply(X)
        return shifted if x.ndim == 2 else shifted[:, 0]


def precision_entries(metric: Metric | None) -> Any:
    """Return the sparse matrix of M for the Lagrangian system; None for the identity."""
    if metric is None or metric.is_identity:
        return None
    return solver_for(metric.backend).assemble(metric, "M")


def apply_inverse(inverse: Operator, vectors: Array, metric: Metric) -> Array:
    """Apply one step of inverse iteration, which damps components far from sigma."""
    return inverse._apply(metric.apply(vectors))


def count_missed(H: Any, pairs: Any, inverse: Any) -> int | None:
    """Count the eigenvalues of H between the outermost values found, or sigma, that were missed.

    Parameters
    ----------
    H : ReducedCurvature
    pairs : Eigenpairs
    inverse : ShiftedInverse or None
        The inverse by which the pairs were computed. If sigma is outside their range, its count
        replaces one of two further factorizations.

    Returns
    -------
    int or None
        None if a count is unreliable.
    """
    M = precision_entries(pairs.precision)
    values, bounds = array_on_host(pairs.values), array_on_host(pairs.error_bounds)
    margin = COUNT_MARGIN * float(abs(values).max()) + 2.0 * float(bounds.max())
    margin += COUNT_ROUNDING * pairs.report.norm
    ends = [float(values.min()) - margin, float(values.max()) + margin]
    counts = []
    for outer, end in zip((min, max), ends, strict=True):
        known = inverse is not None and outer(inverse.sigma, end) == inverse.sigma
        try:
            at: Any = inverse if known else solver_for(H.backend).shifted_inverse(H, end, M)
        except (SingularStateError, ArgumentError):  # the end is an eigenvalue, or no matrices
            return None
        if at.below is None:
            return None
        counts.append(at.below)
    return counts[1] - counts[0] - values.shape[0]


def shifted_inverse(H: CountedOperator, sigma: float, preconditioner: Operator | None) -> Operator:
    """Return (H - sigma M)^-1, by GMRES if there is a preconditioner, else by factorization."""
    if preconditioner is not None:
        return IteratedInverse(H, sigma, preconditioner)
    return solver_for(H.backend).shifted_inverse(
        require_hessian(H.H), sigma, precision_entries(H.metric)
    )


def _solve(problem: EigenProblem) -> Eigenpairs:
    """Compute the pairs from the largest ones of the inverse, with values and bounds of H."""
    H, k, inverse, metric = problem.H, problem.k, problem.inverse, problem.H.metric
    assert inverse is not None
    if isinstance(metric, Precision):  # M (H - sigma M)^-1 M is symmetric
        solves = CountedOperator(
            Product(metric, Product(inverse, metric)), problem.progress, metric
        )
    else:
        solves = CountedOperator(inverse, problem.progress, metric)
    found: Eigenpairs | None = None
    try:
        if problem.dense:
            vectors, _ = dense_eigenvectors(solves, k, "LM")
        else:
            problem.checkpoint.operators = [H, solves]
            begin = functools.partial(
                Lanczos, inverse.backend, solves, problem.start, problem.max_size, metric
            )

            def search(begin: Callable[[], Lanczos]) -> Eigenpairs:
                return LanczosSearch(
                    begin,
                    solves,
                    k,
                    "LM",
                    INVERSE_RTOL,
                    problem.max_products,
                    problem.checkpoint,
                    relative_to_each=True,
                ).run()

            found = search(begin)
            if problem.complete:
                found = complete(found, problem, solves, "LM", search, relative_to_each=True)
            vectors = found.vectors
    finally:
        solves.close()
    vectors = apply_inverse(inverse, vectors, metric)
    solver = "the Lagrangian system" if problem.preconditioner is None else "iterated solves"
    norm = H.estimate_norm(problem.start[:, :1])
    pairs = pairs_from_vectors(H, vectors, norm, f"Lanczos with {solver}")
    if found is not None:
        report = found.report
        pairs.report.miss_chance, pairs.report.miss_gap = report.miss_chance, report.miss_gap
        pairs.report.extra_products = report.extra_products
    return pairs


SHIFT_INVERT = EigenMethod("shift-invert", lambda problem: problem.inverse is not None, _solve)
