"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file beside a path, which takes its place once it is on the disk.

    Where the block or the disk fails, what was there is as it was.
    """
    path, part = os.fspath(path), _beside(path)
    try:
        with open(part, "wb") as file:
            yield file
            flushed(file)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
    with contextlib.suppress(OSError):  # where a directory is nothing to sync
        sync(os.path.dirname(path) or ".")


def try_to_write(path: Any) -> None:
    """An OSError where no file can be made in that place: before the work, not after it."""
    with open(_beside(path), "wb"):
        pass
    os.remove(_beside(path))


def _beside(path: Any) -> str:
    return f"{os.fspath(path)}.part"


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
