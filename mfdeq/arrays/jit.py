"""Compilation of loops by numba, an optional package (the extra ``fast``).

Import a module with compiled functions only where they are called, and after `is_available` has
returned True: it imports numba, which takes half a second.
"""

from __future__ import annotations

import functools
import importlib.util
import os
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
    """Return whether numba is installed, and not switched off by ``MFDEQ_COMPILED=0``."""
    return os.environ.get(VARIABLE) != "0" and importlib.util.find_spec("numba") is not None


@functools.cache
def min_entries() -> int:
    """Return the number of entries of a sparse matrix from which on compiled loops pay."""
    return 0 if os.environ.get(VARIABLE) == "always" else MIN_ENTRIES


@functools.cache
def min_rows() -> int:
    """Return the number of rows of a vector or block from which on compiled loops pay."""
    return 0 if os.environ.get(VARIABLE) == "always" else MIN_ROWS


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function by numba, without Python's global lock, and keep it between runs."""
    import numba

    usual = {"nogil": True, "cache": True, "error_model": "numpy"}
    return (
        numba.njit(**{**usual, **options})(function)
        if function
        else functools.partial(njit, **options)
    )
