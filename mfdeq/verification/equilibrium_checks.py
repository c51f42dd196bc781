"""Checks of the sensitivities, gradients and Hessians of an equilibrium.

Each is compared with equilibria at nearby parameters, whose solves do not depend on it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, native
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.solve import solve
from ..errors import ConvergenceError, DerivativeError, SingularStateError
from ..models.linearization import Problem
from ..models.losses import Loss, LossBase
from ..report import SolveReport
from .checks import TERM_ERROR_FACTOR
from .derivative_checks import ROUNDING_FACTOR, DerivativeChecker
from .taylor_remainders import FAIL, INCONCLUSIVE, judge_remainders

LOOSE_RTOL = 1e-7  # relative error above which solves may hide wrong derivatives
FEW_DIGITS_EPS = 1e-10  # unit roundoff above which verification in float64 is advised
NOISE_RTOL = 1e-3  # of solves for estimates of noise
EXACT_FACTOR = 100.0  # derivatives with smaller errors, in eps, are not finite differences
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
        self.solve: Any = functools.partial(solve, problem.model, **solve_options)
        self.w = self.backend.random(problem.state_size, seed=seed + 100)
        self.loss = loss if loss is not None else _linear_loss(self.w)

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
        self._run("loss", lambda: self.check_loss(eq.state, self.loss))
        self._run("equilibrium", lambda: self.check_equilibrium(eq))

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
        self.worst_residual = eq.report.linear.worst_residual
        self._check_adjoint("Z: adjoint", eq.sensitivity)
        _, d_h = eq.loss_gradients(self.loss)
        Zv = eq.sensitivity._apply(self.v)
        forward = float(xp.vecdot(d_h, Zv))
        backward = float(xp.vecdot(eq.param_operator._apply_adjoint(eq.adjoint(self.loss)), self.v))
        self._check_mismatch(
            "forward-adjoint duality", abs(forward - backward), norm(d_h) * norm(Zv)
        )
        has_curvature = eq.linearization.curvature is not None
        has_second = eq.linearization.second is not None
        terms = {
            "state": Zv,
            "value": xp.reshape(xp.vecdot(eq.gradient(self.loss), self.v), (1,)),
        }
        if has_curvature:
            H = eq.hessian(self.loss)
            Hv = H._apply(self.v)
            self._check_symmetry("H: symmetry", H, eq.linearization.accuracy[1])
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
        correction = norm(_chord_step(eq.polish()))
        steps: list[float] = []
        factors: list[float] = []  # corrections of the solves, relative to that at theta
        remainders: dict[str, list[float]] = {name: [] for name in terms}
        for step in self.steps:
            try:
                nearby = self.solve(self.theta + step * self.v, eq.state)
                values = quantities(nearby.polish())
            except (ConvergenceError, SingularStateError):
                continue
            steps.append(step)
            left = norm(_chord_step(nearby.polish()))
            factors.append(max(1.0, left / correction if correction else 1.0))
            for name, term in terms.items():
                remainders[name].append(norm(values[name] - base[name] - step * term))
        for name, term in terms.items():
            judgement = judge_remainders(
                2,
                steps,
                remainders[name],
                [step * norm(term) for step in steps],
                [
                    noise[name] * factor + step * errors[name]
                    for step, factor in zip(steps, factors, strict=True)
                ],
                norm(base[name]),
                self.agreement_needed,
            )
            self._add(TAYLOR_CHECKS[name], *judgement)

    def _term_errors(self, eq: Equilibrium, terms: dict[str, Array]) -> dict[str, float]:
        """Estimate the error of each term if the derivatives are finite differences; else 0."""
        norm, (first_error, second_error) = self.backend.norm, eq.linearization.accuracy
        errors = dict.fromkeys(TAYLOR_CHECKS, 0.0)
        if first_error > EXACT_FACTOR * self.backend.eps:
            there = eq.corrections.linearization(1)
            residual = there.B._apply(self.v) - there.A._apply(terms["state"])
            errors["state"] = 2 * norm(eq.factor.approximate(residual))
            errors["value"] = norm(eq.gradient_with_error(self.loss)[1]) * norm(self.v)
        if second_error:
            if "gradient" in terms:
                errors["gradient"] = norm(eq.hessian(self.loss).with_error(self.v)[1])
            relative = errors["state"] / max(norm(terms["state"]), self.backend.eps)
            size = norm(terms.get("sensitivity", 0.0 * self.v))
            errors["sensitivity"] = TERM_ERROR_FACTOR * (relative + second_error) * size
        return errors

    def _quantity_noise(
        self, eq: Equilibrium, base: dict[str, Array], quantities: Callable[..., dict[str, Array]]
    ) -> dict[str, float]:
        """Estimate the noise of each quantity from two nearby states and the residuals of solves.

        The states are one displaced by the rounding error of R, and one displaced by a chord step.
        """
        norm = self.backend.norm
        signs = self.backend.xp.sign(self.backend.random(eq.state.shape[0], seed=self.seed + 105))
        rounding = 2 * self.backend.eps * signs * eq.state_operator.abs_apply(eq.state)
        rounded = eq.state + eq.factor.solve(rounding, rtol=NOISE_RTOL)
        corrected = eq.polish().state - _chord_step(eq.polish())
        self.state_error = norm(corrected - eq.state) / (norm(eq.state) or 1.0)
        nearby = [
            quantities(Equilibrium(eq.problem, h, eq.problem.linearize(h), eq.solver, eq.report))
            for h in (rounded, corrected)
        ]
        self.worst_residual = max(self.worst_residual, eq.report.linear.worst_residual)
        solve_error = ROUNDING_FACTOR * self.backend.eps + self.worst_residual
        return {
            name: 3 * sum(norm(other[name] - value) for other in nearby) + solve_error * norm(value)
            for name, value in base.items()
        }


def _chord_step(eq: Equilibrium) -> Array:
    """Return A^-1 R at the state, an estimate of its error, even in rows with a small residual."""
    return eq.factor.solve(eq.problem.residual(eq.state), rtol=NOISE_RTOL)


def _linear_loss(w: Array) -> Loss:
    dot = Backend.of(w).xp.vecdot
    return Loss(lambda h, theta: float(dot(w, native(h))), d_state=lambda h, theta: 1.0 * w)
