"""A study as one HTML page: how far it is, tables, figures, failures and where it is from."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..arrays.backend import host
from ..arrays.optional_packages import package
from .experiment import COPY
from .provenance import now
from .records import Record
from .study import Study

ROWS = 1000  # of the table of cases
FAILURES = 50
FIGURES = 24
BINS = 25  # of a distribution
FEW = 3  # different values of a parameter, from which on an output is drawn over it
SHORT = 64  # entries of an array that is drawn over its index
SUMMARY = ("cases", "smallest", "10 %", "median", "90 %", "largest")


def report(study: Study) -> str:
    """The page.

    Parameters
    ----------
    study : Study

    Returns
    -------
    str
        HTML with its figures inside: one file.
    """
    jinja2 = package("jinja2", "studies")
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    records, status = study.records(), study.status()
    copy = study.store.directory / COPY
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    columns, cases = _cases(records[:ROWS])
    count = max(1, len(records))
    return page.render(
        title=study.store.directory.resolve().name,
        function=study.store.setting("function") or "no case yet",
        written=now()[:16].replace("T", " ") + " UTC",
        status=status,
        total=max(status.planned, len(records), 1),
        seconds=_seconds(status.seconds),
        each=_seconds(status.seconds / count),
        summary_columns=SUMMARY,
        summary=_summary(done),
        figures=_figures(done),
        failures=[(r.params, r.error, r.traceback or "") for r in failed[:FAILURES]],
        more_failures=max(0, len(failed) - FAILURES),
        case_columns=columns,
        cases=cases,
        arrays=", ".join(_arrays(done)),
        experiment=copy.read_text("utf-8") if copy.exists() else "",
        sessions=list(_sessions(study)),
    )


# Tables.


def _summary(done: Sequence[Record]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, values in _numbers(done, "outputs").items():
        finite = values[host.isfinite(values)]
        if finite.size:
            shown = host.quantile(finite, (0.0, 0.1, 0.5, 0.9, 1.0))
            rows.append((name, [str(finite.size), *(_number(x) for x in shown)]))
    return rows


def _cases(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    params = list(dict.fromkeys(name for record in records for name in record.params.plain))
    done = [record for record in records if record.status == "done"]
    outputs = list(dict.fromkeys(name for record in done for name in record.outputs.plain))
    rows = []
    for record in records:
        found = {} if record.status == "failed" else record.outputs.plain
        row = [record.params.plain.get(name, "") for name in params]
        row += [found.get(name, "") for name in outputs]
        rows.append([*map(_number, row), record.status, _seconds(record.seconds)])
    return [*params, *outputs, "status", "time"], rows


def _arrays(done: Sequence[Record]) -> list[str]:
    """Names of the arrays, with the shapes of the first case's."""
    found = {name: record for record in reversed(done) for name in record.outputs}
    return [
        f"{name} {' × '.join(map(str, record.outputs.shape(name)))}"
        for name, record in found.items()
        if record.outputs.file(name)
    ]


def _sessions(study: Study) -> Iterator[dict[str, str]]:
    for started, text in study.store.select("select started, provenance from sessions"):
        of = json.loads(text)
        machine, packages = of["machine"], of["packages"]
        yield {
            "started": started[:19].replace("T", " "),
            "machine": f"{machine['host']}, {machine['cpus']} processors, {machine['platform']}",
            "python": of["python"],
            "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
            "core": ", ".join(f"{name} {packages[name]}" for name in _core() if name in packages),
            "commit": of["commit"] or "",
        }


def _core() -> list[str]:
    """The package itself and those that it cannot do without."""
    own = __package__.partition(".")[0]
    needed = [line for line in metadata.requires(own) or () if "extra ==" not in line]
    return [own, *(re.split(r"[^\w.-]", line)[0] for line in needed)]


def _number(x: Any) -> str:
    return f"{x:.5g}" if isinstance(x, float) else str(x)


def _seconds(x: float) -> str:
    if x < 60.0:
        return f"{x:.3g} s"
    minutes = round(x / 60.0)
    return f"{minutes} min" if minutes < 120 else f"{x / 3600.0:.1f} h"


