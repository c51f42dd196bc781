"""Arguments of the calls: parameters, warm starts from nearby cases, and seeds."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ..arrays.backend import host
from ..errors import ArgumentError, StudyError
from .cases import Case
from .provenance import qualified_name
from .records import Values
from .scheduling import CallArguments, Completed
from .store import FinishedCase


def check_signature(function: Callable, cases: list[Case], passed: set[str]) -> None:
    """Raise ArgumentError if the function cannot be called with a case.

    Parameters
    ----------
    function : callable
    cases : list of Case
    passed : set of str
        Names of the arguments that the study passes itself.
    """
    for case in cases:
        if clash := sorted(passed & set(case.params)):
            raise ArgumentError(
                f"case {case.text}: the study itself passes {clash[0]!r}, a warm start or rng; "
                "rename the parameter"
            )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    for case in cases:
        try:
            signature.bind(**case.params, **dict.fromkeys(passed))
        except TypeError as error:
            raise ArgumentError(
                f"{qualified_name(function)}{signature} cannot be called with the case {case.text}"
                f"{' and ' + ', '.join(sorted(passed)) if passed else ''}: {error}"
            ) from error


class CaseArguments:
    """The arguments with which the function of a study is called for each case.

    Parameters
    ----------
    read_outputs : callable
        Returns the outputs of a case that is done, by its key.
    cases : list of Case
    done : list of str
        The keys of the cases that are done.
    seed : int or None
        The seed of the study; None if the function takes no random generator.
    warm : mapping of str to str
        The output that each argument of a warm start is taken from.
    """

    def __init__(
        self,
        read_outputs: Callable[[str], Values],
        cases: list[Case],
        done: list[str],
        seed: int | None,
        warm: Mapping[str, str],
    ) -> None:
        self.read_outputs, self.seed, self.warm = read_outputs, seed, warm
        self.nearest = NearestCases(cases, done) if warm and cases else None
        self.start_keys: dict[str, str | None] = {}  # the case whose outputs each case got

    def __call__(self, case: Case) -> CallArguments:
        """Return the parameters of a case, the arguments of its warm start, and its seed."""
        key = self.nearest.nearest(case.key) if self.nearest else None
        self.start_keys[case.key] = key
        starts: dict[str, Any] = dict.fromkeys(self.warm)
        if key is not None:
            outputs = self.read_outputs(key)
            for argument, output in self.warm.items():
                if output not in outputs:
                    raise StudyError(
                        f"warm: expected one of the function's outputs {', '.join(outputs)}, got "
                        f"{output!r}. The records so far are kept"
                    )
                starts[argument] = outputs[output]
        return case.params, starts, self._case_seed(case)

    def _case_seed(self, case: Case) -> list[int] | None:
        return None if self.seed is None else [self.seed, int(case.key, 16)]

    def finish(self, completed: list[Completed]) -> list[FinishedCase]:
        """Return the cases to be recorded, and allow warm starts from those that are done."""
        if self.nearest:
            for item in completed:
                if item.outcome.status == "done":
                    self.nearest.add(item.case.key)
        return [
            FinishedCase(
                item.case,
                item.outcome,
                json.dumps(self._case_seed(item.case)),
                self.start_keys[item.case.key],
            )
            for item in completed
        ]


class NearestCases:
    """Nearest-neighbour search among the cases that are done.

    Parameters
    ----------
    cases : sequence of Case
    done : iterable of str
        The keys of the cases that are done.

    Notes
    -----
    The distance is Euclidean in the real parameters, each divided by its range over all cases.
    All other parameters must be equal, including integers, which are usually sizes, seeds or
    repetitions.
    """

    def __init__(self, cases: Sequence[Case], done: Iterable[str]) -> None:
        names = sorted(set().union(*(case.params for case in cases)))
        real = [name for name in names if _are_real([case.params.get(name) for case in cases])]
        points = host.asarray([[float(case.params[name]) for name in real] for case in cases])
        widths = host.ptp(points, axis=0)
        self.points = points / host.where(widths > 0.0, widths, 1.0)
        others = [_other_parameters(case, real) for case in cases]
        codes = {text: i for i, text in enumerate(dict.fromkeys(others))}
        self.groups = host.asarray([codes[text] for text in others])
        self.keys = [case.key for case in cases]
        self.rows = {key: i for i, key in enumerate(self.keys)}
        self.done = host.zeros(len(cases), dtype=bool)
        for key in done:
            self.add(key)

    def add(self, key: str) -> None:
        """Mark a case as done."""
        self.done[self.rows[key]] = True

    def nearest(self, key: str) -> str | None:
        """Return the key of the nearest case that is done, or None."""
        row = self.rows[key]
        candidates = host.flatnonzero(self.done & (self.groups == self.groups[row]))
        if not candidates.size:
            return None
        distances = ((self.points[candidates] - self.points[row]) ** 2).sum(axis=1)
        return self.keys[candidates[distances.argmin()]]


def _are_real(values: list[Any]) -> bool:
    """Return True if all values are real numbers and not all of them integers."""
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) for x in values)
    return numbers and not all(isinstance(x, Integral) for x in values)


def _other_parameters(case: Case, real: Sequence[str]) -> str:
    stored: Mapping[str, Any] = json.loads(case.text)
    return json.dumps({name: value for name, value in stored.items() if name not in real})
