"""The two Jacobians of a function at one point by numerical differentiation, and their accuracy."""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import host
from ..operators.operator import Operator
from .column_steps import (
    NOISE_STEP_FACTOR,
    Columns,
    accuracy,
    noise_of_terms,
    refine,
    relative_noise_of_rows,
    second_derivative_sizes,
)
from .directional_derivatives import ERROR_FACTOR, DirectionalDerivatives
from .sparsity import Sparsity

PATTERN_RTOL_FACTOR = 1e4  # tolerance of the test of patterns, in errors of the derivatives
DETECTION_STEP = 1e-3  # relative to the sizes of variables
PATTERN_NOISE_FACTOR = 100.0  # the same for the noise of f


class NumericalJacobians:
    """The derivatives df/dh and df/dtheta at one point.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    sparsity : Sparsity

    Attributes
    ----------
    matrices : pair of matrices
        df/dh and df/dtheta, sparse if their patterns are known.
    accuracy : pair of floats
        Relative accuracy of first and of second derivatives.
    """

    def __init__(self, derivatives: DirectionalDerivatives, sparsity: Sparsity) -> None:
        self.derivatives = derivatives
        self.backend = backend = derivatives.backend
        eps, step = backend.eps, derivatives.step
        self.noise: Any = None
        self.row_noise = eps  # the noise of f relative to the terms of its equations
        usual = eps if derivatives.complex_step else max(eps / step, step**2)
        noise = None
        if not derivatives.complex_step:
            noise = PATTERN_NOISE_FACTOR / step * derivatives.noise
        operators = sparsity.assemble(
            derivatives.jacobians(),
            self._nearby_jacobians,
            max(eps**0.5, PATTERN_RTOL_FACTOR * ERROR_FACTOR * usual),
            noise,
        )
        self.columns = [
            Columns.of(operator, coloured, part)
            for operator, coloured, part in zip(operators, sparsity.coloured, (1, 0), strict=True)
        ]
        if derivatives.complex_step:
            self.accuracy = ERROR_FACTOR * eps, ERROR_FACTOR * eps ** (2 / 3)
        else:
            self._refine()
        self.matrices: list[Any] = [
            derivatives.unscale(columns.matrix(backend), columns.part) for columns in self.columns
        ]

    def _nearby_jacobians(self, i: int) -> list[Operator]:
        """Return operators at a nearby point, from whose products patterns are detected.

        Steps are longer than those for derivatives, so that the effect of a variable that is small
        by accident is not lost in rounding.
        """
        nearby = self.derivatives.nearby(i)
        return nearby.with_sizes(nearby.sizes, max(nearby.step, DETECTION_STEP)).jacobians()

    def _refine(self) -> None:
        derivatives, eps = self.derivatives, self.backend.eps
        noises = [noise_of_terms(derivatives, columns) for columns in self.columns]
        for columns, noise in zip(self.columns, noises, strict=True):
            refine(derivatives, columns, noise)
        self.noise = host.maximum(*noises)
        self.row_noise = max(eps, relative_noise_of_rows(self.columns, self.noise))
        second_step = derivatives.second_step
        if derivatives.rule.relative_step is None:
            second_step = NOISE_STEP_FACTOR * self.row_noise**0.25
        self.accuracy = (
            accuracy(self.columns),  # measured, so that it takes no safety factor
            ERROR_FACTOR * max(self.row_noise / second_step**2, second_step**2),
        )

    def for_second_derivatives(self) -> DirectionalDerivatives:
        """Return derivatives with the sizes that second derivatives take."""
        return second_derivative_sizes(self.derivatives, self.columns, self.noise)

    @property
    def methods(self) -> tuple[str, str]:
        """How first and second derivatives are computed, with their digits."""
        if self.derivatives.complex_step:
            return "the complex step", "differences of the complex step"
        first, second = (max(-math.log10(max(x, 1e-300)), 0.0) for x in self.accuracy)
        name = f"central differences ({self.derivatives.verdict.reason}; {first:.0f} digits)"
        return name, f"differences of central differences ({second:.0f} digits)"

    def describe_lost_digits(self) -> str:
        """Return a message for derivatives with few digits."""
        return (
            f"its first derivatives, by differences, have a relative error of about "
            f"{self.accuracy[0]:.0e}, since f has noise of {self.row_noise:.0e} of its terms. "
            "Look for single precision, tables or loose tolerances inside f, write f so that it "
            "accepts complex arrays, or use mfdeq.from_jax"
        )
