"""Memory: refuse what cannot be held before the work, split blocks to fit, translate errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import OutOfMemoryError
from .backend import Backend

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

BLOCK_SHARE = 0.25  # of the memory, for the vectors of a block
UNCHECKED_BYTES = 2**26  # requests below this are not worth checking


def reserve(backend: Backend, numbers: float, what: str, instead: str) -> None:
    """Refuse, before any work, what cannot be held in memory at all.

    Parameters
    ----------
    backend : Backend
    numbers : float
        How many numbers of the backend's dtype will be held at the same time, at least.
    what, instead : str
        What holds them, and what to do about it, for the error.

    Raises
    ------
    OutOfMemoryError
    """
    needed = numbers * backend.itemsize
    if needed < UNCHECKED_BYTES:
        return
    if needed > (available := backend.available_bytes()):
        raise OutOfMemoryError(
            f"{what} needs at least {needed / 2**30:.3g} GiB, but only {available / 2**30:.3g} "
            f"GiB are available: {instead}"
        )


def columns_that_fit(backend: Backend, numbers: float) -> int:
    """Return how many columns, of so many numbers each, fit in a quarter of the memory."""
    available = backend.available_bytes()
    return max(1, int(BLOCK_SHARE * available / (numbers * backend.itemsize)))


def translate_memory_errors(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Raise an `OutOfMemoryError` in place of the array library's own error of full memory."""

    @functools.wraps(function)
    def translated(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:  # costs nothing unless something is raised
            return function(*args, **kwargs)
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            raise OutOfMemoryError(
                f"{str(error).rstrip('.') or 'memory is full'}. Use fewer columns at once, "
                "float32, an iterative solver with mfdeq.AMG() instead of a factorization, a "
                "smaller restart= of mfdeq.Krylov or basis= of mfdeq.eigsh, or free memory that "
                "other arrays hold"
            ) from error

    return translated
