"""The cases of an experiment: what its [vary] says, by dotted names."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .cases import grid, identified, sample

if TYPE_CHECKING:
    from .experiment import Experiment

VARIED = ("model", "params", "loss", "solve", "compute")  # tables whose keys may be
TABLES: dict[str, tuple[type, ...]] = {"grid": (dict,), "sample": (dict,), "list": (list,)}


def cases_of(of: Experiment) -> list[dict[str, Any]]:
    """Every combination of a case of the list, one of the grid and one of the sample."""
    vary = of.settings.get("vary", {})
    of.check_keys("vary", vary, TABLES)
    parts: list[list[dict[str, Any]]] = []
    if "list" in vary:
        if not all(isinstance(case, dict) for case in vary["list"]):
            raise of.wrong("vary.list", "tables [[vary.list]] were expected")
        parts.append([_flat(case) for case in vary["list"]])
    if "grid" in vary:
        axes = _flat(vary["grid"], leaves=("start", "stop"))
        parts.append(grid(**{name: _axis(of, name, axis) for name, axis in axes.items()}))
    if "sample" in vary:
        parts.append(_sampled(of, vary["sample"]))
    seen: set[str] = set()
    for names in ({name for case in part for name in case} for part in parts):
        if twice := sorted(seen & names):
            raise of.wrong(where(vary, twice[0]), "is varied twice, by two tables of [vary]")
        seen |= names
    cases = [
        {name: value for part in parts_of for name, value in part.items()}
        for parts_of in itertools.product(*parts)
    ]
    for name in {name: None for case in cases for name in case}:
        if name.split(".")[0] not in VARIED or "." not in name:
            raise of.wrong(
                where(vary, name),
                f"{name!r} names nothing; model., params., loss., solve. or compute. "
                "and a key was expected",
            )
    try:
        identified(cases)
    except ArgumentError as error:
        raise of.wrong("vary", str(error)) from error
    return cases


def where(vary: Mapping[str, Any], name: str) -> str:
    """The key of a file that varies a dotted name."""
    for kind in TABLES:
        if kind in vary and name in str(vary[kind]):
            return f"vary.{kind}.{name}"
    return f"vary.{name}"


def _axis(of: Experiment, name: str, axis: Any) -> list[Any]:
    if isinstance(axis, list) and axis:
        for i, value in enumerate(axis):
            if any(_same(value, other) for other in axis[:i]):
                raise of.wrong(
                    f"vary.grid.{name}", f"has {value!r} twice; each value once was expected"
                )
        return axis
    known = isinstance(axis, dict) and set(axis) <= {"start", "stop", "step"} and "stop" in axis
    if known and all(type(x) is int for x in axis.values()) and axis.get("step", 1):
        values = list(range(axis.get("start", 0), axis["stop"], axis.get("step", 1)))
        if values:
            return values
    raise of.wrong(
        f"vary.grid.{name}",
        f"is {axis!r}; a list of values or {{start = 0, stop = 10}} was expected",
    )


def _same(a: Any, b: Any) -> bool:
    """Whether two values are one case: 10 and 10.0 are, 1 and true are not."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _sampled(of: Experiment, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    import scipy.stats

    options = {name: table[name] for name in ("count", "seed", "method") if name in table}
    if type(options.get("count")) is not int:
        raise of.wrong("vary.sample.count", f"is {options.get('count')!r}; an integer was expected")
    marginals = {}
    for name, text in _flat({k: v for k, v in table.items() if k not in options}).items():
        try:
            marginals[name] = eval(str(text), dict(vars(scipy.stats)))
            _ = marginals[name].ppf
        except Exception as error:
            raise of.wrong(
                f"vary.sample.{name}",
                f'is {text!r} ({error}); a distribution of scipy.stats, "uniform(0, 1)" or '
                '"loguniform(0.01, 1)", was expected',
            ) from error
    try:
        return sample(marginals, **options)
    except ArgumentError as error:
        raise of.wrong("vary.sample", str(error)) from error


def _flat(
    table: Mapping[str, Any], leaves: tuple[str, ...] = (), before: str = ""
) -> dict[str, Any]:
    """A table by dotted names."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and not set(value) & set(leaves):
            found |= _flat(value, leaves, f"{name}.")
        else:
            found[name] = value
    return found
