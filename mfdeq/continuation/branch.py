"""`mfdeq.follow`: steps along a curve of equilibria, as long as they are easy to correct."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import at_least, count, one_of, real
from ..arrays.backend import Array, host
from ..equilibrium.solve import reused_solver
from ..errors import ArgumentError, ConvergenceError, MfdeqError
from ..files.checkpoints import Checkpoint, digest, opened, other_run, read, write
from ..models.model import Model
from ..report import LinearCounts
from .curve import Curve, Point
from .stability import believed

EASY = 4  # iterations of a corrector that leave the step as it is
SHARPEST = 0.85  # cosine of the angle between tangents, under which a step is taken again, shorter
SHORTEST = 1e-8  # of the first step
METHODS = ("arclength", "natural")
KIND, FOLLOWING = "a branch", "a branch that is followed"  # of files


@dataclass(eq=False)  # arrays are not compared by the way
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

    points: list[Point] = field(repr=False)
    params: Array = field(repr=False)
    direction: Array = field(repr=False)
    reason: str = ""
    counts: LinearCounts = field(default_factory=LinearCounts)

    def save(self, path: Any) -> None:
        """Write it to a file, in place of what is there: an npz without pickles.

        Parameters
        ----------
        path : str or PathLike

        Raises
        ------
        CheckpointError
            Where it cannot be written; what was there is as it was.
        """
        write(path, KIND, {}, {"branch": self._tree()})

    @classmethod
    def load(cls, path: Any) -> Branch:
        """The branch in a file of `save`, or so far in a checkpoint of `mfdeq.follow`.

        Parameters
        ----------
        path : str or PathLike

        Returns
        -------
        Branch
            With numpy's arrays.

        Raises
        ------
        CheckpointError
            Where the file holds no branch.
        """
        return cls._of(read(path, KIND, FOLLOWING)[1]["branch"], lambda x: x)

    def _tree(self) -> dict[str, Any]:
        return {
            **vars(self),
            "points": [vars(point) for point in self.points],
            "counts": vars(self.counts),
        }

    @classmethod
    def _of(cls, tree: dict[str, Any], put: Callable[[Any], Array]) -> Branch:
        vectors = ("state", "tangent")
        points = [
            Point(**{**point, **{name: put(point[name]) for name in vectors}})
            for point in tree["points"]
        ]
        vectors = ("params", "direction")
        counts = LinearCounts(**tree["counts"])
        moved = {name: put(tree[name]) for name in vectors}
        return cls(**{**tree, **moved, "points": points, "counts": counts})

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
    checkpoint: Any = None,
    checkpoint_every: int = 10,
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
    checkpoint : str or PathLike, optional
        A file to continue from. Where there is none, the run starts anew and writes it; see Notes.
        `Branch.load` reads it, too.
    checkpoint_every : int, optional
        Points from one checkpoint to the next.

    Returns
    -------
    Branch

    Raises
    ------
    ConvergenceError
        Where no step can be corrected, with the `Branch` so far as `best`.
    CheckpointError
        Where the file is none of this run, or none can be written there.

    Warns
    -----
    CheckpointWarning
        Where a checkpoint could not be written; the run goes on.

    Notes
    -----
    A run that was killed and is started again with the same file continues from its last
    checkpoint and, on a CPU with as many threads, ends in the same bits; one that had ended
    returns its branch at once. So that what follows depends on the file alone, the factor is
    dropped at each checkpoint: one set-up more. `max_points` and `checkpoint_every` may differ
    from one start to the next; the model and the rest must not, of which sizes, arrays and
    numbers are compared, and the residual at the last point looked at.
    """
    one_of(method, METHODS, "method")
    count(max_points, "max_points")
    at_least(0, eigenvalues, "eigenvalues")
    try:
        low, high = (real(side, "span") for side in span)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low <= 0.0 <= high or low == high:
        raise ArgumentError(f"span is {span!r}; two numbers around 0 were expected")
    width = high - low
    first = width / 50 if step is None else at_least(0.0, step, "step")
    most = max(first, width / 10 if longest is None else at_least(0.0, longest, "longest"))
    curve = Curve(model, theta0, direction, reused_solver(solver), eigenvalues)
    sign = math.copysign(1.0, real(towards, "towards"))
    file = opened(
        checkpoint,
        checkpoint_every,
        FOLLOWING,
        lambda: {
            "model": model.described,
            "N and P": [curve.size, curve.theta.shape[0]],
            "theta0": digest(curve.theta),
            "direction": digest(curve.d),
            "span": [low, high],
            "start": digest(curve.start_of(start)),
            "towards": sign,
            "method": method,
            "step and longest": [first, most],
            "eigenvalues": int(eigenvalues),
        },
        curve.backend,
    )
    walk = _Walk(curve, file)
    if file is not None and file.saved is not None:
        if walk.go_on(file.path, file.saved):
            return walk.branch
    else:
        walk.begin(curve.begin(start, sign, first), first)
    ended = _advance(walk, method, first, most, (low, high), max_points)
    walk.keep(ended)
    return walk.branch


