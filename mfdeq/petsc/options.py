"""PETSc's options database, as the solvers of mfdeq.petsc read it: under a prefix.

Options on the command line take precedence over those passed as ``options={...}``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import ArgumentError
from .errors import translate_petsc_errors


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
