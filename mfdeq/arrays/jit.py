"""Compilation of loops by numba, an optional package (the extra ``fast``).

Import a module with compiled functions only where they are called, and after `pays` or
`pays_for_rows` has returned True: it imports numba, which takes half a second.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

# "0" computes without compiled loops; "always" uses them for arrays of any size, as the tests do.
VARIABLE = "MFDEQ_COMPILED"
# Sparse matrices with fewer entries, and vectors with fewer, do not pay for the import of numba and
# for handing parts over to other threads.
MIN_ENTRIES, MIN_ROWS = 200_000, 50_000
# Sums may be reordered, which vectorizes them, and a b + c be rounded once. NaN and infinity stay.
FAST_SUMS = {"reassoc", "contract"}


@functools.cache
def is_available() -> bool:
    """Return whether numba is installed, and not switched off by ``MFDEQ_COMPILED=0``.

    This does not import it, so that it does not say whether it can be imported: see `pays`.
    """
    return os.environ.get(VARIABLE) != "0" and importlib.util.find_spec("numba") is not None


@functools.cache
def min_entries() -> int:
    """Return the number of entries of a sparse matrix from which on compiled loops pay."""
    return 0 if os.environ.get(VARIABLE) == "always" else MIN_ENTRIES


@functools.cache
def min_rows() -> int:
    """Return the number of rows of a vector or block from which on compiled loops pay."""
    return 0 if os.environ.get(VARIABLE) == "always" else MIN_ROWS


def pays(entries: int) -> bool:
    """Return whether loops over a sparse matrix with so many entries are to be compiled."""
    return entries >= min_entries() and is_available() and _is_usable()


def pays_for_rows(rows: int) -> bool:
    """Return whether loops over vectors or blocks with so many rows are to be compiled."""
    return rows >= min_rows() and is_available() and _is_usable()


@functools.cache
def _is_usable() -> bool:
    """Import numba; return False, after a warning, if it does not support this numpy or Python."""
    try:
        importlib.import_module("numba")
    except ImportError as error:
        warnings.warn(
            f"numba cannot be imported ({error}): mfdeq computes without compiled loops. Install "
            "another version of it, or set MFDEQ_COMPILED=0",
            RuntimeWarning,
            stacklevel=4,
        )
        return False
    return True


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function by numba, without Python's global lock, and keep it between runs."""
    import numba

    if function is None:
        return functools.partial(njit, **options)
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        return numba.njit(**options, cache=True)(function)
    except RuntimeError:  # no folder for it can be written
        return numba.njit(**options)(function)
