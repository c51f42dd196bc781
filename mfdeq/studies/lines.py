"""On which line of a TOML file a key is, which Python's parser does not say."""

from __future__ import annotations

import itertools
import re
import tomllib
from typing import Any


def line_of(text: str, key: str) -> int | None:
    """The line on which a dotted key is, or the nearest one above it is."""
    wanted = key.split(".")
    best, line = 0, None
    for number, path in keys(text):
        shared = _shared(path, wanted)
        if shared == len(path) and shared > best:
            best, line = shared, number
    return line


def keys(text: str) -> list[tuple[int, list[str]]]:
    """The lines that begin with a key or name a table, with the whole key."""
    found, table = [], []
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+(.*?)\]+\s*(#.*)?$", line)
        if header and (path := _path(header[1])):
            table = path
            found.append((number, table))
        elif path := _line_key(line):
            found.append((number, table + path))
    return found


def _line_key(line: str) -> list[str]:
    """The key that a line begins with, without the table that it is in."""
    head = re.match(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*'|\s*\.\s*)+)\s*=""", line)
    return _path(head[1]) if head else []


def _path(written: str) -> list[str]:
    """The parts of a key, those in quotes with dots inside taken apart, too."""
    try:
        table = tomllib.loads(f"{written} = 0")
    except tomllib.TOMLDecodeError:
        return []
    path: list[str] = []
    inner: Any = table
    while isinstance(inner, dict):
        ((key, inner),) = inner.items()
        path += key.split(".")
    return path


def _shared(path: list[str], wanted: list[str]) -> int:
    return sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(path, wanted, strict=False)
        )
    )
