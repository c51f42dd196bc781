"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

PART = ".part"  # what the name of a file that is being written ends in


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file beside a path, which takes its place once it is on the disk.

    Where the block or the disk fails, what was there is as it was.
    """
    part = beside(path)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
        put_in_place(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


def put_in_place(path: Any) -> None:
    """Bring the file beside a path to the disk, and then into its place."""
    path = os.fspath(path)
    with open(beside(path), "rb+") as file:
        flushed(file)
    os.replace(beside(path), path)
    with contextlib.suppress(OSError):  # where a directory is nothing to sync
        sync(os.path.dirname(path) or ".")


def try_to_write(path: Any) -> None:
    """An OSError where no file can be made in that place: before the work, not after it."""
    with open(beside(path), "wb"):
        pass
    os.remove(beside(path))


def beside(path: Any) -> str:
    """Where a file is written before it takes its place."""
    return os.fspath(path) + PART


def flushed(file: BinaryIO) -> None:
    """Bring what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync(folder: Any) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
