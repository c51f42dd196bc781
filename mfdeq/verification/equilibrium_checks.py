"""The checks that `mfdeq.verify` runs, from what the user gave to what follows from it.

Everything is tested against something that does not depend on it: first derivatives against
values, second ones against first ones, adjoints against products, equilibria against
equilibria solved for anew.
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
from .derivative_checks import Parts
from .taylor import FAIL, INCONCLUSIVE, judge

LOOSE = 1e-7  # relative residual of solves above which they may hide what is tested


class Checks(Parts):
    """All checks of one model, at one theta, along the directions of one seed."""

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
        self.unsettled = 0.0  # what is left to correct in an equilibrium, relative
        self.solve: Any = functools.partial(solve, problem.model, **solve_options)
        self.w = self.backend.random(problem.state_size, seed=seed + 100)
        self.loss = loss if loss is not None else _linear_loss(self.w)

    def everything(self) -> None:
        """All checks, from the parts to the whole; where no equilibrium is found, the parts."""
        problem = self.problem
        try:
            eq = self.solve(self.theta, self.h0)
        except DerivativeError as error:
            self._put(error.field or "linearization", FAIL, math.nan, math.nan, str(error))
            return
        except (ConvergenceError, SingularStateError) as error:
            # What a forward solve found best is a state; what an inner one did is not.
            forward = error.best is not None and isinstance(error.report, SolveReport)
            h = error.best if forward else problem.start(self.h0)
            self._guarded("linearization", lambda: self.linearization(h))
            verdict = FAIL if any(c.verdict == FAIL for c in self.checks) else INCONCLUSIVE
            self._put("equilibrium", verdict, math.nan, math.nan, f"not found: {error}")
            return
        self._guarded("linearization", lambda: self.linearization(eq.state))
        self._guarded("loss", lambda: self.loss_derivatives(eq.state, self.loss))
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
        elif INCONCLUSIVE in verdicts and self.unsettled > LOOSE:
            found.append(
                f"the equilibrium is off by {self.unsettled:.0e} of the state, too loose to tell: "
                "verify with a smaller rtol, or with rows of R of one size"
            )
        elif INCONCLUSIVE in verdicts and self.backend.eps > 1e-10:
            found.append(f"{self.backend.dtype} shows few digits: verify in float64 as well")
        return found

    def _guarded(self, name: str, checks: Callable[[], None]) -> None:
        try:
            checks()
        except DerivativeError as error:
            field = error.field if name == "linearization" else ""
            self._put(field or name, FAIL, math.nan, math.nan, str(error))
        except (ConvergenceError, SingularStateError) as error:
            self._put(name, INCONCLUSIVE, math.nan, math.nan, str(error))

    # The whole: equilibria at theta + step v.

    def equilibrium(self, eq: Equilibrium) -> None:
        """Z, the gradient, H and h'' against equilibria nearby."""
        xp, norm = self.backend.xp, self.backend.norm
        _ = eq.sensitivity._apply(self.v), eq.sensitivity._apply_adjoint(self.w)
        self.loosest = eq.report.linear.worst_residual
        self._dot_test("Z: adjoint", eq.sensitivity)
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
            self._symmetry("H: symmetry", H, eq.linearization.accuracy[1])
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
        noise, off_by = self._noise(eq, base, quantities), norm(_correction(eq.polished))
        off = self._inexact(eq, terms)
        for name, of in (("gradient", "value"), ("sensitivity", "state")):
            noise[name] = noise.get(name, 0.0) + 2 * off[of]
        steps: list[float] = []
        looser: list[float] = []  # by how much a solve left more than that at theta
        remainders: dict[str, list[float]] = {name: [] for name in terms}
        for step in self.steps:
            try:
                near = self.solve(self.theta + step * self.v, eq.state)
                there = quantities(near.polished)
            except (ConvergenceError, SingularStateError):
                continue
            steps.append(step)
            looser.append(max(1.0, norm(_correction(near.polished)) / off_by if off_by else 1.0))
            for name, term in terms.items():
                remainders[name].append(norm(there[name] - base[name] - step * term))
        for name, term in terms.items():
            sizes = [step * norm(term) for step in steps]
            noises = [
                noise[name] * more + step * off[name]
                for step, more in zip(steps, looser, strict=True)
            ]
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
        places = h, eq.polished.state - _correction(eq.polished)
        self.unsettled = norm(places[1] - eq.state) / (norm(eq.state) or 1.0)
        there = [
            quantities(Equilibrium(eq.problem, h, eq.problem.linearize(h), eq.solver, eq.report))
            for h in places
        ]
        self.loosest = max(self.loosest, eq.report.linear.worst_residual)
        inexact = 10 * self.backend.eps + self.loosest
        return {
            name: 3 * sum(norm(other[name] - value) for other in there) + inexact * norm(value)
            for name, value in base.items()
        }


def _correction(eq: Equilibrium) -> Array:
    """What a chord step would take from the state: small rows may not have converged."""
    return eq.factor.solve(eq.problem.residual(eq.state), rtol=1e-3)


def _linear_loss(w: Array) -> Loss:
    dot = Backend.of(w).xp.vecdot
    return Loss(lambda h, theta: float(dot(w, native(h))), d_state=lambda h, theta: 1.0 * w)
