"""Branches of equilibria along a direction of the parameters, around folds and through crossings.

With theta = theta0 + t d an equilibrium is a zero of R(h, t), and a branch of them a curve x(s) =
(h, t). Pseudo-arclength continuation (Keller 1977) steps along its tangent and corrects in the
plane orthogonal to it, where folds are points like others:

    [   A    -B d ] [dh]     [ R ]
    [ w th'   tt  ] [dt] = - [ 0 ],      <x, y> = w h'k + t u,   tangent (th, tt) ~ (A^-1 B d, 1),

by one block solve with the factor of A for R and B d. At a fold tt changes its sign. At a simple
bifurcation this bordered matrix M is singular, and 1 / (c' M^-1 b) changes its sign, b and c being
near its null vectors.

References
----------
H. B. Keller, Numerical solution of bifurcation and nonlinear eigenvalue problems, in: Applications
of Bifurcation Theory, Academic Press (1977).

E. L. Allgower and K. Georg, Numerical Continuation Methods, Springer (1990).

W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.solve import solve
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..forward import ConvergenceMonitor
from ..forward.newton_loop import Iterate, newton_loop
from ..linear import Reused
from ..models.linearization import CheckedLinearization, Problem
from ..models.model import Model
from ..report import LinearCounts, SolveReport
from .point import Point
from .stability import computes_all, leading_eigenvalues

MAX_CORRECTOR_STEPS = 10
MAX_CORRECTION = 0.5  # distance of a corrected point from its prediction, relative to the step
SWITCHING_REACH = 8.0  # the same to another branch, whose direction is known only roughly
MAX_SWITCHING_HALVINGS = 8
MAX_RESUMED_RESIDUAL = 1e3  # times the target: above it a saved point is of another model
MAX_ROOT_STEPS = 60  # of the secant method that locates folds and crossings
ROOT_RTOL = 1e-9  # of a step, to which they are located
ROOT_RATIO = 1e-3  # of its values at the ends of a step: a test function above it has a pole
SINGULAR_OFFSET = 1e-7  # of a step, by which a point where A is singular is avoided


@dataclass(frozen=True)
class _Trial(Iterate):
    """An iterate of a corrector, with its t and the model there."""

    t: float
    problem: Problem


class Curve:
    """The curve x(s) = (h, t) of equilibria, by its tangents and correctors.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta0 : (P,) array
    direction : (P,) array, int or None
        d, as in `mfdeq.follow`.
    solver : Reused
    eigenvalues : int
        How many to compute at each point.
    """

    def __init__(
        self, model: Model, theta0: Array, direction: Any, solver: Reused, eigenvalues: int
    ) -> None:
        self.model, self.solver, self.eigenvalues = model, solver, eigenvalues
        problem = Problem(model, theta0)
        self.backend: Backend = problem.backend
        self.theta, self.is_map = problem.theta, problem.is_map
        self.d = _direction(self.backend, direction, problem.param_size)
        self.counts = LinearCounts()
        self.weight = 1.0
        self._recent: list[tuple[Array, CheckedLinearization]] = []  # of the last two states
        self.size = problem.state_size
        self.b, self.c = (
            self._normalize(self.backend.random(self.size, seed=seed), 1.0) for seed in (11, 12)
        )

    # What a checkpoint holds, beside the points.

    @property
    def memory(self) -> dict[str, Any]:
        """What the following steps depend on: the weight of the state, and b and c."""
        return {"weight": self.weight, "b": self.b, "c": self.c}

    def resume(self, memory: dict[str, Any], point: Point) -> None:
        """Continue from a saved point, which must be an equilibrium of this model too."""
        self.weight = memory["weight"]
        put = self.backend.from_host
        self.b, self.c = ((put(h, self.size), t) for h, t in (memory["b"], memory["c"]))
        problem, report = self.problem(point.t), SolveReport()
        _, norm = problem.trial_residual(point.state)
        monitor = ConvergenceMonitor(problem, None, MAX_CORRECTOR_STEPS, report)
        monitor.set_scale(point.state)
        monitor.set_floor(self.linearized(point).A, point.state)
        if not norm <= MAX_RESUMED_RESIDUAL * report.target:
            raise ConvergenceError(f"||R|| at its last point is {norm:.2e}")
        self.forget()

    def forget(self) -> None:
        """Drop the factor and all linearizations."""
        self.solver.forget()
        self._recent = []

    # The inner product, linearizations, and what is solved.

    def dot(self, h: Array, t: float, k: Array, u: float) -> float:
        """Compute the inner product w h'k + t u of (h, t) and (k, u)."""
        return self.weight * float(self.backend.xp.vecdot(h, k)) + t * u

    def cosine(self, x: Point, y: Point) -> float:
        """Compute the cosine of the angle between the tangents at two points."""
        return self.dot(x.tangent, x.slope, y.tangent, y.slope)

    def problem(self, t: float) -> Problem:
        """Make the problem at theta0 + t d."""
        return Problem(self.model, self.theta + t * self.d)

    def linearized(self, point: Point) -> CheckedLinearization:
        """Linearize the model at a point; once, as long as it is one of the last two."""
        for state, linearized in self._recent:
            if state is point.state:
                return linearized
        linearized = self.problem(point.t).linearize(point.state)
        self._remember(point.state, linearized)
        return linearized

    def _remember(self, state: Array, linearized: CheckedLinearization) -> None:
        self._recent = [(state, linearized), *self._recent[:1]]

    def _solve(self, linearized: CheckedLinearization, *sides: Array) -> list[Array]:
        """Solve with A for several right-hand sides, as one block."""
        factor = self.solver.setup(linearized.A, self.counts)
        X = factor.solve(self.backend.xp.stack(sides, axis=1))
        return [X[:, j] for j in range(len(sides))]

    def _tangent(self, linearized: CheckedLinearization, like: Point) -> tuple[Array, float]:
        """Compute the unit tangent dx/ds, on the side of another point's tangent."""
        (a,) = self._solve(linearized, linearized.B._apply(self.d))
        return self._orient(a, 1.0, like)

    def _orient(
        self, h: Array, t: float, like: Point | None, sign: float = 1.0
    ) -> tuple[Array, float]:
        """Scale (h, t) to unit length, on the side of another point's tangent, or of a sign."""
        length = math.sqrt(self.dot(h, t, h, t))
        if like is not None:
            sign = math.copysign(1.0, self.dot(h, t, like.tangent, like.slope))
        return sign / length * h, sign / length * t

    # Points.

    def first_point(self, start: Array | Point | None, sign: float, first_step: float) -> Point:
        """Solve for the first point, at t = 0 or on the other branch through a crossing."""
        if isinstance(start, Point):
            return self._switch_branch(start, sign, first_step)
        eq = solve(self.model, self.theta, start, solver=self.solver)
        (a,) = self._solve(eq.linearized, eq.param_operator._apply(self.d))
        self.weight = self._state_weight(a, eq.state)
        self._recent = [(eq.state, eq.linearized)]
        tangent, slope = self._orient(a, 1.0, None, sign)
        return self.add_eigenvalues(Point(0.0, eq.state, tangent, slope))

    def start_state(self, start: Any) -> Array | None:
        """Return the state that a branch starts from, if one is given."""
        if start is None:
            return None
        return self.backend.asarray(start.state if isinstance(start, Point) else start)

    def _state_weight(self, a: Array, h: Array) -> float:
        """Choose w of the inner product, so that the state and dh/dt count as much as t."""
        size = self.backend.norm(a) ** 2 + self.backend.norm(h) ** 2
        return 1.0 / size if size > 0.0 else 1.0

    def correct(
        self, here: Point, ds: float, natural: bool = False, step: float | None = None
    ) -> tuple[Point, int]:
        """Compute the point of the curve in the plane at a distance along the tangent.

        Parameters
        ----------
        here : Point
        ds : float
            The distance from there along its tangent; may be negative.
        natural : bool, optional
            Correct at a fixed t in place of the plane orthogonal to the tangent.
        step : float, optional
            The length that limits the correction, if `ds` is only a part of a step.

        Returns
        -------
        point : Point
        iterations : int

        Raises
        ------
        ConvergenceError
            If the corrector does not converge near the prediction.
        """
        if natural:
            ds = ds / abs(here.slope)
        h, t = here.state + ds * here.tangent, here.t + ds * here.slope
        across = (0.0 * here.tangent, 1.0) if natural else (here.tangent, here.slope)
        return self._correct_across(h, t, across, here, MAX_CORRECTION * abs(step or ds))

    def _correct_across(
        self, h: Array, t: float, across: tuple[Array, float], like: Point, reach: float
    ) -> tuple[Point, int]:
        """Compute the point of the curve in the plane orthogonal to `across`, by Newton's method.

        It lies no farther than `reach` from (h, t): beyond it is another part of the curve, or
        another curve.
        """
        start = self._trial(h, t)
        report = SolveReport(method="newton")
        monitor = ConvergenceMonitor(start.problem, None, MAX_CORRECTOR_STEPS, report)
        monitor.set_scale(h)

        def stop(trial: _Trial, steps: int) -> bool:
            monitor.set_floor(trial.problem.linearize(trial.h).A, trial.h)
            return steps > 0 and monitor.reached(trial.h, trial.norm)

        def solve(trial: _Trial) -> tuple[Array, Array, float]:
            linearized = trial.problem.linearize(trial.h)
            u, a = self._solve(linearized, -trial.residual, linearized.B._apply(self.d))
            k, tau = across
            dt = -self.dot(k, tau, u, 0.0) / self.dot(k, tau, a, 1.0)
            return u, a, dt

        def advance(trial: _Trial, step: tuple[Array, Array, float]) -> _Trial:
            u, a, dt = step
            h, t = trial.h + u + dt * a, trial.t + dt
            away = h - start.h, t - start.t
            if not self.dot(*away, *away) <= reach**2:
                raise ConvergenceError("a corrector strayed from where the tangent points")
            return self._trial(h, t)

        end, iterations = newton_loop(start, solve, advance, stop, MAX_CORRECTOR_STEPS)
        if iterations == MAX_CORRECTOR_STEPS:
            raise ConvergenceError(f"{MAX_CORRECTOR_STEPS} steps of a corrector were not enough")
        linearized = end.problem.linearize(end.h)
        self._remember(end.h, linearized)
        tangent, slope = self._tangent(linearized, like)
        return Point(end.t, end.h, tangent, slope), iterations

    def _trial(self, h: Array, t: float) -> _Trial:
        problem = self.problem(t)
        residual, norm = problem.trial_residual(h)
        if residual is None:
            raise ConvergenceError("a corrector came to where the model is not defined")
        return _Trial(h, residual, norm, t, problem)

    def point_at(self, here: Point, there: Point, t: float) -> Point:
        """Compute the point at a given t between two points."""
        share = (t - here.t) / (there.t - here.t)
        guess = here.state + share * (there.state - here.state)
        chord = there.state - here.state, there.t - here.t
        reach = MAX_CORRECTION * math.sqrt(self.dot(*chord, *chord))
        point, _ = self._correct_across(guess, t, (0.0 * here.tangent, 1.0), there, reach)
        return self.add_eigenvalues(point)

    # Folds and crossings between two points.

    def special_points(self, here: Point, there: Point, ds: float) -> list[Point]:
        """Locate the folds and crossings between two points, in order."""
        located: list[tuple[float, Point]] = []
        self._update_borders(there)
        tests: dict[str, Callable[[Point], float]] = {
            "fold": lambda point: point.slope,
            "crossing": self._crossing_test,
        }
        for kind, test in tests.items():
            ends = test(here), test(there)
            if ends[0] * ends[1] < 0.0 and (root := self._root(here, ds, ends, test)) is not None:
                located.append((root[0], self.add_eigenvalues(replace(root[1], kind=kind))))
        return [point for _, point in sorted(located, key=lambda pair: pair[0])]

    def _root(
        self, here: Point, ds: float, ends: tuple[float, float], test: Callable[[Point], float]
    ) -> tuple[float, Point] | None:
        """Locate a zero of a test function by bracketed secants (the Illinois method).

        Returns its distance from `here` and the point; None if the change of sign is a pole.
        """
        (low, high), (at_low, at_high) = (0.0, ds), ends
        best: tuple[float, float, Point] | None = None
        for _ in range(MAX_ROOT_STEPS):
            s = (low * at_high - high * at_low) / (at_high - at_low)
            evaluated = self._evaluate_near(here, s, ds, test)
            if evaluated is None:
                break
            s, point, value = evaluated
            if best is None or abs(value) < best[0]:
                best = abs(value), s, point
            if value * at_high < 0.0:
                low, at_low = high, at_high
            else:
                at_low *= 0.5
            high, at_high = s, value
            if abs(high - low) <= ROOT_RTOL * ds or value == 0.0:
                break
        if best is None or not best[0] <= ROOT_RATIO * max(map(abs, ends)):
            return None
        return best[1], best[2]

    def _evaluate_near(
        self, here: Point, s: float, ds: float, test: Callable[[Point], float]
    ) -> tuple[float, Point, float] | None:
        """Evaluate a test function at a distance s, or just beside it if A is singular there."""
        for offset in (0.0, SINGULAR_OFFSET, -SINGULAR_OFFSET):
            try:
                point = self.correct(here, s + offset * ds, step=ds)[0]
                return s + offset * ds, point, test(point)
            except (ConvergenceError, SingularStateError):
                continue
        return None

    def _crossing_test(self, point: Point) -> float:
        """Evaluate 1 / (c' M^-1 b), which is zero where the bordered matrix M is singular."""
        y, u = self._bordered_solve(point)
        h, t = self.c
        return 1.0 / float(self.backend.xp.vecdot(h, y) + t * u)

    def _update_borders(self, point: Point) -> None:
        """Set b and c near the null vectors of M' and M, by a step of inverse iteration.

        With others the test function has poles near its roots.
        """
        xp = self.backend.xp
        y, u = self._bordered_solve(point)
        self.c = self._normalize(y, u)
        linearized = self.linearized(point)
        k, tau = self.weight * point.tangent, point.slope
        factor = self.solver.setup(linearized.A, self.counts)
        P = factor.solve_adjoint(xp.stack([self.c[0], k], axis=1))
        Bd = linearized.B._apply(self.d)
        p, q = (float(xp.vecdot(Bd, P[:, j])) for j in range(2))
        zeta = (self.c[1] + p) / (tau + q)
        self.b = self._normalize(P[:, 0] - zeta * P[:, 1], zeta)

    def _normalize(self, h: Array, t: float) -> tuple[Array, float]:
        """Scale (h, t) to Euclidean length one."""
        length = math.hypot(self.backend.norm(h), t)
        return h / length, t / length

    def _bordered_solve(self, point: Point) -> tuple[Array, float]:
        """Compute M^-1 b with the bordered matrix M at a point."""
        linearized = self.linearized(point)
        h, t = self.b
        u, a = self._solve(linearized, h, linearized.B._apply(self.d))
        k, tau = point.tangent, point.slope
        dt = (t - self.dot(k, tau, u, 0.0)) / self.dot(k, tau, a, 1.0)
        return u + dt * a, dt

    def _switch_branch(self, crossing: Point, sign: float, first_step: float) -> Point:
        """Compute a point of the other branch: along the null vector of M, across the first."""
        if crossing.kind != "crossing":
            raise ArgumentError(
                "start: expected a state or a crossing, got a point that is no crossing: pass its "
                "state"
            )
        self.weight = self._state_weight(crossing.tangent, crossing.state)
        y, u = self._bordered_solve(crossing)
        tangent, slope = self._orient(y, u, None, sign)
        direction = Point(crossing.t, crossing.state, tangent, slope)
        for halvings in range(MAX_SWITCHING_HALVINGS):
            ds = first_step * 0.5**halvings
            try:
                point, _ = self.correct(direction, ds, step=SWITCHING_REACH * ds)
                return self.add_eigenvalues(point)
            except (ConvergenceError, SingularStateError):
                continue
        raise ConvergenceError("no point of the other branch was found near the crossing")

    # Stability.

    @property
    def counts_are_certain(self) -> bool:
        """Whether no unstable eigenvalue can be missing among those that are computed."""
        n, k = self.size, self.eigenvalues
        return not k or self.is_map or computes_all(n, k)

    def add_eigenvalues(self, point: Point) -> Point:
        """Return the point with its eigenvalues, if any are asked for."""
        if not self.eigenvalues:
            return point
        linearized = self.linearized(point)
        values = leading_eigenvalues(
            linearized,
            lambda: self.solver.settle(linearized.A, self.counts),
            self.eigenvalues,
            self.is_map,
        )
        unstable = abs(values) > 1.0 if self.is_map else values.real < 0.0
        return replace(point, eigenvalues=values[: self.eigenvalues], unstable=int(unstable.sum()))


def _direction(backend: Backend, given: Any, size: int) -> Array:
    """Check a direction of the parameters, or make that of one parameter."""
    if given is None:
        if size != 1:
            raise ArgumentError(
                f"direction: expected an array or the number of one of {size} parameters, got None"
            )
        given = 0
    if getattr(given, "ndim", 0) == 0 and hasattr(given, "__index__"):
        if not -size <= given < size:
            raise ArgumentError(
                f"direction: expected the number of one of {size} parameters, got {given}"
            )
        d = backend.zeros(size)
        d[int(given)] = 1.0
        return d
    d = backend.check_array(given, (size,), "direction", ArgumentError)
    if backend.norm(d) == 0.0:
        raise ArgumentError("direction: expected a nonzero vector, got zero")
    return d
