"""Checks of the sensitivities, gradients and Hessians of an equilibrium.

Each is compared with equilibria at nearby parameters, whose solves do not depend on it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array, Backend, native
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.solve import solve
from ..errors import ConvergenceError, DerivativeError, SingularStateError
from ..models.losses import Loss, LossBase
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .changes import Changes
from .checker import SOLVE_ERROR_FACTOR, TERM_ERROR_FACTOR
from .derivative_checks import ROUNDING_FACTOR, DerivativeChecker
from .taylor_remainders import (
    FAIL,
    INCONCLUSIVE,
    NO_VALUE,
    NOT_SMOOTH,
    NOT_SMOOTH_NEARBY,
    finer_steps,
    halves_of_sides,
    judge_one_sided,
    judge_remainders,
    two_sided_errors,
)

LOOSE_RTOL = 1e-7  # relative error above which solves may hide wrong derivatives
FEW_DIGITS_EPS = 1e-10  # unit roundoff above which verification in float64 is advised
STATE_NOISE_FACTOR = 3.0  # noise of a quantity relative to the changes at two nearby states
NOISE_RTOL = 1e-3  # of solves for estimates of noise
EXACT_FACTOR = 100.0  # derivatives with smaller errors, in eps, are not finite differences
# The steps, the sizes of remainders, terms and noise at each, the scale, and the agreement needed.
Sizes = tuple[list[float], list[float], list[float], list[float], float, float]
TAYLOR_CHECKS = {
    "state": "Z: Taylor remainder of h*",
    "value": "gradient: Taylor remainder of the loss",
    "gradient": "H: Taylor remainder of the gradient",
    "sensitivity": "h'': Taylor remainder of Z",
}


class EquilibriumChecker(DerivativeChecker):
    """All checks of a model and a loss at theta.

    Parameters
    ----------
    problem : Problem
    loss : Loss or None
        None checks with a random linear function of the state.
    h0 : (N,) array or None
    seed : int
    solve_options : dict
        Options of `mfdeq.solve`.
    """

    def __init__(
        self,
        problem: Problem,
        loss: LossBase | None,
        h0: Array | None,
        seed: int,
        solve_options: dict[str, Any],
    ) -> None:
        super().__init__(problem, seed)
        self.h0 = h0
        self.state_error = 0.0  # of the equilibrium, relative
        options = {"error_estimates": False, **solve_options}
        self.solve: Any = functools.partial(solve, problem.model, **options)
        self.given_loss = loss

    def check_all(self) -> None:
        """Make all checks; if no equilibrium is found, only those of the model's derivatives."""
        problem = self.problem
        try:
            eq = self.solve(self.theta, self.h0)
        except DerivativeError as error:
            self._add_error(error.field or "linearization", FAIL, error)
            return
        except (ConvergenceError, SingularStateError) as error:
            # The best result of a forward solve is a state; that of a linear solve is not.
            is_state = error.best is not None and isinstance(error.report, SolveReport)
            h = error.best if is_state else problem.initial_state(self.h0)
            self._run("linearization", lambda: self.check_linearization(h))
            verdict = FAIL if any(c.verdict == FAIL for c in self.checks) else INCONCLUSIVE
            self._add("equilibrium", verdict, math.nan, math.nan, f"not found: {error}")
            return
        self._run("linearization", lambda: self.check_linearization(eq.state))
        if not hasattr(self, "rows"):
            return  # the linearization could not be used
        # A random linear function of the state, in which all unknowns have the same weight.
        self.w = self._random(problem.state_size, self.seed + 100) / self.size_h
        self.loss = self.given_loss or _linear_loss(self.w)
        self._run("loss", lambda: self.check_loss(eq.state, self.loss))
        self._run("equilibrium", lambda: self.check_equilibrium(eq))
        self._excuse_failures_at_kinks()

    def _excuse_failures_at_kinks(self) -> None:
        """Replace failures that a kink in the function itself may have caused."""
        kinks = [
            f"{words} (see {check.name})"
            for words in (NOT_SMOOTH, NOT_SMOOTH_NEARBY)
            for check in self.checks
            if words in check.detail
        ]
        if not kinks:
            return
        for k, check in enumerate(self.checks):
            depends = check.name.startswith(("curvature.", "second, ", "loss curvature."))
            if check.verdict == FAIL and (depends or check.name in TAYLOR_CHECKS.values()):
                detail = f"{kinks[0]}: {check.detail}"
                self.checks[k] = replace(check, verdict=INCONCLUSIVE, detail=detail)

    def notes(self) -> list[str]:
        """Return notes on what was not checked, and on where to look first."""
        notes = []
        if self.missing:
            notes.append(f"not given, not checked: {', '.join(self.missing)}")
        verdicts = [check.verdict for check in self.checks]
        if FAIL in verdicts:
            first = self.checks[verdicts.index(FAIL)].name
            notes.append(f"look first at: {first} (the checks after it build on it)")
        elif INCONCLUSIVE not in verdicts:
            pass
        elif self.last_failure and any(check.detail == NO_VALUE for check in self.checks):
            notes.append(f"points nearby have no value: {self.last_failure}")
        elif any(NOT_SMOOTH in check.detail for check in self.checks):
            notes.append(
                f"the function is {NOT_SMOOTH}, so that it has no derivative here: verify at other "
                "parameters, or smooth the kink"
            )
        elif any(NOT_SMOOTH_NEARBY in check.detail for check in self.checks):
            notes.append(
                f"the function is {NOT_SMOOTH_NEARBY}, which hides other derivatives: verify at "
                "other parameters, or smooth the kink"
            )
        elif self.worst_residual > LOOSE_RTOL:
            notes.append(
                f"linear solves reach a relative residual of only {self.worst_residual:.0e}, too "
                "loose to decide: pass a solver with a smaller rtol"
            )
        elif self.state_error > LOOSE_RTOL:
            notes.append(
                f"the state has a relative error of {self.state_error:.0e}, too loose to decide: "
                "pass a smaller rtol, or scale the rows of R to one size"
            )
        elif self.backend.eps > FEW_DIGITS_EPS:
            notes.append(f"{self.backend.dtype} has few digits: verify in float64 as well")
        return notes

    def _run(self, name: str, check: Callable[[], None]) -> None:
        """Run checks; an error becomes a failed check of its field, or else of this name."""
        try:
            check()
        except DerivativeError as error:
            field = error.field if name == "linearization" else ""
            self._add_error(field or name, FAIL, error)
        except (ConvergenceError, SingularStateError) as error:
            self._add_error(name, INCONCLUSIVE, error)

    def check_equilibrium(self, eq: Equilibrium) -> None:
        """Check Z, the gradient, H and h'' against equilibria at theta + step v."""
        xp, norm = self.backend.xp, self.backend.norm
        _ = eq.sensitivity._apply(self.v), eq.sensitivity._apply_adjoint(self.w)
        self.worst_residual = self._solve_error(eq)
        self._check_adjoint("Z: adjoint", eq.sensitivity)
        _, d_h = eq.loss_gradients(self.loss)
        Zv = eq.sensitivity._apply(self.v)
        forward = float(xp.vecdot(d_h, Zv))
        backward = float(xp.vecdot(eq.forcing._apply_adjoint(eq.adjoint(self.loss)), self.v))
        scale = norm(d_h * self.size_h) * norm(Zv / self.size_h)
        self._check_mismatch("forward-adjoint duality", abs(forward - backward), scale)
        has_curvature = eq.linearization.curvature is not None
        has_second = eq.linearization.second is not None
        terms = {
            "state": Zv,
            "value": xp.reshape(xp.vecdot(eq.gradient(self.loss), self.v), (1,)),
        }
        if has_curvature:
            H = eq.hessian(self.loss)
            Hv = H._apply(self.v)
            self._check_symmetry("H: symmetry", H, lambda: self._hessian_error(eq, H, Hv))
            terms["gradient"] = Hv
        if has_second:
            terms["sensitivity"] = eq.second_order(self.u, self.v)

        def quantities(at: Equilibrium) -> dict[str, Array]:
            value = self.loss.value(at.state, at.params)
            values = {"state": at.state, "value": xp.asarray([value], dtype=self.backend.dtype)}
            if has_curvature:
                values["gradient"] = at.gradient(self.loss)
            if has_second:
                values["sensitivity"] = at.sensitivity._apply(self.u)
            return values

        base = quantities(eq.polish())
        noise = self._quantity_noise(eq, base, quantities)
        errors = self._term_errors(eq, terms)
        for name, lower in (("gradient", "value"), ("sensitivity", "state")):
            noise[name] = noise.get(name, 0.0) + 2 * errors[lower]
        explained = noise["state"] / STATE_NOISE_FACTOR

        def nearby(step: float) -> tuple[dict[str, Array], float, float]:
            at = self.solve(self.theta + step * self.v, eq.state).polish()
            values = quantities(at)
            # GMRES may be exact at theta and stop just below its tolerance nearby.
            worse = at.report.linear.worst_residual > self.worst_residual
            solve_error = self._solve_error(at) if worse else 0.0
            left = self._size("state", _chord_step(at))
            return values, max(1.0, left / explained if explained else 1.0), solve_error

        ahead, behind = Changes(base), Changes(base)

        def evaluate(side: Changes, ladder: list[float]) -> None:
            sign = 1.0 if side is ahead else -1.0
            for step in ladder:
                found = self._at_trial(functools.partial(nearby, sign * step))
                if found is not None:
                    side.add(step, *found)

        def noises(name: str, side: Changes) -> list[float]:
            return side.noises(noise[name], self._size(name, base[name]))

        def sizes(name: str) -> Sizes:
            term, steps = terms[name], ahead.steps
            return (
                steps,
                [self._size(name, remainder) for remainder in ahead.remainders(name, term)],
                [step * self._size(name, term) for step in steps],
                [
                    found + step * errors[name]
                    for step, found in zip(steps, noises(name, ahead), strict=True)
                ],
                self._size(name, base[name]),
                self.taylor.agreement_needed,
            )

        def judge(name: str) -> tuple[str, float, float, str]:
            return judge_remainders(2, *sizes(name), self.taylor.negligible)

        def failed() -> list[str]:
            return [name for name, judgement in judgements.items() if judgement[0] == FAIL]

        evaluate(ahead, self.taylor.steps)
        judgements = {name: judge(name) for name in terms}
        if failed():
            # The equilibrium may curve on a smaller scale than the direction.
            evaluate(ahead, finer_steps(self.taylor.steps))
            judgements |= {name: judge(name) for name in failed()}
        if failed():
            # It may have a kink, nearby or here.
            evaluate(behind, ahead.steps)
            for name in failed():
                worst_noise = max(noises(name, ahead) + noises(name, behind))
                if not self._same_error(
                    name, ahead, behind, terms[name], worst_noise, errors[name]
                ):
                    judgements[name] = judge_one_sided(*sizes(name))
        for name, judgement in judgements.items():
            self._add(TAYLOR_CHECKS[name], *judgement)

    def _same_error(
        self,
        name: str,
        ahead: Changes,
        behind: Changes,
        term: Array,
        noise: float,
        error: float,
    ) -> bool:
        """Return whether a term has the same error to both sides, in norm."""
        right, left = (
            dict(zip(side.steps, side.remainders(name, sign * term), strict=True))
            for side, sign in ((ahead, 1.0), (behind, -1.0))
        )
        steps = [step for step in ahead.steps if step in left] or ahead.steps
        asarray = self.backend.asarray
        odd, even = (
            [asarray([self._size(name, half)]) for half in halves]
            for halves in halves_of_sides(steps, right, left)
        )
        found = two_sided_errors(self.backend, steps, odd, even, asarray([noise]), asarray([error]))
        return bool(self.backend.xp.any(found > 0))

    def _solve_error(self, eq: Equilibrium) -> float:
        """Return the relative error of solves: their worst residual, or less in other units.

        A residual that is large in the units of the equations may hide no error of the solutions.
        Their own corrections show this.
        """
        norm, approximate = self.backend.norm, eq.factor.approximate
        A, (_, d_h) = eq.linearized.A, eq.loss_gradients(self.loss)
        Zv, adjoint = eq.sensitivity._apply(self.v), eq.adjoint(self.loss)
        residual = eq.forcing._apply(self.v) - A._apply(Zv)
        of_adjoint = d_h - A._apply_adjoint(adjoint)
        pairs = (
            (approximate(residual) / self.size_h, Zv / self.size_h),
            (approximate(of_adjoint, adjoint=True) * self.rows, adjoint * self.rows),
        )
        errors = [norm(change) / (norm(value) or 1.0) for change, value in pairs]
        return min(eq.report.linear.worst_residual, SOLVE_ERROR_FACTOR * max(errors))

    def _size(self, name: str, x: Array) -> float:
        """Return the norm of a quantity in which all of its entries have the same weight."""
        units = {"gradient": 1.0 / self.size_theta, "value": 1.0}
        return self.backend.norm(x / units.get(name, self.size_h))

    def _term_errors(self, eq: Equilibrium, terms: dict[str, Array]) -> dict[str, float]:
        """Estimate the error of each term if the derivatives are finite differences; else 0."""
        first_error, second_error = eq.linearization.accuracy
        errors = dict.fromkeys(TAYLOR_CHECKS, 0.0)
        if first_error > EXACT_FACTOR * self.backend.eps:
            there = eq.corrections.linearization(1)
            residual = there.B._apply(self.v) - there.A._apply(terms["state"])
            errors["state"] = 2 * self._size("state", eq.factor.approximate(residual))
            error = eq.gradient_with_error(self.loss)[1]
            errors["value"] = float(self.backend.xp.sum(self.backend.xp.abs(error * self.v)))
        if second_error:
            if "gradient" in terms:
                error = eq.hessian(self.loss).with_error(self.v)[1]
                errors["gradient"] = self._size("gradient", error)
            size = self._size("state", terms["state"])
            relative = errors["state"] / max(size, self.backend.eps)
            size = self._size("sensitivity", terms.get("sensitivity", 0.0 * self.w))
            errors["sensitivity"] = TERM_ERROR_FACTOR * (relative + second_error) * size
        return errors

    def _hessian_error(self, eq: Equilibrium, H: Operator, Hv: Array) -> float:
        """Return the relative error of H if second derivatives are finite differences, else 0.

        Terms of H may cancel, so that it is larger than that of the derivatives.
        """
        error = eq.linearization.accuracy[1]
        if not error:
            return 0.0
        size = self._size("gradient", Hv)
        of_product = self._size("gradient", H.with_error(self.v)[1])
        return max(error, of_product / size if size > 0.0 else 0.0)

    def _quantity_noise(
        self, eq: Equilibrium, base: dict[str, Array], quantities: Callable[..., dict[str, Array]]
    ) -> dict[str, float]:
        """Estimate the noise of each quantity from two nearby states and the residuals of solves.

        The states are one displaced by the rounding error of R, and one displaced by a chord step.
        """
        xp = self.backend.xp
        signs = xp.sign(self.backend.random(eq.state.shape[0], seed=self.seed + 105))
        terms = eq.linearized.A.abs_apply(eq.state)
        rounding = signs * xp.maximum(2 * self.backend.eps * terms, self.noise)
        rounded = eq.state + eq.factor.solve(rounding, rtol=NOISE_RTOL)
        corrected = eq.polish().state - _chord_step(eq.polish())
        size = self._size("state", eq.state)
        self.state_error = self._size("state", corrected - eq.state) / (size or 1.0)
        nearby = [
            quantities(
                type(eq)(
                    eq.problem,
                    h,
                    eq.problem.linearize(h),
                    eq.solver,
                    eq.report,
                    error_estimates=False,
                )
            )
            for h in (rounded, corrected)
        ]
        self.worst_residual = max(self.worst_residual, self._solve_error(eq))
        solve_error = ROUNDING_FACTOR * self.backend.eps + self.worst_residual

        def change(name: str, value: Array) -> float:
            return sum(self._size(name, other[name] - value) for other in nearby)

        return {
            name: STATE_NOISE_FACTOR * change(name, value) + solve_error * self._size(name, value)
            for name, value in base.items()
        }


def _chord_step(eq: Equilibrium) -> Array:
    """Return A^-1 R at the state, an estimate of its error, even in rows with a small residual."""
    return eq.factor.solve(eq.problem.residual(eq.state), rtol=NOISE_RTOL)


def _linear_loss(w: Array) -> Loss:
    dot = Backend.of(w).xp.vecdot
    return Loss(lambda h, theta: float(dot(w, native(h))), d_state=lambda h, theta: 1.0 * w)
