"""Products with a symmetric operator: counted, shown, and no more accurate than needed."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..operators.operator import Operator
from ..priors.metric import Metric
from ..progress import ProgressBar

ERROR_SHARE = 0.03  # of the tolerance, which the error of one product may take
# Beyond this many pairs the share falls with the square of their number: there are more products
# and more restarts, and their errors add up.
MAX_PAIRS_AT_FULL_SHARE = 8
MAX_INNER_RTOL = 1e-2  # the largest relative residual of an inner solve
FIRST_INNER_RTOL = 1e-8  # of the first product, whose estimated error the later ones rely on
PRODUCTS_PER_ESTIMATE = 8  # the error of one product in so many is estimated


class CountedOperator:
    """A symmetric operator H whose products are counted.

    Parameters
    ----------
    H : Operator, (P, P)
    progress : bool
        Whether to show a progress bar.
    metric : Metric
        The inner product in whose dual norm the errors of products are measured.

    Attributes
    ----------
    count : int
        Products so far, one for each column.
    relaxed : bool
        Whether products may use inner solves as loose as `set_accuracy` allows.
    """

    def __init__(self, H: Operator, progress: bool, metric: Metric) -> None:
        self.H, self.backend, self.metric = H, H.backend, metric
        self.count, self.relaxed = 0, False
        self._inner_rtol = FIRST_INNER_RTOL  # of the inner solves of the next product
        self._error_per_rtol = 0.0  # the largest error of a product so far, over its inner rtol
        self._relaxed_products = 0
        self._bar = ProgressBar("eigsh", "products", progress)

    @property
    def relaxable(self) -> bool:
        """Whether products are by iterative solves, whose tolerance can be chosen."""
        return isinstance(self.H, ReducedCurvature) and self.H.eq.factor.iterative

    def __call__(self, x: Array) -> Array:
        """Multiply a (P, b) block."""
        self._add(x)
        if not self.relaxed:
            return self.H._apply(x)
        H: Any = self.H
        estimate = self._relaxed_products % PRODUCTS_PER_ESTIMATE == 0
        self._relaxed_products += 1
        if not estimate:
            return H.apply_inexact(x, self._inner_rtol)
        product, error = H.with_error(x, rtol=self._inner_rtol)
        size = float(self.backend.xp.max(self.metric.dual_norms(error)))
        self._error_per_rtol = max(self._error_per_rtol, size / self._inner_rtol)
        return product

    def set_accuracy(self, tol: float, residual: float, norm: float, pairs: int) -> None:
        """Choose how accurate the next product must be.

        A product may be in error by about ``tol * norm / residual``: the farther the residuals
        have fallen, the less accurate the remaining products need to be (V. Simoncini, "Variable
        accuracy of matrix-vector products in projection methods for eigencomputation", 2005).

        Parameters
        ----------
        tol : float
            The residual that is asked for.
        residual : float
            The largest residual of a wanted pair now.
        norm : float
            The norm of H.
        pairs : int
            How many pairs are wanted.
        """
        if not (self.relaxed and self._relaxed_products):
            return  # the first product is at FIRST_INNER_RTOL
        share = ERROR_SHARE * min(1.0, MAX_PAIRS_AT_FULL_SHARE / pairs) ** 2
        error, residual = share * tol * norm, max(residual, tol)
        H: Any = self.H
        # A division by the error per rtol must wait: for a Hessian that is zero it is zero.
        loosest = error >= MAX_INNER_RTOL * self._error_per_rtol * residual
        rtol = MAX_INNER_RTOL if loosest else error / (self._error_per_rtol * residual)
        self._inner_rtol = max(H.eq.factor.rtol, rtol)

    def with_error(self, x: Array) -> tuple[Array, Array]:
        """Multiply as accurately as possible; return the product and its estimated error."""
        self._add(x)
        return self.H.with_error(x)

    def estimate_norm(self, x: Array) -> float:
        """||H|| from two power iterations, starting at a (P, 1) block; an underestimate."""
        metric = self.metric
        size = float(metric.norms(x, metric.apply(x))[0])
        for _ in range(2):
            dual = self(x / size)
            x = metric.solve(dual)
            if (size := float(metric.norms(x, dual)[0])) == 0.0:
                break
        return size

    @property
    def checkpoint_state(self) -> list[Any]:
        """The counts and tolerances that a checkpoint holds."""
        return [
            self.count,
            self.relaxed,
            self._inner_rtol,
            self._error_per_rtol,
            self._relaxed_products,
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over the counts and tolerances of a checkpoint."""
        self.count, self.relaxed, self._inner_rtol = state[:3]
        self._error_per_rtol, self._relaxed_products = state[3:]

    def _add(self, x: Array) -> None:
        self.count += x.shape[1]
        self._bar.advance(x.shape[1])

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
