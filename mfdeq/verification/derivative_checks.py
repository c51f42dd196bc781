"""The checks of what the user gave, at one (h, theta): each derivative against the next.

First derivatives against values, second ones against first ones, adjoints against products.
Along random directions and structured ones, of which there is the same number for every size.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array
from ..models.curvature import CurvatureOperator
from ..models.linearization import Linearized, Problem
from ..models.losses import LossBase
from ..operators.operator import Operator
from .judge import Judge, Part

Function = Callable[[Array, Array], "Array | None"]


class Parts(Judge):
    """The checks of a model's and a loss's own derivatives.

    Directions are made for a place: in proportion to its entries, which may be of very different
    sizes, and alike in all entries, which shows what is wrong where an entry happens to be small.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem.backend, seed)
        self.problem, self.theta = problem, problem.theta
        self.missing: list[str] = []

    def directions(self, h: Array, lin: Linearized) -> None:
        """Set those of this place."""
        norm, xp, random = self.backend.norm, self.backend.xp, self.backend.random
        N, P = h.shape[0], self.theta.shape[0]
        # What each row of R is made of: its unit, and how far a direction has to go to be seen.
        self.rows = lin.A.abs_apply(xp.abs(h)) + lin.B.abs_apply(xp.abs(self.theta))
        sizes = [
            self._size(x, norm(self.rows), norm(op._apply(e)))
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

    def _size(self, x: Array, scale: float, image: float) -> float:
        """‖x‖, or, where that is small, what changes R by its size: at most 1."""
        own = self.backend.norm(x)
        natural = scale / image if scale > 0 and image > 0 else 1.0
        return own if own >= 1.0 else min(max(own, natural), 1.0)

    def _proportional(self, x: Array, size: float, seed: int) -> Array:
        """Random numbers in proportion to the entries of x; zeros count as of average size."""
        xp, n = self.backend.xp, x.shape[0]
        entries = xp.abs(x)
        average = self.backend.norm(x) / n**0.5
        entries = xp.where(entries > 0, entries, xp.full_like(entries, average or 1.0))
        y = entries * self.backend.random(n, seed=seed)
        return size * _unit(y, self.backend.norm)

    def _directions(self, x: Array, along: Array, size: float) -> dict[str, Array]:
        """That one, and others that do not depend on the entries of x, by what to call them."""
        xp, n = self.backend.xp, x.shape[0]
        found = {
            ", of one size": self.backend.random(n, seed=self.seed + 97),
            ", all entries alike": xp.ones_like(x),
        }
        if n > 1:
            odd = xp.astype(xp.arange(n, device=self.backend.device) % 2, x.dtype)
            found[", alternating signs"] = 1.0 - 2.0 * odd
        norm = self.backend.norm
        return {"": along, **{how: size * _unit(y, norm) for how, y in found.items()}}

    # A model's

    def linearization(self, h: Array) -> None:
        """d_state, d_params, curvature and second against the residual and each other."""
        lin = self.problem.linearize(h)
        self.directions(h, lin)
        for name, op in (("d_state", lin.A), ("d_params", lin.B)):
            self._columns(name, op)
            self._dot_test(f"{name}: adjoint", op)
        self._first(lin, h)
        self.missing = [f for f in ("curvature", "second") if getattr(lin.given, f) is None]
        if len(self.missing) < 2:
            self._of_second_order(lin, h)

    def _first(self, lin: Linearized, h: Array) -> None:
        """d_state and d_params against the residual."""
        norm, xp = self.backend.norm, self.backend.xp

        def residual(dtheta: Array, dh: Array) -> Array | None:
            return Problem(self.problem.model, self.theta + dtheta, h).trial_residual(h + dh)[0]

        for name, op, sign, x, along, size in (
            ("d_state", lin.A, 1.0, h, self.dh, self.size_h),
            ("d_params", lin.B, -1.0, self.theta, self.v, self.size_theta),
        ):
            found = []
            for how, direction in self._directions(x, along, size).items():
                zero_theta, zero_h = 0.0 * self.v, 0.0 * h
                moved = (zero_theta, direction) if op is lin.A else (direction, zero_h)
                # Not by d_state alone, which is under test: what R reaches counts as well.
                reached = residual(*(self.steps[0] * part for part in moved))
                rounding = self.rows + op.abs_apply(xp.abs(x) + self.steps[0] * xp.abs(direction))
                rounding = rounding + (xp.abs(h) if self.problem.is_map else 0.0)
                if reached is not None:
                    rounding = rounding + xp.abs(reached)
                off = lin.given.accuracy[0] * norm(op.abs_apply(direction))
                noise, scale = 10 * self.backend.eps, norm(rounding)
                term = sign * op._apply(direction)
                part = Part(name + how, term, rounding, noise, scale, off)
                found += self._taylor(residual, *moved, [part])
            self._put_worst(found)

    def _of_second_order(self, lin: Linearized, h: Array) -> None:
        """Curvature and second against first derivatives, and each other."""
        norm, xp, given = self.backend.norm, self.backend.xp, lin.given
        P, N = self.theta.shape[0], h.shape[0]
        first_off, second_off = given.accuracy
        # Every row of f in its own unit, so that none hides behind another.
        average = norm(self.rows) / N**0.5 or 1.0
        unit = self.rows / average
        w = self.backend.random(N, seed=self.seed + 103) / xp.where(
            unit > 0, unit, xp.ones_like(unit)
        )
        K = None if given.curvature is None else lin.curvature(w, symmetric=True)
        a = self._stack(self.u, self.other)
        if K is not None:
            self._columns("curvature", K)
            self._blocks("curvature", K, second_off)

        def gradient(dtheta: Array, dh: Array) -> Array | None:
            problem = Problem(self.problem.model, self.theta + dtheta, h)
            if problem.trial_residual(h + dh)[0] is None:
                return None
            at = problem.linearize(h + dh)
            # grad over (theta, h) of w'f, and the derivative of f along a; but for J = I - A the I,
            # which changes nothing and would round.
            by_w = at.B._apply_adjoint(w), -at.A._apply_adjoint(w)
            return xp.concat([*by_w, at.B._apply(a[:P]) - at.A._apply(a[P:])], axis=0)

        # What is added up in each part, and so what rounding there is relative to.
        whole = 1.0 if self.problem.is_map else 0.0  # the I is in what a map's A was made of
        by_state = whole * xp.abs(w) + lin.A._adjoint().abs_apply(w)
        sizes = lin.B._adjoint().abs_apply(w), by_state
        size = whole * xp.abs(a[P:]) + lin.B.abs_apply(a[:P]) + lin.A.abs_apply(a[P:])
        noise = 10 * self.backend.eps + 2 * first_off
        for dtheta, dh, which in (
            (0.0 * self.v, self.dh, ("state_params, transposed", "state_state")),
            (self.v, 0.0 * h, ("params_params", "state_params")),
        ):
            along, parts = self._stack(dtheta, dh), []
            if K is not None:
                names = [f"curvature.{block}" for block in which]
                parts += self._halves(names, K, along, sizes, noise, second_off)
            if given.second is not None:
                term = lin.second(a, along)
                off = second_off * norm(term)
                name = f"second, along the {'state' if dtheta is not self.v else 'parameters'}"
                rows = slice(P + N, None)
                parts.append(Part(name, term, size, noise, norm(size), off, rows))
            self.checks += self._taylor(gradient, dtheta, dh, parts)
        if given.second is not None:
            self._second(lin, K, w, a)

    def _halves(
        self,
        names: list[str],
        K: CurvatureOperator,
        along: Array,
        sizes: tuple[Array, ...],
        noise: float,
        second_off: float,
    ) -> list[Part]:
        """The two halves of K along a direction."""
        norm, P = self.backend.norm, sizes[0].shape[0]
        term, end = K._apply(along), along.shape[0]
        off = second_off * norm(K.abs_apply(along)) if second_off else 0.0
        halves = zip((slice(0, P), slice(P, end)), sizes, strict=True)
        return [
            Part(name, term[half], size, noise, norm(size), off, half)
            for name, (half, size) in zip(names, halves, strict=True)
        ]

    def _blocks(self, name: str, K: CurvatureOperator, off: float = 0.0) -> None:
        """Symmetry, block by block."""
        for block in ("params_params", "state_state"):
            self._symmetry(f"{name}.{block}: symmetry", getattr(K, block), off)
        self._dot_test(f"{name}.state_params: adjoint", K.state_params, off)

    def _second(self, lin: Linearized, K: Operator | None, w: Array, a: Array) -> None:
        """f''[a, b] = f''[b, a], and w' f''[a, b] = a' K b."""
        xp, norm = self.backend.xp, self.backend.norm
        b, off = self._stack(self.v, self.dh), 10 * lin.given.accuracy[1]
        left, right = lin.second(a, b), lin.second(b, a)
        self._compare("second: symmetry", norm(left - right), norm(left) + norm(right), off)
        if K is None:
            return
        Kb = K._apply(b)
        scale = float(xp.sum(xp.abs(w * left)) + xp.sum(xp.abs(a * Kb)))
        mismatch = abs(float(xp.vecdot(w, left)) - float(xp.vecdot(a, Kb)))
        self._compare("second: against curvature", mismatch, scale, off)

    # A loss's

    def loss_derivatives(self, h: Array, loss: LossBase) -> None:
        """d_state, d_params and curvature of the loss."""
        norm, xp = self.backend.norm, self.backend.xp
        d_theta, d_h = loss.gradients(h, self.theta)
        zero_theta, zero_h = 0.0 * self.v, 0.0 * h

        def value(dtheta: Array, dh: Array) -> Array:
            return xp.asarray([loss.value(h + dh, self.theta + dtheta)], dtype=self.backend.dtype)

        noise = 10 * self.backend.eps
        size = abs(loss.value(h, self.theta)) + norm(d_h) * norm(h)
        scale = size + norm(d_theta) * norm(self.theta)
        for name, slope, x, along, length in (
            ("d_state", d_h, h, self.dh, self.size_h),
            ("d_params", d_theta, self.theta, self.v, self.size_theta),
        ):
            found = []
            for how, direction in self._directions(x, along, length).items():
                moved = (zero_theta, direction) if name == "d_state" else (direction, zero_h)
                term = xp.reshape(xp.vecdot(slope, direction), (1,))
                full = f"{name} of the loss{how}"
                part = Part(full, term, xp.full_like(term, size), noise, scale)
                found += self._taylor(value, *moved, [part])
            self._put_worst(found)
        K = loss.curvature_operator(h, self.theta)
        self._blocks("loss curvature", K)

        def first(dtheta: Array, dh: Array) -> Array:
            return self._stack(*loss.gradients(h + dh, self.theta + dtheta))

        base = norm(first(zero_theta, zero_h))
        curved = norm(K._apply(self._stack(self.theta, h)))
        sizes = tuple(xp.full_like(x, (base + curved) / x.shape[0] ** 0.5) for x in (self.theta, h))
        for dtheta, dh, which in (
            (zero_theta, self.dh, ("state_params, transposed", "state_state")),
            (self.v, zero_h, ("params_params", "state_params")),
        ):
            names = [f"loss curvature.{block}" for block in which]
            parts = self._halves(names, K, self._stack(dtheta, dh), sizes, noise, 0.0)
            self.checks += self._taylor(first, dtheta, dh, parts)

    def _stack(self, dtheta: Array, dh: Array) -> Array:
        return self.backend.xp.concat([dtheta, dh], axis=0)


def _unit(x: Array, norm: Callable[[Array], float]) -> Array:
    """x, of length 1."""
    return x / (norm(x) or 1.0)
