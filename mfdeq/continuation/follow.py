"""`mfdeq.follow`: steps along a branch of equilibria."""

from __future__ import annotations

import math
import reprlib
from typing import Any

from ..arguments import at_least, count, one_of, real
from ..arrays.backend import Array
from ..arrays.collective import collective
from ..equilibrium.solve import reused_solver
from ..errors import (
    AccuracyWarning,
    ArgumentError,
    ConvergenceError,
    is_evaluation_failure,
    warn,
)
from ..files.checkpoints import Checkpoint, digest, open_checkpoint, other_run_error
from ..models.model import Model
from ..progress import ProgressBar
from .branch import CHECKPOINT_KIND, Branch, from_tree, to_tree
from .curve import Curve
from .point import Point
from .special_points import SpecialPoints
from .switching import first_point_of_other_branch

TARGET_ITERATIONS = 4  # of a corrector: with fewer, the next step is longer
MIN_COSINE = 0.85  # between the tangents at both ends of a step; below it the step is halved
MIN_STEP_RATIO = 1e-8  # relative to the first step
MIN_TURNING_STEP_RATIO = 64 * MIN_STEP_RATIO  # shorter steps are not halved because tangents turn
MIN_RESOLVING_STEP_RATIO = 1e-3  # above which a step is halved where it may leave the branch
UNIT_SHARE = 1.0  # of the span, the change of t that counts as one
MIN_SLOPE = 1e-6  # |dt/ds| below which natural continuation has reached a fold
METHODS = ("arclength", "natural")


