"""The figures of a study's report: maps of fields, eigenvalues, curves, scatters, histograms."""

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
from .report_maps import draw_maps, maps_of

MAX_FIGURES = 24
HISTOGRAM_BINS = 25
MIN_DISTINCT_PARAMS = 3  # of a parameter, to draw outputs over it
MAX_CURVE_LENGTH = 64  # entries of an array to draw over its index
LOG_AXIS_RATIO = 100.0  # of the largest value to the smallest, above which an axis is logarithmic
SPECTRUM = "eigenvalues"  # how the name of an output ends that is drawn as `plot.spectrum` does
SMALL, WIDE = (4.6, 3.2), (9.4, 5.6)  # inches

Draw = Callable[[Any], None]


def with_unit(name: str, units: Mapping[str, str]) -> str:
    """Return a name, with its unit in parentheses if there is one."""
    return f"{name} ({units[name]})" if units.get(name) else name


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
        return _escape(with_unit(name, units))

    outputs = numeric_columns([record.outputs.plain for record in done])
    params = numeric_columns([record.params.plain for record in done])
    outputs = {name: y for name, y in outputs.items() if _distinct(y) >= 2}
    params = {name: x for name, x in params.items() if _distinct(x) >= MIN_DISTINCT_PARAMS}
    for name in _curve_names(done):
        rows = _stack(done, name, arrays)
        if name.endswith(SPECTRUM) and rows is not None and rows.dtype.kind in "iufc":
            draw = functools.partial(_draw_spectrum, rows=rows, label=label(name))
            yield f"{name} by magnitude", SMALL, _on_axes(draw)
        elif rows is not None and rows.dtype.kind in "iuf":  # neither strings nor complex numbers
            draw = functools.partial(_draw_band, rows=rows, label=label(name))
            yield f"{name} by index", SMALL, _on_axes(draw)
    for title, name, panels in maps_of(done, units, arrays):
        panels = [(_escape(of), image) for of, image in panels]
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


def _escape(text: str) -> str:
    """Return text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _distinct(values: Array) -> int:
    """Return the number of different finite values."""
    return host.unique(values[host.isfinite(values)]).size


def _curve_names(done: Sequence[Record]) -> list[str]:
    """Return the names of short vectors that have the same length in all cases."""
    names = []
    for name in done[0].outputs:
        if done[0].outputs.file(name):
            shapes = {record.outputs.shape(name) for record in done}
            if len(shapes) == 1 and any(shapes == {(n,)} for n in range(2, MAX_CURVE_LENGTH + 1)):
                names.append(name)
    return names


def _stack(done: Sequence[Record], name: str, arrays: IntactArrays) -> Array | None:
    """Return the arrays of a name, a row for each case where it can be read; None if none can."""
    rows = [arrays.read(record, name) for record in done]
    intact = [row for row in rows if row is not None]
    return host.stack(intact) if intact else None


def _draw_histogram(ax: Any, y: Array, label: str) -> None:
    y = y[host.isfinite(y)]
    bins: Any = HISTOGRAM_BINS
    if _wants_log_axis(y):
        bins = host.logspace(math.log10(y.min()), math.log10(y.max()), HISTOGRAM_BINS)
        ax.set_xscale("log")
    elif (y == host.rint(y)).all() and host.ptp(y) < HISTOGRAM_BINS:  # integers: one bar for each
        bins = host.arange(y.min() - 0.5, y.max() + 1.0)
    ax.hist(y, bins=bins, alpha=0.8)
    ax.set(xlabel=label, ylabel="cases")


def _draw_spectrum(ax: Any, rows: Array, label: str) -> None:
    """Draw magnitudes, the largest first; markers are open where most values are negative."""
    order = host.argsort(-abs(rows), axis=1, kind="stable")
    values = host.take_along_axis(rows, order, axis=1)
    median = _draw_quantiles(ax, abs(values))
    negative = host.median(values.real, axis=0) < 0.0
    number = 1 + host.arange(values.shape[1])
    for chosen, face, sign in ((~negative, "C0", "positive"), (negative, "white", "negative")):
        if chosen.any():
            style = {"mfc": face, "label": f"median, {sign}"} if negative.any() else {"mfc": face}
            ax.plot(number[chosen], median[chosen], "o", color="C0", ms=4, **style)
    if (median > 0.0).any():
        ax.set_yscale("log")
    ax.set(xlabel="number, by magnitude", ylabel=f"|{label}|")
    ax.legend(frameon=False)


def _draw_band(ax: Any, rows: Array, label: str) -> None:
    median = _draw_quantiles(ax, rows)
    ax.plot(1 + host.arange(median.size), median, "C0o", ms=3)
    if (rows > 0.0).all() and _wants_log_axis(rows):
        ax.set_yscale("log")
    ax.set(xlabel="index", ylabel=label)
    ax.legend(frameon=False)


def _draw_quantiles(ax: Any, rows: Array) -> Array:
    """Draw the median over the cases, and the band of most of them; return the median."""
    index = 1 + host.arange(rows.shape[1])
    low, median, high = host.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(index, low, high, alpha=0.25, lw=0, label="10 % to 90 % of cases")
    ax.plot(index, median, "C0", lw=1, label="median")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return median


def _draw_points(ax: Any, x: Array, y: Array, xlabel: str, ylabel: str) -> None:
    ax.plot(x, y, "o", ms=3, alpha=0.6)
    if _wants_log_axis(x):
        ax.set_xscale("log")
    if _wants_log_axis(y[host.isfinite(y)]):
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)


def _wants_log_axis(x: Array) -> bool:
    return bool((x > 0.0).all()) and float(x.max()) > LOG_AXIS_RATIO * float(x.min())
