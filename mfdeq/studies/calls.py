"""From a case to the call of the function: warm starts, random numbers, and what may be passed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ArgumentError, StudyError
from .cases import Case
from .driving import Arrived, Sent
from .nearest import Nearest
from .provenance import full_name
from .records import Values
from .store import Finished


def check_arguments(function: Callable, cases: list[Case], given: set[str]) -> None:
    """Cases fit the function, and their parameters are none that the study passes itself."""
    for case in cases:
        if twice := sorted(given & set(case.params)):
            raise ArgumentError(
                f"the parameter {twice[0]!r} of a case is one that the study passes itself, a warm "
                "start or rng; another name was expected"
            )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin
        return
    for case in cases:
        try:
            signature.bind(**case.params, **dict.fromkeys(given))
        except TypeError as error:
            raise ArgumentError(
                f"{full_name(function)}{signature} cannot be called with the case {case.text}"
                f"{' and ' + ', '.join(sorted(given)) if given else ''}: {error}"
            ) from error


class Calls:
    """What cases are called with, and what is known of them when they come back.

    Parameters
    ----------
    outputs : callable
        The outputs of a case that is done, by its key.
    cases : list of Case
    done : list of str
        Keys of those that are.
    seed : int or None
        None for a function without random numbers.
    warm : mapping of str to str
        Arguments by the outputs that they are.
    """

    def __init__(
        self,
        outputs: Callable[[str], Values],
        cases: list[Case],
        done: list[str],
        seed: int | None,
        warm: Mapping[str, str],
    ) -> None:
        self.outputs, self.seed, self.warm = outputs, seed, warm
        self.nearest = Nearest(cases, done) if warm else None
        self.started: dict[str, str | None] = {}  # the keys that cases were started from

    def __call__(self, case: Case) -> Sent:
        """Its parameters, what it starts from, and its seed."""
        near = self.nearest(case.key) if self.nearest else None
        self.started[case.key] = near
        starts: dict[str, Any] = dict.fromkeys(self.warm)
        if near is not None:
            outputs = self.outputs(near)
            for argument, output in self.warm.items():
                if output not in outputs:
                    raise StudyError(
                        f"warm names the output {output!r}; the function returns "
                        f"{', '.join(outputs)}. What is recorded stays"
                    )
                starts[argument] = outputs[output]
        return case.params, starts, self._seed(case)

    def _seed(self, case: Case) -> list[int] | None:
        return None if self.seed is None else [self.seed, int(case.key, 16)]

    def finished(self, arrived: list[Arrived]) -> list[Finished]:
        """What is recorded of cases that are back."""
        if self.nearest:
            for one in arrived:
                if one.outcome.status == "done":
                    self.nearest.learn(one.case.key)
        return [
            Finished(
                one.case, one.outcome, json.dumps(self._seed(one.case)), self.started[one.case.key]
            )
            for one in arrived
        ]
