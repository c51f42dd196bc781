"""PETSc's options database, as the solvers of mfdeq.petsc read it: under a prefix.

Options on the command line take precedence over those passed as ``options={...}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

from ..errors import ArgumentError, warn
from .errors import translate_petsc_errors
from .ranks import Ranks

# First words of options that other solvers with the same prefix read, or read later.
OTHER_SOLVERS = ("snes_", "tao_", "eps_", "st_")


class OptionsWarning(UserWarning):
    """Issued if PETSc does not read an option: its name is mistyped, or does nothing here.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq.petsc
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.petsc.OptionsWarning)  # raise it instead
    """


@contextlib.contextmanager
def temporary_options(prefix: str, options: dict[str, Any] | None) -> Iterator[Any]:
    """Context in which PETSc's database also has `options`, where it does not set them already.

    They are removed afterwards: otherwise the next solver with this prefix would read them as if
    they were on the command line. Yields the ``PETSc.Options`` of the prefix.
    """
    from petsc4py import PETSc

    options = {} if options is None else options
    check_options(prefix, options)
    database = PETSc.Options(prefix)
    added = [name for name in options if not database.hasName(name)]
    for name in added:
        database[name] = options[name]
    try:
        yield database
    finally:
        for name in added:
            database.delValue(name)


def warn_of_unused_options(
    ranks: Ranks, prefix: str, options: dict[str, Any] | None, kinds: tuple[str, ...] = ()
) -> None:
    """Warn of options that PETSc has not read, by name; call it within `temporary_options`.

    Parameters
    ----------
    ranks : Ranks
        Options that one of them has read are used.
    prefix, options
        As in `temporary_options`.
    kinds : tuple of str, optional
        First words of the options that only this kind of solver reads, such as "snes_". Those of
        other kinds are left to them.
    """
    others = tuple(kind for kind in OTHER_SOLVERS if kind not in kinds)
    names = sorted(name for name in options or {} if not name.startswith(others))
    used = [is_used(prefix + name) for name in names]
    if names and ranks.size > 1:
        used = [any(column) for column in zip(*ranks.mpi.allgather(used), strict=True)]
    unused = [name for name, read in zip(names, used, strict=True) if not read]
    if unused:
        warn(
            f"PETSc reads no option {', '.join(f'-{prefix}{name}' for name in unused)}: expected "
            "names of the solver and preconditioner in use, got a mistyped one or one of another "
            "kind. See them all with -help, or leave it out",
            OptionsWarning,
        )


def is_used(name: str) -> bool:
    """Tell whether PETSc has read an option, by its name with the prefix."""
    from petsc4py import PETSc

    if hasattr(PETSc.Options, "used"):
        return PETSc.Options().used(name)
    used = ctypes.c_int(0)
    _petsc_library().PetscOptionsUsed(None, f"-{name}".encode(), ctypes.byref(used))
    if not used.value:  # without the dash, as some versions store names
        _petsc_library().PetscOptionsUsed(None, name.encode(), ctypes.byref(used))
    return bool(used.value)


@functools.cache
def _petsc_library() -> Any:
    """Return PETSc's library, for what older versions of petsc4py do not wrap."""
    from petsc4py import PETSc

    return ctypes.CDLL(PETSc.__file__)


def check_options(prefix: str, options: Any) -> None:
    """Raise an `ArgumentError` for options that PETSc would not find in its database."""
    wrong = [options]
    if isinstance(options, dict):
        wrong = [name for name in options if str(name).startswith(("-", prefix or "-"))]
    if wrong:
        raise ArgumentError(
            "options: expected a dict of names without the dash and the prefix "
            f"{prefix!r}, such as {{'pc_type': 'gamg'}}; got {wrong[0]!r}"
        )


def set_from_options(solver: Any, prefix: str) -> None:
    """Let a PETSc or SLEPc solver read its options, and raise an `ArgumentError` for wrong ones."""
    with translate_petsc_errors(f"PETSc refuses an option of -{prefix}"):
        solver.setFromOptions()
