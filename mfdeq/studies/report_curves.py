"""Curves of the vectors that a study stored: arrays with one long dimension, and lists of numbers.

Short vectors of the same length in all cases are drawn with quantiles over the cases; others as a
curve for each of a few cases.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..arrays.backend import Array, host
from .intact_arrays import IntactArrays
from .records import Record
from .report_labels import (
    axis_label,
    describe_case,
    differing_params,
    escaped,
    spread,
    wants_log_axis,
)

MAX_SHORT = 64  # entries of a vector that is drawn with its quantiles over the cases
MAX_POINTS = 2000  # of a curve; of longer vectors every second, third, ... entry is drawn
SPECTRUM = "eigenvalues"  # how the name of an output ends that is drawn as `plot.spectrum` does


def curves_of(
    done: Sequence[Record], units: Mapping[str, str], arrays: IntactArrays
) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Yield the title of each figure, and a function that draws it on axes."""
    names = dict.fromkeys(name for record in done for name in record.outputs)
    differing = differing_params(done)
    for name in names:
        sizes = [_size(record, name) for record in done]
        label = axis_label(name, units)
        if len(set(sizes)) == 1 and 1 < sizes[0] <= MAX_SHORT:
            read = [_vector(record, name, arrays) for record in done]
            intact = [row for row in read if row is not None]
            if not intact:
                continue
            if name.endswith(SPECTRUM):
                draw = functools.partial(_draw_spectrum, rows=host.stack(intact), label=label)
                yield f"{name} by magnitude", draw
            else:
                draw = functools.partial(_draw_band, rows=host.stack(intact), label=label)
                yield f"{name} by index", draw
            continue
        curves = []
        vectors = [record for record, size in zip(done, sizes, strict=True) if size > 1]
        for record in spread([r for r in vectors if arrays.is_readable(r, name)]):
            if (row := _vector(record, name, arrays)) is not None:
                curves.append((escaped(describe_case(record.params.plain, differing, units)), row))
        if curves:
            yield f"{name} by index", functools.partial(_draw_curves, curves=curves, label=label)


def _size(record: Record, name: str) -> int:
    """Return the number of entries of a vector; 0 for anything else, also for maps."""
    value = record.outputs.plain.get(name)
    if isinstance(value, list):
        numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
        return len(value) if numbers else 0
    shape = record.outputs.shape(name)
    return max(shape) if shape and math.prod(shape) == max(shape) else 0


def _vector(record: Record, name: str, arrays: IntactArrays) -> Array | None:
    """Return a vector of numbers; None if it cannot be read, or has words."""
    value = arrays.read(record, name)
    if value is None or (row := host.asarray(value).ravel()).dtype.kind not in "biufc":
        return None
    return row if row.dtype.kind == "c" else row.astype(float)


def _drawable(values: Array, label: str) -> tuple[Array, str]:
    """Return real numbers with their label: of complex ones, their magnitudes."""
    return (abs(values), f"|{label}|") if values.dtype.kind == "c" else (values, label)


def _draw_curves(ax: Any, curves: Sequence[tuple[str, Array]], label: str) -> None:
    named = False
    for case, values in curves:
        drawn, ylabel = _drawable(values, label)
        step = math.ceil(drawn.size / MAX_POINTS)
        index = 1 + host.arange(drawn.size)
        ax.plot(index[::step], drawn[::step], lw=1, label=case or None)
        named = named or bool(case)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="index", ylabel=ylabel)
    if named:
        ax.legend(frameon=False, fontsize="small")


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
    rows, ylabel = _drawable(rows, label)
    median = _draw_quantiles(ax, rows)
    ax.plot(1 + host.arange(median.size), median, "C0o", ms=3)
    if wants_log_axis(rows):
        ax.set_yscale("log")
    ax.set(xlabel="index", ylabel=ylabel)
    ax.legend(frameon=False)


def _draw_quantiles(ax: Any, rows: Array) -> Array:
    """Draw the median over the cases, and the band of most of them; return the median."""
    index = 1 + host.arange(rows.shape[1])
    low, median, high = host.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(index, low, high, alpha=0.25, lw=0, label="10 % to 90 % of cases")
    ax.plot(index, median, "C0", lw=1, label="median")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return median
