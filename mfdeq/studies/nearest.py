"""Warm starts: of a case, the nearest one that is done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ..arrays.backend import host
from .cases import Case


class Nearest:
    """The cases that are done, by the distance of their numbers.

    Parameters
    ----------
    cases : sequence of Case
    done : iterable of str
        Keys of those that are.

    Notes
    -----
    A real number counts by its range over all cases. All else must be the same in cases that are
    near: words, and whole numbers, which are sizes, seeds or repetitions.
    """

    def __init__(self, cases: Sequence[Case], done: Iterable[str]) -> None:
        names = sorted(set().union(*(case.params for case in cases)))
        numbers = [name for name in names if _real([c.params.get(name) for c in cases])]
        points = host.asarray([[float(c.params[name]) for name in numbers] for c in cases])
        width = host.ptp(points, axis=0)
        self.points = points / host.where(width > 0.0, width, 1.0)
        kinds = [_other(case, numbers) for case in cases]
        codes = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
        self.kinds = host.asarray([codes[kind] for kind in kinds])
        self.keys = [case.key for case in cases]
        self.rows = {key: i for i, key in enumerate(self.keys)}
        self.done = host.zeros(len(cases), dtype=bool)
        for key in done:
            self.learn(key)

    def learn(self, key: str) -> None:
        """A case is done."""
        self.done[self.rows[key]] = True

    def __call__(self, key: str) -> str | None:
        """The key of the nearest case that is done, if there is one."""
        row = self.rows[key]
        near = host.flatnonzero(self.done & (self.kinds == self.kinds[row]))
        if not near.size:
            return None
        away = ((self.points[near] - self.points[row]) ** 2).sum(axis=1)
        return self.keys[near[away.argmin()]]


def _real(values: list[Any]) -> bool:
    """Whether these are real numbers, and not whole ones alone."""
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) for x in values)
    return numbers and not all(isinstance(x, Integral) for x in values)


def _other(case: Case, numbers: Sequence[str]) -> str:
    stored: Mapping[str, Any] = json.loads(case.text)
    return json.dumps({name: x for name, x in stored.items() if name not in numbers})
