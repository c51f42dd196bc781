"""An experiment in a TOML file: a model, a loss, what to compute, what to vary, where to put it.

Every mistake is told with the line and the key that it is in.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, ExperimentError, StudyError
from .cases import grid, sample
from .lines import keys, line_of

COPY = "experiment.toml"  # in the directory of the study
FIXED = ("model", "params", "loss", "solve", "compute", "warm")  # what all cases have in common
TOP: dict[str, tuple[type, ...]] = {
    "directory": (str,),
    "path": (str,),
    "workers": (int,),
    "seed": (int,),
    "warm": (bool,),
    **dict.fromkeys(("model", "params", "loss", "solve", "compute", "vary"), (dict,)),
}
COMPUTE: dict[str, tuple[type, ...]] = {
    "state": (bool,),
    "value": (bool,),
    "gradient": (bool,),
    "eigenvalues": (bool, dict),
    "minimum": (bool, dict),
    "call": (str,),
}
OPTIONS = {
    "solve": {"method", "rtol", "max_iterations"},
    "compute.eigenvalues": {"k", "which", "rtol", "block", "certify", "vectors"},
    "compute.minimum": {"method", "gtol", "max_iterations"},
}
VARY: dict[str, tuple[type, ...]] = {"grid": (dict,), "sample": (dict,), "list": (list,)}
WORDS = {str: "a string", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}


@dataclass(frozen=True)
class Experiment:
    """What a file says.

    Attributes
    ----------
    file : path
    text : str
    settings : dict
        As the file has them.
    cases : list of dict
        What is varied, by dotted names.
    """

    file: Path
    text: str
    settings: dict[str, Any]
    cases: list[dict[str, Any]]

    @property
    def directory(self) -> Path:
        """Of the study; relative to the file."""
        return self.file.parent / self.settings["directory"]

    @property
    def path(self) -> str:
        """Where modules are looked for first; relative to the file, by default its folder."""
        return str((self.file.parent / self.settings.get("path", ".")).resolve())

    @property
    def fixed(self) -> dict[str, Any]:
        """What all cases have in common."""
        return {name: self.settings[name] for name in FIXED if name in self.settings}

    def wrong(self, key: str, message: str) -> ExperimentError:
        """An error about a key, with its line."""
        line = line_of(self.text, key)
        where = f", line {line}" if line else ""
        return ExperimentError(f"{self.file}{where}: {key}: {message}")


def read(file: str | os.PathLike) -> Experiment:
    """The experiment in a file.

    Raises
    ------
    ExperimentError
        With the line and the key.
    """
    path = Path(file)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}") from error
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: {error}") from error
    found = Experiment(path, text, settings, [])
    _check(found)
    return Experiment(path, text, settings, _cases(found))


def copied(experiment: Experiment) -> str:
    """The text for the directory of the study: from there, where that and the modules are."""
    places = {number for number, key in keys(experiment.text) if key in (["directory"], ["path"])}
    lines = enumerate(experiment.text.splitlines(), 1)
    kept = [line for number, line in lines if number not in places]
    return "\n".join([f"directory = '.'\npath = '{experiment.path}'", *kept, ""])


def keep(experiment: Experiment) -> None:
    """Put a copy into the directory; refuse one whose study was of other settings."""
    directory = experiment.directory
    kept = directory / COPY
    if kept.exists():
        before, now = read(kept).fixed, experiment.fixed
        for key in FIXED:
            if (different := _difference(before.get(key), now.get(key), key)) is not None:
                name, old, new = different
                raise experiment.wrong(
                    name,
                    f"the study in {directory} was begun with {old!r}, and {new!r} came: name "
                    "another directory, or [vary] it",
                )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(copied(experiment), "utf-8")
        partial.replace(kept)
    except OSError as error:
        raise StudyError(f"{directory} cannot be written: {error}") from error


def _difference(old: Any, new: Any, name: str) -> tuple[str, Any, Any] | None:
    """The first key below a name that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{name}.{key}"):
                return found
        return None
    return None if old == new else (name, old, new)


# What a file may say.


