"""One solve with a factor: attempts, refined until the true residual b - A x is small enough.

A residual that stays above its tolerance is accepted only at the rounding floor of A x, and only
if A is not singular to working precision.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from ..arrays.backend import Array, Backend, host
from ..arrays.powers_of_two import exponents_of, times_power
from ..errors import AccuracyWarning, ArgumentError, ConvergenceError, SingularStateError, warn
from ..operators.operator import Operator
from ..report import LinearCounts
from .residuals import ResidualMeasure
from .rounding import MIN_DIGITS, rounding_digits, singular_error

ROUNDING_FACTOR = 16.0  # c of the rounding floor c eps || |A||x| || of a residual
MAX_ROUNDING_SHARE = 0.1  # of an equation's terms, up to which its residual may be rounding
SUSPICIOUS_RESIDUAL = 1e-3  # relative; rounding as large as this may come from a singular A
FEW_DIGITS = 3.0  # of a solution; with fewer it is returned with a warning
MAX_CORRECTIONS = 10  # steps of iterative refinement after which a solve has failed
REFINEMENT_MARGIN = 0.01  # tolerance of a refinement, over the reduction that is missing
LOOSE_RTOL = 0.1  # of solves that only need a direction or an order of magnitude
NULL_ROUNDINGS = 1e4  # rounding errors of the terms, up to which A x is zero for a null vector x


class Attempts(Protocol):
    """What a checked solve needs of a factor: see `mfdeq.linear.Factor`."""

    A: Operator
    backend: Backend
    rtol: float
    counts: LinearCounts

    @property
    def name(self) -> str:
        """The method and its preconditioner."""

    @property
    def iterative(self) -> bool:
        """Whether a solve to a looser tolerance costs less."""

    @property
    def advice(self) -> str:
        """What to try after a failed solve."""

    @property
    def stopped(self) -> str:
        """Why the last attempt of this thread gave up, or ""."""

    @property
    def _adjoint_operator(self) -> Operator: ...

    def _measure(self, b: Array, adjoint: bool, weights: Array | None = None) -> ResidualMeasure:
        """Return the measure in which the residuals for b must be small."""

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        """Solve without a residual check."""

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        """Solve without a residual check, with weighted residuals if that is possible."""


class CheckedSolve:
    """A solve of A x = b, or of A* x = b, whose residual is checked.

    Parameters
    ----------
    factor : Attempts
        The factor that solves.
    b : (N,) or (N, k) array
    rtol : float
        Relative residual that every column must reach.
    adjoint : bool
    weights : (N,) array or None
        As in `Factor.solve`.

    Attributes
    ----------
    worst_residual : float or None
        The largest relative residual of the solution; None before it is found.
    """

    def __init__(
        self, factor: Attempts, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> None:
        self.factor, self.backend = factor, factor.backend
        self.A = factor._adjoint_operator if adjoint else factor.A
        self.b, self.rtol, self.adjoint, self.weights = b, rtol, adjoint, weights
        self.measure = factor._measure(b, adjoint, weights)
        self.worst_residual: float | None = None

    def solution_in_range(self) -> Array:
        """Solve with columns of b whose squares are out of range scaled by powers of two.

        It raises the errors that `Factor.solve` describes.
        """
        backend, exponents = self.backend, exponents_of(self.backend, self.b)
        if exponents.any():
            self.b = times_power(backend, self.b, exponents)
            self.measure = self.factor._measure(self.b, self.adjoint, self.weights)
        if not host.isfinite(self.measure.size[0]).all():
            raise ArgumentError("the right-hand side holds NaN or infinity")
        try:
            x = self.refined(self._attempt(self.b, self.rtol))
        except ConvergenceError as error:
            if error.best is not None:
                error.best = times_power(backend, error.best, -exponents)
            raise
        return check_finite(backend, times_power(backend, x, -exponents))

    def refined(self, x: Array) -> Array:
        """Refine an attempt until its residual is small in the measure.

        It raises the errors that `Factor.solve` describes.
        """
        A, b, measure = self.A, self.b, self.measure
        product = self._product(x)
        self.worst_residual = measure.accepted(b, product, self.rtol)
        if self.worst_residual is not None:
            return x
        b_norm = measure.size
        target, history = measure.target(self.rtol), [measure.residual(b, product, x)]
        while not (history[-1] <= target).all():
            if not host.isfinite(history[-1]).all():
                raise self._failure(x, history)
            sizes, unit = A.abs_apply(x), ROUNDING_FACTOR * self.backend.eps
            floor = unit * measure.norms(sizes, x)
            if (history[-1] <= host.maximum(floor, target)).all():
                self._accept_at_floor(x, history[-1], floor, target)
                break
            stalled = len(history) > 1 and (history[-1] > 0.5 * history[-2] + floor).any()
            if stalled or self.factor.stopped or len(history) > MAX_CORRECTIONS:
                raise self._failure(x, history)
            self.factor.counts.add(refinements=1)
            missing = float((target / host.where(history[-1] > target, history[-1], 1.0)).min())
            needed = max(self.rtol, 0.01 * self.factor.rtol, REFINEMENT_MARGIN * missing)
            x = x + self._attempt(b - product, min(needed, LOOSE_RTOL))
            product = self._product(x)
            history.append(measure.residual(b, product, x))
        self.worst_residual = float((history[-1] / host.where(b_norm > 0, b_norm, 1.0))[0].max())
        return x

    def _attempt(self, b: Array, rtol: float) -> Array:
        if self.weights is None:
            return self.factor._attempt(b, rtol, self.adjoint)
        return self.factor._attempt_weighted(b, rtol, self.adjoint, self.weights)

    def _product(self, x: Array) -> Array:
        """Compute A x for the residual."""
        if self.A.has_entries or bool(self.backend.xp.all(self.backend.xp.isfinite(x))):
            return self.A._apply(x)
        # Do not pass NaN from a breakdown to a user's product, which would be blamed for it.
        return x

    def _accept_at_floor(self, x: Array, residual: Any, floor: Any, target: Any) -> None:
        """Accept columns above their tolerance, unless A is singular to working precision."""
        factor, A, b, b_norm = self.factor, self.A, self.b, self.measure.size
        above = residual > target
        factor.counts.add(at_floor=int(above.any(axis=0).sum()))
        rounding = host.where(above, host.maximum(residual, floor / ROUNDING_FACTOR), 0.0)
        relative = (rounding / host.where(b_norm > 0, b_norm, 1.0)).max(axis=0)
        if not relative.max() > SUSPICIOUS_RESIDUAL:
            return
        if ((residual >= b_norm) & (b_norm > 0)).all(axis=0).any():
            # The null vector in x is so large that zero would be a better solution.
            raise singular_error(0.0, "to working precision")
        if x.ndim == 2:
            worst = int(relative.argmax())
            x, b = x[:, worst], b[:, worst]
        if float(relative.max()) > MAX_ROUNDING_SHARE and leaves_equation(
            factor, A, x, b, self.adjoint
        ):
            raise singular_error(0.0, "to working precision")
        x = x / self.backend.norm(x)
        digits = rounding_digits(A, x, factor._attempt(x, LOOSE_RTOL, not self.adjoint))
        if not digits >= MIN_DIGITS:
            raise singular_error(digits, "to working precision")
        if self.rtol <= factor.rtol and digits < FEW_DIGITS:
            warn(
                f"{factor.name}: a solve ended at the rounding error of its residual, "
                f"{float(relative.max()):.1e} of the right-hand side, with about {digits:.0f} "
                "correct digits, since the terms of A x are much larger than their sum. Use "
                "float64, or other unknowns and equations, in which they do not cancel",
                AccuracyWarning,
            )

    def _digits_along_null_vector(self, x: Array, residual: Any) -> float | None:
        """Return the digits left by a singular A, or None if A is not seen to be singular.

        A solution that leaves most of b and is so large that the terms of A x cancel is along a
        null vector, and above the rounding floor by chance. A solve for that vector shows how close
        A is to singular.
        """
        b_norm = host.where(self.measure.size > 0, self.measure.size, 1.0)
        relative = (residual / b_norm).max(axis=0)
        if not relative.max() > LOOSE_RTOL:
            return None
        if x.ndim == 2:
            x = x[:, int(relative.argmax())]
        adjoint_operator = self.factor.A if self.adjoint else self.factor._adjoint_operator
        if not _cancels(self.A, x):
            return None
        x = x / self.backend.norm(x)
        w = self.factor._attempt(x, LOOSE_RTOL, not self.adjoint)
        if not _cancels(adjoint_operator, w):
            return None
        digits = rounding_digits(self.A, x, w)
        return digits if digits < MIN_DIGITS else None

    def _overflows(self) -> bool:
        """Return whether the solution for a tiny multiple of b is finite."""
        xp = self.backend.xp
        tiny = self.backend.smallest_normal**0.5
        x = self.factor._attempt(tiny * self.b, LOOSE_RTOL, self.adjoint)
        return bool(xp.all(xp.isfinite(x)))

    def _failure(self, x: Array, history: list[Any]) -> ConvergenceError | SingularStateError:
        factor, b_norm = self.factor, self.measure.size
        why = f"{factor.stopped}; " if factor.stopped else ""  # before other solves
        finite = factor.iterative or host.isfinite(history[-1]).all()
        if not finite and not self._overflows():
            return singular_error(0.0, "(a pivot is zero, so that a solution is not finite)")
        if finite and (digits := self._digits_along_null_vector(x, history[-1])) is not None:
            return singular_error(digits, "to working precision")
        size = host.where(b_norm > 0, b_norm, 1.0)
        path = [float((residual / size).max()) for residual in history]
        return ConvergenceError(
            f"{factor.name}: the {'adjoint ' if self.adjoint else ''}solve stopped at a relative "
            f"true residual of {path[-1]:.2e}, above its tolerance {self.rtol:.1e} "
            f"({why}residuals {' -> '.join(f'{residual:.1e}' for residual in path)}). "
            f"Try {factor.advice}; A may also be nearly singular",
            best=x,
            report=factor.counts,
        )


def _cancels(A: Operator, x: Array) -> bool:
    """Return whether x is a null vector of A, up to rounding errors of the solve that gave x."""
    backend = A.backend
    product, terms = backend.norm(A._apply(x)), backend.norm(A.abs_apply(x))
    return product < NULL_ROUNDINGS * backend.eps * terms  # False for x = 0


def leaves_equation(factor: Attempts, A: Operator, x: Array, b: Array, adjoint: bool) -> bool:
    """Return whether an equation of A x = b has a residual as large as its largest terms.

    That is not rounding, whatever the units. It occurs if A is singular and x is large along a null
    vector, where other equations round. Rows that a pivot of another one has spoiled are refined
    first.

    Parameters
    ----------
    factor : Attempts
        A factor of A or of its adjoint.
    A : Operator, (N, N)
        The operator of the equation.
    x, b : (N,) arrays
    adjoint : bool
        Whether A is the adjoint of the matrix of `factor`.
    """
    xp, least = A.backend.xp, math.inf
    for _ in range(MAX_CORRECTIONS):
        x = x + factor._attempt(b - A._apply(x), LOOSE_RTOL, adjoint)
        residual, terms = xp.abs(b - A._apply(x)), A.abs_apply(x) + xp.abs(b)
        share = float(xp.max(residual / xp.where(terms > 0.0, terms, 1.0)))
        if share <= MAX_ROUNDING_SHARE:
            return False
        if not share <= 0.5 * least:  # True for NaN
            return True
        least = share
    return True


def check_finite(backend: Backend, x: Array) -> Array:
    """Return a solution after its scaling has been undone, or raise an error if it overflows."""
    if not bool(backend.xp.all(backend.xp.isfinite(x))):
        raise ArgumentError(
            f"the solution is too large for {backend.dtype}: divide the right-hand side by a "
            "number and multiply the solution by it in higher precision"
        )
    return x
