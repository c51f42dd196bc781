"""How gradients fall in minimizations, over what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import one_of
from ..optimization.minimize import Minimum
from .axes import axes_or_new
from .legends import by_name

MANY = 100  # iterations, from where on their dots would be a band
COSTS = {"solves": "linear solves", "seconds": "seconds"}


def convergence(
    minima: Minimum | Mapping[str, Minimum],
    ax: Any = None,
    *,
    over: str = "solves",
    label: str | None = None,
) -> Any:
    """The norm of the gradient at each iteration, over what has been spent by then.

    Parameters
    ----------
    minima : Minimum, or mapping of str to Minimum
        What `mfdeq.minimize` returns, or the `best` of its error: one, or several by their names.
    ax : matplotlib Axes, optional
        By default one in a new figure.
    over : {"solves", "seconds"}, optional
        Linear solves, those of the forward iterations among them, or wall time.
    label : str, optional
        Name of a single one in the legend.

    Returns
    -------
    Axes

    Notes
    -----
    A filled circle is where a minimization has converged, a cross where it was stopped before.
    """
    one_of(over, tuple(COSTS), "over")
    named = by_name(minima, Minimum, "minima", "mfdeq.minimize", label)
    ax = axes_or_new(ax)
    for i, (name, found) in enumerate(named):
        cost = [getattr(step, over) for step in found.report.steps]
        norm = [step.gradient_norm for step in found.report.steps]
        dots = "." if len(norm) <= MANY else ""
        (line,) = ax.plot(cost, norm, marker=dots, color=f"C{i}", ms=4, lw=1.2, label=name)
        end = {"marker": "o"} if found.converged else {"marker": "X", "mec": "white", "mew": 0.8}
        ax.plot(cost[-1:], norm[-1:], color=line.get_color(), ms=8, zorder=3, **end)
    ax.set_yscale("log")
    ax.set(xlabel=COSTS[over], ylabel="|gradient|")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)
    return ax
