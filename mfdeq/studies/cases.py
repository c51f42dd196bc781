"""Cases of a study: parameters by their names, on a grid or drawn at random.

A case is known by its content: the same parameters are the same case, in whatever order they are
written and from whatever run. Its key is a digest of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import count as positive
from ..arguments import one_of
from ..arrays.backend import array_on_host, host, is_dense
from ..errors import ArgumentError
from ..files.checkpoints import digest

NAME = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
RESERVED = ("case", "status", "seconds", "started", "error", "warm")  # columns of tables
METHODS = ("random", "sobol", "halton", "latin")


@dataclass(frozen=True)
class Case:
    """Parameters and what they are known by.

    Attributes
    ----------
    key : str
    params : dict
    text : str
        The parameters as JSON, arrays by their digests.
    arrays : dict of str to array
        Those among the parameters, on the host.
    """

    key: str
    params: dict[str, Any]
    text: str
    arrays: dict[str, Any]


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Cases for every combination of values, the last name's changing fastest.

    Parameters
    ----------
    **axes : iterable
        The values of each parameter.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> from mfdeq.studies import grid
    >>> grid(size=[10, 20], leak=[0.1])
    [{'size': 10, 'leak': 0.1}, {'size': 20, 'leak': 0.1}]
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ArgumentError(f"{name} is {values!r}; a list of values was expected")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sample(
    params: Mapping[str, Any], count: int, seed: int = 0, method: str = "random"
) -> list[dict[str, Any]]:
    """Cases drawn at random.

    Parameters
    ----------
    params : mapping of str
        A distribution for each parameter: frozen, of `scipy.stats`, or whatever else has ``ppf``. A
        parameter that is anything else is the same in all cases.
    count : int
        How many; with "sobol" best a power of two.
    seed : int, optional
    method : {"random", "sobol", "halton", "latin"}, optional
        Independent draws, or points that fill the space more evenly, of `scipy.stats.qmc`. With a
        larger count the first cases stay the same, but for "latin".

    Returns
    -------
    list of dict
        Of a discrete distribution's, ints.
    """
    positive(count, "count")
    one_of(method, METHODS, "method")
    drawn = [name for name, of in params.items() if hasattr(of, "ppf")]
    if not drawn:
        raise ArgumentError(
            "none of the parameters has a distribution; scipy.stats.uniform(0, 1), say, was "
            "expected of one at least"
        )
    points = _points(count, len(drawn), seed, method)
    columns = {name: params[name].ppf(points[:, j]) for j, name in enumerate(drawn)}
    columns = {n: x.astype(int) if hasattr(params[n], "pmf") else x for n, x in columns.items()}
    return [
        {name: columns[name][i].item() if name in columns else of for name, of in params.items()}
        for i in range(count)
    ]


def _points(count: int, d: int, seed: int, method: str) -> Any:
    """In the unit cube, one in a row."""
    if method == "random":
        return host.random.default_rng(seed).random((count, d))
    from scipy.stats import qmc

    engines = {"sobol": qmc.Sobol, "halton": qmc.Halton, "latin": qmc.LatinHypercube}
    return engines[method](d, seed=seed).random(count)


def identified(cases: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Cases with their keys, no two the same."""
    found: dict[str, Case] = {}
    for i, params in enumerate(cases):
        if not isinstance(params, Mapping):
            raise ArgumentError(
                f"case {i} is a {type(params).__name__}; a dict of parameters was expected"
            )
        case = _identified(params, f"case {i}")
        if case.key in found:
            first = list(found).index(case.key)
            raise ArgumentError(
                f"cases {first} and {i} are the same: {case.text}. A number that tells them "
                "apart, such as repeat=0, 1, ..., makes them two"
            )
        found[case.key] = case
    return list(found.values())


def _identified(params: Mapping[str, Any], where: str) -> Case:
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in params.items():
        check_name(name, f"a parameter of {where}")
        if is_dense(value) and value.ndim:
            arrays[name] = numbers(value, f"{name} of {where}")
            plain[name] = {"array": digest(arrays[name]), "shape": arrays[name].shape}
        else:
            plain[name] = plain_value(value, f"{name} of {where}")
    text = json.dumps(plain, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Case(key, dict(params), text, arrays)


def check_name(name: Any, what: str) -> None:
    """Names are those of files and columns too."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED:
        raise ArgumentError(
            f"{what} has the name {name!r}; letters, digits, - and _ were expected, with dots "
            f"between, and none of {', '.join(RESERVED)}"
        )


def plain_value(value: Any, name: str) -> Any:
    """A value as JSON has it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain_value(item, f"an item of {name}") for item in value]
    raise ArgumentError(
        f"{name} is a {type(value).__name__}; a number, a string, a bool, None, a list of those or "
        "an array was expected"
    )


def numbers(value: Any, name: str) -> Any:
    """An array on the host, as npy files have it without pickles."""
    if host.ma.isMaskedArray(value):
        raise ArgumentError(f"{name} is a masked array; its data and its mask apart were expected")
    found = array_on_host(value)
    if found.dtype.hasobject:
        raise ArgumentError(f"{name} is an array of objects; numbers were expected")
    return found
