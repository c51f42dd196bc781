"""Eigenpairs nearest to a shift, and how many there are below one, by the Lagrangian system.

Of (H - sigma I)^-1 the largest are those of H nearest to sigma, a few Lanczos steps away. What was
found is judged by H itself. Inertia counts: below(b) - below(a) eigenvalues of H lie in (a, b).
Where the system has no matrix, (H - sigma I) x = b is iterated with a preconditioner.
"""

from __future__ import annotations

from typing import Any

from ..arguments import real
from ..arrays.backend import Array, array_on_host
from ..equilibrium.lagrangian_system import solver_for
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear import Krylov
from ..operators.operator import Operator, SelfAdjoint
from ..priors.metric import Metric
from .products import Products

ROUNDING = 1e-10  # of ||H||, the same
RESTART = 60  # vectors of a cycle, for each column
MARGIN = 1e-6  # of the largest magnitude found, beyond the outermost values, where counts are taken


class IteratedInverse(SelfAdjoint):
    """(H - sigma M)^-1, (P, P), by block GMRES with a preconditioner.

    Parameters
    ----------
    H : Products
    sigma : float
    preconditioner : Operator, (P, P)
        Near the inverse; with sigma = 0 a `LowRank`, say.
    """

    def __init__(self, H: Products, sigma: float, preconditioner: Operator) -> None:
        super().__init__(H, H.H.shape)
        self.sigma = real(sigma, "sigma")
        solver = Krylov("gmres", preconditioner=preconditioner, restart=RESTART)
        self.factor = solver.setup(_Shifted(H, self.sigma))

    def _apply(self, x: Array) -> Array:
        try:
            return self.factor.solve(x)
        except SingularStateError as error:
            raise SingularStateError(
                f"H - {self.sigma:g} I is singular to working precision: sigma is an eigenvalue of "
                "H. Move it a little to one side",
                digits=error.digits,
            ) from error
        except ConvergenceError as error:
            raise ConvergenceError(
                f"eigsh: solves with H - {self.sigma:g} I by GMRES: {error}. Give a better "
                "preconditioner, a sigma farther from all eigenvalues, or tighter solves with A",
                best=error.best,
                report=error.report,
            ) from error


class _Shifted(SelfAdjoint):
    """H - sigma M, its products counted."""

    def __init__(self, H: Products, sigma: float) -> None:
        super().__init__(H, H.H.shape)
        self.product, self.sigma = H, sigma

    def _apply(self, x: Array) -> Array:
        X = x if x.ndim == 2 else x[:, None]
        found = self.product(X) - self.sigma * self.product.metric.apply(X)
        return found if x.ndim == 2 else found[:, 0]


def entries(metric: Metric | None) -> Any:
    """The matrix of M, as the Lagrangian system takes it; None of the identity."""
    if metric is None or metric.is_identity:
        return None
    return solver_for(metric.backend).assemble(metric, "M")


def refined(S: Operator, vectors: Array, metric: Metric) -> Array:
    """Once more through the inverse: what is far from sigma falls away."""
    return S._apply(metric.apply(vectors))


def missed(H: Any, pairs: Any, S: Any) -> int | None:
    """Eigenvalues of H between the outermost found (and sigma) that are not among those found.

    None where the counts cannot be believed.
    """
    M = entries(pairs.precision)
    values, bounds = array_on_host(pairs.values), array_on_host(pairs.error_bounds)
    margin = MARGIN * float(abs(values).max()) + 2.0 * float(bounds.max())
    margin += ROUNDING * pairs.report.norm
    ends = [float(values.min()) - margin, float(values.max()) + margin]
    counts = []
    for outer, end in zip((min, max), ends, strict=True):
        known = hasattr(S, "below") and outer(S.sigma, end) == S.sigma
        try:
            at: Any = S if known else solver_for(H.backend).shifted_inverse(H, end, M)
        except (SingularStateError, ArgumentError):  # on an eigenvalue, or of no use: no count
            return None
        if at.below is None:
            return None
        counts.append(at.below)
    return counts[1] - counts[0] - values.shape[0]
