"""Errors under MPI: what one rank raises all ranks raise, and PETSc's errors become mfdeq's.

A rank that raises alone leaves the others waiting for its next message. Errors of a user's function
are therefore raised on all ranks, and an error that nothing catches aborts all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

from ..arrays.backend import host
from ..errors import MISTAKES, ArgumentError, DomainError, ModelError, is_evaluation_failure
from .ranks import Ranks

ABORT_TIMEOUT_SECONDS = 30.0  # how long a failed rank waits for the others before it aborts them
AGREED = "_mfdeq_raised_on_all_ranks"  # attribute of an error that all ranks raise together


@contextlib.contextmanager
def raise_on_all_ranks(ranks: Ranks, name: str) -> Iterator[list[str]]:
    """Context in which an exception raised on one rank is raised on all, as the same class.

    A rank that has failed waits `ABORT_TIMEOUT_SECONDS` for the others to leave the context. If one
    of them does not, because it waits there for a message that will never be sent, all ranks are
    aborted.

    Parameters
    ----------
    ranks : Ranks
    name : str
        What messages call the user's function.

    Yields
    ------
    list of str
        What is appended to it has to be the same on all ranks: the kinds of a function's results.

    Raises
    ------
    Exception
        That of the first rank that failed (mistakes first); on the other ranks its message names
        that rank. If an exception of its class cannot be made from a message alone, it is a
        `DomainError` on all ranks, and a `ModelError` for a mistake. Where all ranks have raised
        the same class, each raises its own exception.
    ModelError
        If the kinds of results differ.
    """
    kinds: list[str] = []
    if ranks.size == 1:
        yield kinds
        ranks.count_user_call()
        return
    failure: Exception | None = None
    outer, ranks.results = ranks.results, kinds
    try:
        yield kinds
    except Exception as error:
        if getattr(error, AGREED, False):
            raise  # on all ranks already
        failure = error
    except BaseException as leaving:  # SystemExit and KeyboardInterrupt must not be delayed
        abort(leaving, f"it left {name}, where the other ranks wait for it")
    finally:
        ranks.results = outer
    found = agree(ranks, failure, repr(kinds).encode())
    if found.failed:
        _raise_first(ranks, name, failure)
    if not found.equal:
        raise _agreed(_different_results(name, ranks.errors.allgather(kinds)))
    ranks.count_user_call()


@dataclass(frozen=True)
class Agreement:
    """Whether a rank has failed, and whether all ranks hold the same."""

    failed: bool
    equal: bool


def agree(ranks: Ranks, failure: Exception | None, held: bytes = b"") -> Agreement:
    """Tell all ranks whether one has failed, and whether they hold the same bytes.

    A rank that has failed waits `ABORT_TIMEOUT_SECONDS` for the others, and then aborts all.
    """
    from mpi4py import MPI

    digest = int.from_bytes(hashlib.blake2b(held, digest_size=7).digest())
    mine = host.array([failure is not None, digest, -digest], dtype="i8")
    largest = host.zeros(3, dtype="i8")
    request = ranks.errors.Iallreduce(mine, largest, op=MPI.MAX)
    if failure is None:
        request.Wait()
    else:
        deadline = time.monotonic() + ABORT_TIMEOUT_SECONDS
        while not request.Test():
            if time.monotonic() > deadline:
                abort(failure, f"the other ranks have not returned in {ABORT_TIMEOUT_SECONDS:g} s")
            time.sleep(1e-3)
    return Agreement(bool(largest[0]), bool(largest[1] == -largest[2]))


def _raise_first(ranks: Ranks, name: str, failure: Exception | None) -> None:
    """Raise the error of the first rank that failed, on all of them."""
    mine = None
    if failure is not None:
        mistake = not is_evaluation_failure(failure)
        words = f"{type(failure).__name__}: {failure}"
        own = f"{type(failure).__module__}.{type(failure).__qualname__}"
        mine = mistake, _class_for_all_ranks(type(failure)), words, own
    reports = list(enumerate(ranks.errors.allgather(mine)))
    failed = [(rank, report) for rank, report in reports if report is not None]
    rank, (_, kind, message, _) = min(failed, key=lambda entry: (not entry[1][0], entry[0]))
    same = len(failed) == ranks.size and len({own for _, (*_, own) in failed}) == 1
    if failure is not None and (same or type(failure) is kind):
        raise _agreed(failure)
    raise _agreed(kind(f"{name} failed on rank {rank} of {ranks.size}: {message}")) from failure


def _agreed(error: Exception) -> Exception:
    """Mark an error that all ranks raise together, so that they need not agree on it again."""
    with contextlib.suppress(AttributeError):
        setattr(error, AGREED, True)
    return error


def _different_results(name: str, kinds: list[list[str]]) -> ModelError:
    described = [" and ".join(kind) or "nothing" for kind in kinds]
    rank = next(r for r, words in enumerate(described) if words != described[0])
    return ModelError(
        f"{name}: expected the same kind of result on every rank, got {described[0]} on rank 0 and "
        f"{described[rank]} on rank {rank}"
    )


def _class_for_all_ranks(kind: type[Exception]) -> type[Exception]:
    """Return the class of an exception if every rank can raise it, else one of mfdeq's.

    An except clause that catches it on one rank has to catch it on all.
    """
    try:
        pickle.dumps(kind)
        kind("")
    except Exception:
        return ModelError if issubclass(kind, (*MISTAKES, ModelError)) else DomainError
    return kind


def abort(failure: BaseException, reason: str = "") -> NoReturn:
    """Print an exception of this rank with its traceback, and abort all ranks."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    trace = "".join(traceback.format_exception(failure))
    because = f": {reason}" if reason else ""
    print(f"{trace}mfdeq: rank {rank} aborts all ranks{because}", file=sys.stderr)
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(1)
    raise failure  # Abort does not return


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
