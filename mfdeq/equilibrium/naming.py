"""Names of a few unknowns, equations and combinations of equations, in messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays.backend import host

MAX_NAMES, MAX_TEXTS = 4, 6  # in a message


def names_of(name: Callable[[int], str], indices: Sequence[int]) -> str:
    """Return the names of a few unknowns or equations, given a function that names one."""
    shown = [name(i) for i in indices[:MAX_NAMES]]
    if len(indices) > MAX_NAMES:
        return f"{', '.join(shown)} and {len(indices) - MAX_NAMES} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def listed(texts: Sequence[str]) -> str:
    """Return a few texts in one line, and how many more there are."""
    more = len(texts) - MAX_TEXTS
    shown = "; ".join(texts[:MAX_TEXTS])
    return f"{shown}; and {more} more" if more > 0 else shown


def describe_combinations(name: Callable[[int], str], basis: Any) -> list[str]:
    """Say of each combination of equations that vanishes which equations it consists of.

    Parameters
    ----------
    name : callable
        ``name(i)`` returns the name of an equation.
    basis : (N, k) array, on the host
        The weights of the equations.
    """
    texts = []
    for column in basis.T:
        members = host.flatnonzero(column).tolist()
        names = names_of(name, members)
        if (column[members] == 1.0).all():
            texts.append(f"{names} {'is' if len(members) == 1 else 'sum to'} zero")
        elif len(members) <= MAX_NAMES:
            terms = [_term(column[i], name(i)) for i in members]
            texts.append(f"{' '.join(terms).removeprefix('+ ')} is zero")
        else:
            texts.append(f"a combination of {names} is zero")
    return texts


def _term(weight: float, name: str) -> str:
    sign, size = "-" if weight < 0.0 else "+", abs(weight)
    return f"{sign} {name}" if size == 1.0 else f"{sign} {size:.4g} {name}"
