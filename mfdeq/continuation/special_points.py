"""The special points within a step of a curve.

At a fold dt/ds changes its sign; at a crossing the bordered matrix M is singular (see `bordered`).
If eigenvalues are computed, the number of unstable ones must change by what these explain;
`stability_changes` finds what else changes it.

References
----------
W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

from ..arrays.backend import Array, host
from ..equilibrium.null_vectors import find_null_vectors
from ..errors import ConvergenceError, SingularStateError
from ..locks import ignore_warnings
from .bordered import Borders, predicted_roots
from .curve import Curve
from .dips import Before, dip_of_parabola, dip_of_slope
from .point import Point
from .roots import Step
from .stability_changes import LAST_OFFSET, SAME_RTOL, Located, StabilityChanges, moved

MAX_CROSSING_STEPS = 20  # of the matrix secant method
MAX_HALVINGS = 8  # of a step with several crossings
SAME_PREDICTION = 1e-3  # distance of predicted crossings that may be one, relative to the interval
SPLIT_OFFSETS = 0.0, 0.03, -0.04  # of a place where an interval is divided
FIRST_OFFSET = 1e-4  # distance from a crossing, relative to the step, at which A is regular
MAX_IMAGINARY = 0.25  # of a predicted root: two real ones that nearly coincide may seem complex
MAX_STRAIGHT = 0.999  # cosine of the turn of a step that cannot have left the branch
NO_SLOPE = 1e-6  # |dt/ds| that may be rounding


class SpecialPoints:
    """Finds the special points of a curve.

    Parameters
    ----------
    curve : Curve
    """

    def __init__(self, curve: Curve) -> None:
        self.curve, self.backend, self.inner = curve, curve.backend, curve.inner
        self.borders, self.stability = Borders(curve), StabilityChanges(curve)
        self.before: Before | None = None
        self._smallest, self._odd = math.inf, False

    @property
    def memory(self) -> dict[str, Any]:
        """What later steps depend on, for a checkpoint."""
        return {**self.borders.memory, "before": self.before and vars(self.before)}

    def resume(self, memory: dict[str, Any]) -> None:
        """Restore what later steps depend on from a checkpoint."""
        self.borders.resume(memory)
        self.before = memory["before"] and Before(**memory["before"])

    def locate(
        self, here: Point, there: Point, ds: float, may_shorten: bool = False
    ) -> tuple[list[Point], list[tuple[float, float]]]:
        """Locate the special points between two points, in order.

        Return also the intervals of t in which t turns back, or the number of unstable eigenvalues
        changes, for a reason that was not found. If t turns back where there is no fold, the points
        may be on two branches that nearly meet: with `may_shorten` that is a ConvergenceError.
        """
        step = Step(self.curve, here, ds, there)
        ends = Located(0.0, here), Located(ds, there)
        before = self.before if self.before is not None and self.before.t == here.t else None
        self._smallest = math.inf
        found = [*self._crossings(step, *ends, MAX_HALVINGS, before), *self._folds(step, *ends)]
        turns = [one for one in found if one.point.kind == "fold"]
        slopes = here.slope, there.slope
        jumped = slopes[0] * slopes[1] < -(NO_SLOPE**2) and not turns
        if jumped and may_shorten:
            raise ConvergenceError("t turns back without a fold: two branches may nearly meet")
        unexplained: list[tuple[float, float]] = []
        unstable: int | None = None
        levels: list[float] = []
        if self._odd and sum(one.point.dimension for one in found if one not in turns) % 2 == 0:
            unexplained = [(here.t, there.t)]
        if self.curve.stability.k:
            found, unexplained = self.stability.explain(step, *ends, found, before)
            if unexplained and may_shorten and self.curve.cosine(here, there) < MAX_STRAIGHT:
                raise ConvergenceError("stability changes as it does on two branches that meet")
            turns = [one for one in found if one.point.kind == "fold"]
            unstable, levels = self.stability.levels(here, self.stability.count(here))
        if jumped and not (turns or unexplained):
            unexplained = [(here.t, there.t)]
        self.before = Before(there.t, ds, self._smallest, unstable, levels)
        self.borders.trim()
        found.sort(key=lambda one: one.s)
        return [self._complete(one.point) for one in found], unexplained

    def _complete(self, point: Point) -> Point:
        """Add the derivative of t at a fold, -B'w / (w'B d) with the left null vector w of A."""
        if point.kind != "fold" or (w := self._left_null_vector(point)) is None:
            return point
        along = self.curve.linearized(point).B._apply_adjoint(w)
        return replace(point, gradient=-along / float(self.backend.xp.vecdot(along, self.curve.d)))

    def _left_null_vector(self, fold: Point) -> Array | None:
        """Compute the left null vector of A; by inverse iteration if A is not singular to rounding.

        The singular values are those of A in the units of equations and unknowns.
        """
        curve, inner = self.curve, self.inner
        linearized = curve.linearized(fold)
        accuracy = linearized.linearization.state_accuracy
        null = find_null_vectors(linearized.A, curve.solver.held, accuracy)
        if null is not None:
            return null.unscaled[1]
        try:
            with ignore_warnings():  # what is lost is along the null vector
                side = self.backend.random(curve.size, seed=14) / inner.rows
                (v,) = curve.solve_linear(linearized, side)
                v = v / self.backend.norm(v / inner.columns)
                (w,) = curve.solve_linear(linearized, v / inner.columns**2, adjoint=True)
        except (ConvergenceError, SingularStateError):
            return None
        return w / self.backend.norm(w / inner.rows)

    def _folds(self, step: Step, a: Located, b: Located) -> list[Located]:
        """Locate the folds of a step: one, or two if t may turn back and forth within it."""
        places = [(a.s, a.point.slope), (b.s, b.point.slope)]
        cosine = self.curve.cosine(a.point, b.point)
        chord = (b.point.t - a.point.t) / step.ds
        dip = dip_of_slope((a.point.slope, b.point.slope / cosine), chord)
        if dip is not None:
            middle = step.evaluate(dip * step.ds, lambda point: point.slope)
            if middle is not None:
                places.insert(1, (middle[0], middle[2]))
        found = []
        for (low, first), (high, last) in itertools.pairwise(places):
            if first * last < 0.0:
                root = step.root((low, high), (first, last), lambda point: point.slope)
                if root is not None:
                    found.append(Located(root[0], replace(root[1], kind="fold", dimension=1)))
        return found

    # Crossings.

    def _crossings(
        self, step: Step, a: Located, b: Located, halvings: int, before: Before | None = None
    ) -> list[Located]:
        """Locate the crossings between two points of a step.

        The interval is divided until each part has at most one crossing by prediction and by the
        sign of det M, which changes once for each null vector. It is divided as well if the values
        at the point before the step let two crossings seem possible.
        """
        G0, G1 = self.borders.between(a.point, b.point, step.here)
        length = b.s - a.s
        places, odd = _roots_within(G0, G1)
        if halvings == MAX_HALVINGS:
            smallest = [float(host.linalg.svd(G, compute_uv=False)[-1]) for G in (G0, G1)]
            self._smallest = smallest[0]
            self._odd = odd
        if not (odd or places.size):
            if before is None:
                return []
            ends = smallest[0], smallest[1]
            dip = dip_of_parabola(before.smallest, before.distance, ends, length)
            if dip is None or (half := self._regular_point(step, a, b, dip, G1 - G0)) is None:
                return []
            places, odd = _roots_within(G0, self.borders.matrix(half.point))
            if not (odd or places.size):
                return []
            return [
                *self._crossings(step, a, half, halvings - 1),
                *self._crossings(step, half, b, halvings - 1),
            ]
        if places.size and places[-1] - places[0] <= SAME_PREDICTION:
            one = self._crossing_within(step, (a.s, G0), (b.s, G1), float(places.mean()))
            if one is not None and one.point.dimension % 2 == odd:
                return [one]
        if not halvings or length <= SAME_RTOL * step.ds:
            return []
        widest = int(host.argmax(host.diff(places))) if places.size > 1 else 0
        x = 0.5 if places.size < 2 else float(places[widest : widest + 2].mean())
        half = self._regular_point(step, a, b, min(max(x, 0.1), 0.9), G1 - G0)
        if half is None:
            return []
        return [
            *self._crossings(step, a, half, halvings - 1),
            *self._crossings(step, half, b, halvings - 1),
        ]

    def _regular_point(
        self, step: Step, a: Located, b: Located, x: float, change: Any
    ) -> Located | None:
        """Compute a point at a share x of an interval, or close to it if a crossing is there."""
        limit = FIRST_OFFSET * float(host.linalg.norm(change, 2))
        for offset in SPLIT_OFFSETS:
            middle = step.evaluate(a.s + (x + offset) * (b.s - a.s), self.borders.matrix)
            if middle is not None and host.linalg.svd(middle[2], compute_uv=False)[-1] > limit:
                return Located(*middle[:2])
        return None

    def _crossing_within(
        self, step: Step, low: tuple[float, Any], high: tuple[float, Any], x: float
    ) -> Located | None:
        """Locate a crossing between two places by a secant method for G; None if there is none.

        G is evaluated beside the crossing, where A is singular.
        """
        root, before = low[0] + x * (high[0] - low[0]), (low if x < 0.5 else high)
        last = LAST_OFFSET * step.ds
        first = beside = max(FIRST_OFFSET * (high[0] - low[0]), last)
        for _ in range(MAX_CROSSING_STEPS):
            # An iterative solver may not converge so close to the crossing.
            for farther in (1.0, 10.0, 100.0):
                evaluated = step.evaluate(root + farther * beside, self.borders.matrix)
                if evaluated is not None:
                    break
            else:
                return None
            at, point, G = evaluated
            roots = at + predicted_roots(G, before[1]) * (before[0] - at)
            if not roots.size:
                return None
            root = float(roots[host.argmin(abs(roots - at))].real)
            if abs(before[0] - root) <= 10.0 * first and abs(root - at) <= 2.0 * farther * last:
                far = low if at - low[0] > high[0] - at else high
                distances = at + predicted_roots(G, far[1]) * (far[0] - at) - root
                dimension = int((abs(distances) <= SAME_RTOL * step.ds).sum())
                return Located(root, moved(step, point, root - at, dimension))
            if not low[0] <= root <= high[0]:
                return None
            before, beside = (at, G), math.copysign(last, -beside)
        return None


def _roots_within(G0: Any, G1: Any) -> tuple[Any, bool]:
    """Return the predicted zeros of det G between two places, and whether its sign changes."""
    roots = predicted_roots(G0, G1)
    near = (abs(roots.imag) <= MAX_IMAGINARY) & (roots.real >= 0.0) & (roots.real <= 1.0)
    odd = host.linalg.slogdet(G0)[0] * host.linalg.slogdet(G1)[0] < 0.0
    return host.sort(roots[near].real), bool(odd)