@collective
def follow(
    model: Model,
    theta0: Array,
    direction: Any = None,
    *,
    span: tuple[float, float],
    start: Array | Point | None = None,
    towards: float = 1.0,
    other: int = 0,
    method: str = "arclength",
    step: float | None = None,
    longest: float | None = None,
    max_points: int = 500,
    solver: Any = "auto",
    eigenvalues: int = 0,
    checkpoint: Any = None,
    checkpoint_every: int = 10,
    progress: bool = False,
) -> Branch:
    """Follow the branch of equilibria at theta0 + t d, from t = 0.

    The branch continues around folds. Folds, crossings with other branches and, if eigenvalues are
    computed, Hopf points are located.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta0 : (P,) array
        The parameters at t = 0.
    direction : (P,) array or int, optional
        The direction d, or the index of one parameter. It may be omitted if P = 1.
    span : pair of float
        The interval of t, which contains 0. The branch ends where t leaves it.
    start : (N,) array or Point, optional
        The initial guess for the equilibrium at t = 0, by default the model's; or a crossing, to
        follow the other branch through it.
    towards : float, optional
        The sign of dt/ds at the start; at a crossing, which side of the other branch to follow.
    other : int, optional
        Which of the other branches to follow, if the crossing has several dimensions.
    method : {"arclength", "natural"}, optional
        "arclength" follows the branch around folds. "natural" steps in t and ends at a fold.
    step, longest : float, optional
        The first and the longest step in t; by default 1/50 and 1/10 of the span.
    max_points : int, optional
        The largest number of points.
    solver : "auto" or description, optional
        The linear solver, as in `mfdeq.solve`; the factor of one point preconditions the next.
    eigenvalues : int, optional
        The number of eigenvalues to compute at each point. With any, the number of all unstable
        ones is counted. For more than 200 unknowns on the host only.
    checkpoint : str or PathLike, optional
        A file to resume from, if it exists, and to write checkpoints to; see Notes. `Branch.load`
        reads it as well.
    checkpoint_every : int, optional
        The number of points between checkpoints.
    progress : bool, optional
        Show a progress bar of the points in a terminal or a notebook.

    Returns
    -------
    Branch

    Raises
    ------
    ConvergenceError
        If no step can be corrected, with the `Branch` so far as `best`.
    CheckpointError
        If the file is of another run, or cannot be written.

    Warns
    -----
    CheckpointWarning
        If a checkpoint could not be written; the run continues.
    AccuracyWarning
        If t turns back or the number of unstable eigenvalues changes where no special point was
        found. The warning names the interval.

    Notes
    -----
    A step is taken along the tangent of the curve (h(s), t(s)) and corrected by Newton's method in
    the plane orthogonal to it. The step length is adapted to the number of corrector iterations,
    and at most doubled from one step to the next. Lengths and angles do not depend on the units of
    equations, unknowns and t.

    At a fold dt/ds changes its sign, and at a crossing a bordered matrix M is singular; both are
    located to 1e-9 of a step. The smallest singular values of M within a step are followed
    together, so that several crossings, and one of several dimensions, are seen. With
    `eigenvalues`, the number of unstable ones must change by what folds and crossings explain;
    where it does not, the real part (for a map, the magnitude) of the eigenvalue that changes is
    followed to its zero: at a Hopf point, at a flip, or at a fold or crossing that was missed. Two
    of them that cancel within a step are looked for where the values at the last three points, or
    the slopes at both ends, make them possible; a shorter `longest` step misses fewer.

    The number of unstable eigenvalues of more than 200 unknowns is the inertia, if a diagonal D > 0
    makes D A symmetric; otherwise bounds or Arnoldi's method decide. Where they do not,
    ``point.unstable`` is None, and changes there are not searched. Stability is that of
    dh/dt = -R, or of dh/dt = R for a model with ``time_sign = 1``.

    A step is also shortened if a function of the model raises an exception or returns NaN at its
    end; ``branch.failures`` counts the steps that failed. An exception at the start, or one that is
    a mistake (see `mfdeq.DomainError`), is raised.

    An interrupted run that is started again with the same file resumes from its last checkpoint
    and, on a CPU with the same number of threads, gives identical results; a run that had ended
    returns its branch at once. The factor is dropped at each checkpoint, at the cost of one set-up,
    so that later points depend on the file alone. `max_points` and `checkpoint_every` may differ
    when a run is resumed. The model and all other arguments must be the same: sizes, arrays and
    numbers are compared, and the residual at the last point is checked.

    References
    ----------
    H. B. Keller, Numerical solution of bifurcation and nonlinear eigenvalue problems, in:
    Applications of Bifurcation Theory, Academic Press (1977).

    E. L. Allgower and K. Georg, Numerical Continuation Methods, Springer (1990).

    W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).

    Y. A. Kuznetsov, Elements of Applied Bifurcation Theory, Springer (2004).

    Examples
    --------
    The equilibria of h² = theta, followed around their fold at theta = 0:

    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, "residual")
    >>> branch = mfdeq.follow(
    ...     model, np.ones(1), span=(-2.0, 0.5), start=np.ones(1), towards=-1.0
    ... )
    >>> print([f"{fold.t:.4f}" for fold in branch.folds])
    ['-1.0000']
    >>> branch.reason
    't = 0.5 is the end of the span'
    """
    one_of(method, METHODS, "method")
    count(max_points, "max_points")
    at_least(0, eigenvalues, "eigenvalues")
    at_least(0, other, "other")
    try:
        low, high = (real(side, "span") for side in span)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low <= 0.0 <= high or low == high:
        raise ArgumentError(f"span: expected two numbers around 0, got {reprlib.repr(span)}")
    width = high - low
    first_step = width / 50 if step is None else at_least(0.0, step, "step")
    longest_step = max(
        first_step, width / 10 if longest is None else at_least(0.0, longest, "longest")
    )
    unit = UNIT_SHARE * width
    curve = Curve(model, theta0, direction, reused_solver(solver), eigenvalues, unit)
    sign = math.copysign(1.0, real(towards, "towards"))
    curve.bind(start)
    file = open_checkpoint(
        checkpoint,
        checkpoint_every,
        CHECKPOINT_KIND,
        lambda: {
            "model": model.display_name,
            "N and P": [curve.size, curve.theta.shape[0]],
            "theta0": digest(curve.theta),
            "direction": digest(curve.d),
            "span": [low, high],
            "start": digest(curve.start_state(start)),
            "towards": sign,
            "other": int(other),
            "method": method,
            "step and longest": [first_step, longest_step],
            "eigenvalues": int(eigenvalues),
        },
        curve.backend,
    )
    walk = _Walk(curve, file)
    if file is not None and file.saved is not None:
        if walk.resume(file.path, file.saved):
            return walk.branch
    else:
        walk.begin(start, sign, first_step, other)
    with ProgressBar("follow", "points", progress, done=len(walk.branch.points)) as bar:
        ended = _advance(walk, method, first_step, longest_step, (low, high), max_points, bar)
    walk.write_checkpoint(ended)
    return walk.branch


class _Walk:
    """A branch in progress: its points, the next step, and the checkpoint file."""

    def __init__(self, curve: Curve, file: Checkpoint | None) -> None:
        self.curve, self.special_points = curve, SpecialPoints(curve)
        self.file, self.ds = file, 0.0
        self.branch = Branch([], curve.theta, curve.d, counts=curve.counts)

    def begin(
        self, start: Array | Point | None, sign: float, first_step: float, other: int
    ) -> None:
        """Compute the first point, at t = 0 or on another branch through a crossing."""
        if isinstance(start, Point):
            borders = self.special_points.borders
            here = first_point_of_other_branch(borders, start, sign, first_step, other)
        else:
            here = self.curve.first_point(start, sign)
        self.branch.points.append(here)
        # Steps are measured along the curve. This one changes t by about `first_step`.
        self.ds = first_step / max(abs(here.slope), 0.1)

    def resume(self, path: str, saved: dict[str, Any]) -> bool:
        """Resume from a checkpoint, and return whether the branch had ended."""
        curve = self.curve
        assert self.file is not None
        with self.file.decoding():
            self.branch = from_tree(saved["branch"], curve.backend.from_host)
            self.ds, curve.counts, ended = saved["ds"], self.branch.counts, bool(saved["ended"])
            self.special_points.resume(saved["curve"])
            curve.inner.resume(saved["curve"])
            last = self.branch.points[-1]
        curve.failures, curve.last_failure = self.branch.failures, self.branch.last_failure
        if not ended:
            self.branch.reason = ""
        self.file.continue_from(len(self.branch.points))
        try:
            curve.resume(last)
        except ConvergenceError as error:
            raise other_run_error(path, f"the model differs: {error}") from error
        return ended

    def write_checkpoint(self, ended: bool | None = None) -> None:
        """Write a checkpoint if one is due or at the end, and continue as if from it."""
        done = len(self.branch.points)
        if self.file is not None and (ended or self.file.due(done, ended is not None)):
            state = {
                "branch": to_tree(self.branch),
                "curve": {**self.curve.inner.memory, **self.special_points.memory},
                "ds": self.ds,
                "ended": bool(ended),
            }
            self.file.write(done, state)
            self.curve.forget()


