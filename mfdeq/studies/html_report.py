"""A study as one HTML page: its progress, tables, figures, failures and provenance."""

from __future__ import annotations

import base64
import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..arrays.backend import Array, host
from ..arrays.optional_packages import import_optional
from .provenance import utc_now
from .records import Record, Session, Status

MAX_ROWS = 1000  # of the table of cases
MAX_FAILURES = 50
MAX_FIGURES = 24
HISTOGRAM_BINS = 25
MIN_DISTINCT_PARAMS = 3  # of a parameter, to draw outputs over it
MAX_CURVE_LENGTH = 64  # entries of an array to draw over its index
LOG_AXIS_RATIO = 100.0  # of the largest value to the smallest, above which an axis is logarithmic
SUMMARY_COLUMNS = ("cases", "smallest", "10 %", "median", "90 %", "largest")


def html_report(
    name: str,
    function: str | None,
    status: Status,
    records: Sequence[Record],
    sessions: Sequence[Session],
) -> str:
    """Return a study as one HTML page that contains its figures.

    Parameters
    ----------
    name : str
        The title.
    function : str or None
        The qualified name of the function; None if no case has been run.
    status : Status
    records : sequence of Record
    sessions : sequence of Session
    """
    jinja2 = import_optional("jinja2", "studies")
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    case_columns, cases = _case_table(records[:MAX_ROWS])
    return page.render(
        title=name,
        function=function or "no case yet",
        written=utc_now()[:16].replace("T", " ") + " UTC",
        status=status,
        total=max(status.planned, len(records), 1),
        seconds=_format_seconds(status.seconds),
        each=_format_seconds(status.seconds / max(1, len(records))),
        summary_columns=SUMMARY_COLUMNS,
        summary=_summary_table(done),
        figures=_figures(done),
        failures=[(r.params, r.error, r.traceback or "") for r in failed[:MAX_FAILURES]],
        more_failures=max(0, len(failed) - MAX_FAILURES),
        case_columns=case_columns,
        cases=cases,
        arrays=", ".join(_array_shapes(done)),
        sessions=[_session_row(session) for session in sessions],
    )


# Tables


def _summary_table(done: Sequence[Record]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, values in _numeric_columns([record.outputs.plain for record in done]).items():
        finite = values[host.isfinite(values)]
        if finite.size:
            shown = host.quantile(finite, (0.0, 0.1, 0.5, 0.9, 1.0))
            rows.append((name, [str(finite.size), *(_format_number(x) for x in shown)]))
    return rows


def _case_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    params = list(dict.fromkeys(name for record in records for name in record.params.plain))
    done = [record for record in records if record.status == "done"]
    outputs = list(dict.fromkeys(name for record in done for name in record.outputs.plain))
    rows = []
    for record in records:
        found = {} if record.status == "failed" else record.outputs.plain
        row = [record.params.plain.get(name, "") for name in params]
        row += [found.get(name, "") for name in outputs]
        rows.append([*map(_format_number, row), record.status, _format_seconds(record.seconds)])
    return [*params, *outputs, "status", "time"], rows


def _array_shapes(done: Sequence[Record]) -> list[str]:
    """Return the names of the arrays, with the shapes that they have in the first case."""
    first = {name: record for record in reversed(done) for name in record.outputs}
    return [
        f"{name} {' × '.join(map(str, record.outputs.shape(name)))}"
        for name, record in first.items()
        if record.outputs.file(name)
    ]


def _session_row(session: Session) -> dict[str, str]:
    machine, packages = session.provenance["machine"], session.provenance["packages"]
    return {
        "started": session.started[:19].replace("T", " "),
        "machine": f"{machine['host']}, {machine['cpus']} processors, {machine['platform']}",
        "python": session.provenance["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "core": ", ".join(
            f"{name} {packages[name]}" for name in _required_packages() if name in packages
        ),
        "commit": session.provenance["commit"] or "",
    }


def _required_packages() -> list[str]:
    """Return the names of this package and of those that it requires."""
    own = __package__.partition(".")[0]
    required = [line for line in metadata.requires(own) or () if "extra ==" not in line]
    return [own, *(re.split(r"[^\w.-]", line)[0] for line in required)]


def _format_number(x: Any) -> str:
    return f"{x:.5g}" if isinstance(x, float) else str(x)


def _format_seconds(seconds: float) -> str:
    if seconds < 60.0:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600.0:.1f} h"


