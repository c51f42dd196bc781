"""Import of optional packages."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ArgumentError


def import_optional(module: str, extra: str) -> Any:
    """Import a module of an optional package, or raise an error that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ArgumentError(
            f"cannot import {module} ({error}): install mfdeq[{extra}], or in a clone run "
            f'pip install -e ".[{extra}]"'
        ) from error
