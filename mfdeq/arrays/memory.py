"""What cannot be held: refused before the work, split where it can be, told where it fails."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..errors import OutOfMemoryError

if TYPE_CHECKING:
    from .backend import Backend

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

SHARE = 0.25  # of the memory, for the vectors of a block
NEGLIGIBLE = 2**26  # bytes that are not asked for before


def reserve(backend: Backend, numbers: float, what: str, instead: str) -> None:
    """Refuse, before any work, what cannot be held at all.

    Parameters
    ----------
    backend : Backend
    numbers : float
        Of its dtype, that will be held at once at least.
    what, instead : str
        What holds them, and what to do.

    Raises
    ------
    OutOfMemoryError
    """
    needed = numbers * backend.itemsize
    if needed < NEGLIGIBLE:
        return  # asking costs more
    if needed > (available := backend.available_bytes()):
        raise OutOfMemoryError(
            f"{what} needs {needed / 2**30:.3g} GiB at least, and {available / 2**30:.3g} GiB "
            f"can be had: {instead}"
        )


def columns_that_fit(backend: Backend, numbers: float) -> int:
    """How many of things that hold so many numbers take a quarter of the memory; at least 1."""
    available = backend.available_bytes()
    return max(1, int(SHARE * available / (numbers * backend.itemsize)))


def translate_memory_errors(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """`function`, with an `OutOfMemoryError` for the array library's error of full memory."""

    @functools.wraps(function)
    def told(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:  # which costs nothing where nothing is raised
            return function(*args, **kwargs)
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            raise OutOfMemoryError(
                f"{error or 'memory is full'}. Try fewer columns at once, float32, an iterative "
                "solver with mfdeq.AMG() in place of a factorization, a smaller restart= of "
                "mfdeq.Krylov or basis= of mfdeq.eigsh, or free what other arrays hold"
            ) from error

    return told
