"""Validation of pytrees of arrays, whose leaves are identified by their paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError

MAX_LISTED = 3  # leaves that are named in a message


def check_dtypes(dtypes: Mapping[str, str], name: str, kind: str) -> None:
    """Raise `ModelError` unless the leaves of an example are real numbers of one kind.

    Parameters
    ----------
    dtypes : mapping of str to str
        The name of the dtype of each leaf, by its path.
    name : str
        The name of the example, such as "params of mfdeq.from_jax".
    kind : str
        The type of the example.

    Notes
    -----
    Integers are numbers if all leaves are integers. Beside floating-point leaves they are more
    likely indices or counts, which cannot be differentiated.
    """
    if not dtypes or any("complex" in dtype for dtype in dtypes.values()):
        kinds = ", ".join(sorted(set(dtypes.values()))) or "no arrays"
        raise ModelError(
            f"{name}: expected a real array or a pytree of real arrays, got {kind} of {kinds}"
        )
    floating = [path for path, dtype in dtypes.items() if "float" in dtype]
    wrong = {
        path: dtype
        for path, dtype in dtypes.items()
        if "float" not in dtype and (floating or "int" not in dtype)
    }
    if wrong:
        listed = ", ".join(f"{path or 'the array'} ({dtype})" for path, dtype in wrong.items())
        raise ModelError(
            f"{name}: expected floating-point numbers, got {listed}. Pass what is a "
            f"{'parameter' if name.startswith('params') else 'state'} as float, and let the "
            "function close over what is not"
        )


def ordered_leaves(
    found: Mapping[str, tuple[Any, tuple[int, ...]]],
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
) -> list[Any]:
    """Return the leaves of a tree in the order of the example, after checking their shapes.

    Parameters
    ----------
    found : mapping
        The leaf and its shape, by its path.
    shapes : mapping
        The shapes of the leaves of the example, by their paths.
    name : str
        The name of the tree in error messages.
    """
    wrong = [f"{path or 'the array'} is missing" for path in shapes if path not in found]
    wrong += [f"{path or 'an array'} is not in the example" for path in found if path not in shapes]
    wrong += [
        f"{path or 'it'} has shape {found[path][1]}, not {shape}"
        for path, shape in shapes.items()
        if path in found and found[path][1] != shape
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise ModelError(
            f"{name}: expected the structure of the example, or a vector of all its entries, but "
            f"{', '.join(wrong[:MAX_LISTED])}{more}"
        )
    return [found[path][0] for path in shapes]
