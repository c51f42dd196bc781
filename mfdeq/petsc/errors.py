"""Errors under MPI: what one rank raises all ranks raise, and PETSc's errors become mfdeq's.

A rank that raises alone leaves the others waiting for its next message. Errors of a user's function
are therefore raised on all ranks, and an error that nothing catches aborts all of them.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from ..arrays.backend import host
from ..errors import ArgumentError, ModelError
from .ranks import Ranks

ABORT_TIMEOUT_SECONDS = 30.0  # how long a failed rank waits for the others before it aborts them


@contextlib.contextmanager
def raise_on_all_ranks(ranks: Ranks, name: str) -> Iterator[None]:
    """Context in which an exception raised on one rank is raised on all, as the same class.

    A rank that has failed waits `ABORT_TIMEOUT_SECONDS` for the others to return from the function.
    If one of them does not, because it waits there for a message that will never be sent, all ranks
    are aborted.

    Parameters
    ----------
    ranks : Ranks
    name : str
        What messages call the user's function.

    Raises
    ------
    Exception
        That of the first rank that failed; on the other ranks its message names that rank. It is a
        `ModelError` on all ranks if an exception of its class cannot be made from a message alone.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if ranks.size == 1:
            raise
        failure = error
    except BaseException as leaving:  # SystemExit and KeyboardInterrupt must not be delayed
        if ranks.size > 1:
            abort(leaving, f"it left {name}, where the other ranks wait for it")
        raise
    if ranks.size == 1 or not _any_rank_failed(ranks, failure):
        ranks.count_user_call()
        return
    mine = None
    if failure is not None:
        mine = _class_for_all_ranks(type(failure)), f"{type(failure).__name__}: {failure}"
    rank, (kind, message) = next(
        (r, report) for r, report in enumerate(ranks.errors.allgather(mine)) if report is not None
    )
    if failure is not None and type(failure) is kind:
        raise failure
    raise kind(f"{name} failed on rank {rank} of {ranks.size}: {message}") from failure


def _class_for_all_ranks(kind: type[Exception]) -> type[Exception]:
    """Return the class of an exception if every rank can raise it, else `ModelError`.

    An except clause that catches it on one rank has to catch it on all.
    """
    try:
        pickle.dumps(kind)
        kind("")
    except Exception:
        return ModelError
    return kind


def _any_rank_failed(ranks: Ranks, failure: Exception | None) -> bool:
    """Tell whether some rank has failed; abort all if a failed rank waits too long for the rest."""
    from mpi4py import MPI

    mine, result = host.array([failure is not None], dtype="i4"), host.zeros(1, dtype="i4")
    request = ranks.errors.Iallreduce(mine, result, op=MPI.MAX)
    if failure is None:
        request.Wait()
        return bool(result[0])
    deadline = time.monotonic() + ABORT_TIMEOUT_SECONDS
    while not request.Test():
        if time.monotonic() > deadline:
            abort(failure, f"the other ranks have not returned in {ABORT_TIMEOUT_SECONDS:g} s")
        time.sleep(1e-3)
    return True


def abort(failure: BaseException, reason: str = "") -> None:
    """Print an exception of this rank with its traceback, and abort all ranks."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    trace = "".join(traceback.format_exception(failure))
    because = f": {reason}" if reason else ""
    print(f"{trace}mfdeq: rank {rank} aborts all ranks{because}", file=sys.stderr)
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(1)


def abort_on_uncaught_errors() -> None:
    """Abort all ranks of a parallel program on an exception that nothing catches.

    ``python -m mpi4py`` does the same: without it the other ranks would wait forever.
    """
    if find_spec("mpi4py") is None:
        return
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_size() != 1:  # the mocked MPI of a documentation build has no order
        sys.excepthook = _abort_hook


def _abort_hook(kind: Any, error: Any, trace: Any) -> None:
    abort(error)


def last_line(error: Exception) -> str:
    """Return the last line of a PETSc error: what went wrong, without PETSc's own traceback."""
    return str(error).strip().splitlines()[-1].removeprefix("[0] ")


@contextlib.contextmanager
def translate_petsc_errors(what: str) -> Iterator[None]:
    """Context that raises an `ArgumentError` for PETSc's errors, which all ranks raise together."""
    from petsc4py import PETSc

    try:
        yield
    except PETSc.Error as error:
        raise ArgumentError(f"{what}: {last_line(error)}") from error


def reason_name(solver: Any, reason: int) -> str:
    """Return the name of a converged reason of a PETSc or SLEPc solver class, with its prefix."""
    known = vars(solver.ConvergedReason)
    names = [name for name, value in known.items() if value == reason and not name.startswith("_")]
    name = max(names, key=len, default=str(reason))
    if name.startswith(("CONVERGED", "DIVERGED")):
        return name
    return f"CONVERGED_{name}" if reason > 0 else f"DIVERGED_{name}"
