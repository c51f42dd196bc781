"""Eigenpairs nearest to a shift, by shift-invert Lanczos.

The eigenvalues of H nearest to sigma are the largest ones of (H - sigma M)^-1, for which Lanczos
takes only a few steps (T. Ericsson and A. Ruhe, "The spectral transformation Lanczos method for the
numerical solution of large sparse generalized symmetric eigenvalue problems", 1980). The inverse is
a factorization of H - sigma M, for a Hessian by its Lagrangian system, or, if there are no
matrices, an iterative solver with a preconditioner. Residuals and bounds are those of H itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..arguments import real
from ..arrays.backend import Array
from ..arrays.powers_of_two import scaled_by
from ..equilibrium.lagrangian_system import solver_for
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ConvergenceError, SingularStateError
from ..linear import Krylov
from ..operators.operator import Operator, Product, SelfAdjoint
from ..priors.metric import Metric
from ..priors.precision import Precision
from .completeness import complete
from .counted_operator import CountedOperator
from .dense import dense_eigenvectors
from .eigenpairs import (
    Eigenpairs,
    largest_residual,
    pairs_from_vectors,
    residual_tolerance,
)
from .inertia_counts import precision_entries
from .lanczos import Lanczos
from .lanczos_search import LanczosSearch
from .problem import EigenMethod, EigenProblem

INVERSE_RTOL = 1e-8  # tolerance of the eigenpairs of an inverse
SMALLEST_INVERSE_RTOL = 1e-13  # if that was not enough for those of H
GMRES_RESTART = 60  # basis vectors of a cycle, for each column


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
        product = self.product(X)
        sigma = scaled_by(self.sigma, self.product.exponent or 0)
        shifted = product - sigma * self.product.metric.apply(X)
        return shifted if x.ndim == 2 else shifted[:, 0]


def apply_inverse(inverse: Operator, vectors: Array, metric: Metric) -> Array:
    """Apply one step of inverse iteration, which damps components far from sigma."""
    return inverse._apply(metric.apply(vectors))


def shifted_inverse(H: CountedOperator, sigma: float, preconditioner: Operator | None) -> Operator:
    """Return (H - sigma M)^-1, by GMRES if there is a preconditioner, else by factorization."""
    if preconditioner is not None:
        return IteratedInverse(H, sigma, preconditioner)
    return solver_for(H.backend).shifted_inverse(H.H, sigma, precision_entries(H.metric))


def _solve(problem: EigenProblem) -> Eigenpairs:
    """Compute the pairs from the wanted ones of the inverse, with values and bounds of H."""
    H, k, inverse, metric = problem.H, problem.k, problem.inverse, problem.H.metric
    which = problem.which
    assert inverse is not None
    if isinstance(metric, Precision):  # M (H - sigma M)^-1 M is symmetric
        solves = CountedOperator(
            Product(metric, Product(inverse, metric)),
            problem.progress,
            metric,
            scaled=True,
            unit="solves",
        )
    else:
        solves = CountedOperator(inverse, problem.progress, metric, scaled=True, unit="solves")
    try:
        if problem.dense:
            pairs = _pairs(problem, dense_eigenvectors(solves, k, which)[0])
            pairs.report.miss_chance = pairs.report.miss_gap = 0.0
            return pairs
        problem.checkpoint.operators = [H, solves]
        new = functools.partial(Lanczos, inverse.backend, solves)

        def search(begin: Callable[[], Lanczos], rtol: float = INVERSE_RTOL) -> Eigenpairs:
            limit, checkpoint = problem.max_products, problem.checkpoint
            return LanczosSearch(
                begin, solves, k, which, rtol, limit, checkpoint, relative_to_each=True
            ).run()

        found = search(lambda: new(problem.start, problem.max_size, metric))
        if problem.complete:
            found = complete(found, problem, solves, which, search, relative_to_each=True)
        pairs, krylov = _pairs(problem, found.vectors), found.krylov
        if largest_residual(pairs) > residual_tolerance(pairs, problem.rtol):
            # Some value is much closer to zero than to the shift: its tolerance is tighter.
            if krylov is None or krylov.locked:
                krylov = new(found.vectors, max(problem.max_size, 4 * k), metric)
            continued = krylov
            pairs = _pairs(problem, search(lambda: continued, SMALLEST_INVERSE_RTOL).vectors)
    finally:
        solves.close()
    report = found.report
    pairs.report.miss_chance, pairs.report.miss_gap = report.miss_chance, report.miss_gap
    pairs.report.extra_products = report.extra_products
    return pairs


def _pairs(problem: EigenProblem, vectors: Array) -> Eigenpairs:
    """Return the pairs of H from vectors of the inverse."""
    H, inverse = problem.H, problem.inverse
    assert inverse is not None
    vectors = apply_inverse(inverse, vectors, H.metric)
    if problem.preconditioner is not None:
        solver = "iterated solves"
    else:
        of_hessian = isinstance(H.H, ReducedOperator)
        solver = "the Lagrangian system" if of_hessian else "a factorization"
    norm = H.estimate_norm(problem.start[:, :1])
    return pairs_from_vectors(H, vectors, norm, f"Lanczos with {solver}")


SHIFT_INVERT = EigenMethod("shift-invert", lambda problem: problem.inverse is not None, _solve)
