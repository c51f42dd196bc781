"""How a program on several ranks ends: all at once on an error, and PETSc before Python."""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
import weakref
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ranks import Ranks

Place = tuple[bool, tuple[int, ...], int, int]
_made: dict[int, tuple[weakref.ref, Place]] = {}  # by their ids: PETSc's cannot be hashed


def made(x: Any, ranks: Ranks) -> None:
    """Take note of what may call Python, to be dropped at the end: on all ranks, by its place.

    Solvers go before Mats, which they hold; otherwise in the order in which all ranks made them.
    """
    key = id(x)
    place = (hasattr(x, "getDiagonal"), *ranks.place, ranks.next_number())
    _made[key] = weakref.ref(x, lambda _: _made.pop(key, None)), place


def emptied(x: Any, over: Any = sys.is_finalizing) -> None:
    """Take the context of a Mat or PC of Python out of it, whose last holder is dropping it.

    What only the context holds, PETSc would lose for ever if it let it go while it cleans up.
    """
    if not over() and x is not None and x.handle and x.getType() == "python":
        x.setPythonContext(None)


def end(failure: BaseException, why: str = "") -> None:
    """Say what was raised here, and end all ranks."""
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    words = "".join(traceback.format_exception(failure))
    print(f"{words}mfdeq: rank {rank} ends all ranks{': ' if why else ''}{why}", file=sys.stderr)
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(1)


def clean_up_at_the_end() -> None:
    """Have PETSc drop what calls Python while there still is a Python to be called."""

    def clean_up() -> None:
        PETSc = sys.modules.get("petsc4py.PETSc")
        if PETSc is None:  # which nothing has needed
            return
        gc.collect()
        here = {place: x for ref, place in _made.values() if (x := ref()) is not None}
        for place, x in here.items():  # which others may hold, too, until PETSc ends after Python
            if place[0] and x.handle and x.getType() == "python":
                x.setType("aij")
        for place in _on_all(here):
            here[place].destroy()
        del here
        gc.collect()
        PETSc.garbage_cleanup()

    atexit.register(clean_up)


def _on_all(here: dict[Place, Any]) -> list[Place]:
    """Those that all ranks of their communicators still have: destroying is done together."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    have = [set(places) for places in world.allgather(sorted(here))]
    return [place for place in sorted(here) if all(place in have[rank] for rank in place[1])]


def end_all_on_an_error() -> None:
    """Have an error that nothing catches end all ranks, of a program that runs on several.

    As ``python -m mpi4py`` has it: the others would wait for that rank for ever.
    """
    if find_spec("mpi4py") is None:
        return
    from mpi4py import MPI

    before = sys.excepthook
    if MPI.COMM_WORLD.Get_size() == 1 or getattr(before, "ends_all", False):
        return

    def hook(kind: Any, error: Any, trace: Any) -> None:
        end(error)

    hook.ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = hook
