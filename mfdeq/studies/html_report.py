"""A study as one HTML page: its progress, tables, figures, failures and provenance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..arrays.backend import host
from ..arrays.optional_packages import import_optional
from .intact_arrays import IntactArrays
from .provenance import utc_now
from .queries import IntactRows
from .records import Record, Session
from .report_figures import draw_figures, numeric_columns
from .report_labels import with_unit

MAX_ROWS = 1000  # of the table of cases
MAX_FAILURES = 50
MAX_DAMAGED = 50
SUMMARY_COLUMNS = ("cases", "smallest", "10 %", "median", "90 %", "largest")


def html_report(name: str, rows: IntactRows) -> str:
    """Return a study as one HTML page that contains its figures.

    Rows of the database and arrays that cannot be read are named in the page, and left out of it.

    Parameters
    ----------
    name : str
        The title.
    rows : IntactRows
        What can be read of the study.
    """
    records, status, units = rows.records, rows.status, rows.units
    jinja2 = import_optional("jinja2", "studies")
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    case_columns, cases = _case_table(records[:MAX_ROWS])
    arrays = IntactArrays()
    unchecked = arrays.check(records)
    figures = draw_figures(done, units, arrays)
    return page.render(
        title=name,
        function=rows.function or ("unknown function" if records else "no case yet"),
        written=utc_now()[:16].replace("T", " ") + " UTC",
        status=status,
        total=max(status.planned, len(records), 1),
        seconds=_format_seconds(status.seconds),
        each=_format_seconds(status.seconds / max(1, len(records))),
        summary_columns=SUMMARY_COLUMNS,
        summary=[(with_unit(n, units), row) for n, row in _summary_table(done)],
        figures=figures,
        damaged_rows=rows.damaged[:MAX_DAMAGED],
        more_damaged_rows=max(0, len(rows.damaged) - MAX_DAMAGED),
        damaged=arrays.damaged[:MAX_DAMAGED],
        more_damaged=max(0, len(arrays.damaged) - MAX_DAMAGED),
        unchecked=unchecked,
        failures=[(r.params, r.error, r.traceback or "") for r in failed[:MAX_FAILURES]],
        more_failures=max(0, len(failed) - MAX_FAILURES),
        case_columns=[with_unit(n, units) for n in case_columns],
        cases=cases,
        arrays=", ".join(_array_shapes(done)),
        sessions=[_session_row(session) for session in rows.sessions],
    )


# Tables


def _summary_table(done: Sequence[Record]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, values in numeric_columns([record.outputs.plain for record in done]).items():
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
