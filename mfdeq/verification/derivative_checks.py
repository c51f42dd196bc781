"""Checks of the derivatives of models and losses at one (h, theta).

First derivatives are checked against values, second derivatives against first ones and adjoints
against products, along random and structured directions. Their number does not depend on N and P.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array
from ..models.curvature import CurvatureOperator
from ..models.linearization import CheckedLinearization, Problem
from ..models.losses import LossBase
from ..operators.operator import Operator
from .checks import TERM_ERROR_FACTOR, Checker, Term

ROUNDING_FACTOR = 10.0  # rounding errors of values and derivatives, in units of eps


class DerivativeChecker(Checker):
    """The checks of the derivatives that a model and a loss return.

    Some directions are proportional to the entries of (h, theta), which may have very different
    sizes. Others have the same size in all entries, which shows errors where an entry is small.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem.backend, seed)
        self.problem, self.theta = problem, problem.theta
        self.missing: list[str] = []

    def set_directions(self, h: Array, lin: CheckedLinearization) -> None:
        """Set the directions for (h, theta), and their sizes."""
        norm, xp, random = self.backend.norm, self.backend.xp, self.backend.random
        N, P = h.shape[0], self.theta.shape[0]
        # The sum of the sizes of the terms of each row of R: the row's own unit.
        self.rows = lin.A.abs_apply(xp.abs(h)) + lin.B.abs_apply(xp.abs(self.theta))
        sizes = [
            self._direction_size(x, norm(self.rows), norm(op._apply(e)))
            for x, op, e in (
                (self.theta, lin.B, _unit(random(P, seed=self.seed + 99), norm)),
                (h, lin.A, _unit(random(N, seed=self.seed + 98), norm)),
            )
        ]
        self.size_theta, self.size_h = sizes
        self.u, self.v = (
            self._proportional(self.theta, self.size_theta, self.seed + k) for k in (101, 102)
        )
        self.dh, self.other = (
            self._proportional(h, self.size_h, self.seed + k) for k in (100, 104)
        )

    def _direction_size(self, x: Array, scale: float, image: float) -> float:
        """Return ‖x‖, or, if that is small, the size that changes R by its own size; at most 1."""
        own = self.backend.norm(x)
        natural = scale / image if scale > 0 and image > 0 else 1.0
        return own if own >= 1.0 else min(max(own, natural), 1.0)

    def _proportional(self, x: Array, size: float, seed: int) -> Array:
        """Return a random vector proportional to the entries of x; zeros count as average."""
        xp, n = self.backend.xp, x.shape[0]
        entries = xp.abs(x)
        average = self.backend.norm(x) / n**0.5
        entries = xp.where(entries > 0, entries, xp.full_like(entries, average or 1.0))
        y = entries * self.backend.random(n, seed=seed)
        return size * _unit(y, self.backend.norm)

    def _directions(self, x: Array, along: Array, size: float) -> dict[str, Array]:
        """Return `along` and directions that do not depend on x, keyed by their names."""
        xp, n = self.backend.xp, x.shape[0]
        directions = {
            ", of one size": self.backend.random(n, seed=self.seed + 97),
            ", all entries equal": xp.ones_like(x),
        }
        if n > 1:
            odd = xp.astype(xp.arange(n, device=self.backend.device) % 2, x.dtype)
            directions[", alternating signs"] = 1.0 - 2.0 * odd
        norm = self.backend.norm
        return {"": along, **{words: size * _unit(y, norm) for words, y in directions.items()}}

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

        def residual(dtheta: Array, dh: Array) -> Array | None:
            return Problem(self.problem.model, self.theta + dtheta, h).trial_residual(h + dh)[0]

        for name, op, sign, x, along, size in (
            ("d_state", lin.A, 1.0, h, self.dh, self.size_h),
            ("d_params", lin.B, -1.0, self.theta, self.v, self.size_theta),
        ):
            checks = []
            for words, direction in self._directions(x, along, size).items():
                zero_theta, zero_h = 0.0 * self.v, 0.0 * h
                both = (zero_theta, direction) if op is lin.A else (direction, zero_h)
                # Estimate the rounding of R from the derivative and, since that may be wrong,
                # also from the value of R at the largest step.
                rounding = self.rows + op.abs_apply(xp.abs(x) + self.steps[0] * xp.abs(direction))
                rounding = rounding + (xp.abs(h) if self.problem.is_map else 0.0)
                farthest = residual(*(self.steps[0] * part for part in both))
                if farthest is not None:
                    rounding = rounding + xp.abs(farthest)
                term = Term(
                    name + words,
                    derivative=sign * op._apply(direction),
                    size=rounding,
                    noise=ROUNDING_FACTOR * self.backend.eps,
                    scale=norm(rounding),
                    error=lin.linearization.accuracy[0] * norm(op.abs_apply(direction)),
                )
                checks += self._check_taylor(residual, *both, [term])
            self._add_worst(checks)

    def _check_second_derivatives(self, lin: CheckedLinearization, h: Array) -> None:
        """Check curvature and second against first derivatives, and against each other."""
        norm, xp, given = self.backend.norm, self.backend.xp, lin.linearization
        P, N = self.theta.shape[0], h.shape[0]
        first_error, second_error = given.accuracy
        # Weight every row of f in its own unit, so that no large row hides a small one.
        average = norm(self.rows) / N**0.5 or 1.0
        unit = self.rows / average
        w = self.backend.random(N, seed=self.seed + 103) / xp.where(
            unit > 0, unit, xp.ones_like(unit)
        )
        K = None if given.curvature is None else lin.curvature(w, check_symmetry=False)
        a = self._stack(self.u, self.other)
        if K is not None:
            self._check_blocks_of_columns("curvature", K)
            self._check_block_symmetry("curvature", K, second_error)

        def gradient(dtheta: Array, dh: Array) -> Array | None:
            problem = Problem(self.problem.model, self.theta + dtheta, h)
            if problem.trial_residual(h + dh)[0] is None:
                return None
            at = problem.linearize(h + dh)
            # The gradient of w'f over (theta, h), and the derivative of f along a. For a map
            # f' = J = I - A: leave out the I, which is constant and would only add rounding.
            by_w = at.B._apply_adjoint(w), -at.A._apply_adjoint(w)
            return xp.concat([*by_w, at.B._apply(a[:P]) - at.A._apply(a[P:])], axis=0)

        # Rounding is relative to the sum of the sizes of the terms of each entry. For a map these
        # include the identity, since A = I - J.
        identity = 1.0 if self.problem.is_map else 0.0
        by_state = identity * xp.abs(w) + lin.A._adjoint().abs_apply(w)
        sizes = lin.B._adjoint().abs_apply(w), by_state
        size = identity * xp.abs(a[P:]) + lin.B.abs_apply(a[:P]) + lin.A.abs_apply(a[P:])
        noise = ROUNDING_FACTOR * self.backend.eps + 2 * first_error
        for dtheta, dh, blocks, where in (
            (0.0 * self.v, self.dh, ("state_params, transposed", "state_state"), "state"),
            (self.v, 0.0 * h, ("params_params", "state_params"), "parameters"),
        ):
            along, terms = self._stack(dtheta, dh), []
            if K is not None:
                names = [f"curvature.{block}" for block in blocks]
                terms += self._curvature_terms(names, K, along, sizes, noise, second_error)
            if given.second is not None:
                derivative = lin.second(a, along)
                term = Term(
                    f"second, along the {where}",
                    derivative,
                    size,
                    noise,
                    scale=norm(size),
                    error=second_error * norm(derivative),
                    entries=slice(P + N, None),
                )
                terms.append(term)
            self.checks += self._check_taylor(gradient, dtheta, dh, terms)
        if given.second is not None:
            self._check_second(lin, K, w, a)

    def _curvature_terms(
        self,
        names: list[str],
        K: CurvatureOperator,
        along: Array,
        sizes: tuple[Array, ...],
        noise: float,
        second_error: float,
    ) -> list[Term]:
        """Return the terms for the parameter part and the state part of K · along."""
        norm, P = self.backend.norm, sizes[0].shape[0]
        product, end = K._apply(along), along.shape[0]
        error = second_error * norm(K.abs_apply(along)) if second_error else 0.0
        parts = zip((slice(0, P), slice(P, end)), sizes, strict=True)
        return [
            Term(name, product[part], size, noise, norm(size), error, part)
            for name, (part, size) in zip(names, parts, strict=True)
        ]

    def _check_block_symmetry(self, name: str, K: CurvatureOperator, error: float = 0.0) -> None:
        """Check the symmetry of the diagonal blocks, and the adjoint of the mixed one."""
        for block, op in (("params_params", K.params_params), ("state_state", K.state_state)):
            self._check_symmetry(f"{name}.{block}: symmetry", op, error)
        self._check_adjoint(f"{name}.state_params: adjoint", K.state_params, error)

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

        def value(dtheta: Array, dh: Array) -> Array:
            return xp.asarray([loss.value(h + dh, self.theta + dtheta)], dtype=self.backend.dtype)

        noise = ROUNDING_FACTOR * self.backend.eps
        size = abs(loss.value(h, self.theta)) + norm(d_h) * norm(h)
        scale = size + norm(d_theta) * norm(self.theta)
        for name, slope, x, along, length in (
            ("d_state", d_h, h, self.dh, self.size_h),
            ("d_params", d_theta, self.theta, self.v, self.size_theta),
        ):
            checks = []
            for words, direction in self._directions(x, along, length).items():
                both = (zero_theta, direction) if name == "d_state" else (direction, zero_h)
                derivative = xp.reshape(xp.vecdot(slope, direction), (1,))
                sizes = xp.full_like(derivative, size)
                term = Term(f"{name} of the loss{words}", derivative, sizes, noise, scale)
                checks += self._check_taylor(value, *both, [term])
            self._add_worst(checks)
        K = loss.curvature_operator(h, self.theta)
        self._check_block_symmetry("loss curvature", K)

        def gradient(dtheta: Array, dh: Array) -> Array:
            return self._stack(*loss.gradients(h + dh, self.theta + dtheta))

        size = norm(gradient(zero_theta, zero_h)) + norm(K._apply(self._stack(self.theta, h)))
        by_part = tuple(xp.full_like(x, size / x.shape[0] ** 0.5) for x in (self.theta, h))
        for dtheta, dh, blocks in (
            (zero_theta, self.dh, ("state_params, transposed", "state_state")),
            (self.v, zero_h, ("params_params", "state_params")),
        ):
            names = [f"loss curvature.{block}" for block in blocks]
            along = self._stack(dtheta, dh)
            terms = self._curvature_terms(names, K, along, by_part, noise, 0.0)
            self.checks += self._check_taylor(gradient, dtheta, dh, terms)

    def _stack(self, dtheta: Array, dh: Array) -> Array:
        return self.backend.xp.concat([dtheta, dh], axis=0)


def _unit(x: Array, norm: Callable[[Array], float]) -> Array:
    """Return x scaled to norm 1; zero if x is zero."""
    return x / (norm(x) or 1.0)
