"""The copy of an experiment's file in the directory of its study, and what it lets be changed."""

from __future__ import annotations

import os
from typing import Any

from ..files.atomic import replacing
from .experiment import COPY, FIXED, Experiment, read
from .lines import keys
from .store import Writer, unwritable
from .study import Study


class ExperimentStudy(Study):
    """The study of an experiment, whose file is copied into the directory.

    Parameters
    ----------
    experiment : Experiment
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment.directory)
        self.experiment = experiment

    def _claim(self, writer: Writer, function: str, seed: int | None) -> None:
        """Refuse what the copy does not allow, and only then replace it."""
        kept = self.store.directory / COPY
        if kept.exists():
            if (before := self.store.setting("seed")) not in (None, seed):
                raise _changed(self.experiment, "seed", before, seed)
            if self.status().done:
                refuse_changes(self.experiment)
        super()._claim(writer, function, seed)
        with unwritable(self.store.directory), replacing(kept) as file:
            file.write(copied(self.experiment).encode())


def refuse_changes(experiment: Experiment) -> None:
    """Refuse settings other than those of the copy, which cases were done with."""
    before, now = read(experiment.directory / COPY).fixed, experiment.fixed
    for key in FIXED:
        if (different := _difference(before.get(key), now.get(key), key)) is not None:
            raise _changed(experiment, *different)


def copied(experiment: Experiment) -> str:
    """The text for the directory of the study: from there, where that and the modules are.

    Relative, so that both may be moved together.
    """
    places = {number for number, key in keys(experiment.text) if key in (["directory"], ["path"])}
    lines = enumerate(experiment.text.splitlines(), 1)
    kept = [line for number, line in lines if number not in places]
    path = os.path.relpath(experiment.path, experiment.directory)
    return "\n".join([f"directory = '.'\npath = '{path}'", *kept, ""])


def _changed(experiment: Experiment, name: str, old: Any, new: Any) -> Exception:
    old, new = ("nothing" if x is None else repr(x) for x in (old, new))
    ways = "name another directory" if name == "seed" else "name another directory, or [vary] it"
    return experiment.wrong(
        name, f"the study in {experiment.directory} was begun with {old}, and {new} came: {ways}"
    )


def _difference(old: Any, new: Any, name: str) -> tuple[str, Any, Any] | None:
    """The first key below a name that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{name}.{key}"):
                return found
        return None
    return None if old == new else (name, old, new)
