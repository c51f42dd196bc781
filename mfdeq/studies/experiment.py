"""An experiment in a TOML file: a model, a loss, what to compute, what to vary, where to put it.

Every mistake is told with the line and the key that it is in.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import count, fraction
from ..errors import ArgumentError, ExperimentError
from ..forward import METHODS as FORWARD
from ..optimization.minimize import METHODS
from ..spectrum.extreme import WHICH
from .lines import line_of
from .varying import VARIED, cases_of, where

COPY = "experiment.toml"  # in the directory of the study
FIXED = (*VARIED, "warm")  # what all cases have in common
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
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("method", "which"), (str,)),
    **dict.fromkeys(("k", "block", "max_iterations"), (int,)),
    **dict.fromkeys(("rtol", "gtol"), (float,)),
    **dict.fromkeys(("certify", "vectors"), (bool,)),
}
OPTIONS = {
    "solve": ("method", "rtol", "max_iterations"),
    "compute.eigenvalues": ("k", "which", "rtol", "block", "certify", "vectors"),
    "compute.minimum": ("method", "gtol", "max_iterations"),
}
KNOWN: dict[str, dict[str, tuple[type, ...]]] = {
    "compute": COMPUTE,
    **{name: {key: KINDS[key] for key in known} for name, known in OPTIONS.items()},
}
LIMITS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("k", "block", "max_iterations"), count),
    **dict.fromkeys(("rtol", "gtol"), fraction),
}
CHOICES = {
    "solve.method": ("auto", *FORWARD),
    "compute.eigenvalues.which": WHICH,
    "compute.minimum.method": METHODS,
}
GIVEN = {"model": ("rng",), "params": ("rng", "model"), "loss": ("rng", "model", "params")}
WORDS = {
    str: "a string",
    int: "an integer",
    float: "a number between 0 and 1",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


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
        """What all cases have in common; what is false is as if it were not there."""
        found = {name: self.settings[name] for name in FIXED if self.settings.get(name, False)}
        compute = {key: x for key, x in self.settings["compute"].items() if x is not False}
        return {**found, "compute": compute}

    def wrong(self, key: str, message: str) -> ExperimentError:
        """An error about a key, with its line."""
        line = line_of(self.text, key)
        where = f", line {line}" if line else ""
        return ExperimentError(f"{self.file}{where}: {key}: {message}")

    def check_keys(
        self,
        name: str,
        table: Mapping[str, Any],
        known: Mapping[str, tuple[type, ...]],
        place: str = "",
    ) -> None:
        """The keys of a table are known ones, their values of the right kinds.

        All that are not are told at once; `place` is where they are, if not in that table.
        """
        wrong = []
        for key, value in table.items():
            full = place or f"{name}.{key}".lstrip(".")
            if key not in known:
                wrong.append((full, f"is not known; {', '.join(known)} are{_near(key, known)}"))
            elif type(value) not in known[key]:
                expected = " or ".join(WORDS[kind] for kind in known[key])
                wrong.append((full, f"is {value!r}; {expected} was expected"))
        if wrong:
            raise ExperimentError("\n".join(str(self.wrong(*one)) for one in wrong))


def read(file: str | os.PathLike) -> Experiment:
    """The experiment in a file.

    Raises
    ------
    ExperimentError
        With the line and the key.
    """
    path = Path(file)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}") from error
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path}: {error}") from error
    found = Experiment(path, text, settings, [])
    _check(found)
    found = Experiment(path, text, settings, cases_of(found))
    for table, given in GIVEN.items():
        if "from" in settings.get(table, {}):
            _check_call(found, table, given)
    _check_varied(found)
    return found


# What a file may say.


def _check(of: Experiment) -> None:
    settings = of.settings
    of.check_keys("", settings, TOP)
    for name in ("directory", "model", "params", "compute"):
        if name not in settings:
            raise of.wrong(name, f"is missing; {WORDS[TOP[name][0]]} was expected")
    for name in ("compute", "solve"):
        _check_options(of, name, settings.get(name, {}))
    if not any(settings["compute"].values()):
        raise of.wrong("compute", f"asks for nothing; some of {', '.join(COMPUTE)} were expected")
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
        raise of.wrong("workers", f"is {settings['workers']}; a number from 0 up was expected")
    sys.path.insert(0, of.path)
    for name in (*(f"{table}.from" for table in GIVEN), "compute.call", "params.file"):
        table, _, key = name.partition(".")
        if (given := settings.get(table, {}).get(key)) is not None:
            _check_found(of, name, given, name)


def _check_varied(of: Experiment) -> None:
    """What is varied, as if it were in the tables themselves."""
    seen: set[tuple[str, str]] = set()
    for name, value in (pair for case in of.cases for pair in case.items()):
        of_options = name.split(".")[0] in ("solve", "compute") or name == "params.file"
        if not of_options or (name, repr(value)) in seen:
            continue
        seen.add((name, repr(value)))
        place = where(of.settings["vary"], name)
        table, _, key = name.rpartition(".")
        if table in KNOWN:
            _check_options(of, table, {key: value}, place)
        elif name != "params.file":
            raise of.wrong(place, f"{name!r} names nothing; keys of {', '.join(KNOWN)} are known")
        if name in ("compute.call", "params.file"):
            _check_found(of, name, value, place)


def _check_found(of: Experiment, name: str, given: Any, place: str) -> None:
    """What a string names is there: an object of a module, or a file."""
    if name == "params.file":
        if not Path(str(given)).is_file():
            raise of.wrong(place, f"is {given!r}, and {Path(str(given)).resolve()} is no file")
        return
    try:
        found = named(given)
    except ArgumentError as error:
        looked = f"; modules are looked for in {of.path}" if "ModuleNotFound" in str(error) else ""
        raise of.wrong(place, f"{error}{looked}") from error
    if name == "compute.call" and not callable(found):
        raise of.wrong(place, f"is a {type(found).__name__}; a function was expected")


def _check_options(of: Experiment, name: str, table: Mapping[str, Any], place: str = "") -> None:
    """The keys of a table of options and their values; where they are varied, of that place."""
    of.check_keys(name, table, KNOWN[name], place)
    for key, value in table.items():
        full = f"{name}.{key}"
        if full in KNOWN and isinstance(value, dict):
            _check_options(of, full, value, place)
        if full in CHOICES and value not in CHOICES[full]:
            choices = ", ".join(CHOICES[full])
            raise of.wrong(place or full, f"is {value!r}; one of {choices} was expected")
        if key in LIMITS:
            try:
                LIMITS[key](value, "")
            except ArgumentError as error:
                raise of.wrong(place or full, str(error).strip()) from error


def _check_call(of: Experiment, table: str, given: tuple[str, ...]) -> None:
    """The keys of a table, and what is varied in it, are the parameters of what "from" names."""
    called = named(of.settings[table]["from"])
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # no callable, or a builtin
        return
    named_ones = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    for key, of_it in parameters.items():
        needed = of_it.default is of_it.empty and of_it.kind in named_ones and key not in given
        everywhere = of.cases and all(f"{table}.{key}" in case for case in of.cases)
        if needed and key not in of.settings[table] and not everywhere:
            raise of.wrong(
                f"{table}.from",
                f"{of.settings[table]['from']} needs {key}, which [{table}] and [vary] do not give "
                "to every case",
            )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    varied = {name for case in of.cases for name in case if name.startswith(f"{table}.")}
    places = {name: where(of.settings["vary"], name) for name in sorted(varied)}
    places |= {f"{table}.{key}": f"{table}.{key}" for key in of.settings[table] if key != "from"}
    for name, place in places.items():
        key = name.partition(".")[2]
        if key not in parameters or key in given:
            own_ones = [p for p in parameters if p not in given]
            raise of.wrong(
                place,
                f"is no parameter of {of.settings[table]['from']}; it has "
                f"{', '.join(own_ones) or 'none'}{_near(key, own_ones)}",
            )


def _near(key: str, known: Any) -> str:
    import difflib

    near = difflib.get_close_matches(key, list(known), 1)
    return f". Was {near[0]} meant?" if near else ""


# Names of Python.


def named(given: str) -> Any:
    """What "module:expression" stands for: the expression evaluated in the module."""
    module, _, expression = str(given).partition(":")
    if not expression:
        raise ArgumentError(f"is {given!r}; module:expression was expected")
    try:
        scope = vars(importlib.import_module(module))
    except Exception as error:  # whatever the user's module raises
        raise ArgumentError(f"{given!r}: {_told(error)}") from error
    try:
        return eval(expression, dict(scope))  # the user's own, in the user's own file
    except Exception as error:
        raise ArgumentError(f"{expression!r} in {module}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """An error, and where in the user's files it was raised."""
    places = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and not frame.filename.startswith("<")
        and Path(importlib.__file__).parent not in Path(frame.filename).parents
    ]
    return f"{type(error).__name__}: {error}{places[-1] if places else ''}"
