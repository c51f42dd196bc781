"""Checks of the derivatives of models and losses at one (h, theta).

First derivatives are checked against values, second derivatives against first ones and adjoints
against products, along random and structured directions. Their number does not depend on N and P.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..arrays.backend import Array
from ..errors import DerivativeError, is_evaluation_failure
from ..models.checked_linearization import CheckedLinearization
from ..models.losses import LossBase
from ..models.problem import Problem
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Operator
from .checker import TERM_ERROR_FACTOR
from .curvature_checks import CurvatureChecker
from .noise import Noise
from .taylor_checks import Term

ROUNDING_FACTOR = 10.0  # rounding errors of values and derivatives, in units of eps
MAX_SIZE_RATIO = 1e4  # largest change of an entry, relative to the entry
# The change of the state relative to that of the parameters, with which they do not cancel.
STATE_SHARE = 0.618

T = TypeVar("T")


class DerivativeChecker(CurvatureChecker):
    """The checks of the derivatives that a model and a loss return.

    Some directions are proportional to the entries of (h, theta), which may have very different
    sizes. Others change the residual by a similar amount in every entry, which shows errors where
    an entry is small. None depends on the units of equations, unknowns or parameters.

    Attributes
    ----------
    rows : (N,) array
        The unit of each equation: the sum of the sizes of its terms.
    size_theta, size_h : (P,) and (N,) arrays
        The change of each parameter and unknown that changes an equation by its unit.
    noise : (N,) array
        The noise of the residual.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem.backend, seed)
        self.problem, self.theta = problem, problem.theta
        self.missing: list[str] = []
        self.last_failure = ""  # why the model had no value at a point nearby

    def set_directions(self, h: Array, lin: CheckedLinearization) -> None:
        """Set the directions for (h, theta), and the sizes of equations and unknowns."""
        xp, root = self.backend.xp, self.backend.eps**0.5
        terms = lin.A.abs_apply(xp.abs(h)) + lin.B.abs_apply(xp.abs(self.theta))
        self.rows, self.noise = terms, 0.0 * terms
        for seed in (98, 106):
            self._set_sizes(h, lin)
            noise = self._residual_noise(h, self.seed + seed)
            # The terms of an equation may cancel in its derivative, so that their rounding hides
            # its changes. Its size is then that of changes above the noise.
            size = xp.where(noise.seen, noise.size, terms)
            self.noise = xp.maximum(self.noise, size)
            sizes = xp.maximum(terms, self.noise / root)
            self.rows = xp.where(terms > 0, sizes, xp.ones_like(terms))
        self._set_sizes(h, lin)
        self.u, self.v = (
            self._proportional(self.theta, self.size_theta, self.seed + k) for k in (101, 102)
        )
        self.dh, self.other = (
            self._proportional(h, self.size_h, self.seed + k) for k in (100, 104)
        )

    def _set_sizes(self, h: Array, lin: CheckedLinearization) -> None:
        self.size_theta = self._sizes(self.theta, lin.B)
        self.size_h = self._sizes(h, lin.A)

    def _sizes(self, x: Array, op: Operator) -> Array:
        """Return the change of each entry of x that changes the equations by their units.

        It is at most a large multiple of the entry, which may enter by a function that is steep
        further away, unless that is hidden by noise. An entry of zero has no size: it gets one
        between this change and the least that is seen to half of the digits.
        """
        xp, eps = self.backend.xp, self.backend.eps
        one, own = xp.ones_like(x), xp.abs(x)
        effect = self._effect(op, self.rows)
        natural = xp.where(effect > 0, 1.0 / xp.where(effect > 0, effect, one), 0.0 * one)
        natural = xp.where(natural > 0, natural, xp.where(own > 0, own, one))
        effect = self._effect(op, xp.maximum(self.noise, eps * self.rows) / eps**0.5)
        seen = xp.where(effect > 0, 1.0 / xp.where(effect > 0, effect, one), 0.0 * one)
        middle = xp.where(seen > 0, (natural * seen) ** 0.5, natural)
        limit = xp.where(own > 0, xp.maximum(MAX_SIZE_RATIO * own, seen), middle)
        return xp.minimum(natural, limit)

    def _effect(self, op: Operator, rows: Array) -> Array:
        """Return how much each column of an operator changes the equations, in their units."""
        xp = self.backend.xp
        weights = xp.where(rows > 0, 1.0 / xp.where(rows > 0, rows, xp.ones_like(rows)), 0.0 * rows)
        adjoint = op._adjoint()
        effect = xp.abs(adjoint.abs_apply(weights))
        if not op.has_entries:
            # Products with one vector of random signs may cancel.
            for seed in (95, 96):
                signs = xp.sign(self.backend.random(rows.shape[0], seed=self.seed + seed))
                effect = xp.maximum(effect, xp.abs(adjoint._apply(signs * weights)))
        return effect

    def _proportional(self, x: Array, size: Array, seed: int) -> Array:
        """Return a random vector proportional to the entries of x, or to `size` where x is zero."""
        xp = self.backend.xp
        own = xp.abs(x)
        return xp.where(own > 0, own, size) * self._random(x.shape[0], seed)

    def _directions(self, x: Array, along: Array, size: Array) -> dict[str, Array]:
        """Return `along` and directions that do not depend on x, keyed by their names."""
        xp, n = self.backend.xp, x.shape[0]
        directions = {
            "": along,
            ", of one size": size * self._random(n, self.seed + 97),
            ", all entries equal": size,
        }
        if n > 1:
            odd = xp.astype(xp.arange(n, device=self.backend.device) % 2, x.dtype)
            directions[", alternating signs"] = size * (1.0 - 2.0 * odd)
        return directions

    def _residual(self, h: Array) -> Callable[[Array, Array], Array | None]:
        """Return the residual as a function of changes of (theta, h)."""

        def residual(dtheta: Array, dh: Array) -> Array | None:
            return Problem(self.problem.model, self.theta + dtheta, h).trial_residual(h + dh)[0]

        return residual

    def _residual_noise(self, h: Array, seed: int) -> Noise:
        residual = self._residual(h)
        dtheta = self.size_theta * self._random(self.theta.shape[0], seed + 1)
        dh = STATE_SHARE * self.size_h * self._random(h.shape[0], seed)
        base = residual(0.0 * dtheta, 0.0 * dh)
        noise = Noise(self.backend, 0.0 * dh if base is None else base)
        if base is not None:
            noise.measure(lambda t: residual(t * dtheta, t * dh))
        return noise

    # Of the model

    def check_linearization(self, h: Array) -> None:
        """Check d_state, d_params, curvature and second against the residual and each other."""
        lin = self.problem.linearize(h)
        self.set_directions(h, lin)
        for name, op in (("d_state", lin.A), ("d_params", lin.B)):
            self._check_blocks_of_columns(name, op)
            self._check_adjoint(f"{name}: adjoint", op)
        self._check_first_derivatives(lin, h)
        fields = {"curvature": lin.linearization.curvature, "second": lin.linearization.second}
        self.missing = [name for name, field in fields.items() if field is None]
        if len(self.missing) < 2:
            self._check_second_derivatives(lin, h)

    def _check_first_derivatives(self, lin: CheckedLinearization, h: Array) -> None:
        """Check d_state and d_params against the residual."""
        norm, xp = self.backend.norm, self.backend.xp
        residual = self._residual(h)
        zero_theta, zero_h = 0.0 * self.theta, 0.0 * h
        for name, op, sign, x, along, size in (
            ("d_state", lin.A, 1.0, h, self.dh, self.size_h),
            ("d_params", lin.B, -1.0, self.theta, self.v, self.size_theta),
        ):
            checks = []
            for words, direction in self._directions(x, along, size).items():
                both = (zero_theta, direction) if op is lin.A else (direction, zero_h)
                # Estimate the rounding of R from the derivative and, since that may be wrong,
                # also from the value of R at the largest step.
                terms = op.abs_apply(xp.abs(x) + self.taylor.steps[0] * xp.abs(direction))
                rounding = self.rows + terms + (xp.abs(h) if self.problem.is_map else 0.0)
                farthest = residual(*(self.taylor.steps[0] * part for part in both))
                if farthest is not None:
                    rounding = rounding + xp.abs(farthest)
                term = Term(
                    name + words,
                    derivative=sign * op._apply(direction),
                    unit=self.rows,
                    noise=xp.maximum(ROUNDING_FACTOR * self.backend.eps * rounding, self.noise),
                    scale=norm(rounding / self.rows),
                    error=lin.linearization.accuracy[0] * op.abs_apply(direction),
                )
                checks += self.taylor.check(residual, *both, [term])
            self._add_worst(checks)

    def _check_second_derivatives(self, lin: CheckedLinearization, h: Array) -> None:
        """Check curvature and second against first derivatives, and against each other."""
        norm, xp, given = self.backend.norm, self.backend.xp, lin.linearization
        P, N = self.theta.shape[0], h.shape[0]
        # Weight every row of f in its own unit, so that no large row hides a small one.
        w = self._random(N, self.seed + 103) / self.rows
        K = None if given.curvature is None else lin.curvature(w, check_symmetry=False)
        a = self._stack(self.u, self.other)
        # Rounding is relative to the sum of the sizes of the terms of each entry. For a map these
        # include the identity, since A = I - J.
        identity = 1.0 if self.problem.is_map else 0.0
        by_state = identity * xp.abs(w) + lin.A._adjoint().abs_apply(w)
        sizes = lin.B._adjoint().abs_apply(w), by_state
        other = K  # with other errors, if there are any
        if K is not None:
            if given.accuracy[1]:
                there = self.problem.linearize_for_comparison(h)
                other = there.curvature(w, check_symmetry=False)
            of_columns = Diagonal(self.backend, self._stack(self.size_theta, self.size_h))
            in_units = of_columns @ K @ of_columns
            self._check_blocks_of_columns("curvature", in_units, lambda: given.accuracy[1])
            self._check_block_symmetry("curvature", K, lambda: given.accuracy[1], other, sizes)
        first_error, second_error = given.accuracy

        def gradient(dtheta: Array, dh: Array) -> Array | None:
            problem = Problem(self.problem.model, self.theta + dtheta, h, fixes_gauges=False)
            if problem.trial_residual(h + dh)[0] is None:
                return None
            at = problem.linearize_trial(h + dh)
            if at is None:
                return None
            # The gradient of w'f over (theta, h), and the derivative of f along a. For a map
            # f' = J = I - A: leave out the I, which is constant and would only add rounding.
            by_w = at.B._apply_adjoint(w), -at.A._apply_adjoint(w)
            return xp.concat([*by_w, at.B._apply(a[:P]) - at.A._apply(a[P:])], axis=0)

        size = identity * xp.abs(a[P:]) + lin.B.abs_apply(a[:P]) + lin.A.abs_apply(a[P:])
        noise = ROUNDING_FACTOR * self.backend.eps + 2 * first_error
        # The change of w'f when an entry changes by its size is about the same for all entries.
        units = 1.0 / self.size_theta, 1.0 / self.size_h
        for dtheta, dh, blocks, where in (
            (0.0 * self.v, self.dh, ("state_params, transposed", "state_state"), "state"),
            (self.v, 0.0 * h, ("params_params", "state_params"), "parameters"),
        ):
            along, terms = self._stack(dtheta, dh), []
            if K is not None:
                names = [f"curvature.{block}" for block in blocks]
                terms += self._curvature_terms(
                    names, K, along, sizes, units, noise, second_error, other
                )
            if given.second is not None:
                derivative = lin.second(a, along)
                term = Term(
                    f"second, along the {where}",
                    derivative,
                    unit=self.rows,
                    noise=noise * size,
                    scale=norm(size / self.rows),
                    error=second_error * self._spread(derivative, self.rows),
                    entries=slice(P + N, None),
                )
                terms.append(term)
            self.checks += self.taylor.check(gradient, dtheta, dh, terms)
        if given.second is not None:
            self._check_second(lin, K, w, a)

    def _check_second(
        self, lin: CheckedLinearization, K: Operator | None, w: Array, a: Array
    ) -> None:
        """Check f''[a, b] = f''[b, a] and w' f''[a, b] = a' K b."""
        xp, norm = self.backend.xp, self.backend.norm
        b, tolerance = (
            self._stack(self.v, self.dh),
            TERM_ERROR_FACTOR * lin.linearization.accuracy[1],
        )
        left, right = lin.second(a, b), lin.second(b, a)
        size = norm(left) + norm(right)
        self._check_mismatch("second: symmetry", norm(left - right), size, tolerance)
        if K is None:
            return
        Kb = K._apply(b)
        scale = float(xp.sum(xp.abs(w * left)) + xp.sum(xp.abs(a * Kb)))
        mismatch = abs(float(xp.vecdot(w, left)) - float(xp.vecdot(a, Kb)))
        self._check_mismatch("second: against curvature", mismatch, scale, tolerance)

    # Of the loss

    def check_loss(self, h: Array, loss: LossBase) -> None:
        """Check d_state, d_params and curvature of the loss."""
        norm, xp = self.backend.norm, self.backend.xp
        d_theta, d_h = loss.gradients(h, self.theta)
        zero_theta, zero_h = 0.0 * self.v, 0.0 * h

        def value(dtheta: Array, dh: Array) -> Array | None:
            value = self._at_trial(lambda: loss.value(h + dh, self.theta + dtheta))
            return None if value is None else xp.asarray([value], dtype=self.backend.dtype)

        noise, accuracy = ROUNDING_FACTOR * self.backend.eps, loss.accuracy(h, self.theta)
        ones = xp.asarray([1.0], dtype=self.backend.dtype)
        size = abs(loss.value(h, self.theta)) + float(xp.sum(xp.abs(d_h * h)))
        scale = size + float(xp.sum(xp.abs(d_theta * self.theta)))
        for name, slope, x, along, length in (
            ("d_state", d_h, h, self.dh, self.size_h),
            ("d_params", d_theta, self.theta, self.v, self.size_theta),
        ):
            checks = []
            for words, direction in self._directions(x, along, length).items():
                both = (zero_theta, direction) if name == "d_state" else (direction, zero_h)
                derivative = xp.reshape(xp.vecdot(slope, direction), (1,))
                term = Term(
                    f"{name} of the loss{words}",
                    derivative,
                    unit=ones,
                    noise=noise * size * ones,
                    scale=scale,
                    error=accuracy[0] * float(xp.vecdot(abs(slope), abs(direction))) * ones,
                )
                checks += self.taylor.check(value, *both, [term])
            self._add_worst(checks)
        K = loss.curvature_operator(h, self.theta)
        self._check_block_symmetry("loss curvature", K)

        def gradient(dtheta: Array, dh: Array) -> Array | None:
            at = self._at_trial(lambda: loss.gradients(h + dh, self.theta + dtheta))
            return None if at is None else self._stack(*at)

        units = 1.0 / self.size_theta, 1.0 / self.size_h
        gradients = self._stack(d_theta, d_h), K._apply(self._stack(self.theta, h))
        size = sum(norm(x / self._stack(*units)) for x in gradients)
        by_part = tuple(size / unit.shape[0] ** 0.5 * unit for unit in units)
        for dtheta, dh, blocks in (
            (zero_theta, self.dh, ("state_params, transposed", "state_state")),
            (self.v, zero_h, ("params_params", "state_params")),
        ):
            names = [f"loss curvature.{block}" for block in blocks]
            along = self._stack(dtheta, dh)
            terms = self._curvature_terms(names, K, along, by_part, units, noise, accuracy[1])
            self.checks += self.taylor.check(gradient, dtheta, dh, terms)

    def _at_trial(self, evaluate: Callable[[], T]) -> T | None:
        """Evaluate a user's function, or return None where it has no value."""
        with self.backend.ignore_overflow():
            try:
                return evaluate()
            except Exception as error:
                if isinstance(error, DerivativeError) or not is_evaluation_failure(error):
                    raise
                self.last_failure = f"{type(error).__name__}: {error}"
                return None

    def _stack(self, dtheta: Array, dh: Array) -> Array:
        return self.backend.xp.concat([dtheta, dh], axis=0)
