"""The two Jacobians of a function at one point by numerical differentiation, and their accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from scipy import sparse

from ..arrays.backend import Array, array_on_host, host
from ..errors import ModelError
from ..locks import cached_property, lock_of
from ..operators.operator import Operator
from .bending_lengths import NOISE_STEP_FACTOR, measure_lengths, second_derivative_sizes
from .column_steps import noise_of_terms, refine
from .directional_derivatives import ERROR_FACTOR, DirectionalDerivatives, Jacobian
from .jacobian_columns import Columns, accuracy, relative_noise_of_rows
from .second_differences import SecondDifferences
from .sparsity import FIELDS, Sparsity

PATTERN_RTOL_FACTOR = 1e4  # tolerance of the test of patterns, in errors of the derivatives
DETECTION_STEP = 1e-3  # relative to the sizes of variables
PATTERN_NOISE_FACTOR = 100.0  # the same for the noise of f
SQUARED_COMPLEX_STEP = 1e-40  # and what it may be multiplied by
CHANGED_VALUE_ROUNDINGS = 1e4  # by which two values of the same function may differ
LOST_ACCURACY = 1e-5  # relative error of first derivatives above which there is a warning
LOST_SECOND_ACCURACY = 1e-3  # the same for second derivatives
MAX_SHORTENINGS = 3  # of steps whose truncation errors are too large
MIN_SHORTENING = 1e-2  # factor of the steps
MAX_DENSE_ENTRIES = 2**20  # of a Jacobian, above which it is sparse if it has few entries
MAX_FILL = 0.3
SECOND_DERIVATIVES = ("curvature", "second")


class Advice(NamedTuple):
    """What a message suggests where numerical derivatives have few digits.

    Attributes
    ----------
    automatic : str
        The public function for automatic derivatives.
    with_curvature : str
        The way to give the curvature by hand.
    """

    automatic: str = "mfdeq.from_jax"
    with_curvature: str = "pass a model with the curvature to mfdeq.mixed"


class NumericalJacobians:
    """The derivatives df/dh and df/dtheta at one point, each computed when it is first used.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    sparsity : Sparsity
    """

    def __init__(
        self,
        derivatives: DirectionalDerivatives,
        sparsity: Sparsity,
        advice: Advice = Advice(),  # noqa: B008, it is immutable
    ) -> None:
        self.derivatives, self.sparsity, self.advice = derivatives, sparsity, advice
        self.backend = derivatives.backend
        self._value = derivatives.latest_value
        self._columns: dict[int, Columns] = {}  # by the index in FIELDS
        self._noise: dict[int, Any] = {}  # of f, for differences
        self._second: SecondDifferences | None = None

    def matrix(self, which: int) -> Any:
        """Return df/dh (0) or df/dtheta (1), sparse if its pattern is known."""
        columns = self._computed(which)
        return self.derivatives.unscale(columns.matrix(self.backend), columns.part)

    def _computed(self, which: int) -> Columns:
        with lock_of(self):
            if which not in self._columns:
                self._columns[which] = self._compute(which)
            return self._columns[which]

    def _compute(self, which: int) -> Columns:
        derivatives, part = self.derivatives, 1 - which
        eps, step = self.backend.eps, derivatives.step
        usual = eps if derivatives.complex_step else max(eps / step, step**2)
        noise = None
        if not derivatives.complex_step:
            noise = PATTERN_NOISE_FACTOR / step * derivatives.noise
        operator, pattern = self.sparsity.assemble_with_pattern(
            which,
            Jacobian(derivatives, part),
            lambda i: self._nearby_jacobian(i, part),
            max(eps**0.5, PATTERN_RTOL_FACTOR * ERROR_FACTOR * usual),
            noise,
        )
        columns = Columns.of(operator, pattern, part)
        if not derivatives.complex_step:
            self._noise[which] = noise_of_terms(derivatives, columns)
            refine(derivatives, columns, self._noise[which])
        if which == 0:
            derivatives.keep_displaced_value()
        elif derivatives.complex_step and self.backend.all(self._nonzero):
            self._compare(self._value, derivatives.latest_value)
        else:
            self.check_unchanged()
        return columns

    def check_unchanged(self) -> None:
        """Raise `ModelError` if f has another value than when df/dh was computed."""
        self._compare(*self.derivatives.displaced_values())

    @property
    def _nonzero(self) -> Array:
        """Whether each variable is not zero: a change of f may vanish where one is."""
        return self.backend.xp.concat(list(self.derivatives.x)) != 0

    def _compare(self, value: Array, later: Array) -> None:
        derivatives, columns = self.derivatives, self._computed(0)
        before, now = map(array_on_host, (value, later))
        difference = abs(now - before)
        size = abs(before) + columns.row_sums(abs(columns.values))
        # The square of a complex step remains where value and derivative are zero.
        least = max(self.backend.eps**2 * size.max(initial=0.0), SQUARED_COMPLEX_STEP)
        allowed = host.maximum(CHANGED_VALUE_ROUNDINGS * self.backend.eps * size, least)
        if (difference > allowed).any():
            allowed = allowed + PATTERN_NOISE_FACTOR * array_on_host(derivatives.noise)
        if (difference > allowed).any():
            raise ModelError(
                f"{derivatives.name}: expected the value of the linearization at the same point, "
                f"got one that differs by {difference.max():.2g}. Something that the function uses "
                "was changed before all of its derivatives were computed: solve again, use those "
                "that are needed (such as eq.param_operator) before the change, or let the "
                "function use copies"
            )

    def _nearby_jacobian(self, i: int, part: int) -> Operator:
        """Return an operator at a nearby point, from whose products a pattern is detected.

        Steps are longer than those for derivatives, so that the effect of a variable that is small
        by accident is not lost in rounding.
        """
        nearby = self.derivatives.nearby(i)
        return Jacobian(nearby.with_sizes(nearby.sizes, max(nearby.step, DETECTION_STEP)), part)

    @property
    def _both(self) -> list[Columns]:
        return [self._computed(which) for which in range(2)]

    @cached_property
    def row_noise(self) -> float:
        """The noise of f relative to the terms of its equations."""
        if self.derivatives.complex_step:
            return self.backend.eps
        return self._relative_noise(self._both)

    @cached_property
    def state_accuracy(self) -> float:
        """Relative accuracy of df/dh."""
        if self.derivatives.complex_step:
            return ERROR_FACTOR * self.backend.eps
        # Measured, so that it takes no safety factor.
        return accuracy([self._computed(0)], self._terms)

    @property
    def _terms(self) -> Any:
        """The sizes of rows if the entries of one part are not known."""
        return array_on_host(self.derivatives.terms).astype(float)

    @cached_property
    def _first_accuracy(self) -> float:
        if self.derivatives.complex_step:
            return ERROR_FACTOR * self.backend.eps
        return accuracy(self._both)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Relative accuracy of both first derivatives, and of second derivatives.

        That of second derivatives is the usual one of such differences, or that of those which have
        been computed if it is worse.
        """
        derivatives, eps = self.derivatives, self.backend.eps
        if derivatives.complex_step:
            second = ERROR_FACTOR * eps ** (2 / 3)
        else:
            step = derivatives.second_step
            if derivatives.rule.relative_step is None:
                step = NOISE_STEP_FACTOR * self.row_noise**0.25
            second = ERROR_FACTOR * max(self.row_noise / step**2, step**2)
        measured = 0.0 if self._second is None else self._second.error
        return self._first_accuracy, max(second, measured)

    def second_differences(self, warn: Callable[[str], None]) -> SecondDifferences:
        """Return the second derivatives of f along directions.

        Parameters
        ----------
        warn : callable
            ``warn(message)`` is called if few digits are left.
        """
        rule = self.derivatives.rule
        if rule.scale is None:
            measure_lengths(self.derivatives, self._both)
        found, share = self._second_differences(warn), 1.0
        if found.adaptive and found.excess > 1.0:
            measure_lengths(self.derivatives, self._both, shorten=True)
            found = min(found, self._second_differences(warn), key=lambda one: one.expected_error)
            for _ in range(MAX_SHORTENINGS):
                if found.excess <= 1.0:
                    break
                # Truncation errors over noise are as the power order + 2 of the step.
                share *= max(found.excess ** (-1.0 / (found.order + 2)), MIN_SHORTENING)
                shorter = self._second_differences(warn, share)
                if shorter.expected_error > found.expected_error:
                    break
                found = shorter
        found.judge(found.error)
        self._second = found
        return found

    def _second_differences(
        self, warn: Callable[[str], None], share: float = 1.0
    ) -> SecondDifferences:
        """Return second derivatives with a share of the steps that follow from the lengths."""
        columns, coloured = self._both, self.sparsity.joint_pattern()
        noise = host.maximum(*self._noise.values()) if self._noise else None
        of_first = [array_on_host(size) for size in self.derivatives.sizes]
        derivatives, steps = second_derivative_sizes(self.derivatives, columns, noise, share)
        relative = [
            array_on_host(size) / before
            for size, before in zip(derivatives.sizes, of_first, strict=True)
        ]
        magnitudes = _magnitudes(columns, relative)

        def judge(error: float) -> None:
            if error > lost_second_accuracy(self.backend.eps):
                warn(self._describe_lost_second_digits(error, found.truncation))

        found = SecondDifferences(
            derivatives,
            magnitudes,
            steps,
            1.0 / host.concatenate(relative),
            self.row_noise,
            coloured,
            judge,
        )
        return found

    def _describe_lost_second_digits(self, error: float, truncation: float) -> str:
        source = "the complex step" if self.derivatives.complex_step else "central differences"
        lost = (
            f"its second derivatives, by differences of {source}, have a relative error of about "
            f"{error:.0e}"
        )
        instead = f"{self.advice.with_curvature}, or use {self.advice.automatic}"
        if truncation > 0.5 * error:
            return (
                f"{lost}, since the function bends over a small part of the size of a variable, or "
                f"not smoothly. Pass such lengths as scale=, {instead}"
            )
        return (
            f"{lost}, since they are small beside the first derivatives in the same rows, "
            f"whose rounding hides them. Leave out what is linear and large, {instead}"
        )

    def sources(self, order: int) -> dict[str, str]:
        """Return how each derivative is computed, with the digits of those that are known yet."""
        second_fields = SECOND_DERIVATIVES if order == 2 else ()
        if self.derivatives.complex_step:
            # The usual digits are those of the documentation.
            error = self.accuracy[1]
            usual = error <= ERROR_FACTOR * self.backend.eps ** (2 / 3)
            of_digits = "" if usual else f" ({_digits(error)})"
            return {
                **dict.fromkeys(FIELDS, "the complex step"),
                **dict.fromkeys(second_fields, "differences of the complex step" + of_digits),
            }
        state = params = second = ""
        if len(self._columns) == 2:
            state, second = map(_digits, self.accuracy)
            params = state
        elif 0 in self._columns:
            state = _digits(self.state_accuracy)
        first = f"central differences ({self.derivatives.verdict.reason}"
        of_second = "differences of central differences" + (f" ({second})" if second else "")
        return {
            **{
                field: first + (f"; {digits})" if digits else ")")
                for field, digits in zip(FIELDS, (state, params), strict=True)
            },
            **dict.fromkeys(second_fields, of_second),
        }

    def describe_lost_digits(self) -> str:
        """Return a message if the derivatives that were computed have few digits, or ""."""
        if self.derivatives.complex_step:
            return ""
        both = len(self._columns) == 2
        error = self.accuracy[0] if both else self.state_accuracy
        if error <= max(LOST_ACCURACY, 100 * self.backend.eps ** (2 / 3)):
            return ""
        columns, terms = (self._both, 0.0) if both else ([self._computed(0)], self._terms)
        lost = f"its first derivatives, by differences, have a relative error of about {error:.0e}"
        if error > 2.0 * accuracy(columns, terms, truncation=False):
            return (
                f"{lost}, since the function bends within the steps, as where it has a kink or all "
                "of its derivatives are zero. Avoid such a point, such as a start of zeros, write "
                f"the function so that it accepts complex arrays, or use {self.advice.automatic}"
            )
        noise = self.row_noise if both else self._relative_noise(columns, terms)
        return (
            f"{lost}, since the function has noise of {noise:.0e} of its terms. Look for single "
            "precision, tables or loose tolerances inside, write it so that it accepts complex "
            f"arrays, or use {self.advice.automatic}"
        )

    def _relative_noise(self, columns: list[Columns], terms: Any = 0.0) -> float:
        noise = host.maximum.reduce(list(self._noise.values()))
        return max(self.backend.eps, relative_noise_of_rows(columns, noise, terms))


def lost_second_accuracy(eps: float) -> float:
    """Return the relative error of second derivatives above which there is a warning."""
    return max(LOST_SECOND_ACCURACY, 100 * eps**0.5)


def _digits(error: float) -> str:
    return f"{max(-math.log10(max(error, 1e-300)), 0.0):.0f} digits"


def _magnitudes(columns: list[Columns], factors: list[Any]) -> Any:
    """Return the magnitudes of the entries of (df/dtheta, df/dh), in other units of the columns."""
    N, P = columns[0].shape[0], factors[0].shape[0]
    first = 0, P  # column of each part
    values, rows, at = (
        host.concatenate(part)
        for part in zip(
            *(
                (
                    abs(c.values) * factors[c.part][c.columns],
                    c.rows,
                    c.columns + first[c.part],
                )
                for c in columns
            ),
            strict=True,
        )
    )
    values = host.nan_to_num(values, copy=False)
    shape = N, P + factors[1].shape[0]
    if N * shape[1] > MAX_DENSE_ENTRIES and values.shape[0] < MAX_FILL * N * shape[1]:
        return sparse.csr_matrix((values, (rows, at)), shape=shape)
    dense = host.zeros(shape)
    dense[rows, at] = values
    return dense
