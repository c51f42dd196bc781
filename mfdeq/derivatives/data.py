"""Data beside the parameters of a model, the ``args`` of f(h, theta, args).

They are a tree of arrays, or any object for functions that nothing compiles. Data that replace
others have the same structure, shapes and dtypes, so that what was compiled for one serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Protocol, Self

from ..arrays.backend import host
from ..errors import ArgumentError

MAX_LISTED = 3  # leaves that are named in a message


class DataConverter(Protocol):
    """What converts data beside the parameters: a source of derivatives, or `PLAIN`."""

    def data(self, args: Any) -> Any:
        """Convert data to what f takes."""

    def data_leaves(self, data: Any) -> Mapping[str, Any]:
        """Return the leaves of converted data by their paths."""

    def map_data(self, function: Callable[[Any], Any], data: Any) -> Any:
        """Return converted data with a function of each leaf."""


class PlainData:
    """The data of functions that nothing compiles, which are passed as they are."""

    def data(self, args: Any) -> Any:
        """Return the data."""
        return args

    def data_leaves(self, data: Any) -> Mapping[str, Any]:
        """Return the leaves of containers."""
        return leaves_by_path(data)

    def map_data(self, function: Callable[[Any], Any], data: Any) -> Any:
        """Return containers with a function of each leaf."""
        return map_leaves(function, data)


PLAIN = PlainData()


def convert_args(converter: DataConverter, args: Any) -> tuple[Any, ...]:
    """Return the arguments of f after (h, theta): the converted data, or nothing for None."""
    return () if args is None else (converter.data(args),)


def replaced_args(
    converter: DataConverter, caller: str, args: Any, data: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Convert data that replace others, after checking that they have the same structure.

    Parameters
    ----------
    converter : DataConverter
    caller : str
        The public function that made the model or the loss.
    args : object
        The new data.
    data : tuple
        The old ones, from `convert_args`.

    Raises
    ------
    ArgumentError
        If the structure, a shape or a dtype differs, or there were no data.
    """
    if not data:
        raise ArgumentError(
            f"with_args: expected a function of {caller} with data, got one of (h, theta) alone: "
            f"pass args=example to {caller}"
        )
    new = convert_args(converter, args)
    if not new:
        raise ArgumentError("with_args: expected data like those of the example, got None")
    leaves = converter.data_leaves(new[0]), converter.data_leaves(data[0])
    check_same_kind(*leaves, "with_args")
    return new


class DataHolder:
    """What models and losses of functions with data beside the parameters have in common."""

    _data: tuple[Any, ...] = ()  # what the function takes after (h, theta)

    @property
    def caller(self) -> str:
        """The public function that made the model or the loss."""
        raise NotImplementedError

    @property
    def converter(self) -> DataConverter:
        """What converts data beside the parameters."""
        return PLAIN

    @property
    def args(self) -> Any:
        """The data beside the parameters, as arrays of the source of derivatives, or None."""
        return self._data[0] if self._data else None

    def _with_data(self, data: tuple[Any, ...]) -> Self:
        """Return the same model or loss with other converted data."""
        raise NotImplementedError

    def with_args(self, args: Any) -> Self:
        """Return the same model or loss with other data, which shares everything compiled.

        Parameters
        ----------
        args : object
            Data with the structure, shapes and dtypes of the example.

        Returns
        -------
        Model or LossBase
            A new one; this one is unchanged.

        Raises
        ------
        ArgumentError
            If the data have another structure, shape or dtype, or there were none.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> def residual(h, theta, load):
        ...     return theta * h - load
        >>> model = mfdeq.from_function(residual, 2, 1, "residual", args=np.ones(2))
        >>> for load in (np.array([2.0, 4.0]), np.array([6.0, 8.0])):
        ...     print(mfdeq.solve(model.with_args(load), np.array([2.0])).state)
        [1. 2.]
        [3. 4.]
        """
        return self._with_data(replaced_args(self.converter, self.caller, args, self._data))


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of nested dicts, lists and tuples by their paths, such as "['x'][0]".

    Examples
    --------
    >>> leaves_by_path({"x": [1, 2.5]})
    {"['x'][0]": 1, "['x'][1]": 2.5}
    """
    found: dict[str, Any] = {}

    def visit(part: Any, path: str) -> None:
        if isinstance(part, Mapping):
            for key in part:
                visit(part[key], f"{path}[{key!r}]")
        elif isinstance(part, (list, tuple)):
            for i, entry in enumerate(part):
                visit(entry, f"{path}[{i}]")
        else:
            found[path] = part

    visit(tree, "")
    return found


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree like nested dicts, lists and tuples, with a function of each leaf."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, part) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [map_leaves(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(tree)


def count_samples(converter: DataConverter, data: tuple[Any, ...], caller: str) -> int:
    """Return the length of the first axis of all leaves of the data of a batch.

    Raises
    ------
    ArgumentError
        If there are no data, or leaves without an axis or of different lengths.
    """
    leaves = converter.data_leaves(data[0]) if data else {}
    if not leaves:
        raise ArgumentError(
            f"args of {caller}: expected data of each sample for batched=True, got "
            f"{'none' if not data else 'no arrays'}: pass args= with arrays whose first axis is "
            "that of the samples"
        )
    counts = {path: tuple(getattr(leaf, "shape", ()))[:1] for path, leaf in leaves.items()}
    first = next(iter(counts.values()))
    if () in counts.values() or len(set(counts.values())) > 1 or first == (0,):
        listed = ", ".join(
            f"args{path} has {count[0] if count else 'none'}"
            for path, count in list(counts.items())[:MAX_LISTED]
        )
        raise ArgumentError(
            f"args of {caller}: expected arrays whose first axis is that of the samples, with the "
            f"same length of at least one, but {listed}"
        )
    return int(first[0])


def take_samples(converter: DataConverter, data: tuple[Any, ...], index: Any) -> tuple[Any, ...]:
    """Return the entries of all leaves of the data of a batch at an index of the first axis."""
    return tuple(converter.map_data(lambda leaf: leaf[index], part) for part in data)


def evaluated_samples(kept: Any) -> Any:
    """Return the sample at which each is evaluated: itself, or the first one if it is left out.

    Parameters
    ----------
    kept : (samples,) array of bool on the host
        The samples that are not left out.

    Examples
    --------
    >>> import numpy as np
    >>> print(evaluated_samples(np.array([False, True, True, False])))
    [1 1 2 1]
    """
    numbers = host.arange(kept.shape[0])
    return host.where(kept, numbers, numbers[kept][0])


def check_same_kind(new: Mapping[str, Any], old: Mapping[str, Any], name: str) -> None:
    """Raise `ArgumentError` unless leaves have the paths, shapes and dtypes of others.

    Parameters
    ----------
    new, old : mapping
        Leaves by their paths.
    name : str
        The name of the argument in the message.
    """
    wrong = [f"args{path} is missing" for path in old if path not in new]
    wrong += [f"args{path} is not in the example" for path in new if path not in old]
    wrong += [
        f"args{path} is {_kind(new[path])}, not {_kind(old[path])}"
        for path in old
        if path in new and _kind(new[path]) != _kind(old[path])
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise ArgumentError(
            f"{name}: expected the structure, shapes and dtypes of the args that the model was "
            f"made with, but {', '.join(wrong[:MAX_LISTED])}{more}. Convert them, or make another "
            "model"
        )


def _kind(leaf: Any) -> str:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"
    return "a number" if isinstance(leaf, Real) else f"a {type(leaf).__name__}"
