"""The cases of a study: mappings from parameter names to values, on a grid or drawn at random.

A case is identified by its parameters: equal parameters are the same case, in any order and in any
run. The key of a case is a digest of its parameters.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import count as positive_integer
from ..arguments import one_of
from ..arrays.backend import Array, array_on_host, host, is_dense
from ..errors import ArgumentError
from ..files.checkpoints import digest

KEY_LENGTH = 32  # hexadecimal digits
NAME_PATTERN = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
RESERVED_NAMES = ("case", "status", "seconds", "started", "error", "warm")  # columns of tables
SAMPLING_METHODS = ("random", "sobol", "halton", "latin")


@dataclass(frozen=True)
class Case:
    """One case: its parameters and its key.

    Attributes
    ----------
    key : str
        A digest of the parameters.
    params : dict
        The parameters as they were passed.
    text : str
        The parameters as JSON, with arrays replaced by their digests and shapes.
    arrays : dict of str to numpy.ndarray
        The parameters that are arrays, on the host.
    """

    key: str
    params: dict[str, Any]
    text: str
    arrays: dict[str, Array]


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Return a case for every combination of parameter values.

    Parameters
    ----------
    **axes : iterable
        The values of each parameter.

    Returns
    -------
    list of dict
        The Cartesian product. The value of the last parameter changes fastest.

    Raises
    ------
    ArgumentError
        If the values of a parameter are a string or not iterable.

    See Also
    --------
    sample : Cases drawn at random.

    Examples
    --------
    >>> from mfdeq.studies import grid
    >>> grid(size=[10, 20], leak=[0.1])
    [{'size': 10, 'leak': 0.1}, {'size': 20, 'leak': 0.1}]
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ArgumentError(f"{name}: expected a list of values, got {values!r}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sample(
    params: Mapping[str, Any], count: int, seed: int = 0, method: str = "random"
) -> list[dict[str, Any]]:
    """Draw cases at random.

    Parameters
    ----------
    params : mapping of str
        A distribution for each parameter: a frozen distribution of `scipy.stats`, or any object
        with the method ``ppf`` (the inverse of the distribution function). Any other value is the
        same in all cases.
    count : int
        The number of cases. A power of two is best for "sobol".
    seed : int, default: 0
        The seed of the random numbers.
    method : {"random", "sobol", "halton", "latin"}, default: "random"
        Independent draws, or points of `scipy.stats.qmc` that fill the space more evenly.

    Returns
    -------
    list of dict
        The cases. Values of discrete distributions are ints. A larger `count` does not change the
        first cases, except for "latin".

    Raises
    ------
    ArgumentError
        If no parameter has a distribution, `count` is not a positive integer or `method` is
        unknown.

    See Also
    --------
    grid : Every combination of given values.

    Notes
    -----
    Points of the unit cube, one coordinate per distribution, are mapped by the inverse
    distribution functions.

    Examples
    --------
    >>> import scipy.stats
    >>> from mfdeq.studies import sample
    >>> cases = sample({"leak": scipy.stats.loguniform(1e-3, 1.0), "size": 40}, 4, method="sobol")
    >>> [case["size"] for case in cases]
    [40, 40, 40, 40]
    >>> all(1e-3 <= case["leak"] <= 1.0 for case in cases)
    True
    """
    positive_integer(count, "count")
    one_of(method, SAMPLING_METHODS, "method")
    drawn = [name for name, value in params.items() if hasattr(value, "ppf")]
    if not drawn:
        raise ArgumentError(
            "params: expected a distribution for at least one parameter, such as "
            "scipy.stats.uniform(0, 1), got none"
        )
    points = _unit_cube_points(count, len(drawn), seed, method)
    columns = {name: params[name].ppf(points[:, j]) for j, name in enumerate(drawn)}
    for name in drawn:
        if hasattr(params[name], "pmf"):  # a discrete distribution
            columns[name] = columns[name].astype(int)
    return [
        {
            name: columns[name][i].item() if name in columns else value
            for name, value in params.items()
        }
        for i in range(count)
    ]


def _unit_cube_points(count: int, dimension: int, seed: int, method: str) -> Array:
    if method == "random":
        return host.random.default_rng(seed).random((count, dimension))
    from scipy.stats import qmc  # slow to import

    engines = {"sobol": qmc.Sobol, "halton": qmc.Halton, "latin": qmc.LatinHypercube}
    return engines[method](dimension, seed=seed).random(count)


def identify_cases(cases: Iterable[Mapping[str, Any]]) -> list[Case]:
    """Return the cases with their keys; raise ArgumentError if two are equal."""
    identified: dict[str, Case] = {}
    for i, params in enumerate(cases):
        if not isinstance(params, Mapping):
            raise ArgumentError(
                f"case {i}: expected a dict of parameters, got {type(params).__name__}"
            )
        case = _identify(params, f"case {i}")
        if case.key in identified:
            first = list(identified).index(case.key)
            raise ArgumentError(
                f"cases {first} and {i} are the same: {case.text}. To run a case twice, add a "
                "parameter such as repeat=0, 1, ..."
            )
        identified[case.key] = case
    return list(identified.values())


def _identify(params: Mapping[str, Any], label: str) -> Case:
    arrays: dict[str, Array] = {}
    plain: dict[str, Any] = {}
    for name, value in params.items():
        check_name(name, f"{label}: name of a parameter")
        if is_dense(value) and value.ndim:
            arrays[name] = numeric_array(value, f"{label}: {name}")
            plain[name] = {"array": digest(arrays[name]), "shape": arrays[name].shape}
        else:
            plain[name] = json_value(value, f"{label}: {name}")
    text = json.dumps(plain, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
    return Case(key, dict(params), text, arrays)


def check_name(name: Any, label: str) -> None:
    """Raise ArgumentError if a name is not valid for files and columns."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise ArgumentError(
            f"{label}: expected letters, digits, '-', '_' and inner dots, got {name!r}"
        )
    if name in RESERVED_NAMES:
        raise ArgumentError(
            f"{label}: {name!r} is reserved, as are {', '.join(RESERVED_NAMES)}; use another"
        )


def checked_units(units: Any) -> dict[str, str]:
    """Return the units of parameters and outputs by their names, after checking them."""
    if not isinstance(units, Mapping):
        raise ArgumentError(
            f"units: expected a mapping of names to strings, got {type(units).__name__}"
        )
    for name, unit in units.items():
        check_name(name, "name in units")
        if not isinstance(unit, str):
            raise ArgumentError(f"units[{name!r}]: expected a string, got {type(unit).__name__}")
    return dict(units)


def json_value(value: Any, label: str) -> Any:
    """Convert a value for JSON; raise ArgumentError if JSON cannot represent it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [json_value(item, f"{label}, item {i}") for i, item in enumerate(value)]
    raise ArgumentError(
        f"{label}: expected a number, a string, a bool, None, a list of those or an array, got "
        f"{type(value).__name__}"
    )


def numeric_array(value: Any, label: str) -> Array:
    """Return an array on the host that can be saved as npy without pickling."""
    if host.ma.isMaskedArray(value):
        raise ArgumentError(
            f"{label}: expected an array without a mask, got a masked array; use two names, "
            "for its data and its mask"
        )
    array = array_on_host(value)
    if array.dtype.hasobject:
        raise ArgumentError(f"{label}: expected an array of numbers, got an array of objects")
    return array
