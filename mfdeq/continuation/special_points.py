"""Folds and crossings of a curve of equilibria, and the other branch through a crossing.

At a fold dt/ds changes its sign. At a crossing (a simple bifurcation) the bordered matrix M of
`curve` is singular, and 1 / (c' M^-1 b) changes its sign, where b and c are near the null vectors
of M' and M. All of these are in the units of `inner_product`.

References
----------
W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError, ConvergenceError, is_evaluation_failure
from .curve import Curve
from .point import Point

MAX_SWITCHING_CORRECTION = 8.0  # relative to the step; the direction is known only roughly
MAX_SWITCHING_HALVINGS = 8
TRIVIAL_AMPLITUDES = -12, 13  # of a branch from the zero state, as powers of 1/10 of the units
MAX_ROOT_STEPS = 60  # of the secant method that locates folds and crossings
ROOT_RTOL = 1e-9  # accuracy of a fold or crossing, relative to the step
ROOT_RATIO = 1e-3  # a test function that stays above this share of its end values has a pole
# Distances from a point where A is singular, relative to the step.
SINGULAR_OFFSETS = 0.0, 1e-10, -1e-10, 1e-7, -1e-7


class SpecialPoints:
    """Test functions for the folds and crossings of a curve.

    Parameters
    ----------
    curve : Curve
    """

    def __init__(self, curve: Curve) -> None:
        self.curve, self.backend, self.inner = curve, curve.backend, curve.inner
        self.b, self.c, self._random = (
            self._normalize(self.backend.random(curve.size, seed=seed), 1.0)
            for seed in (11, 12, 13)
        )

    @property
    def memory(self) -> dict[str, Any]:
        """The vectors b and c in units of equations and unknowns, for a checkpoint."""
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
        # The entries of A that vanish at the crossing have no size there, but on the first branch.
        problem = curve.problem(crossing.t + first_step * crossing.slope)
        aside = curve.attempt(problem.linearize, crossing.state + first_step * crossing.tangent)
        self.inner.set_units(problem, aside or curve.linearized(crossing))
        self.inner.set_amplitude(crossing.tangent, crossing.state)
        trivial = not bool(self.backend.xp.any(self.inner.weights > 0.0))
        y, u = self._bordered_solve(crossing)
        y, u = self._from_units(*self._normalize(*self._in_units(y, u)))
        # Of a state that is zero, the amplitude of the other branch is not known: look for it.
        amplitudes = [10.0**-k for k in range(*TRIVIAL_AMPLITUDES)] if trivial else [None]
        for amplitude in amplitudes:
            if amplitude is not None:
                self.inner.set_uniform_amplitude(amplitude)
            tangent, slope = curve.orient(y, u, None, sign)
            direction = Point(crossing.t, crossing.state, tangent, slope)
            for halvings in range(1 if trivial else MAX_SWITCHING_HALVINGS):
                ds = first_step * 0.5**halvings
                reach = MAX_SWITCHING_CORRECTION * ds
                found = curve.attempt(functools.partial(curve.correct, step=reach), direction, ds)
                if found is not None:
                    return curve.add_eigenvalues(found[0])
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
            secant = (low * at_high - high * at_low) / (at_high - at_low)
            evaluated = self._evaluate_near(here, secant, ds, test)
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
            if s != secant and abs(s - secant) <= ROOT_RTOL * ds:
                break  # A is singular at the root itself
        if best is None or not best[0] <= ROOT_RATIO * max(map(abs, ends)):
            return None
        return best[1], best[2]

    def _evaluate_near(
        self, here: Point, s: float, ds: float, test: Callable[[Point], float]
    ) -> tuple[float, Point, float] | None:
        """Evaluate a test function at a distance s, or close to it if A is singular there."""
        for offset in SINGULAR_OFFSETS:
            try:
                point = self.curve.correct(here, s + offset * ds, step=ds)[0]
                return s + offset * ds, point, test(point)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
        return None

    def _crossing_test(self, point: Point) -> float:
        """Evaluate 1 / (c' M^-1 b), which is zero where the bordered matrix M is singular."""
        y, u = self._in_units(*self._bordered_solve(point))
        h, t = self.c
        return 1.0 / float(self.backend.xp.vecdot(h, y) + t * u)

    def _update_borders(self, point: Point) -> None:
        """Move b and c towards the null vectors of M' and M, by a step of inverse iteration.

        With other vectors the test function would have poles near its roots. A random part is added
        first: what is left of other null vectors after many steps may be too little.
        """
        curve, xp = self.curve, self.backend.xp
        h, t = self._random
        self.b = self._normalize(self.b[0] + h, self.b[1] + t)
        self.c = self._normalize(*self._in_units(*self._bordered_solve(point)))
        linearized = curve.linearized(point)
        k, tau = self.inner.weights * point.tangent, point.slope
        factor = curve.solver.setup(linearized.A, curve.counts)
        P = factor.solve_adjoint(xp.stack([self.c[0] / self.inner.columns, k], axis=1))
        Bd = linearized.B._apply(curve.d)
        p, q = (float(xp.vecdot(Bd, P[:, j])) for j in range(2))
        zeta = (self.c[1] / self.inner.unit + p) / (tau + q)
        left = (P[:, 0] - zeta * P[:, 1]) / self.inner.rows
        self.b = self._normalize(left, zeta * self.inner.unit)

    def _bordered_solve(self, point: Point) -> tuple[Array, float]:
        """Compute M^-1 b with the bordered matrix M at a point."""
        curve = self.curve
        linearized = curve.linearized(point)
        h, t = self.b[0] / self.inner.rows, self.b[1] * self.inner.unit
        u, a = curve.solve_linear(linearized, h, linearized.B._apply(curve.d))
        k, tau = point.tangent, point.slope
        dt = (t - curve.dot(k, tau, u, 0.0)) / curve.dot(k, tau, a, 1.0)
        return u + dt * a, dt

    def _in_units(self, h: Array, t: float) -> tuple[Array, float]:
        """Return (h, t) in the units of unknowns and of t."""
        return h / self.inner.columns, t / self.inner.unit

    def _from_units(self, h: Array, t: float) -> tuple[Array, float]:
        """Return (h, t) from numbers in the units of unknowns and of t."""
        return h * self.inner.columns, t * self.inner.unit

    def _normalize(self, h: Array, t: float) -> tuple[Array, float]:
        """Scale (h, t) to Euclidean length one."""
        length = math.hypot(self.backend.norm(h), t)
        return h / length, t / length