class _Walk:
    """A branch that is followed: how far, by which steps, and the file that it goes on from."""

    def __init__(self, curve: Curve, file: Checkpoint | None) -> None:
        self.curve, self.file, self.ds = curve, file, 0.0
        self.branch = Branch([], curve.theta, curve.d, counts=curve.counts)

    def begin(self, here: Point, first: float) -> None:
        """At the first point."""
        self.branch.points.append(here)
        # Steps are lengths of the curve: what is first in t is as much in s here.
        self.ds = first / max(abs(here.slope), 0.1)

    def go_on(self, path: str, saved: dict[str, Any]) -> bool:
        """Where a checkpoint was written; whether the branch had come to its end there."""
        curve = self.curve
        self.branch = Branch._of(saved["branch"], curve.backend.from_host)
        self.ds, curve.counts = saved["ds"], self.branch.counts
        if not saved["ended"]:
            self.branch.reason = ""
        assert self.file is not None
        self.file.went_on(len(self.branch.points))
        try:
            curve.go_on(saved["curve"], self.branch.points[-1])
        except ConvergenceError as error:
            raise other_run(path, f"of another model, it seems: {error}") from error
        return saved["ended"]

    def keep(self, ended: bool | None = None) -> None:
        """Write a checkpoint if it is time, or at the end; and go on as from it."""
        done = len(self.branch.points)
        if self.file is not None and (ended or self.file.due(done, ended is not None)):
            state = {
                "branch": self.branch._tree(),
                "curve": self.curve.memory,
                "ds": self.ds,
                "ended": bool(ended),
            }
            self.file.write(done, state)
            self.curve.forget()


def _advance(
    walk: _Walk,
    method: str,
    first: float,
    most: float,
    span: tuple[float, float],
    max_points: int,
) -> bool:
    """Step until the branch has come to its end, or there are as many points as are asked for."""
    curve, branch = walk.curve, walk.branch
    failure: MfdeqError | None = None
    while True:
        here = branch.points[-1]
        if len(branch.points) >= max_points:
            branch.reason = f"{max_points} points"
            return False
        walk.keep()
        if walk.ds < SHORTEST * first and method == "natural":
            branch.reason = f"a fold after t = {here.t:.8g}, it seems: follow it by arclength"
            return True
        if walk.ds < SHORTEST * first:
            raise ConvergenceError(
                f"the branch could not be followed beyond t = {here.t:.8g}: no step, however "
                f"short, could be corrected (the last failed with: {failure}). It may end, or "
                "another branch be too near; the branch so far is in `best`",
                best=branch,
            ) from failure
        try:
            there, iterations = curve.corrected(here, walk.ds, natural=method == "natural")
            if curve.cosine(here, there) < SHARPEST and walk.ds > 64 * SHORTEST * first:
                walk.ds *= 0.5
                continue
            turned = here.slope * there.slope < 0.0
            if method == "natural" and (turned or abs(there.slope) < 1e-6):
                branch.reason = f"a fold after t = {here.t:.8g}: follow it by arclength"
                return True
            found = [*curve.special(here, there, walk.ds), curve.examined(there)]
            left = next((point for point in found if not span[0] <= point.t <= span[1]), None)
            if left is not None:
                found = found[: found.index(left)]
                end = span[0] if left.t < span[0] else span[1]
                found.append(curve.at(found[-1] if found else here, left, end))
                branch.reason = f"t = {end:g} is the end of the span"
            found = found if curve.sees_all else believed(branch.points, found)
        except MfdeqError as error:
            failure = error
            walk.ds *= 0.5
            continue
        branch.points += found
        if branch.reason:
            return True
        here = found[-1]
        growth = 2.0 ** ((EASY - iterations) / 2)
        walk.ds = min(walk.ds * min(2.0, max(0.5, growth)), most / max(abs(here.slope), 0.1))
