"""Atomic writes: a file is complete or absent, even if its writer is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

TEMPORARY_SUFFIX = ".part"  # of the names of files that are being written


@contextlib.contextmanager
def replace_atomically(path: Any) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces the file at a path when the block ends.

    If the block or the disk fails, the file at the path is left as it was.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
        put_in_place(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def put_in_place(path: Any) -> None:
    """Flush the temporary file of a path to the disk, then rename it to the path."""
    path = os.fspath(path)
    with open(temporary_path(path), "rb+") as file:
        flush_to_disk(file)
    os.replace(temporary_path(path), path)
    with contextlib.suppress(OSError):  # on file systems that cannot flush a directory
        sync_directory(os.path.dirname(path) or ".")


def check_writable(path: Any) -> None:
    """Raise OSError if no file can be written at a path."""
    with open(temporary_path(path), "wb"):
        pass
    os.remove(temporary_path(path))


def temporary_path(path: Any) -> str:
    """Return the name under which a file is written before it replaces the one at a path."""
    return os.fspath(path) + TEMPORARY_SUFFIX


def flush_to_disk(file: BinaryIO) -> None:
    """Flush a file from the buffers of Python and the system to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(directory: Any) -> None:
    """Flush the entries of a directory, such as renames, to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
