"""A branch of equilibria: its points, in memory and in a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.library import library_of
from ..files.checkpoints import explain_read_errors, read_state, write_state
from ..report import LinearCounts
from ..tables import MAX_TABLE_ROWS, PrintedAsTable, Table
from .point import Point

BRANCH_KIND, CHECKPOINT_KIND = "a branch", "a branch that is followed"  # kinds of files


@dataclass(eq=False)  # comparing arrays element by element would make == ambiguous
class Branch(PrintedAsTable):
    """A branch of equilibria along theta = theta0 + t d, from `mfdeq.follow`.

    Attributes
    ----------
    points : list of Point
        The points in the order of the branch, including the special ones in `folds`, `crossings`,
        `hopfs` and `flips`. Each has ``t``, ``state``, ``tangent`` (dh/ds), ``slope`` (dt/ds),
        ``kind``, ``eigenvalues`` and ``unstable``.
    params, direction : (P,) arrays
        theta0 and d.
    reason : str
        The reason why the branch ends.
    counts : LinearCounts
        The counts of its linear solves.
    failures : int
        The number of trial points that could not be computed: correctors that did not converge, or
        a function of the model that raised an exception or returned NaN. Shorter steps followed.
    last_failure : str
        The message of the last of them.

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
    >>> heights = branch.measured(lambda h: h[0])
    >>> print(f"{heights[0]:.3f} {heights[-1]:.3f}")  # -sqrt(1.5) at the end
    1.000 -1.225

    Printing the branch shows a table of its points, with all special ones:

    >>> print(branch)  # doctest: +ELLIPSIS
    point        t  ...
        0 ...
    """

    points: list[Point] = field(repr=False)
    params: Array = field(repr=False)
    direction: Array = field(repr=False)
    reason: str = ""
    counts: LinearCounts = field(default_factory=LinearCounts)
    failures: int = 0
    last_failure: str = ""

    def _table(self) -> Table:
        count = len(self.points)
        special = [i for i, point in enumerate(self.points) if point.kind]
        shown = {0, *special, count - 1}
        for spread in range(2, count + 1):  # of as many points as fit
            more = shown | {i * (count - 1) // (spread - 1) for i in range(spread)}
            if len(more) > MAX_TABLE_ROWS:
                break
            shown = more
        rows = sorted(i for i in shown if 0 <= i < count)[:MAX_TABLE_ROWS]
        points = [self.points[i] for i in rows]
        table = {
            "point": [str(i) for i in rows],
            "t": [f"{point.t:.6g}" for point in points],
            "dt/ds": [f"{point.slope:.2g}" for point in points],
        }
        # On ranks a norm needs all of them, where only one may print.
        if points and not library_of(points[0].state).distributed:
            norm = Backend.of(points[0].state).norm
            table["norm of the state"] = [f"{norm(point.state):.4g}" for point in points]
        if any(point.unstable is not None for point in points):
            table["unstable"] = ["" if p.unstable is None else str(p.unstable) for p in points]
        table["kind"] = [point.kind for point in points]
        ends = [f"ended: {self.reason}"] if self.reason else []
        return Table(table, count - len(rows), "points", left=["kind"], after=ends)

    def save(self, path: Any) -> None:
        """Write the branch to an npz file without pickles, replacing an existing file.

        Parameters
        ----------
        path : str or PathLike

        Raises
        ------
        CheckpointError
            If the file cannot be written; an existing file is then unchanged.

        Examples
        --------
        >>> import mfdeq, numpy as np, tempfile, pathlib
        >>> model = mfdeq.from_function(lambda h, theta: h**3 + h - theta, 1, 1, "residual")
        >>> branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "branch.npz"
        ...     branch.save(path)
        ...     again = mfdeq.Branch.load(path)
        >>> bool(np.all(again.t == branch.t))
        True
        """
        write_state(path, BRANCH_KIND, {}, {"branch": to_tree(self)})

    @classmethod
    def load(cls, path: Any) -> Branch:
        """Read a branch from a file of `save`, or from a checkpoint of `mfdeq.follow`.

        Parameters
        ----------
        path : str or PathLike

        Returns
        -------
        Branch
            The branch, with numpy arrays.

        Raises
        ------
        CheckpointError
            If the file does not contain a branch.
        """
        _, state = read_state(path, BRANCH_KIND, CHECKPOINT_KIND)
        with explain_read_errors(path):
            return from_tree(state["branch"], lambda x: x)

    @property
    def t(self) -> Any:
        """The values of t at the points, a numpy array of shape (number of points,)."""
        return host.asarray([point.t for point in self.points])

    @property
    def folds(self) -> list[Point]:
        """The points where t turns back; see `Point.derivative` for how they move."""
        return [point for point in self.points if point.kind == "fold"]

    @property
    def crossings(self) -> list[Point]:
        """The points where another branch crosses; pass one as `start` to follow that branch.

        Where several cross at one point, its ``dimension`` is above 1.
        """
        return [point for point in self.points if point.kind == "crossing"]

    @property
    def hopfs(self) -> list[Point]:
        """The points where a complex pair of eigenvalues becomes stable or unstable.

        They are found if eigenvalues are computed. Each has a ``frequency``.
        """
        return [point for point in self.points if point.kind == "hopf"]

    @property
    def flips(self) -> list[Point]:
        """The points where an eigenvalue of the J of a map is -1, as where its period doubles.

        They are found if eigenvalues are computed.
        """
        return [point for point in self.points if point.kind == "flip"]

    def measured(self, measure: Callable[[Array], float]) -> Any:
        """Evaluate a function of the state at every point, as for a bifurcation diagram.

        Parameters
        ----------
        measure : callable
            ``measure(state)`` returns a number.

        Returns
        -------
        numpy array of shape (number of points,)

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h**3 + h - theta, 1, 1, "residual")
        >>> branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 2.0))
        >>> heights = branch.measured(np.max)
        >>> print(f"{branch.t[-1]:.3f} {heights[-1]:.3f}")
        2.000 1.000
        """
        return host.asarray([float(measure(point.state)) for point in self.points])


def to_tree(branch: Branch) -> dict[str, Any]:
    """Return the contents of a branch as nested dictionaries and lists, for a file."""
    return {
        **vars(branch),
        "points": [vars(point) for point in branch.points],
        "counts": vars(branch.counts),
    }


def from_tree(tree: dict[str, Any], put: Callable[[Any], Array]) -> Branch:
    """Return the branch of a tree from `to_tree`; `put` converts arrays of the host."""
    arrays = ("state", "tangent", "gradient")
    points = [
        Point(**{**point, **{x: None if point[x] is None else put(point[x]) for x in arrays}})
        for point in tree["points"]
    ]
    counts = LinearCounts(**tree["counts"])
    vectors = {name: put(tree[name]) for name in ("params", "direction")}
    return Branch(**{**tree, **vectors, "points": points, "counts": counts})
