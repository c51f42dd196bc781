"""Bifurcation diagrams: a measure of the state along branches, and where they are stable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..continuation.branch import Branch
from ..continuation.point import Point
from ..errors import ArgumentError
from .axes import get_axes, named_results

# Line styles by stability; None if it is not known.
LINE_STYLES: dict[bool | None, Any] = {True: "-", False: (0, (4, 2)), None: "-"}
STABILITY_LABELS = {True: "stable", False: "unstable"}
MARKERS = {"fold": "o", "crossing": "D", "hopf": "s", "flip": "^"}


def branch(
    branches: Branch | Sequence[Branch] | Mapping[str, Branch],
    measure: Callable[[Array], float],
    ax: Any = None,
    *,
    parameter: int | None = None,
) -> Any:
    """Plot a bifurcation diagram: a measure of the state over t, with its special points.

    Parameters
    ----------
    branches : Branch, sequence of Branch, or mapping of str to Branch
        The results of `mfdeq.follow`: one, several, or several by their names in the legend.
    measure : callable
        Returns a number for a state, an (N,) array: ``np.max``, for example.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.
    parameter : int, optional
        The index of the parameter on the horizontal axis, an entry of theta0 + t d. By default
        t is on that axis.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `branches` are not results of `mfdeq.follow` or are empty, `measure` is not callable, or
        `parameter` is not the index of a parameter.

    Notes
    -----
    Where the points of a branch have counts of unstable eigenvalues, stable parts are solid and
    unstable ones dashed. A branch changes its style at the special point where the stability
    changes; if there is none, halfway between the two points.

    Examples
    --------
    A branch with a fold at theta = 1/4:

    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> class Parabola(mfdeq.FixedPointModel):
    ...     state_size = param_size = 1
    ...     def map(self, h, theta):
    ...         return h * h + theta
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(np.diag(2 * h), np.eye(1))
    >>> found = mfdeq.follow(Parabola(), np.zeros(1), span=(-1.0, 1.0), eigenvalues=1)
    >>> ax = plot.branch(found, np.max, parameter=0)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['stable', 'unstable', 'fold']
    """
    items = branches if isinstance(branches, Sequence) else [branches]
    named = [
        pair for item in items for pair in named_results(item, Branch, "branches", "mfdeq.follow")
    ]
    if not named:
        raise ArgumentError("branches: expected at least one Branch, got an empty sequence")
    if not callable(measure):
        raise ArgumentError(
            "measure: expected a callable that returns a number for a state, got "
            f"{type(measure).__name__}"
        )
    curves = [(one.points, _horizontal(one, parameter), one.measured(measure)) for _, one in named]
    ax = get_axes(ax)
    styles = set()
    for i, ((name, _), (points, x, y)) in enumerate(zip(named, curves, strict=True)):
        for stable, part_x, part_y in _parts(points, x, y):
            ax.plot(part_x, part_y, color=f"C{i}", ls=LINE_STYLES[stable], label=name)
            styles.add(stable)
            name = None  # only once in the legend
    for stable, label in STABILITY_LABELS.items():
        if stable in styles:
            ax.plot([], [], color="0.3", ls=LINE_STYLES[stable], label=label)
    for kind, marker in MARKERS.items():
        places = [
            (a, b)
            for points, x, y in curves
            for point, a, b in zip(points, x, y, strict=True)
            if point.kind == kind
        ]
        if places:
            ax.plot(*zip(*places, strict=True), marker, color="black", mfc="white", label=kind)
    ax.set(xlabel="t" if parameter is None else f"parameter {parameter}", ylabel="measure")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def _horizontal(branch: Branch, parameter: int | None) -> Array:
    """Return t, or the parameter, at the points of a branch."""
    if parameter is None:
        return branch.t
    theta, direction = array_on_host(branch.params), array_on_host(branch.direction)
    if not 0 <= parameter < theta.size:
        raise ArgumentError(
            f"parameter: expected the index of one of {theta.size} parameters, from 0, got "
            f"{parameter!r}"
        )
    return theta[parameter] + branch.t * direction[parameter]


def _parts(points: list[Point], x: Array, y: Array) -> Iterator[tuple[bool | None, Array, Array]]:
    """Yield the stability, x and y of the parts of a branch; None if the stability is unknown."""
    # Skip special points, which belong to both sides.
    known = [i for i, p in enumerate(points) if p.unstable is not None and not p.kind]
    stable = points[known[0]].unstable == 0 if known else None
    xy = host.stack([x, y], axis=1)
    start, next_point = xy[:0], 0  # of the part: where it begins, and its first point after that
    for i, j in itertools.pairwise(known):
        if (points[j].unstable == 0) is not stable:
            special = next((k for k in range(i + 1, j) if points[k].kind), None)
            turn = (xy[j - 1 : j] + xy[j : j + 1]) / 2 if special is None else xy[[special]]
            end = j if special is None else special
            yield stable, *host.concatenate([start, xy[next_point:end], turn]).T
            stable, start, next_point = not stable, turn, end + (special is not None)
    yield stable, *host.concatenate([start, xy[next_point:]]).T
