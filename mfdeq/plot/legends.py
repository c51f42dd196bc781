"""What is drawn, by its names: one thing, or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError


def by_name(given: Any, kind: type, name: str, source: str, label: str | None = None) -> list[Any]:
    """Pairs of a name, or None, and what it is of: of one, or of a mapping of them."""
    pairs = list(given.items()) if isinstance(given, Mapping) else [(label, given)]
    if not pairs:
        raise ArgumentError(
            f"{name} is an empty mapping; one or more {kind.__name__} were expected"
        )
    for _, one in pairs:
        if not isinstance(one, kind):
            raise ArgumentError(
                f"{name} is a {type(one).__name__}; what {source} returns was expected"
            )
    return pairs
