"""Labels and scales of axes that the figures of a study's report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays.backend import Array
from .records import Record

LOG_AXIS_RATIO = 100.0  # of the largest value to the smallest, above which an axis is logarithmic
MAX_CASES = 6  # that are drawn one by one
MAX_LABELS = 3  # parameters that name a case


def with_unit(name: str, units: Mapping[str, str]) -> str:
    """Return a name, with its unit in parentheses if there is one."""
    return f"{name} ({units[name]})" if units.get(name) else name


def axis_label(name: str, units: Mapping[str, str]) -> str:
    """Return a name with its unit for matplotlib."""
    return escaped(with_unit(name, units))


def escaped(text: str) -> str:
    """Return text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def wants_log_axis(x: Array) -> bool:
    """Whether values are positive and of many orders of magnitude."""
    return bool((x > 0.0).all()) and float(x.max()) > LOG_AXIS_RATIO * float(x.min())


def spread(items: Sequence[Any]) -> list[Any]:
    """Return at most as many items as are drawn, from the first to the last."""
    count = min(MAX_CASES, len(items))
    return [items[i * (len(items) - 1) // max(1, count - 1)] for i in range(count)]


def differing_params(done: Sequence[Record]) -> list[str]:
    """Return the parameters, arrays aside, that are not the same in all cases."""
    tables = [record.params.plain for record in done]
    names = dict.fromkeys(name for table in tables for name in table)
    return [name for name in names if len({repr(table.get(name)) for table in tables}) > 1]


def describe_case(params: Mapping[str, Any], names: Sequence[str], units: Mapping[str, str]) -> str:
    """Return the first of some parameters of a case, with their values and units."""
    shown = [name for name in names if name in params][:MAX_LABELS]
    values = [f"{params[n]:.4g}" if isinstance(params[n], float) else params[n] for n in shown]
    texts = [f"{name} {str(x)[:20]}" for name, x in zip(shown, values, strict=True)]
    return ", ".join(f"{x} {units.get(n, '')}".rstrip() for n, x in zip(shown, texts, strict=True))
