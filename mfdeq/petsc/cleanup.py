"""Destroying PETSc objects that call Python before Python itself ends.

Python drops objects when its garbage collector likes, PETSc destroys them collectively. Objects
that call back into Python (shell Mats, solvers with Python functions) are therefore registered
here, and an exit handler destroys on all ranks those that all ranks still have.
"""

from __future__ import annotations

import atexit
import gc
import sys
import weakref
from typing import Any

from .arrays import is_petsc
from .ranks import Ranks

# What identifies an object on every rank: whether it is a Mat (solvers, which hold Mats, sort
# first), the ranks and number of its communicator, and how many objects were made on it before.
Key = tuple[bool, tuple[int, ...], int, int]
_registry: dict[int, tuple[weakref.ref, Key]] = {}  # by id(): petsc4py's objects are not hashable


def register_for_cleanup(x: Any, ranks: Ranks) -> None:
    """Register a solver or Mat that calls Python; a collective call, in the same order on all."""
    identity = id(x)
    key = (is_petsc(x, "Mat"), *ranks.key, ranks.next_object_number())
    _registry[identity] = weakref.ref(x, lambda _: _registry.pop(identity, None)), key


def drop_python_context(x: Any, is_finalizing: Any = sys.is_finalizing) -> None:
    """Take the Python context out of a Mat or PC that its last owner is about to drop.

    PETSc leaks objects that only the context holds if it drops the context during its own cleanup.
    """
    if not is_finalizing() and x is not None and x.handle and x.getType() == "python":
        x.setPythonContext(None)


def clean_up_at_exit() -> None:
    """Have PETSc destroy the registered objects at exit, while there still is a Python to call."""
    atexit.register(_clean_up)


def _clean_up() -> None:
    PETSc = sys.modules.get("petsc4py.PETSc")
    if PETSc is None:  # nothing has been made
        return
    gc.collect()
    remaining = {key: x for ref, key in _registry.values() if (x := ref()) is not None}
    for key, x in remaining.items():
        # Others may hold this Mat until PETSc ends, which is after Python: it must not call it.
        if key[0] and x.handle and x.getType() == "python":
            x.setType("aij")
    for key in _present_on_all_ranks(remaining):
        remaining[key].destroy()
    del remaining
    gc.collect()
    PETSc.garbage_cleanup()


def _present_on_all_ranks(remaining: dict[Key, Any]) -> list[Key]:
    """Keys of objects that all ranks of their communicator still have: destroying is collective."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    present = [set(keys) for keys in world.allgather(sorted(remaining))]
    return [key for key in sorted(remaining) if all(key in present[rank] for rank in key[1])]
