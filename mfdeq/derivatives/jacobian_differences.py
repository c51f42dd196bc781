"""Second derivatives as differences of first derivatives, whose entries need not be known.

Each product takes the first derivatives at two points. Its noise is the rounding of the rows of
the first derivatives, or their error if they are differences themselves. Where that hides a
product, as for the differences of a fine grid, steps are longer (`with_longer_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..arrays.backend import Array, Backend, array_on_host, host
from ..errors import is_evaluation_failure
from ..locks import Once, cached_property
from ..models.curvature import Curvature
from ..operators.operator import Operator
from .directional_derivatives import ERROR_FACTOR
from .longer_steps import with_longer_steps
from .nearby_points import typical_sizes
from .second_differences import EXCESS_FACTOR, TRUNCATION_SEEDS, VISIBLE

SMALL_ENTRY = 1e-3  # least size of an entry, relative to the root mean square of all
TOLERANCE = 4.0  # relative noise, in square roots of the rounding, above which steps are longer
PROBES = 6  # random vectors that show the terms of products without entries
SEED = 43
MAX_SHORTENINGS = 3  # of steps whose truncation errors are too large
MIN_SHORTENING = 1e-2  # factor of the steps
ROUNDINGS = 2.0  # noise of a product with a first derivative, in roundings of its terms

Jacobians = tuple[Operator, Operator]  # df/dh and df/dtheta
Products = Callable[[Operator, Operator], Sequence[Array]]


class Linearized(Protocol):
    """First derivatives at (h, theta)."""

    backend: Backend
    h: Array
    theta: Array

    def shift(self, dtheta: Array, dh: Array) -> Linearized:
        """Return those at (h + dh, theta + dtheta)."""

    def first_derivatives(self) -> Jacobians:
        """Return df/dh and df/dtheta."""

    def check_unchanged(self, compare: bool = False) -> None:
        """Raise `ModelError` if a function has changed since they were computed."""

    def first_accuracy(self) -> float:
        """Return their relative accuracy, zero if they are exact to rounding."""


class _Bending(NamedTuple):
    """The truncation error of a share of the usual step, and its excess over what is acceptable."""

    share: float
    excess: float
    error: float


class JacobianDifferences:
    """Second derivatives at a point by central differences of first derivatives.

    Parameters
    ----------
    point : Linearized
    step_factor : float
        A factor of all steps. Different factors give derivatives with independent errors.
    judge : callable
        ``judge(error)`` is called with the relative error of the products so far.
    """

    def __init__(
        self, point: Linearized, step_factor: float, judge: Callable[[float], None]
    ) -> None:
        self.point, self.step_factor, self.judge = point, step_factor, judge
        self.backend, self.error = point.backend, 0.0
        xp = self.backend.xp
        # Between the sizes of single entries, which may be small by accident, and of all, which may
        # have other units.
        self.sizes = [
            xp.maximum(xp.abs(x), SMALL_ENTRY * typical_sizes(x)) for x in (point.theta, point.h)
        ]
        # Results are compared in units of the variables themselves, where they are not zero.
        self.units = [
            xp.where(x != 0, xp.abs(x), size)
            for x, size in zip((point.theta, point.h), self.sizes, strict=True)
        ]

    @property
    def step(self) -> float:
        """The step relative to the sizes of the variables."""
        return self.step_factor * self._bending.share * self._rounding() ** (1 / 3)

    @cached_property
    def _bending(self) -> _Bending:
        """The share of the usual step at which truncation errors are small, and what they are."""
        found = self._compare_steps(1.0)
        for _ in range(MAX_SHORTENINGS):
            if found.excess <= 1.0:
                break
            share = max(found.excess ** (-1 / 3), MIN_SHORTENING)
            shorter = self._compare_steps(found.share * share)
            if shorter.error > found.error:
                break  # it is noise
            found = shorter
        self.error = max(self.error, found.error)
        return found

    def _compare_steps(self, share: float) -> _Bending:
        """Compare a share of the usual step with half of it, along a direction in all variables."""
        xp, t = self.backend.xp, self.step_factor * share * self._rounding() ** (1 / 3)
        a, b = (
            [
                size * xp.sign(self.backend.random(size.shape[0], seed=seed + i))
                for i, size in enumerate(self.sizes)
            ]
            for seed in TRUNCATION_SEEDS
        )

        def along(distance: float) -> Any:
            J, B = self.point.shift(distance * b[0], distance * b[1]).first_derivatives()
            return array_on_host(B._apply(a[0]) + J._apply(a[1])).astype(float)

        try:
            value, half = ((along(s) - along(-s)) / (2.0 * s) for s in (t, 0.5 * t))
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            return _Bending(share, 0.0, 0.0)
        units = self._units_of_rows
        noise = 2.0 * ROUNDINGS * self._rounding() / t
        value, change = units * value, units * abs(value - half) / (1.0 - 0.5**2)
        visible = abs(value) > VISIBLE * noise
        size, total = (float(host.linalg.norm(x[visible])) for x in (value, change))
        excess = float(change[visible].max(initial=0.0)) / (EXCESS_FACTOR * noise)
        return _Bending(share, excess, total / size if size else 0.0)

    def accuracy(self) -> float:
        """Return the relative accuracy of products, the worst of those so far."""
        usual = max(self._rounding() / self.step, self.step**2)
        return max(ERROR_FACTOR * usual, self.error)

    def curvature(self, lam: Array) -> Curvature:
        """Return the Hessian of lamᵀf: the derivatives of (Bᵀ lam, Jᵀ lam)."""
        units = host.concatenate([array_on_host(size) for size in self.units])
        terms = Once[list[Array]]()

        def products(J: Operator, B: Operator) -> list[Array]:
            return [B._apply_adjoint(lam), J._apply_adjoint(lam)]

        def terms_of_products() -> list[Array]:
            J, B = self.point.first_derivatives()
            return [self._terms(op._adjoint(), lam) for op in (B, J)]

        def apply(dtheta: Array, dh: Array) -> tuple[Array, ...]:
            return self._difference((dtheta, dh), products, terms(terms_of_products), units)

        return Curvature(apply=apply)

    def second(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """Return f''[a, b]: the derivative of f'[b] along a."""

        def products(J: Operator, B: Operator) -> list[Array]:
            return [B._apply(b[0]) + J._apply(b[1])]

        J, B = self.point.first_derivatives()
        terms = [self._terms(B, b[0]) + self._terms(J, b[1])]
        return self._difference(a, products, terms, self._units_of_rows)[0]

    @cached_property
    def _units_of_rows(self) -> Any:
        """The factors by which rows of f become relative to their terms, on the host."""
        J, B = self.point.first_derivatives()
        rows = array_on_host(self._terms(J, self.units[1]) + self._terms(B, self.units[0]))
        return host.divide(1.0, rows, out=host.zeros(rows.shape), where=rows > 0.0)

    def _terms(self, op: Operator, x: Array) -> Array:
        """Return the sizes of the terms of a product, the root of their squares without entries.

        With one random vector they may cancel.
        """
        if op.has_entries:
            return op.abs_apply(x)
        size = self.backend.xp.abs(x)
        signs = self.backend.random(size.shape[0], PROBES, seed=SEED)
        parts = [op._apply(signs[:, k] * size) ** 2 for k in range(PROBES)]
        return (sum(parts[1:], parts[0]) / PROBES) ** 0.5

    def _rounding(self) -> float:
        return max(self.point.first_accuracy(), self.backend.eps)

    def _difference(
        self,
        direction: tuple[Array, Array],
        products: Products,
        terms: Sequence[Array],
        units: Any,
    ) -> tuple[Array, ...]:
        """Return the directional derivatives of products with the first derivatives.

        Parameters
        ----------
        direction : pair of arrays
        products : callable
            ``products(J, B)`` returns arrays.
        terms : sequence of arrays
            The sums of the magnitudes of the terms of these products.
        units : array on the host
            Factors of the entries of all these arrays, in which they are compared.
        """
        xp, step = self.backend.xp, self.step
        longest = max(
            float(xp.max(xp.abs(d) / size)) for d, size in zip(direction, self.sizes, strict=True)
        )
        if longest == 0.0:
            return tuple(0.0 * part for part in products(*self.point.first_derivatives()))
        self.point.check_unchanged(compare=True)
        t = step / longest
        lengths: list[int] = []

        def compute(factor: float) -> Any:
            plus, minus = (
                products(*self.point.shift(s * direction[0], s * direction[1]).first_derivatives())
                for s in (factor * t, -factor * t)
            )
            lengths[:] = [part.shape[0] for part in plus]
            parts = [array_on_host(p - m) for p, m in zip(plus, minus, strict=True)]
            return host.concatenate(parts).astype(float) / (2.0 * factor * t)

        def compute_longer(factor: float, selected: Any) -> Any:
            try:
                return compute(factor)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                return host.full(selected.shape, host.nan)

        size = [array_on_host(part) for part in terms]
        noise = ROUNDINGS * self._rounding() * host.concatenate(size).astype(float) / t
        values = compute(1.0)
        largest = (units * abs(values)).max(initial=0.0)
        safe = host.where(units > 0.0, units, 1.0)
        found = with_longer_steps(
            values,
            noise,
            host.where(units > 0.0, largest / safe, host.inf),
            step,
            1,
            compute_longer,
            tolerance=TOLERANCE * self._rounding() ** 0.5,
            stretch=self.step_factor,
        )
        # In units, and in those of the user, in which dot tests are.
        for factors in (units, 1.0):
            error, total = (
                float(host.linalg.norm(factors * x)) for x in (found.errors, found.values)
            )
            self.error = max(self.error, error / total if total > 0.0 else 0.0)
        self.judge(self.error)
        ends = host.cumsum(lengths)[:-1]
        return tuple(self.backend.from_host(part) for part in host.split(found.values, ends))