def _check(of: Experiment) -> None:
    settings = of.settings
    _check_keys(of, "", settings, TOP)
    for name in ("directory", "model", "params", "compute"):
        if name not in settings:
            raise of.wrong(name, f"is missing; {WORDS[TOP[name][0]]} was expected")
    _check_keys(of, "compute", settings["compute"], COMPUTE)
    if not any(settings["compute"].values()):
        raise of.wrong("compute", f"asks for nothing; some of {', '.join(COMPUTE)} were expected")
    for name, known in OPTIONS.items():
        _check_options(of, name, known)
    for name in ("model", "loss"):
        if name in settings and "from" not in settings[name]:
            raise of.wrong(f"{name}.from", 'is missing; "module:expression" was expected')
    ways = [way for way in ("from", "values", "file") if way in settings["params"]]
    if len(ways) != 1:
        raise of.wrong("params", 'one of from = "module:expression", values and file was expected')
    needs = [
        n for n in ("value", "gradient", "eigenvalues", "minimum") if settings["compute"].get(n)
    ]
    if needs and "loss" not in settings:
        raise of.wrong(f"compute.{needs[0]}", "needs a loss, and there is no [loss]")
    if settings.get("warm") and not settings["compute"].get("state"):
        raise of.wrong("warm", "starts from stored states: set state = true in [compute]")
    if settings.get("workers", 0) < 0:
        raise of.wrong("workers", "a number from 0 up was expected")
    sys.path.insert(0, of.path)
    for name in ("model.from", "params.from", "loss.from", "compute.call"):
        table, _, key = name.partition(".")
        given = settings.get(table, {}).get(key)
        if given is not None:
            try:
                named(given)
            except ArgumentError as error:
                raise of.wrong(name, str(error)) from error


def _check_keys(
    of: Experiment, name: str, table: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]
) -> None:
    for key, value in table.items():
        full = f"{name}.{key}".lstrip(".")
        if key not in known:
            raise of.wrong(full, f"is not known; {', '.join(known)} are{_near(key, known)}")
        if type(value) not in known[key]:
            expected = " or ".join(WORDS[kind] for kind in known[key])
            raise of.wrong(full, f"is {value!r}; {expected} was expected")


def _check_options(of: Experiment, name: str, known: set[str]) -> None:
    table: Any = of.settings
    for key in name.split("."):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    for key in table if isinstance(table, dict) else ():
        if key not in known:
            words = ", ".join(sorted(known))
            raise of.wrong(f"{name}.{key}", f"is not known; {words} are{_near(key, known)}")


def _near(key: str, known: Any) -> str:
    import difflib

    near = difflib.get_close_matches(key, list(known), 1)
    return f". Was {near[0]} meant?" if near else ""


# What is varied.


def _cases(of: Experiment) -> list[dict[str, Any]]:
    vary = of.settings.get("vary", {})
    _check_keys(of, "vary", vary, VARY)
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
    cases = [
        {name: value for part in parts_of for name, value in part.items()}
        for parts_of in itertools.product(*parts)
    ]
    for name in {name: None for case in cases for name in case}:
        if name.split(".")[0] not in FIXED:
            raise of.wrong(
                _where(vary, name),
                f"{name!r} names nothing; model., params., loss., solve. or compute. "
                "and a key was expected",
            )
    return cases


def _where(vary: Mapping[str, Any], name: str) -> str:
    for kind in VARY:
        if kind in vary and name in str(vary[kind]):
            return f"vary.{kind}.{name}"
    return f"vary.{name}"


def _axis(of: Experiment, name: str, axis: Any) -> list[Any]:
    if isinstance(axis, list) and axis:
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


# Names of Python.


def named(given: str) -> Any:
    """What "module:expression" stands for: the expression evaluated in the module."""
    module, _, expression = str(given).partition(":")
    if not expression:
        raise ArgumentError(f"is {given!r}; module:expression was expected")
    try:
        scope = vars(importlib.import_module(module))
    except Exception as error:  # whatever the user's module raises
        raise ArgumentError(f"{given!r}: {type(error).__name__}: {error}") from error
    try:
        return eval(expression, dict(scope))  # the user's own, in the user's own file
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"{expression!r} in {module}: {told}") from error
