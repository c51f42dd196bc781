"""Bifurcation diagrams: a number of each state along branches, and where they are stable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..continuation.branch import Branch
from ..continuation.curve import Point
from ..errors import ArgumentError
from .axes import axes_or_new
from .legends import by_name

STYLES: dict[bool | None, Any] = {True: "-", False: (0, (4, 2)), None: "-"}  # stable or not
WORDS = {True: "stable", False: "unstable"}
MARKS = {"fold": "o", "crossing": "D"}


def branch(
    branches: Branch | Sequence[Branch] | Mapping[str, Branch],
    measure: Callable[[Array], float],
    ax: Any = None,
    *,
    parameter: int | None = None,
) -> Any:
    """A bifurcation diagram: a number of each state over t, with folds and crossings.

    Parameters
    ----------
    branches : Branch, sequence of Branch, or mapping of str to Branch
        What `mfdeq.follow` returns: one, several, or several by their names.
    measure : callable
        The number of a state, from an (N,) array: ``np.max``, say.
    ax : matplotlib Axes, optional
        By default one in a new figure.
    parameter : int, optional
        The parameter on the horizontal axis, theta0 + t d of that number, in place of t.

    Returns
    -------
    Axes

    Notes
    -----
    Where the points have eigenvalues, what is stable is solid and what is not dashed: as far as
    the eigenvalues that were asked for tell, and where they do not, as before. Between points that
    differ a curve changes at the fold or crossing between them, else, as at a Hopf bifurcation,
    halfway.
    """
    several = branches if isinstance(branches, Sequence) else [branches]
    named = [pair for one in several for pair in by_name(one, Branch, "branches", "mfdeq.follow")]
    if not named:
        raise ArgumentError("branches is empty; one or more Branch were expected")
    if not callable(measure):
        raise ArgumentError(
            f"measure is a {type(measure).__name__}; a callable that gives a number of a state was "
            "expected"
        )
    curves = [(of.points, _along(of, parameter), of.measured(measure)) for _, of in named]
    ax = axes_or_new(ax)
    seen = set()
    for i, ((name, _), (points, x, y)) in enumerate(zip(named, curves, strict=True)):
        for stable, across, up in _parts(points, x, y):
            ax.plot(across, up, color=f"C{i}", ls=STYLES[stable], label=name)
            seen.add(stable)
            name = None  # once in the legend
    for stable, word in WORDS.items():
        if stable in seen:
            ax.plot([], [], color="0.3", ls=STYLES[stable], label=word)
    for kind, marker in MARKS.items():
        at = [
            (a, b)
            for points, x, y in curves
            for point, a, b in zip(points, x, y, strict=True)
            if point.kind == kind
        ]
        if at:
            ax.plot(*zip(*at, strict=True), marker, color="black", mfc="white", label=kind)
    ax.set(xlabel="t" if parameter is None else f"parameter {parameter}", ylabel="measure")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax


def _along(branch: Branch, parameter: int | None) -> Any:
    """What is on the horizontal axis."""
    if parameter is None:
        return branch.t
    theta, d = array_on_host(branch.params), array_on_host(branch.direction)
    if not 0 <= parameter < theta.size:
        raise ArgumentError(f"parameter is {parameter!r}; one of {theta.size} was expected, from 0")
    return theta[parameter] + branch.t * d[parameter]


def _parts(points: list[Point], x: Any, y: Any) -> Iterator[tuple[bool | None, Any, Any]]:
    """Pieces of one stability: whether they are stable, None where that is not known, and where."""
    # At a fold or crossing an eigenvalue is zero, and its sign rounding.
    known = [i for i, p in enumerate(points) if p.unstable is not None and not p.kind]
    stable = points[known[0]].unstable == 0 if known else None
    xy = host.stack([x, y], axis=1)
    begun, done = xy[:0], 0
    for i, j in itertools.pairwise(known):
        if (points[j].unstable == 0) is not stable:
            special = next((k for k in range(i + 1, j) if points[k].kind), None)
            turn = (xy[j - 1 : j] + xy[j : j + 1]) / 2 if special is None else xy[[special]]
            end = j if special is None else special
            yield stable, *host.concatenate([begun, xy[done:end], turn]).T
            stable, begun, done = not stable, turn, end + (special is not None)
    yield stable, *host.concatenate([begun, xy[done:]]).T