# Figures


def _numeric_columns(tables: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the values that are numbers, by name: an array over the cases, NaN if missing."""
    columns = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(name) for table in tables]
        if all(x is None or isinstance(x, (int, float)) for x in values):
            numbers = [math.nan if x is None else x for x in values]
            columns[name] = host.asarray(numbers, dtype=float)
    return columns


def _figures(done: Sequence[Record]) -> list[tuple[str, str]]:
    """Return titles, and figures as base64-encoded PNG."""
    if not done:
        return []
    # Figure instead of pyplot: it never opens a window.
    figure_class = import_optional("matplotlib.figure", "studies").Figure
    figures = []
    for title, draw in itertools.islice(_drawings(done), MAX_FIGURES):
        figure = figure_class(figsize=(4.6, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        figures.append((title, base64.b64encode(buffer.getvalue()).decode()))
    return figures


def _drawings(done: Sequence[Record]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Yield the title of each figure and a function that draws it, the most useful first."""
    outputs = _numeric_columns([record.outputs.plain for record in done])
    params = _numeric_columns([record.params.plain for record in done])
    outputs = {name: y for name, y in outputs.items() if _distinct(y) >= 2}
    params = {name: x for name, x in params.items() if _distinct(x) >= MIN_DISTINCT_PARAMS}
    for name in _curve_names(done):
        rows = host.stack([record.outputs[name] for record in done])
        if rows.dtype.kind in "iuf":  # neither strings nor complex numbers
            yield f"{name} by index", functools.partial(_draw_band, rows=rows, name=name)
    for output, y in outputs.items():
        for name, x in params.items():
            draw = functools.partial(_draw_points, x=x, y=y, xlabel=name, ylabel=output)
            yield f"{output} over {name}", draw
    for name, y in outputs.items():
        yield f"distribution of {name}", functools.partial(_draw_histogram, y=y, name=name)


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


def _draw_histogram(ax: Any, y: Array, name: str) -> None:
    y = y[host.isfinite(y)]
    bins: Any = HISTOGRAM_BINS
    if _wants_log_axis(y):
        bins = host.logspace(math.log10(y.min()), math.log10(y.max()), HISTOGRAM_BINS)
        ax.set_xscale("log")
    elif (y == host.rint(y)).all() and host.ptp(y) < HISTOGRAM_BINS:  # integers: one bar for each
        bins = host.arange(y.min() - 0.5, y.max() + 1.0)
    ax.hist(y, bins=bins, alpha=0.8)
    ax.set(xlabel=name, ylabel="cases")


def _draw_band(ax: Any, rows: Array, name: str) -> None:
    index = 1 + host.arange(rows.shape[1])
    low, median, high = host.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(index, low, high, alpha=0.25, lw=0, label="10 % to 90 % of cases")
    ax.plot(index, median, "o-", ms=3, lw=1, label="median")
    if (rows > 0.0).all() and _wants_log_axis(rows):
        ax.set_yscale("log")
    ax.set(xlabel="index", ylabel=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)


def _draw_points(ax: Any, x: Array, y: Array, xlabel: str, ylabel: str) -> None:
    ax.plot(x, y, "o", ms=3, alpha=0.6)
    if _wants_log_axis(x):
        ax.set_xscale("log")
    if _wants_log_axis(y[host.isfinite(y)]):
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)


def _wants_log_axis(x: Array) -> bool:
    return bool((x > 0.0).all()) and float(x.max()) > LOG_AXIS_RATIO * float(x.min())
