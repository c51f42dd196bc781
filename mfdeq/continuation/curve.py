"""Branches of equilibria along a direction of the parameters, around folds and through crossings.

With theta = theta0 + t d an equilibrium is a zero of R(h, t), and a branch of them a curve x(s) =
(h, t). Pseudo-arclength continuation (Keller 1977) steps along its tangent and corrects in the
plane orthogonal to it, where folds are points like others:

    [   A    -B d ] [dh]     [ R ]
    [ w th'   tt  ] [dt] = - [ 0 ],      <x, y> = w h'k + t u,   tangent (th, tt) ~ (A^-1 B d, 1),

by one block solve with the factor of A for R and B d. At a fold tt changes its sign. At a simple
bifurcation this bordered matrix is singular, and 1 / (c' M^-1 b) changes its sign, b and c being
near its null vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, Backend
from ..equilibrium.solve import solve
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..forward import Monitor
from ..linear import Reused
from ..models.linearization import Linearized, Problem
from ..models.model import Model
from ..report import LinearCounts, SolveReport
from .stability import leading_eigenvalues, seen_all

MOST = 10  # iterations of a corrector
LOCATED = 1e-9  # of a step, to which folds and crossings are located
BESIDE = 1e-7  # of a step, to the side of a point where A is singular
STRAYED = 1e3  # times the target of ||R||, which no point of this branch has
NEAR = 0.5  # of a step, within which a point must be of where the tangent foretold it
SLANTED = 8.0  # times that, where another branch leaves in a direction that is not known yet
SMALL = 1e-3  # of what it was at the ends of a step, for a test function to be at a root


@dataclass(frozen=True)
class Point:
    """A point of a branch.

    Attributes
    ----------
    t : float
    state : (N,) array
    tangent : (N,) array
        dh/ds along the branch.
    slope : float
        dt/ds; zero at a fold.
    kind : {"", "fold", "crossing"}
        What is special about it.
    eigenvalues : (k,) array of complex, or None
        Of A those nearest to zero, of the J of a map those largest in magnitude.
    unstable : int or None
        How many of those grow, of all where N is at most 200: real part below zero of A, magnitude
        above one of J. None where none of them does and one that did may be too far from zero to
        be among them.
    """

    t: float
    state: Array
    tangent: Array
    slope: float
    kind: str = ""
    eigenvalues: Any = None
    unstable: int | None = None


class Curve:
    """The curve x(s), by its tangents and correctors."""

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
        self._recent: list[tuple[Array, Linearized]] = []  # of the last points, by their states
        self.size = problem.state_size
        self.b, self.c = (
            self._unit(self.backend.random(self.size, seed=seed), 1.0) for seed in (11, 12)
        )

    # What a checkpoint keeps, beside the points.

    @property
    def memory(self) -> dict[str, Any]:
        """The weight of the state, and b and c as they were last aimed."""
        return {"weight": self.weight, "b": self.b, "c": self.c}

    def go_on(self, memory: dict[str, Any], point: Point) -> None:
        """Take up what was kept at a point, which must be an equilibrium here too."""
        self.weight = memory["weight"]
        put = self.backend.from_host
        self.b, self.c = ((put(h, self.size), t) for h, t in (memory["b"], memory["c"]))
        problem, report = self.problem(point.t), SolveReport()
        _, size = problem.trial_residual(point.state)
        monitor = Monitor(problem, None, MOST, report)
        monitor.set_scale(point.state)
        monitor.set_floor(self.linearized(point).A, point.state)
        if not size <= STRAYED * report.target:
            raise ConvergenceError(f"||R|| at its last point is {size:.2e}")
        self.forget()

    def forget(self) -> None:
        """Drop the factor and what was linearized."""
        self.solver.forget()
        self._recent = []

    # The inner product and what is solved.

    def dot(self, h: Array, t: float, k: Array, u: float) -> float:
        """w h'k + t u."""
        return self.weight * float(self.backend.xp.vecdot(h, k)) + t * u

    def cosine(self, x: Point, y: Point) -> float:
        """Of the angle between the tangents at two points."""
        return self.dot(x.tangent, x.slope, y.tangent, y.slope)

    def problem(self, t: float) -> Problem:
        """The model at theta0 + t d."""
        return Problem(self.model, self.theta + t * self.d)

    def linearized(self, point: Point) -> Linearized:
        """The model at a point, linearized once as long as that is one of the last two."""
        for state, found in self._recent:
            if state is point.state:
                return found
        found = self.problem(point.t).linearize(point.state)
        self._recent = [(point.state, found), *self._recent[:1]]
        return found

    def solves(self, linearized: Linearized, *sides: Array) -> list[Array]:
        """A^-1 of several vectors, in one block."""
        factor = self.solver.setup(linearized.A, self.counts)
        X = factor.solve(self.backend.xp.stack(sides, axis=1))
        return [X[:, j] for j in range(len(sides))]

    def tangent(self, linearized: Linearized, like: Point) -> tuple[Array, float]:
        """dx/ds of unit length, in the direction of another point's."""
        (a,) = self.solves(linearized, linearized.B._apply(self.d))
        return self._normal(a, 1.0, like)

    def _normal(
        self, h: Array, t: float, like: Point | None, sign: float = 1.0
    ) -> tuple[Array, float]:
        size = math.sqrt(self.dot(h, t, h, t))
        if like is not None:
            sign = math.copysign(1.0, self.dot(h, t, like.tangent, like.slope))
        return sign / size * h, sign / size * t

    # Points.

    def begin(self, start: Array | Point | None, sign: float, first: float) -> Point:
        """The first point."""
        if isinstance(start, Point):
            return self._switched(start, sign, first)
        eq = solve(self.model, self.theta, start, solver=self.solver)
        (a,) = self.solves(eq.linearized, eq.param_operator._apply(self.d))
        self.weight = self._weighed(a, eq.state)
        self._recent = [(eq.state, eq.linearized)]
        tangent, slope = self._normal(a, 1.0, None, sign)
        return self.examined(Point(0.0, eq.state, tangent, slope))

    def start_of(self, start: Any) -> Array | None:
        """The state that a branch starts from, where one is given."""
        if start is None:
            return None
        return self.backend.asarray(start.state if isinstance(start, Point) else start)

    def _weighed(self, a: Array, h: Array) -> float:
        """What a state counts beside t: as much as h and what t does to it are large."""
        size = self.backend.norm(a) ** 2 + self.backend.norm(h) ** 2
        return 1.0 / size if size > 0.0 else 1.0

    def corrected(
        self, here: Point, ds: float, natural: bool = False, step: float | None = None
    ) -> tuple[Point, int]:
        """The point of the curve in the plane ds ahead, and the iterations it took.

        ds may be a part of a step, which then says what is near.
        """
        if natural:
            ds = ds / abs(here.slope)
        h, t = here.state + ds * here.tangent, here.t + ds * here.slope
        across = (0.0 * here.tangent, 1.0) if natural else (here.tangent, here.slope)
        return self._newton(h, t, across, here, NEAR * abs(step or ds))

    def _newton(
        self, h: Array, t: float, across: tuple[Array, float], like: Point, reach: float
    ) -> tuple[Point, int]:
        """The point of the curve across a direction, no farther than `reach` from (h, t)."""
        report = SolveReport(method="newton")
        monitor: Monitor | None = None
        first = h, t
        for iteration in range(MOST):
            problem = self.problem(t)
            residual, size = problem.trial_residual(h)
            if residual is None:
                raise ConvergenceError("the model does not exist on the way of a corrector")
            linearized = problem.linearize(h)
            if monitor is None:
                monitor = Monitor(problem, None, MOST, report)
                monitor.set_scale(h)
            monitor.set_floor(linearized.A, h)
            if monitor.reached(h, size) and iteration:
                self._recent = [(h, linearized), *self._recent[:1]]
                tangent, slope = self.tangent(linearized, like)
                return Point(t, h, tangent, slope), iteration
            u, a = self.solves(linearized, -residual, linearized.B._apply(self.d))
            k, tau = across
            dt = -self.dot(k, tau, u, 0.0) / self.dot(k, tau, a, 1.0)
            h, t = h + u + dt * a, t + dt
            # Farther away is another part of the curve, or another curve.
            away = h - first[0], t - first[1]
            if not self.dot(*away, *away) <= reach**2:
                raise ConvergenceError("a corrector strayed from where the tangent points")
        raise ConvergenceError(f"{MOST} iterations of a corrector were not enough")

    def at(self, here: Point, there: Point, t: float) -> Point:
        """The equilibrium at t, between two points."""
        share = (t - here.t) / (there.t - here.t)
        guess = here.state + share * (there.state - here.state)
        way = there.state - here.state, there.t - here.t
        reach = NEAR * math.sqrt(self.dot(*way, *way))
        found, _ = self._newton(guess, t, (0.0 * here.tangent, 1.0), there, reach)
        return self.examined(found)

    # What is special between two points.

    def special(self, here: Point, there: Point, ds: float) -> list[Point]:
        """Folds and crossings on the way, in order."""
        found: list[tuple[float, Point]] = []
        self._aim(there)
        tests: dict[str, Callable[[Point], float]] = {
            "fold": lambda point: point.slope,
            "crossing": self._bordered,
        }
        for kind, test in tests.items():
            ends = test(here), test(there)
            if ends[0] * ends[1] < 0.0 and (root := self._root(here, ds, ends, test)) is not None:
                found.append((root[0], self.examined(replace(root[1], kind=kind))))
        return [point for _, point in sorted(found, key=lambda pair: pair[0])]

    def _root(
        self, here: Point, ds: float, ends: tuple[float, float], test: Callable[[Point], float]
    ) -> tuple[float, Point] | None:
        """Where a test function is zero, by secants that are kept inside (Illinois)."""
        (low, high), (at_low, at_high) = (0.0, ds), ends
        best: tuple[float, float, Point] | None = None
        for _ in range(60):
            s = (low * at_high - high * at_low) / (at_high - at_low)
            tried = self._tested(here, s, ds, test)
            if tried is None:
                break
            s, point, value = tried
            if best is None or abs(value) < best[0]:
                best = abs(value), s, point
            if value * at_high < 0.0:
                low, at_low = high, at_high
            else:
                at_low *= 0.5
            high, at_high = s, value
            if abs(high - low) <= LOCATED * ds or value == 0.0:
                break
        if best is None or not best[0] <= SMALL * max(map(abs, ends)):
            return None  # a pole
        return best[1], best[2]

    def _tested(
        self, here: Point, s: float, ds: float, test: Callable[[Point], float]
    ) -> tuple[float, Point, float] | None:
        """A point and its test; where A is singular on the spot, that of one beside it."""
        for aside in (0.0, BESIDE, -BESIDE):
            try:
                point = self.corrected(here, s + aside * ds, step=ds)[0]
                return s + aside * ds, point, test(point)
            except (ConvergenceError, SingularStateError):
                continue
        return None

    def _bordered(self, point: Point) -> float:
        """1 / (c' M^-1 b), zero where M is singular."""
        y, u = self._inverse_of_b(point)
        h, t = self.c
        return 1.0 / float(self.backend.xp.vecdot(h, y) + t * u)

    def _aim(self, point: Point) -> None:
        """Take for b and c what is nearest to null vectors of M' and M, by inverse iteration.

        Of others the test function has poles near its roots.
        """
        xp = self.backend.xp
        y, u = self._inverse_of_b(point)
        self.c = self._unit(y, u)
        linearized = self.linearized(point)
        k, tau = self.weight * point.tangent, point.slope
        factor = self.solver.setup(linearized.A, self.counts)
        P = factor.solve_adjoint(xp.stack([self.c[0], k], axis=1))
        Bd = linearized.B._apply(self.d)
        p, q = (float(xp.vecdot(Bd, P[:, j])) for j in range(2))
        zeta = (self.c[1] + p) / (tau + q)
        self.b = self._unit(P[:, 0] - zeta * P[:, 1], zeta)

    def _unit(self, h: Array, t: float) -> tuple[Array, float]:
        """(h, t), of unit length."""
        length = math.hypot(self.backend.norm(h), t)
        return h / length, t / length

    def _inverse_of_b(self, point: Point) -> tuple[Array, float]:
        linearized = self.linearized(point)
        h, t = self.b
        u, a = self.solves(linearized, h, linearized.B._apply(self.d))
        k, tau = point.tangent, point.slope
        dt = (t - self.dot(k, tau, u, 0.0)) / self.dot(k, tau, a, 1.0)
        return u + dt * a, dt

    def _switched(self, crossing: Point, sign: float, first: float) -> Point:
        """A point of the other branch: along the null vector of M, across the first."""
        if crossing.kind != "crossing":
            raise ArgumentError("start is a point that is no crossing: pass its state")
        self.weight = self._weighed(crossing.tangent, crossing.state)
        y, u = self._inverse_of_b(crossing)
        tangent, slope = self._normal(y, u, None, sign)
        aim = Point(crossing.t, crossing.state, tangent, slope)
        for shrink in range(8):
            ds = first * 0.5**shrink
            try:
                return self.examined(self.corrected(aim, ds, step=SLANTED * ds)[0])
            except (ConvergenceError, SingularStateError):
                continue
        raise ConvergenceError("no point of the other branch was found near the crossing")

    # Stability.

    @property
    def sees_all(self) -> bool:
        """Whether no eigenvalue that grows can be out of sight."""
        n, k = self.size, self.eigenvalues
        return not k or self.is_map or seen_all(n, k)

    def examined(self, point: Point) -> Point:
        """The point with its eigenvalues, where they are asked for."""
        if not self.eigenvalues:
            return point
        linearized = self.linearized(point)
        values = leading_eigenvalues(
            linearized,
            lambda: self.solver.settle(linearized.A, self.counts),
            self.eigenvalues,
            self.is_map,
        )
        grows = abs(values) > 1.0 if self.is_map else values.real < 0.0
        return replace(point, eigenvalues=values[: self.eigenvalues], unstable=int(grows.sum()))


def _direction(backend: Backend, given: Any, size: int) -> Array:
    if given is None:
        if size != 1:
            raise ArgumentError(
                f"direction is not given, and there are {size} parameters: pass an array or the "
                "number of one"
            )
        given = 0
    if getattr(given, "ndim", 0) == 0 and hasattr(given, "__index__"):
        if not -size <= given < size:
            raise ArgumentError(f"direction is parameter {given} of {size}: out of range")
        d = backend.zeros(size)
        d[int(given)] = 1.0
        return d
    d = backend.checked(given, (size,), "direction", ArgumentError)
    if backend.norm(d) == 0.0:
        raise ArgumentError("direction is zero")
    return d