def _advance(
    walk: _Walk,
    method: str,
    first_step: float,
    longest_step: float,
    span: tuple[float, float],
    max_points: int,
    bar: ProgressBar,
) -> bool:
    """Step until the branch ends or has `max_points` points, and return whether it has ended."""
    curve, branch = walk.curve, walk.branch
    natural = method == "natural"
    failure: Exception | None = None
    while True:
        here = branch.points[-1]
        share = max(_share_of_span(branch, span), len(branch.points) / max_points)
        bar.show(len(branch.points), f"t = {here.t:.5g}", share)
        branch.failures, branch.last_failure = curve.failures, curve.last_failure
        if len(branch.points) >= max_points:
            branch.reason = f"{max_points} points"
            return False
        walk.write_checkpoint()
        if walk.ds < MIN_STEP_RATIO * first_step and natural:
            branch.reason = f"probably a fold after t = {here.t:.8g}: follow it by arclength"
            return True
        if walk.ds < MIN_STEP_RATIO * first_step:
            raise ConvergenceError(
                f"the branch could not be followed beyond t = {here.t:.8g}: the corrector failed "
                f"for every step length (the last time with: {failure}). The branch may end there, "
                "or another branch may be too close, or the model has no value beyond; the branch "
                "so far is in `best`",
                best=branch,
            ) from failure
        try:
            there, iterations = curve.correct(here, walk.ds, natural=natural)
            turns = curve.cosine(here, there) < MIN_COSINE
            if turns and walk.ds > MIN_TURNING_STEP_RATIO * first_step:
                walk.ds *= 0.5
                continue
            turned_back = here.slope * there.slope < 0.0
            if natural and (turned_back or abs(there.slope) < MIN_SLOPE):
                branch.reason = f"a fold after t = {here.t:.8g}: follow it by arclength"
                return True
            may_shorten = walk.ds > MIN_RESOLVING_STEP_RATIO * first_step
            located, unexplained = walk.special_points.locate(here, there, walk.ds, may_shorten)
            there = curve.add_eigenvalues(there)
            found = [*located, there]
            outside = next((point for point in found if not span[0] <= point.t <= span[1]), None)
            if outside is not None:
                found = found[: found.index(outside)]
                end = span[0] if outside.t < span[0] else span[1]
                found.append(curve.point_at(found[-1] if found else here, outside, end))
                branch.reason = f"t = {end:g} is the end of the span"
        except Exception as error:
            if not is_evaluation_failure(error):
                error.add_note(f"mfdeq: in mfdeq.follow, after t = {here.t:.8g}")
                raise
            failure = error
            curve.count_failure(error)
            walk.ds *= 0.5
            continue
        for interval in unexplained:
            if any(span[0] <= t <= span[1] for t in interval):
                warn(
                    "follow: expected a special point wherever t turns back, another branch seems "
                    "to cross, or the number of unstable eigenvalues changes, found none between "
                    f"t = {interval[0]:.8g} and {interval[1]:.8g}. Use shorter steps there, a "
                    "direct solver, or more eigenvalues",
                    AccuracyWarning,
                )
        if not (curve.inner.has_amplitude or found[-1].kind or branch.reason):
            last = curve.with_amplitude(here, found[-1])
            walk.ds *= abs(found[-1].slope / last.slope)
            found[-1] = last
        branch.points += found
        if branch.reason:
            bar.show(len(branch.points), f"t = {branch.points[-1].t:.5g}")
            return True
        here = found[-1]
        growth = 2.0 ** ((TARGET_ITERATIONS - iterations) / 2)
        longest_ds = longest_step / max(abs(here.slope), 0.1)
        walk.ds = min(walk.ds * min(2.0, max(0.5, growth)), longest_ds)


def _share_of_span(branch: Branch, span: tuple[float, float]) -> float:
    """Return how far the last point is from where t turned last to the end of the span."""
    last, folds = branch.points[-1], branch.folds
    begin = folds[-1].t if folds else branch.points[0].t
    end = span[1] if last.slope > 0.0 else span[0]
    return min(1.0, max(0.0, (last.t - begin) / (end - begin))) if end != begin else 0.0
