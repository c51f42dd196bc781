"""Products with a symmetric operator: counted, shown, and no more accurate than needed."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..operators.operator import Operator
from ..priors.metric import Metric
from ..progress import ProgressBar

SHARE = 0.03  # of the tolerance, which the error of one product may take
FEW = 8  # pairs, beyond which it is less: by their square, as more products and restarts add up
LOOSEST = 1e-2  # relative residual of an inner solve
UNKNOWN = 1e-8  # the same, of the first product
EVERY = 8  # products, of which the error of one is estimated


class Products:
    """H, its products counted.

    Parameters
    ----------
    H : Operator
    progress : bool
        Whether to show them.
    metric : Metric
        Whose dual norm errors of products are measured in.

    Attributes
    ----------
    count : int
        Products so far, by columns.
    relaxed : bool
        Whether products are by inner solves as loose as `allow` says.
    """

    def __init__(self, H: Operator, progress: bool, metric: Metric) -> None:
        self.H, self.backend, self.metric = H, H.backend, metric
        self.count, self.relaxed = 0, False
        self._inner = UNKNOWN  # relative residual of the inner solves of the next product
        self._per_inner, self._calls = 0.0, 0  # error of a product, of inner solves to one
        self._bar = ProgressBar("eigsh", "products", progress)

    def __call__(self, x: Array) -> Array:
        """H X of a block."""
        self._add(x)
        if not self.relaxed:
            return self.H._apply(x)
        H: Any = self.H
        estimated = self._calls % EVERY == 0
        self._calls += 1
        if not estimated:
            return H.apply_inexact(x, self._inner)
        product, error = H.with_error(x, rtol=self._inner)
        worst = float(self.backend.xp.max(self.metric.dual_norms(error)))
        self._per_inner = max(self._per_inner, worst / self._inner)
        return product

    def allow(self, tol: float, residual: float, norm: float, pairs: int) -> None:
        """What the next product may be off by: the residuals are that far from the tolerance."""
        if self.relaxed and self._calls:  # before the first product nothing is known
            share = SHARE * min(1.0, FEW / pairs) ** 2
            error, tightest = share * tol * norm, self.H.eq.factor.rtol  # type: ignore[attr-defined]
            # Not error / per_inner, which may be zero: of a Hessian that is.
            loose = error >= LOOSEST * self._per_inner * max(residual, tol)
            wanted = LOOSEST if loose else error / (self._per_inner * max(residual, tol))
            self._inner = max(tightest, wanted)

    def with_error(self, x: Array) -> tuple[Array, Array]:
        """H X as accurate as it can be, and its error where that is estimated."""
        self._add(x)
        if not hasattr(self.H, "with_error"):
            return self.H._apply(x), self.backend.zeros(*x.shape)
        return self.H.with_error(x)

    @property
    def memory(self) -> list[Any]:
        """What a checkpoint keeps."""
        return [self.count, self.relaxed, self._inner, self._per_inner, self._calls]

    @memory.setter
    def memory(self, memory: list[Any]) -> None:
        self.count, self.relaxed, self._inner, self._per_inner, self._calls = memory

    def _add(self, x: Array) -> None:
        self.count += x.shape[1]
        self._bar.advance(x.shape[1])

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()
