"""How a program on several ranks ends: all at once on an error, and PETSc before Python."""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
import weakref
from importlib.util import find_spec
from typing import Any

# What may call Python, in the order in which it has to go: solvers hold Mats. By their ids, for
# PETSc's objects cannot be hashed.
SOLVERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
MATS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


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
        for mat in MATS.values():  # which others may hold, too, until PETSc ends after Python
            if mat.handle and mat.getType() == "python":
                mat.setType("aij")
        for made in (*SOLVERS.values(), *MATS.values()):
            made.destroy()
        gc.collect()
        PETSc.garbage_cleanup()

    atexit.register(clean_up)


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
