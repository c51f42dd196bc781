"""What changes the number of unstable eigenvalues within a step of a curve.

The folds and crossings of a step that have been located change it by what they explain. Where it
does not change by that, the margin of the eigenvalue that changes is followed to its zero: a
crossing or fold that was not found, a Hopf point, or a flip.

References
----------
Y. A. Kuznetsov, Elements of Applied Bifurcation Theory, Springer (2004).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from ..arrays.backend import host
from ..errors import ConvergenceError
from .curve import Curve
from .dips import Before, dip_of_parabola
from .point import Point
from .roots import Step

LAST_OFFSET = 1e-6  # from a special point, relative to the step, where the curve is straight
SAME_RTOL = 1e-5  # distance of special points that are one, relative to the step
BESIDE_SHARE = 1e-2  # of a step, beside an end at which the number is not certain
ZERO_SHARE = 1e-5  # of an eigenvalue, relative to its change within the step, that is zero
CHANGES = {"fold": 1, "hopf": 2, "flip": 1}  # of the number of unstable eigenvalues


@dataclass(frozen=True)
class Located:
    """A point at a distance s within a step.

    Several pairs that change together, as they do by symmetry, have their `number` of eigenvalues.
    """

    s: float
    point: Point
    number: int = 0

    @property
    def change(self) -> int:
        """By how many the unstable eigenvalues may change."""
        return max(self.number, CHANGES.get(self.point.kind, self.point.dimension))


class StabilityChanges:
    """Explains changes of the number of unstable eigenvalues.

    Parameters
    ----------
    curve : Curve
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve

    def explain(
        self, step: Step, a: Located, b: Located, found: list[Located], before: Before | None
    ) -> tuple[list[Located], list[tuple[float, float]]]:
        """Find what changes the number of unstable eigenvalues, beside what has been found.

        The number is compared at both ends and, if there are several special points or the change
        is by an odd number too few or too many, between them; and where an eigenvalue may change
        twice, by the values at the point before the step. At an end where it is not certain, since
        an eigenvalue changes there, that beyond the end takes its place.
        """
        counts = {a.s: self.count(a.point), b.s: self.count(b.point)}
        points = {a.s: a.point, b.s: b.point}
        if counts[a.s] is None and (before is None or before.unstable is not None):
            self._move_end(step, a.s, before.distance if before else step.ds, points, counts)
        elif counts[a.s] is not None and counts[b.s] is None:
            self._move_end(step, b.s, step.ds, points, counts)
        expected = sum(one.change for one in found)
        first, last = counts[min(counts)], counts[max(counts)]
        odd = first is not None and last is not None and (last - first - expected) % 2
        if found and (len(found) > 1 or odd):
            places = [a.s, *sorted(one.s for one in found), b.s]
            for low, high in itertools.pairwise(places):
                if high - low > SAME_RTOL * step.ds:
                    sample = step.evaluate(0.5 * (low + high), self.count)
                    if sample is not None:
                        s, points[s], counts[s] = sample
        if before is not None and not found and first == last == before.unstable:
            for dip in self._dips(step, a.point, b.point, before):
                sample = step.evaluate(dip * step.ds, self.count)
                if sample is not None:
                    s, points[s], counts[s] = sample
        unexplained = []
        for low, high in itertools.pairwise(sorted(counts)):
            u, v = counts[low], counts[high]
            if u is None or v is None:
                continue
            within = [one for one in found if low < one.s < high]
            if u == v and [one.point.kind for one in within] == ["fold"]:
                unexplained.append((points[low].t, points[high].t))  # it is one of another branch
            if abs(v - u) > sum(one.change for one in within):
                gap = Located(low, points[low]), Located(high, points[high])
                others = self._changes(step, *gap, within)
                found = [one for one in found if one not in within] + others
                if abs(v - u) > sum(one.change for one in others):
                    unexplained.append((points[low].t, points[high].t))
        return self._with_counts(step, found, counts), unexplained

    def _move_end(
        self,
        step: Step,
        end: float,
        distance: float,
        points: dict[float, Point],
        counts: dict[float, int | None],
    ) -> None:
        """Take a point beyond an end of the step, at a share of the distance, in its place."""
        sample = step.evaluate(end + BESIDE_SHARE * distance, self.count)
        if sample is not None and sample[2] is not None:
            del points[end], counts[end]
            s, points[s], counts[s] = sample

    def count(self, point: Point) -> int | None:
        """Return the number of unstable eigenvalues, or None if it is not certain."""
        return self.curve.spectrum(point).unstable

    def levels(self, point: Point, unstable: int | None) -> tuple[int | None, list[float]]:
        """Return the levels of the last unstable eigenvalue and of the first stable one."""
        spectrum = self.curve.spectrum(point)
        if unstable is None or spectrum.unstable != unstable:
            return unstable, []
        return unstable, [spectrum.level(j) for j in (unstable - 1, unstable)]

    def _dips(self, step: Step, here: Point, there: Point, before: Before) -> list[float]:
        """Return the shares of a step where one of these levels may be of the other sign."""
        ends = [self.levels(point, before.unstable)[1] for point in (here, there)]
        dips = [
            dip_of_parabola(level, before.distance, (first, last), step.ds)
            for level, first, last in zip(before.levels, *ends, strict=False)
        ]
        return sorted({dip for dip in dips if dip is not None})

    def _changes(self, step: Step, a: Located, b: Located, known: list[Located]) -> list[Located]:
        """Locate the zeros of the margins that change their signs between two points."""
        spectra = self.curve.spectrum(a.point), self.curve.spectrum(b.point)
        counts = sorted(spectrum.unstable or 0 for spectrum in spectra)
        roots: list[tuple[Located, complex, float, int]] = []
        for j in range(*counts):
            values = spectra[0].level(j), spectra[1].level(j)

            def level(point: Point, j: int = j) -> float:
                spectrum = self.curve.spectrum(point)
                if spectrum.unstable is None:
                    raise ConvergenceError("the number of unstable eigenvalues is not certain")
                return spectrum.level(j)

            root = step.root((a.s, b.s), values, level)
            if root is None:
                continue
            shift = self.curve.spectrum(root[1]).shift_at(j)
            for i, (one, first_shift, scale, count) in enumerate(roots):
                if abs(one.s - root[0]) <= SAME_RTOL * step.ds:
                    roots[i] = one, first_shift, scale, count + 1
                    break
            else:
                roots.append((Located(*root), shift, max(map(abs, values)), 1))
        located = list(known)
        for one, shift, scale, count in roots:
            same = [other for other in located if abs(other.s - one.s) <= SAME_RTOL * step.ds]
            if not same:
                located.append(self._classify(step, one, shift, scale, count))
            elif same[0].point.kind == "crossing" and count > sum(x.change for x in same):
                other = same[0]
                located.remove(other)
                located.append(replace(other, point=replace(other.point, dimension=count)))
        return located

    def _classify(
        self, step: Step, one: Located, shift: complex, scale: float, count: int
    ) -> Located:
        """Name the point where eigenvalues change, of which one is `shift` as one of A."""
        point = one.point
        if abs(shift) <= ZERO_SHARE * scale:
            sides = [
                step.evaluate(one.s + side * LAST_OFFSET * step.ds, lambda point: point.slope)
                for side in (-1.0, 1.0)
            ]
            slopes = [side[2] for side in sides if side is not None]
            if len(slopes) == 2 and slopes[0] * slopes[1] < 0.0:
                return Located(one.s, replace(point, kind="fold", dimension=1))
            beside = sides[-1]
            if beside is None:
                return Located(one.s, replace(point, kind="crossing", dimension=count))
            return Located(one.s, moved(step, beside[1], one.s - beside[0], count))
        if self.curve.is_map and abs(shift.imag) <= ZERO_SHARE * scale:
            return Located(one.s, replace(point, kind="flip"), count)
        of_map = abs(float(host.angle(1.0 - shift)))
        frequency = of_map if self.curve.is_map else abs(shift.imag)
        return Located(one.s, replace(point, kind="hopf", frequency=frequency), count)

    def _with_counts(
        self, step: Step, found: list[Located], counts: dict[float, int | None]
    ) -> list[Located]:
        """Add eigenvalues to special points, and the number that are unstable on both sides."""
        complete = []
        for one in found:
            # A may be exactly singular at a crossing.
            beside = step.evaluate(one.s + LAST_OFFSET * step.ds, self.curve.add_eigenvalues)
            eigenvalues = None if beside is None else beside[2].eigenvalues
            sides = (
                [counts[s] for s in sorted(counts) if s < one.s][-1:],
                [counts[s] for s in sorted(counts) if s > one.s][:1],
            )
            both = [count for side in sides for count in side]
            known = [count for count in both if count is not None]
            unstable = min(known) if len(known) == len(both) == 2 else None
            point = replace(one.point, eigenvalues=eigenvalues, unstable=unstable)
            complete.append(replace(one, point=point))
        return complete


def moved(step: Step, point: Point, distance: float, dimension: int) -> Point:
    """Return the crossing at a small distance from a point, along its tangent."""
    along = distance / step.curve.cosine(step.here, point)
    return replace(
        point,
        t=point.t + along * point.slope,
        state=point.state + along * point.tangent,
        kind="crossing",
        dimension=dimension,
    )
