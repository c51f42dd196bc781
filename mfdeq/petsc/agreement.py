"""Errors on one rank that become errors on all, where the others would wait for it for ever."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..arrays.backend import host
from ..errors import ModelError
from .cleanup import end

if TYPE_CHECKING:
    from .ranks import Ranks

PATIENCE = 30.0  # seconds that a rank which has failed waits for the others, before it ends them


@contextlib.contextmanager
def together(ranks: Ranks, name: str) -> Iterator[None]:
    """What a user's function raises on one rank is raised on all, as the same class.

    A rank that has failed waits `PATIENCE` for the others to come back from the function. Where one
    does not, since it waits there for a message that will never be sent, all are ended.

    Parameters
    ----------
    ranks : Ranks
    name : str
        What the function is called.

    Raises
    ------
    Exception
        Of the first rank that failed, with the rank and the message on the others. A `ModelError`
        on all, where an error of its class cannot be made of a message.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if ranks.size == 1:
            raise
        failure = error
    except BaseException as leaving:  # SystemExit, KeyboardInterrupt: which nothing is to hold up
        if ranks.size > 1:
            end(leaving, f"it left {name}, where the others wait for it")
        raise
    if ranks.size == 1 or not _anywhere(ranks, failure):
        ranks.called()
        return
    told = None
    if failure is not None:
        told = _raisable(type(failure)), f"{type(failure).__name__}: {failure}"
    rank, (kind, message) = next(
        (r, found) for r, found in enumerate(ranks.errors.allgather(told)) if found is not None
    )
    if failure is not None and type(failure) is kind:
        raise failure
    raise kind(f"{name} failed on rank {rank} of {ranks.size}: {message}") from failure


def _raisable(kind: type[Exception]) -> type[Exception]:
    """A class of errors if all ranks can raise it: what catches one must catch it on all."""
    try:
        pickle.dumps(kind)
        kind("")
    except Exception:
        return ModelError
    return kind


def _anywhere(ranks: Ranks, failure: Exception | None) -> bool:
    """Whether a rank has failed."""
    from mpi4py import MPI

    mine, found = host.array([failure is not None], dtype="i4"), host.zeros(1, dtype="i4")
    request = ranks.errors.Iallreduce(mine, found, op=MPI.MAX)
    if failure is None:
        request.Wait()
        return bool(found[0])
    deadline = time.monotonic() + PATIENCE
    while not request.Test():
        if time.monotonic() > deadline:
            end(failure, f"the others have not come back in {PATIENCE:g} s")
        time.sleep(1e-3)
    return True
