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
from ..equilibrium.reduced_curvature import ReducedCurvature
from ..errors import ConvergenceError, SingularStateError
from ..linear import Krylov
from ..operators.operator import Operator, Product, SelfAdjoint
from ..priors.metric import Metric
from ..priors.precision import Precision
from .completeness import complete
from .counted_operator import CountedOperator
from .dense import dense_eigenvectors
from .eigenpairs import Eigenpairs, pairs_from_vectors
from .inertia_counts import precision_entries
from .lanczos import Lanczos
from .lanczos_search import LanczosSearch
from .problem import EigenMethod, EigenProblem

INVERSE_RTOL = 1e-8  # tolerance of the eigenpairs of an inverse
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
            Product(metric, Product(inverse, metric)), problem.progress, metric, scaled=True
        )
    else:
        solves = CountedOperator(inverse, problem.progress, metric, scaled=True)
    found: Eigenpairs | None = None
    try:
        if problem.dense:
            vectors, _ = dense_eigenvectors(solves, k, which)
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
                    which,
                    INVERSE_RTOL,
                    problem.max_products,
                    problem.checkpoint,
                    relative_to_each=True,
                ).run()

            found = search(begin)
            if problem.complete:
                found = complete(found, problem, solves, which, search, relative_to_each=True)
            vectors = found.vectors
    finally:
        solves.close()
    vectors = apply_inverse(inverse, vectors, metric)
    if problem.preconditioner is not None:
        solver = "iterated solves"
    else:
        of_hessian = isinstance(H.H, ReducedCurvature)
        solver = "the Lagrangian system" if of_hessian else "a factorization"
    norm = H.estimate_norm(problem.start[:, :1])
    pairs = pairs_from_vectors(H, vectors, norm, f"Lanczos with {solver}")
    if found is not None:
        report = found.report
        pairs.report.miss_chance, pairs.report.miss_gap = report.miss_chance, report.miss_gap
        pairs.report.extra_products = report.extra_products
    return pairs


SHIFT_INVERT = EigenMethod("shift-invert", lambda problem: problem.inverse is not None, _solve)
