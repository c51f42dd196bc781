"""The figures of a study's report: curves, maps, scatters and histograms."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, host
from ..arrays.optional_packages import import_optional
from .intact_arrays import IntactArrays
from .records import Record
from .report_curves import curves_of
from .report_labels import axis_label, escaped, wants_log_axis
from .report_maps import draw_maps, maps_of

MAX_FIGURES = 24
HISTOGRAM_BINS = 25
MIN_DISTINCT_PARAMS = 3  # of a parameter, to draw outputs over it
SMALL, WIDE = (4.6, 3.2), (9.4, 5.6)  # inches

Draw = Callable[[Any], None]


def numeric_columns(tables: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the values that are numbers, by name: an array over the cases, NaN if missing."""
    columns = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(name) for table in tables]
        if all(x is None or isinstance(x, (int, float)) for x in values):
            numbers = [math.nan if x is None else x for x in values]
            columns[name] = host.asarray(numbers, dtype=float)
    return columns


def draw_figures(
    done: Sequence[Record], units: Mapping[str, str], arrays: IntactArrays
) -> list[tuple[str, bool, str]]:
    """Return of each figure its title, whether it is wide, and its PNG, encoded in base64."""
    if not done:
        return []
    # Figure instead of pyplot: it never opens a window.
    figure_class = import_optional("matplotlib.figure", "studies").Figure
    figures = []
    for title, size, draw in itertools.islice(drawings(done, units, arrays), MAX_FIGURES):
        figure = figure_class(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        figures.append((title, size == WIDE, base64.b64encode(buffer.getvalue()).decode()))
    return figures


def drawings(
    done: Sequence[Record], units: Mapping[str, str], arrays: IntactArrays
) -> Iterator[tuple[str, tuple[float, float], Draw]]:
    """Yield of each figure its title, its size and a function that draws it; the best first."""

    def label(name: str) -> str:
        return axis_label(name, units)

    outputs = numeric_columns([record.outputs.plain for record in done])
    params = numeric_columns([record.params.plain for record in done])
    outputs = {name: y for name, y in outputs.items() if _distinct(y) >= 2}
    params = {name: x for name, x in params.items() if _distinct(x) >= MIN_DISTINCT_PARAMS}
    for title, draw in curves_of(done, units, arrays):
        yield title, SMALL, _on_axes(draw)
    for title, name, panels in maps_of(done, units, arrays):
        panels = [(escaped(of), image) for of, image in panels]
        yield title, WIDE, functools.partial(draw_maps, panels=panels, label=label(name))
    for output, y in outputs.items():
        for name, x in params.items():
            draw = functools.partial(
                _draw_points, x=x, y=y, xlabel=label(name), ylabel=label(output)
            )
            yield f"{output} over {name}", SMALL, _on_axes(draw)
    for name, y in outputs.items():
        draw = functools.partial(_draw_histogram, y=y, label=label(name))
        yield f"distribution of {name}", SMALL, _on_axes(draw)


def _on_axes(draw: Callable[[Any], None]) -> Draw:
    """Return a function that draws on a figure what `draw` draws on axes."""

    def draw_on(figure: Any) -> None:
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax)

    return draw_on


def _distinct(values: Array) -> int:
    """Return the number of different finite values."""
    return host.unique(values[host.isfinite(values)]).size


def _draw_histogram(ax: Any, y: Array, label: str) -> None:
    y = y[host.isfinite(y)]
    bins: Any = HISTOGRAM_BINS
    if wants_log_axis(y):
        bins = host.logspace(math.log10(y.min()), math.log10(y.max()), HISTOGRAM_BINS)
        ax.set_xscale("log")
    elif (y == host.rint(y)).all() and host.ptp(y) < HISTOGRAM_BINS:  # integers: one bar for each
        bins = host.arange(y.min() - 0.5, y.max() + 1.0)
    ax.hist(y, bins=bins, alpha=0.8)
    ax.set(xlabel=label, ylabel="cases")


def _draw_points(ax: Any, x: Array, y: Array, xlabel: str, ylabel: str) -> None:
    ax.plot(x, y, "o", ms=3, alpha=0.6)
    if wants_log_axis(x):
        ax.set_xscale("log")
    if wants_log_axis(y[host.isfinite(y)]):
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
