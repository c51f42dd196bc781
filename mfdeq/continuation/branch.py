"""`mfdeq.follow`: steps along a curve of equilibria, as long as they are easy to correct."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import at_least, count, one_of, real
from ..arrays import Array, host
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..model import Model
from ..report import LinearCounts
from ..solving import reused_solver
from .curve import Curve, Point

EASY = 4  # iterations of a corrector that leave the step as it is
SHARPEST = 0.85  # cosine of the angle between tangents, under which a step is taken again, shorter
SHORTEST = 1e-8  # of the first step
METHODS = ("arclength", "natural")


@dataclass
class Branch:
    """Equilibria along theta = theta0 + t d, in the order of the branch.

    Attributes
    ----------
    points : list of Point
        Folds and crossings among them.
    params, direction : (P,) arrays
        theta0 and d.
    reason : str
        Why it ends.
    counts : LinearCounts
        What its solves cost.
    """

    points: list[Point]
    params: Array
    direction: Array
    reason: str = ""
    counts: LinearCounts = field(default_factory=LinearCounts)

    @property
    def t(self) -> Any:
        """t of all points, on the host."""
        return host.asarray([point.t for point in self.points])

    @property
    def folds(self) -> list[Point]:
        """Where the branch turns back."""
        return [point for point in self.points if point.kind == "fold"]

    @property
    def crossings(self) -> list[Point]:
        """Where another branch crosses it; pass one as `start` to follow that."""
        return [point for point in self.points if point.kind == "crossing"]

    def measured(self, measure: Callable[[Array], float]) -> Any:
        """A number of each state, on the host: what a bifurcation diagram shows over t."""
        return host.asarray([float(measure(point.state)) for point in self.points])


def follow(
    model: Model,
    theta0: Array,
    direction: Any = None,
    *,
    span: tuple[float, float],
    start: Array | Point | None = None,
    towards: float = 1.0,
    method: str = "arclength",
    step: float | None = None,
    longest: float | None = None,
    max_points: int = 500,
    solver: Any = "auto",
    eigenvalues: int = 0,
) -> Branch:
    """Follow the branch of equilibria at theta0 + t d, from t = 0.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta0 : (P,) array
    direction : (P,) array or int, optional
        d; an integer is that parameter alone, None the only one.
    span : pair of float
        The branch ends where t leaves it.
    start : (N,) array or Point, optional
        A start for the equilibrium at t = 0. Of a crossing: the other branch through it.
    towards : float, optional
        The sign of dt/ds at the start; of a crossing, the side of the other branch.
    method : {"arclength", "natural"}, optional
        "natural" steps in t, and ends at a fold.
    step, longest : float, optional
        The first step in t and the longest one; a fiftieth and a tenth of the span by default.
    max_points : int, optional
    solver : optional
        As of `mfdeq.solve`; the factor of one point preconditions the next.
    eigenvalues : int, optional
        How many to compute at each point; on the host only.

    Returns
    -------
    Branch

    Raises
    ------
    ConvergenceError
        Where no step can be corrected, with the `Branch` so far as `best`.
    """
    one_of(method, METHODS, "method")
    count(max_points, "max_points")
    low, high = (real(side, "span") for side in span)
    if not low <= 0.0 <= high or low == high:
        raise ArgumentError(f"span is {span!r}; two numbers around 0 were expected")
    width = high - low
    first = width / 50 if step is None else at_least(0.0, step, "step")
    most = max(first, width / 10 if longest is None else at_least(0.0, longest, "longest"))
    curve = Curve(model, theta0, direction, reused_solver(solver), eigenvalues)
    branch = Branch([], curve.theta, curve.d, counts=curve.counts)
    here = curve.begin(start, math.copysign(1.0, real(towards, "towards")), first)
    branch.points.append(here)
    _advance(curve, branch, method, first, most, (low, high), max_points)
    return branch


def _advance(
    curve: Curve,
    branch: Branch,
    method: str,
    first: float,
    most: float,
    span: tuple[float, float],
    max_points: int,
) -> None:
    here = branch.points[-1]
    # Steps are lengths of the curve: what is first in t is as much in s here.
    ds = first / max(abs(here.slope), 0.1)
    while True:
        if len(branch.points) >= max_points:
            branch.reason = f"{max_points} points"
            return
        if ds < SHORTEST * first and method == "natural":
            branch.reason = f"a fold after t = {here.t:.8g}, it seems: follow it by arclength"
            return
        if ds < SHORTEST * first:
            raise ConvergenceError(
                f"the branch could not be followed beyond t = {here.t:.8g}: no step, however "
                "short, could be corrected. It may end, or another branch be too near; the branch "
                "so far is in `best`",
                best=branch,
            )
        try:
            there, iterations = curve.corrected(here, ds, natural=method == "natural")
            if curve.cosine(here, there) < SHARPEST and ds > 64 * SHORTEST * first:
                ds *= 0.5
                continue
            turned = here.slope * there.slope < 0.0
            if method == "natural" and (turned or abs(there.slope) < 1e-6):
                branch.reason = f"a fold after t = {here.t:.8g}: follow it by arclength"
                return
            found = [*curve.special(here, there, ds), curve.examined(there)]
            left = next((point for point in found if not span[0] <= point.t <= span[1]), None)
            if left is not None:
                found = found[: found.index(left)]
                end = span[0] if left.t < span[0] else span[1]
                found.append(curve.at(found[-1] if found else here, left, end))
                branch.reason = f"t = {end:g} is the end of the span"
        except (ConvergenceError, SingularStateError):
            ds *= 0.5
            continue
        branch.points += found
        if branch.reason:
            return
        here = found[-1]
        growth = 2.0 ** ((EASY - iterations) / 2)
        ds = min(ds * min(2.0, max(0.5, growth)), most / max(abs(here.slope), 0.1))
