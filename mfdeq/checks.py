"""The checks that `mfdeq.verify` runs, from what the user gave to what follows from it.

Everything is tested against something that does not depend on it: first derivatives against
values, second ones against first ones, adjoints against products, equilibria against
equilibria solved for anew.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .arrays import Array
from .dottest import adjoint_mismatch, symmetry_mismatch
from .equilibrium import Equilibrium, solve
from .errors import ConvergenceError, DerivativeError, SingularStateError
from .linearized import Linearized, Problem
from .losses import Loss, LossBase
from .operators import Operator
from .taylor import FAIL, INCONCLUSIVE, PASS, agreement_of, judge, ladder

LOOSE = 1e-7  # relative residual of solves above which they may hide what is tested


@dataclass(frozen=True)
class Check:
    """One check: its name, verdict, the figure and the threshold that it was held against."""

    name: str
    verdict: str
    figure: float
    threshold: float
    detail: str


class Checks:
    """All checks of one model, at one theta, along the directions of one seed."""

    def __init__(
        self,
        problem: Problem,
        loss: LossBase | None,
        h0: Array | None,
        seed: int,
        solve_options: dict[str, Any],
    ) -> None:
        self.problem, self.h0, self.seed = problem, h0, seed
        self.solve: Any = functools.partial(solve, problem.model, **solve_options)
        self.missing: list[str] = []
        self.loosest = 0.0  # relative residual of a solve
        self.backend = backend = problem.backend
        self.checks: list[Check] = []
        N, P = problem.state_size, problem.param_size
        random = functools.partial(backend.random, seed=seed + 100)
        self.theta = problem.theta
        size = max(backend.norm(self.theta), 1.0)
        u, v = backend.random(P, seed=seed + 101), backend.random(P, seed=seed + 102)
        self.u, self.v = size * u / backend.norm(u), size * v / backend.norm(v)
        self.w = random(N)
        self.steps, self.enough = ladder(backend.eps), agreement_of(backend.eps)
        self.loss = loss if loss is not None else _linear_loss(self.w)

    def everything(self) -> None:
        """All checks, from the parts to the whole; where no equilibrium is found, the parts."""
        problem = self.problem
        try:
            eq = self.solve(self.theta, self.h0)
        except DerivativeError as error:
            self._put("linearization", FAIL, math.nan, math.nan, str(error))
            return
        except (ConvergenceError, SingularStateError) as error:
            h = error.best if error.best is not None else problem.start(self.h0)
            self._guarded("linearization", lambda: self.linearization(h))
            verdict = FAIL if any(c.verdict == FAIL for c in self.checks) else INCONCLUSIVE
            self._put("equilibrium", verdict, math.nan, math.nan, f"not found: {error}")
            return
        self._guarded("linearization", lambda: self.linearization(eq.state))
        self._guarded("loss", lambda: self.loss_derivatives(eq.state))
        self._guarded("equilibrium", lambda: self.equilibrium(eq))

    def notes(self) -> list[str]:
        """What the table does not show: what was not checked, and where to look first."""
        found = []
        if self.missing:
            found.append(f"not given, not checked: {', '.join(self.missing)}")
        verdicts = [check.verdict for check in self.checks]
        if FAIL in verdicts:
            first = self.checks[verdicts.index(FAIL)].name
            found.append(f"look first at: {first} (what comes after it builds on it)")
        elif INCONCLUSIVE in verdicts and self.loosest > LOOSE:
            found.append(
                f"solves reach a relative residual of {self.loosest:.0e} only, too loose to tell: "
                "verify with solver= of a smaller rtol"
            )
        elif INCONCLUSIVE in verdicts and self.backend.eps > 1e-10:
            found.append(f"{self.backend.dtype} shows few digits: verify in float64 as well")
        return found

    def _guarded(self, name: str, checks: Callable[[], None]) -> None:
        try:
            checks()
        except DerivativeError as error:
            self._put(name, FAIL, math.nan, math.nan, str(error))
        except (ConvergenceError, SingularStateError) as error:
            self._put(name, INCONCLUSIVE, math.nan, math.nan, str(error))

    def _put(self, name: str, verdict: str, figure: float, threshold: float, detail: str) -> None:
        self.checks.append(Check(name, verdict, figure, threshold, detail))

    # The parts: what the user gave, at one (h, theta).

    def linearization(self, h: Array) -> None:
        """d_state, d_params, curvature and second against the residual and each other."""
        lin = self.problem.linearize(h)
        self._dot_test("adjoint of d_state", lin.A)
        self._dot_test("adjoint of d_params", lin.B)
        norm = self.backend.norm
        size = max(norm(h), 1.0)
        dh = size * self.w / norm(self.w)
        zero_h, zero_theta = 0.0 * dh, 0.0 * self.v

        def residual(dtheta: Array, dh: Array) -> Array | None:
            moved = Problem(self.problem.model, self.theta + dtheta, h)
            return moved.trial_residual(h + dh)[0]

        # Not by d_state alone, which is under test: what R itself reaches counts as well.
        reached = [residual(self.steps[0] * self.v, zero_h), residual(zero_theta, zero_h)]
        scale = norm(lin.A.abs_apply(self.backend.xp.abs(h) + size / h.shape[0] ** 0.5)) + sum(
            norm(R) for R in reached if R is not None
        )
        noise = 10 * self.backend.eps * scale
        first_off, second_off = lin.given.accuracy

        uniform = self.backend.xp.ones_like
        for name, op, sign, directions in (
            ("d_state", lin.A, 1.0, (dh, _like(dh, uniform(dh), norm))),
            ("d_params", lin.B, -1.0, (self.v, _like(self.v, uniform(self.v), norm))),
        ):
            for along, which in zip(directions, ("", ", all entries alike"), strict=True):
                moved = (zero_theta, along) if op is lin.A else (along, zero_h)
                steps, changes = self._changes(residual, *moved)
                term, off = sign * op._apply(along), first_off * norm(op.abs_apply(along))
                self._slope(name + which, steps, changes, term, noise, scale, off)
        self.missing = [f for f in ("curvature", "second") if getattr(lin.given, f) is None]
        if lin.given.curvature is None:
            return
        w = self.backend.random(h.shape[0], seed=self.seed + 103)
        K = lin.curvature(w)
        for block in ("params_params", "state_state"):
            self._symmetry(f"symmetry of curvature.{block}", getattr(K, block), second_off)
        self._dot_test("adjoint of curvature.state_params", K.state_params, second_off)

        def gradient(dtheta: Array, dh: Array) -> Array:
            at = Problem(self.problem.model, self.theta + dtheta, h).linearize(h + dh)
            # grad over (theta, h) of w'f: B'w and J'w = w - A'w
            return self._stack(at.B._apply_adjoint(w), w - at.A._apply_adjoint(w))

        # What is added up in either part, and so what rounding there is relative to.
        sizes = norm(lin.B._adjoint().abs_apply(w)), norm(w) + norm(lin.A._adjoint().abs_apply(w))
        noisy = 10 * self.backend.eps + 2 * first_off
        P = self.theta.shape[0]
        for dtheta, direction, rows in (
            (zero_theta, dh, ("curvature.state_params, transposed", "curvature.state_state")),
            (self.v, zero_h, ("curvature.params_params", "curvature.state_params")),
        ):
            along = self._stack(dtheta, direction)
            off = second_off * norm(K.abs_apply(along)) if second_off else 0.0
            term = K._apply(along)
            steps, changes = self._changes(gradient, dtheta, direction)
            parts = slice(None, P), slice(P, None)
            for name, part, size in zip(rows, parts, sizes, strict=True):
                cut = [change[part] for change in changes]
                self._slope(name, steps, cut, term[part], noisy * size, size, off)
        if lin.given.second is not None:
            self._second(lin, K, w, dh)

    def _second(self, lin: Linearized, K: Operator, w: Array, dh: Array) -> None:
        """w' f''[a, b] = a' K b, for the same w."""
        xp, norm = self.backend.xp, self.backend.norm
        other = self.backend.random(dh.shape[0], seed=self.seed + 104)
        a, b = self._stack(self.u, dh), self._stack(self.v, other)
        left, right = lin.second(a, b), K._apply(b)
        scale = norm(w) * norm(left) + norm(a) * norm(right)
        mismatch = abs(float(xp.vecdot(w, left)) - float(xp.vecdot(a, right)))
        self._compare("second against curvature", mismatch, scale, 10 * lin.given.accuracy[1])

    def loss_derivatives(self, h: Array) -> None:
        """d_state, d_params and curvature of the loss."""
        loss, norm = self.loss, self.backend.norm
        dh = max(norm(h), 1.0) * self.w / norm(self.w)
        zero_h, zero_theta = 0.0 * dh, 0.0 * self.v
        d_theta, d_h = loss.gradients(h, self.theta)
        xp = self.backend.xp

        def value(dtheta: Array, dh: Array) -> Array:
            return xp.asarray([loss.value(h + dh, self.theta + dtheta)], dtype=self.backend.dtype)

        size = abs(loss.value(h, self.theta))
        noise = 10 * self.backend.eps * (size + norm(d_h) * norm(h))
        scale = size + norm(d_h) * norm(h) + norm(d_theta) * norm(self.theta)
        for name, dtheta, direction, slope in (
            ("d_state of the loss", zero_theta, dh, xp.vecdot(d_h, dh)),
            ("d_params of the loss", self.v, zero_h, xp.vecdot(d_theta, self.v)),
        ):
            term = xp.reshape(slope, (1,))
            self._slope(name, *self._changes(value, dtheta, direction), term, noise, scale)
        K = loss.curvature_operator(h, self.theta)
        self._symmetry("symmetry of the loss's curvature", K)

        def first(dtheta: Array, dh: Array) -> Array:
            return self._stack(*loss.gradients(h + dh, self.theta + dtheta))

        base = norm(first(zero_theta, zero_h))
        curved = norm(K._apply(self._stack(self.theta, h)))
        noise = 10 * self.backend.eps * (base + curved)
        for name, dtheta, direction in (
            ("loss curvature along the state", zero_theta, dh),
            ("loss curvature along the parameters", self.v, zero_h),
        ):
            term, scale = K._apply(self._stack(dtheta, direction)), base + curved
            self._slope(name, *self._changes(first, dtheta, direction), term, noise, scale)

    # The whole: equilibria at theta + step v.

    def equilibrium(self, eq: Equilibrium) -> None:
        """Z, the gradient, H and h'' against equilibria nearby."""
        xp, norm = self.backend.xp, self.backend.norm
        _ = eq.sensitivity._apply(self.v), eq.sensitivity._apply_adjoint(self.w)
        self.loosest = eq.report.linear.worst_residual
        self._dot_test("adjoint of Z", eq.sensitivity)
        _, d_h = eq.loss_gradients(self.loss)
        Zv = eq.sensitivity._apply(self.v)
        forward = float(xp.vecdot(d_h, Zv))
        backward = float(xp.vecdot(eq.param_operator._apply_adjoint(eq.adjoint(self.loss)), self.v))
        self._compare("forward-adjoint duality", abs(forward - backward), norm(d_h) * norm(Zv))
        curved = eq.linearization.curvature is not None
        doubly = eq.linearization.second is not None
        terms = {
            "state": Zv,
            "value": xp.reshape(xp.vecdot(eq.gradient(self.loss), self.v), (1,)),
        }
        if curved:
            H = eq.hessian(self.loss)
            Hv = H._apply(self.v)
            self._symmetry("symmetry of H", H, eq.linearization.accuracy[1])
            terms["gradient"] = Hv
        if doubly:
            terms["sensitivity"] = eq.second_order(self.u, self.v)
        names = {
            "state": "Z: Taylor remainder of h*",
            "value": "gradient: Taylor remainder of the loss",
            "gradient": "H: Taylor remainder of the gradient",
            "sensitivity": "h'': Taylor remainder of Z",
        }

        def quantities(at: Equilibrium) -> dict[str, Array]:
            found = {
                "state": at.state,
                "value": xp.asarray(
                    [self.loss.value(at.state, at.params)], dtype=self.backend.dtype
                ),
            }
            if curved:
                found["gradient"] = at.gradient(self.loss)
            if doubly:
                found["sensitivity"] = at.sensitivity._apply(self.u)
            return found

        base = quantities(eq.polished)
        noise = self._noise(eq, base, quantities)
        off = self._inexact(eq, terms)
        for name, of in (("gradient", "value"), ("sensitivity", "state")):
            noise[name] = noise.get(name, 0.0) + 2 * off[of]
        steps: list[float] = []
        remainders: dict[str, list[float]] = {name: [] for name in terms}
        for step in self.steps:
            try:
                near = self.solve(self.theta + step * self.v, eq.state)
                there = quantities(near.polished)
            except (ConvergenceError, SingularStateError):
                continue
            steps.append(step)
            for name, term in terms.items():
                remainders[name].append(norm(there[name] - base[name] - step * term))
        for name, term in terms.items():
            sizes = [step * norm(term) for step in steps]
            noises = [noise[name] + step * off[name] for step in steps]
            size = norm(base[name])
            self._put(
                names[name], *judge(2, steps, remainders[name], sizes, noises, size, self.enough)
            )

    def _inexact(self, eq: Equilibrium, terms: dict[str, Array]) -> dict[str, float]:
        """What derivatives that are differences leave in each term, as far as can be estimated."""
        norm, (first_off, second_off) = self.backend.norm, eq.linearization.accuracy
        off = dict.fromkeys(("state", "value", "gradient", "sensitivity"), 0.0)
        if first_off > 100 * self.backend.eps:
            z, A, B = terms["state"], eq.corrected.A, eq.corrected.B
            off["state"] = 2 * norm(eq.factor.approximate(B._apply(self.v) - A._apply(z)))
            off["value"] = norm(eq.gradient_with_error(self.loss)[1]) * norm(self.v)
        if second_off:
            if "gradient" in terms:
                off["gradient"] = norm(eq.hessian(self.loss).with_error(self.v)[1])
            relative = off["state"] / max(norm(terms["state"]), self.backend.eps)
            off["sensitivity"] = (
                10 * (relative + second_off) * norm(terms.get("sensitivity", 0.0 * self.v))
            )
        return off

    def _noise(
        self, eq: Equilibrium, base: dict[str, Array], quantities: Callable[..., dict[str, Array]]
    ) -> dict[str, float]:
        """What a state moved by the rounding error of R, and inexact solves, change."""
        norm = self.backend.norm
        signs = self.backend.xp.sign(self.backend.random(eq.state.shape[0], seed=self.seed + 105))
        rounding = 2 * self.backend.eps * signs * eq.state_operator.abs_apply(eq.state)
        h = eq.state + eq.factor.solve(rounding, rtol=1e-3)
        moved = Equilibrium(eq.problem, h, eq.problem.linearize(h), eq.solver, eq.report)
        there = quantities(moved)
        self.loosest = max(self.loosest, eq.report.linear.worst_residual)
        inexact = 10 * self.backend.eps + self.loosest
        return {
            name: 3 * norm(there[name] - value) + inexact * norm(value)
            for name, value in base.items()
        }

    # The ways to judge.

    def _changes(
        self, function: Callable[[Array, Array], Array | None], dtheta: Array, dh: Array
    ) -> tuple[list[float], list[Array]]:
        """The steps at which the function exists, and what it changes by."""
        base = function(0.0 * dtheta, 0.0 * dh)
        steps, changes = [], []
        for step in self.steps:
            value = function(step * dtheta, step * dh)
            if value is not None and base is not None:
                steps.append(step)
                changes.append(value - base)
        return steps, changes

    def _slope(
        self,
        name: str,
        steps: list[float],
        changes: list[Array],
        term: Array,
        noise: float,
        scale: float,
        off: float = 0.0,
    ) -> None:
        """Judge the remainders; `off` is the error that the term itself may have, a step."""
        norm = self.backend.norm
        remainders = [norm(c - t * term) for c, t in zip(changes, steps, strict=True)]
        sizes, noises = [t * norm(term) for t in steps], [noise + t * off for t in steps]
        self._put(name, *judge(2, steps, remainders, sizes, noises, scale, self.enough))

    def _dot_test(self, name: str, op: Operator, off: float = 0.0) -> None:
        self._compare(name, *adjoint_mismatch(op, self.seed), 10 * off)

    def _symmetry(self, name: str, op: Operator, off: float = 0.0) -> None:
        self._compare(name, *symmetry_mismatch(op, self.seed), 10 * off)

    def _compare(self, name: str, mismatch: float, scale: float, off: float = 0.0) -> None:
        threshold = max(self.backend.eps**0.5, off)
        relative = mismatch / scale if scale > 0 else 0.0
        if relative <= threshold:
            self._put(name, PASS, relative, threshold, "relative mismatch")
        elif relative <= 100 * self.loosest:
            detail = f"mismatch of solves to {self.loosest:.0e}"
            self._put(name, INCONCLUSIVE, relative, threshold, detail)
        else:
            self._put(name, FAIL, relative, threshold, "relative mismatch")

    def _stack(self, dtheta: Array, dh: Array) -> Array:
        return self.backend.xp.concat([dtheta, dh], axis=0)


def _like(x: Array, y: Array, norm: Callable[[Array], float]) -> Array:
    """y, with the length of x."""
    return norm(x) / norm(y) * y


def _linear_loss(w: Array) -> Loss:
    return Loss(lambda h, theta: (w * h).sum(), d_state=lambda h, theta: 1.0 * w)
