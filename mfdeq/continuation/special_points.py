"""Folds and crossings of a curve of equilibria, and the other branch through a crossing.

At a fold dt/ds changes its sign. At a crossing (a simple bifurcation) the bordered matrix M of
`curve` is singular, and 1 / (c' M^-1 b) changes its sign, where b and c are near the null vectors
of M' and M.

References
----------
W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from .curve import Curve
from .point import Point

MAX_SWITCHING_CORRECTION = 8.0  # relative to the step; the direction is known only roughly
MAX_SWITCHING_HALVINGS = 8
MAX_ROOT_STEPS = 60  # of the secant method that locates folds and crossings
ROOT_RTOL = 1e-9  # accuracy of a fold or crossing, relative to the step
ROOT_RATIO = 1e-3  # a test function that stays above this share of its end values has a pole
SINGULAR_OFFSET = 1e-7  # distance from a point where A is singular, relative to the step


class SpecialPoints:
    """Test functions for the folds and crossings of a curve.

    Parameters
    ----------
    curve : Curve
    """

    def __init__(self, curve: Curve) -> None:
        self.curve, self.backend = curve, curve.backend
        self.b, self.c = (
            self._normalize(self.backend.random(curve.size, seed=seed), 1.0) for seed in (11, 12)
        )

    @property
    def memory(self) -> dict[str, Any]:
        """The vectors b and c, for a checkpoint."""
        return {"b": self.b, "c": self.c}

    def resume(self, memory: dict[str, Any]) -> None:
        """Restore b and c from a checkpoint."""
        put, size = self.backend.from_host, self.curve.size
        self.b, self.c = ((put(h, size), t) for h, t in (memory["b"], memory["c"]))

    def locate(self, here: Point, there: Point, ds: float) -> list[Point]:
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
                point = self.curve.add_eigenvalues(replace(root[1], kind=kind))
                located.append((root[0], point))
        return [point for _, point in sorted(located, key=lambda pair: pair[0])]

    def switch_branch(self, crossing: Point, sign: float, first_step: float) -> Point:
        """Compute a point of the other branch, along the null vector of M at a crossing."""
        curve = self.curve
        if crossing.kind != "crossing":
            raise ArgumentError(
                "start: expected a state or a crossing, got a point that is no crossing: pass its "
                "state"
            )
        curve.set_weight(crossing.tangent, crossing.state)
        y, u = self._bordered_solve(crossing)
        tangent, slope = curve.orient(y, u, None, sign)
        direction = Point(crossing.t, crossing.state, tangent, slope)
        for halvings in range(MAX_SWITCHING_HALVINGS):
            ds = first_step * 0.5**halvings
            try:
                point, _ = curve.correct(direction, ds, step=MAX_SWITCHING_CORRECTION * ds)
                return curve.add_eigenvalues(point)
            except (ConvergenceError, SingularStateError):
                continue
        raise ConvergenceError("no point of the other branch was found near the crossing")

    def _root(
        self, here: Point, ds: float, ends: tuple[float, float], test: Callable[[Point], float]
    ) -> tuple[float, Point] | None:
        """Locate a zero of a test function by bracketed secants (the Illinois method).

        Return its distance from `here` and the point, or None if the change of sign is a pole.
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
        """Evaluate a test function at a distance s, or close to it if A is singular there."""
        for offset in (0.0, SINGULAR_OFFSET, -SINGULAR_OFFSET):
            try:
                point = self.curve.correct(here, s + offset * ds, step=ds)[0]
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
        """Move b and c towards the null vectors of M' and M, by a step of inverse iteration.

        With other vectors the test function would have poles near its roots.
        """
        curve, xp = self.curve, self.backend.xp
        y, u = self._bordered_solve(point)
        self.c = self._normalize(y, u)
        linearized = curve.linearized(point)
        k, tau = curve.weight * point.tangent, point.slope
        factor = curve.solver.setup(linearized.A, curve.counts)
        P = factor.solve_adjoint(xp.stack([self.c[0], k], axis=1))
        Bd = linearized.B._apply(curve.d)
        p, q = (float(xp.vecdot(Bd, P[:, j])) for j in range(2))
        zeta = (self.c[1] + p) / (tau + q)
        self.b = self._normalize(P[:, 0] - zeta * P[:, 1], zeta)

    def _bordered_solve(self, point: Point) -> tuple[Array, float]:
        """Compute M^-1 b with the bordered matrix M at a point."""
        curve = self.curve
        linearized = curve.linearized(point)
        h, t = self.b
        u, a = curve.solve_linear(linearized, h, linearized.B._apply(curve.d))
        k, tau = point.tangent, point.slope
        dt = (t - curve.dot(k, tau, u, 0.0)) / curve.dot(k, tau, a, 1.0)
        return u + dt * a, dt

    def _normalize(self, h: Array, t: float) -> tuple[Array, float]:
        """Scale (h, t) to Euclidean length one."""
        length = math.hypot(self.backend.norm(h), t)
        return h / length, t / length