# Figures.


def _numbers(done: Sequence[Record], kind: str) -> dict[str, Any]:
    """Parameters or outputs that are numbers, each as an array over the cases."""
    tables = [getattr(record, kind).plain for record in done]
    names = dict.fromkeys(name for table in tables for name in table)
    found = {}
    for name in names:
        values = [table.get(name) for table in tables]
        if all(x is None or isinstance(x, (int, float)) for x in values):
            found[name] = host.asarray([math.nan if x is None else x for x in values], dtype=float)
    return found


def _figures(done: Sequence[Record]) -> list[tuple[str, str]]:
    if not done:
        return []
    figure_of = package("matplotlib.figure", "studies").Figure  # no window is ever opened
    drawn = []
    for name, draw in _drawings(done):
        figure = figure_of(figsize=(4.6, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        drawn.append((name, base64.b64encode(buffer.getvalue()).decode()))
        if len(drawn) == FIGURES:
            break
    return drawn


def _drawings(done: Sequence[Record]) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """What there is to draw, the most telling first: a title and what draws it on axes."""
    outputs = {name: y for name, y in _numbers(done, "outputs").items() if _differ(y, 2)}
    params = {name: x for name, x in _numbers(done, "params").items() if _differ(x, FEW)}
    for name in _short(done):
        rows = host.stack([record.outputs[name] for record in done])
        if rows.dtype.kind in "iuf":  # no words, no complex numbers
            yield f"{name} by number", functools.partial(_band, rows=rows, name=name)
    for output, y in outputs.items():
        for name, x in params.items():
            title = f"{output} over {name}"
            yield title, functools.partial(_over, x=x, y=y, name=name, output=output)
    for name, y in outputs.items():
        yield f"distribution of {name}", functools.partial(_distribution, y=y, name=name)


def _differ(values: Any, times: int) -> bool:
    return bool(host.unique(values[host.isfinite(values)]).size >= times)


def _short(done: Sequence[Record]) -> list[str]:
    """Names of short vectors that all cases have in one length."""
    found = []
    for name in done[0].outputs:
        if done[0].outputs.file(name):
            shapes = {record.outputs.shape(name) for record in done}
            if len(shapes) == 1 and any(shapes == {(n,)} for n in range(2, SHORT + 1)):
                found.append(name)
    return found


def _distribution(ax: Any, y: Any, name: str) -> None:
    y = y[host.isfinite(y)]
    bins: Any = BINS
    if _wide(y):
        bins = host.logspace(math.log10(y.min()), math.log10(y.max()), BINS)
        ax.set_xscale("log")
    elif (y == host.rint(y)).all() and host.ptp(y) < BINS:  # counts: a bar for each
        bins = host.arange(y.min() - 0.5, y.max() + 1.0)
    ax.hist(y, bins=bins, alpha=0.8)
    ax.set(xlabel=name, ylabel="cases")


def _band(ax: Any, rows: Any, name: str) -> None:
    number = 1 + host.arange(rows.shape[1])
    low, middle, high = host.quantile(rows, (0.1, 0.5, 0.9), axis=0)
    ax.fill_between(number, low, high, alpha=0.25, lw=0, label="10 % to 90 % of cases")
    ax.plot(number, middle, "o-", ms=3, lw=1, label="median")
    if (rows > 0.0).all() and _wide(rows):
        ax.set_yscale("log")
    ax.set(xlabel="number", ylabel=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)


def _over(ax: Any, x: Any, y: Any, name: str, output: str) -> None:
    ax.plot(x, y, "o", ms=3, alpha=0.6)
    if _wide(x):
        ax.set_xscale("log")
    if _wide(y[host.isfinite(y)]):
        ax.set_yscale("log")
    ax.set(xlabel=name, ylabel=output)


def _wide(x: Any) -> bool:
    """Whether numbers want a logarithmic axis."""
    return bool((x > 0.0).all()) and float(x.max()) > 100.0 * float(x.min())
