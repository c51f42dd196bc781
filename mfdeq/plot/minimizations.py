"""Convergence plots of minimizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import one_of
from ..optimization.minimum import Minimum
from .axes import get_axes, named_results

MAX_MARKED_ITERATIONS = 100  # with more, markers would merge into a band
COST_LABELS = {"solves": "linear solves", "seconds": "seconds"}


def convergence(
    minima: Minimum | Mapping[str, Minimum],
    ax: Any = None,
    *,
    over: str = "solves",
    label: str | None = None,
) -> Any:
    """Plot the norm of the gradient at each iteration of a minimization over its cost.

    Parameters
    ----------
    minima : Minimum, or mapping of str to Minimum
        The results of `mfdeq.minimize`, or the ``best`` of its errors: one, or several by
        their names in the legend.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.
    over : {"solves", "seconds"}, default: "solves"
        The cost: linear solves, including those of the forward iterations, or wall time in
        seconds.
    label : str, optional
        The name of a single minimization in the legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `minima` are not results of `mfdeq.minimize`, or `over` is unknown.

    Notes
    -----
    A circle marks the end of a minimization that converged, a cross of one that was stopped before.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 2, 2, kind="map")
    >>> loss = mfdeq.LeastSquares(np.arange(2), np.array([0.5, 0.6]))
    >>> found = mfdeq.minimize(mfdeq.ReducedFunctional(model, loss), np.zeros(2), gtol=1e-4)
    >>> ax = plot.convergence(found, label="Newton-CG")
    >>> ax.get_yscale(), ax.get_xlabel()
    ('log', 'linear solves')
    """
    one_of(over, tuple(COST_LABELS), "over")
    named = named_results(minima, Minimum, "minima", "mfdeq.minimize", label)
    ax = get_axes(ax)
    for i, (name, minimum) in enumerate(named):
        steps = minimum.report.steps
        cost = [{"solves": step.solves, "seconds": step.seconds}[over] for step in steps]
        norm = [step.gradient_norm for step in steps]
        marker = "." if len(norm) <= MAX_MARKED_ITERATIONS else ""
        (line,) = ax.plot(cost, norm, marker=marker, color=f"C{i}", ms=4, lw=1.2, label=name)
        end = {"marker": "o"} if minimum.converged else {"marker": "X", "mec": "white", "mew": 0.8}
        ax.plot(cost[-1:], norm[-1:], color=line.get_color(), ms=8, zorder=3, **end)
    ax.set_yscale("log")
    ax.set(xlabel=COST_LABELS[over], ylabel="|gradient|")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax
