"""Checks of available memory, block sizes that fit in it, and translation of memory errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import OutOfMemoryError, was_raised_by_user
from .backend import Backend

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

BLOCK_SHARE = 0.25  # share of the memory for the vectors of a block
UNCHECKED_BYTES = 2**26  # requests below this are not checked
ADVICE = (
    "Use fewer columns at once, float32, an iterative solver with mfdeq.AMG() instead of a "
    "factorization, or a smaller restart= of mfdeq.Krylov or basis= of mfdeq.eigsh, or free other "
    "arrays"
)


def reserve(backend: Backend, numbers: float, what: str, instead: str) -> None:
    """Raise an error if a computation needs more memory than is available.

    No memory is allocated.

    Parameters
    ----------
    backend : Backend
    numbers : float
        A lower bound on the count of numbers of the backend's dtype in memory at the same time.
    what, instead : str
        The computation, and advice on how to avoid it, for the error message.

    Raises
    ------
    OutOfMemoryError
        If the numbers do not fit in the available memory.
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
    """Return how many columns of `numbers` entries each fit in a quarter of the memory."""
    available = backend.available_bytes()
    return max(1, int(BLOCK_SHARE * available / (numbers * backend.itemsize)))


def translate_memory_errors(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Decorate a function to raise `OutOfMemoryError` for a memory error of the array library.

    One that was raised in a user's function propagates as it is, with the advice in a note.
    """

    @functools.wraps(function)
    def translated(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            if was_raised_by_user(error):
                if ADVICE not in error.__notes__:
                    error.add_note(ADVICE)
                raise
            message = str(error).rstrip(".") or "memory is full"
            raise OutOfMemoryError(f"{message}. {ADVICE}") from error

    return translated
