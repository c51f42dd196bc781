"""Products with a symmetric operator, counted and only as accurate as needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..arrays.powers_of_two import exponents_of, times_power
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ArgumentError
from ..locks import cached_property
from ..operators.operator import Operator
from ..priors.metric import Metric
from ..progress import ProgressBar

ERROR_SHARE = 0.03  # allowed error of one product, relative to the tolerance
# For more pairs the share decreases with the square of their number: there are more products and
# restarts, whose errors accumulate.
MAX_PAIRS_AT_FULL_SHARE = 8
MAX_INNER_RTOL = 1e-2  # largest relative residual of an inner solve
FIRST_INNER_RTOL = 1e-8  # for the first product, whose error is estimated
SAME_PRIOR_POWER = 0.4  # of eps: relative difference of products with the same precision
PRODUCTS_PER_ESTIMATE = 8  # the error of every eighth product is estimated


class CountedOperator:
    """A symmetric operator H that counts its products.

    Parameters
    ----------
    H : Operator, (P, P)
    progress : bool
        Whether to show a progress bar.
    metric : Metric
        The inner product, whose dual norm measures the errors of products.

    Attributes
    ----------
    count : int
        The number of products so far, one for each column.
    relaxed : bool
        Whether products use inner solves as loose as `set_accuracy` allows.
    exponent : int or None
        e of the 2^e by which products are multiplied, so that squares of them do not under- or
        overflow; None before the first product, which decides it.

    Parameters
    ----------
    scaled : bool, optional
        Whether to multiply products by a power of two. It is 1 unless they are very small or large.
    title, unit : str, optional
        The words of the progress bar.
    """

    def __init__(
        self,
        H: Operator,
        progress: bool,
        metric: Metric,
        scaled: bool = False,
        title: str = "eigsh",
        unit: str = "products",
    ) -> None:
        self.H, self.backend, self.metric = H, H.backend, metric
        self.exponent: int | None = None if scaled else 0
        self.count, self.relaxed = 0, False
        self._inner_rtol = FIRST_INNER_RTOL  # for the next product
        self._error_per_rtol = 0.0  # largest error of a product so far, relative to its inner rtol
        self._relaxed_products = 0
        self._bar = ProgressBar(title, unit, progress)

    @cached_property
    def contains_metric(self) -> bool:
        """Whether H is known to contain the matrix of the metric, as the precision of a prior."""
        H, xp = self.H, self.backend.xp
        if self.metric.is_identity or not isinstance(H, ReducedOperator):
            return False
        if not (terms := H.prior_terms):
            return False
        x = self.backend.random(H.shape[0], seed=43)
        dual, prior = self.metric.apply(x), sum(factor * R._apply(x) for factor, R in terms)
        sizes = xp.abs(dual) + xp.abs(prior)
        return self.backend.all(xp.abs(prior - dual) <= self.backend.eps**SAME_PRIOR_POWER * sizes)

    @property
    def relaxable(self) -> bool:
        """Whether products use iterative solves, whose tolerance can be chosen."""
        return isinstance(self.H, ReducedOperator) and self.H.iterative

    def __call__(self, x: Array) -> Array:
        """Compute the product with a (P, b) block."""
        self._add(x)
        if not self.relaxed:
            return self.product(x)
        H: Any = self.H
        estimate = self._relaxed_products % PRODUCTS_PER_ESTIMATE == 0
        self._relaxed_products += 1
        if not estimate:
            return self._times_power(x, H.apply_inexact(x, self._inner_rtol))[0]
        product, error = self._times_power(x, *H.with_error(x, rtol=self._inner_rtol))
        size = float(self.backend.xp.max(self.metric.dual_norms(error)))
        self._error_per_rtol = max(self._error_per_rtol, size / self._inner_rtol)
        return product

    def set_accuracy(self, tol: float, residual: float, norm: float, pairs: int) -> None:
        """Choose the accuracy of the next product.

        The allowed error of a product is about ``tol * norm / residual``, which increases as the
        residuals decrease (V. Simoncini, "Variable accuracy of matrix-vector products in projection
        methods for eigencomputation", 2005).

        Parameters
        ----------
        tol : float
            The target of the residuals.
        residual : float
            The largest present residual of a wanted pair.
        norm : float
            The norm of H.
        pairs : int
            The number of wanted pairs.
        """
        if not (self.relaxed and self._relaxed_products):
            return  # the first product uses FIRST_INNER_RTOL
        share = ERROR_SHARE * min(1.0, MAX_PAIRS_AT_FULL_SHARE / pairs) ** 2
        error, residual = share * tol * norm, max(residual, tol)
        H: Any = self.H
        # Compare before dividing by the error per rtol, which is zero for a zero Hessian.
        loosest = error >= MAX_INNER_RTOL * self._error_per_rtol * residual
        rtol = MAX_INNER_RTOL if loosest else error / (self._error_per_rtol * residual)
        self._inner_rtol = max(H.solver_rtol, rtol)

    def with_error(self, x: Array) -> tuple[Array, Array]:
        """Return the product, as accurate as possible, and its estimated error."""
        self._add(x)
        product, error = self._times_power(x, *self.H.with_error(x))
        return product, error

    def product(self, x: Array) -> Array:
        """Compute the product with a (P, b) block without counting it."""
        if self.exponent is not None:
            return self._times_power(x, self.H._apply(x))[0]
        with self.backend.ignore_overflow():  # which is an error
            return self._times_power(x, self.H._apply(x))[0]

    def _times_power(self, x: Array, *products: Array) -> Sequence[Array]:
        """Multiply products with x, the first of which may decide it, by the power of two."""
        if self.exponent is None:
            self.exponent = self._exponent_for(x, products[0])
        if self.exponent == 0:
            return products
        return [times_power(self.backend, p, host.asarray(self.exponent)) for p in products]

    def _exponent_for(self, x: Array, product: Array) -> int:
        """Return e such that the Rayleigh quotients of x with 2^e H are in range."""
        xp, limit = self.backend.xp, -math.log2(self.backend.smallest_normal) / 4
        shifts = exponents_of(self.backend, product)
        scaled = times_power(self.backend, product, shifts)
        sizes = array_on_host(xp.sum(xp.abs(x * scaled), axis=0)).astype("float64")
        if not host.isfinite(sizes).all():
            raise ArgumentError(
                f"H: a product with a vector of length one overflows {self.backend.dtype}: divide "
                "H by a number"
            )
        if not sizes.any():  # as for unit vectors, if the diagonal of H is zero
            sizes = array_on_host(xp.max(xp.abs(scaled), axis=0)).astype("float64")
        if not sizes.any():
            return 0
        largest = int((host.frexp(sizes)[1] - shifts)[sizes > 0].max())
        return 0 if abs(largest) <= limit else -largest

    def estimate_norm(self, x: Array) -> float:
        """Estimate ||H|| from below, by two power iterations from a (P, 1) block."""
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
        """The counts and tolerances, for a checkpoint."""
        return [
            self.count,
            self.relaxed,
            self._inner_rtol,
            self._error_per_rtol,
            self._relaxed_products,
            self.exponent,
        ]

    def restore(self, state: list[Any]) -> None:
        """Restore the counts and tolerances from a checkpoint."""
        self.count, self.relaxed, self._inner_rtol = state[:3]
        self._error_per_rtol, self._relaxed_products, self.exponent = state[3:]

    def _add(self, x: Array) -> None:
        self.count += x.shape[1]
        self._bar.show(self.count)

    def show_progress(self, text: str, share: float) -> None:
        """Show a text beside the count, and the time left from the share of the work done."""
        self._bar.show(self.count, text, share)

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
