"""A file that a long run continues from: arrays and plain values, whole or not at all.

It is an npz without pickles, written beside its place and moved there once it is on the disk. Bit
for bit the run that continues from it is the one that was never interrupted, because both drop
there what is not in the file: factors, recycled spaces, warm starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .. import __version__
from ..arguments import count
from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..arrays.library import library_of
from ..errors import ArgumentError, CheckpointError, CheckpointWarning, warn
from .atomic import check_writable, replace_atomically

FORMAT = 2  # of what is in a file; a reader of one does not read another
HEAD = "mfdeq"  # the member that says what the others are, JSON
PLAIN = "biufc"  # kinds of numbers, which nothing pickles
DIGITS = 16  # of a digest


class Checkpoint:
    """The file of one run.

    Parameters
    ----------
    path : str or PathLike
    every : int
        Steps of the run from one writing to the next.
    kind : str
        What sort of run.
    of : dict
        What must be the same for it to be the same run, as plain values.
    backend : Backend
        Of the run's arrays. Of distributed ones, the first rank reads and writes for all.

    Attributes
    ----------
    saved : dict or None
        What a file that is there holds.

    Raises
    ------
    CheckpointError
        Where the file is none of this run, or none can be written there.
    """

    def __init__(
        self, path: Any, every: int, kind: str, of: dict[str, Any], backend: Backend
    ) -> None:
        self.path, self.every, self.kind, self.backend = _path(path), every, kind, backend
        self.of = json.loads(json.dumps(of))
        self._last = 0
        store = backend.library.checkpoint_store(self.path, backend.device)
        self.store: Any = NpzStore() if store is None else store
        self.saved: dict[str, Any] | None = None
        if backend.on_first_rank(self._is_there):
            found, self.saved = self.store.read(self.path, self.kind)
            self._check(found)

    def _is_there(self) -> bool:
        if os.path.lexists(self.path):
            return True
        try:
            check_writable(self.path)
        except OSError as error:
            raise unwritten(self.path, error) from error
        return False

    def _check(self, found: dict[str, Any]) -> None:
        differ = [name for name in {**self.of, **found} if found.get(name) != self.of.get(name)]
        if differ:
            told = [f"its {x} is {found.get(x)}, and {self.of.get(x)} came" for x in differ]
            raise other_run(self.path, "; ".join(told))

    def due(self, done: int, ended: bool = False) -> bool:
        """Whether so many steps are `every` beyond those of the last writing, at the end one."""
        return done - self._last >= (1 if ended else self.every)

    def went_on(self, done: int) -> None:
        """Take note of a run that continues after so many steps."""
        self._last = done

    def write(self, done: int, state: dict[str, Any]) -> None:
        """Write what there is after so many steps; where the disk refuses, warn and go on."""
        self._last = done
        try:
            self.store.write(self.path, self.kind, self.of, state)
        except CheckpointError as error:
            warn(
                f"{error}. The run goes on, and the last checkpoint, if there is one, is as it was",
                CheckpointWarning,
            )


def opened(
    path: Any, every: Any, kind: str, of: Callable[[], dict[str, Any]], backend: Backend
) -> Checkpoint | None:
    """The checkpoint that a caller names, or None."""
    every = count(every, "checkpoint_every")
    path = backend.on_first_rank(lambda: path)  # a folder of its own each rank may have made
    return None if path is None else Checkpoint(path, every, kind, of(), backend)


class NpzStore:
    """Reads and writes a checkpoint as one npz file, from one process."""

    def read(self, path: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the file says that it is of, and its state."""
        return read(path, kind)

    def write(self, path: str, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
        """Replace the file by one that holds a state."""
        write(path, kind, of, state)


def write(path: Any, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
    """Put a state of dicts, lists, plain values and arrays in the place of what is there."""
    put(path, *members_of(kind, of, state))


def members_of(kind: str, of: dict[str, Any], state: Any) -> tuple[bytes, dict[str, Any]]:
    """What a file holds: what it is, as JSON, and arrays on the host by their names."""
    head, arrays = headed(kind, of, state)
    on_host = {name: array_on_host(x) for name, x in arrays.items()}
    assert all(x.dtype.kind in PLAIN for x in on_host.values())
    return head, on_host


def headed(kind: str, of: dict[str, Any], state: Any) -> tuple[bytes, dict[str, Any]]:
    """The same with arrays as they are."""
    arrays: dict[str, Any] = {}
    packed = _packed(state, "state", arrays)
    head = {"format": FORMAT, "version": __version__, "kind": kind, "of": of, "state": packed}
    return json.dumps(head).encode(), arrays


def put(path: Any, head: bytes, arrays: dict[str, Any]) -> None:
    """Write the members of a file."""
    path = _path(path)
    try:
        with replace_atomically(path) as file:
            members = {**arrays, HEAD: host.frombuffer(head, dtype="uint8")}
            host.savez(file, **members)
    except OSError as error:
        raise unwritten(path, error) from error


def read(path: Any, *kinds: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says that it is of, and its state with arrays on the host."""
    path = _path(path)
    with reading(path), open(path, "rb") as file, host.load(file, allow_pickle=False) as members:
        return taken(path, bytes(members[HEAD]), members, kinds)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """A reading of a file, whose errors say what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Name a file that can, or delete it to start anew"
        ) from error
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # whatever zip, npy and JSON make of other bytes
        raise CheckpointError(
            f"{path} is no checkpoint of mfdeq, or a damaged one ({type(error).__name__}): name "
            "another file, or delete it to start anew"
        ) from error


def taken(
    path: str, head: bytes, arrays: Mapping[str, Any], kinds: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says that it is of, and its state, if it is one of the kinds."""
    found = json.loads(head)
    form, kind = found["format"], found["kind"]
    if form == FORMAT and kind in kinds:
        return found["of"], _unpacked(found["state"], arrays)
    if form != FORMAT:
        raise CheckpointError(
            f"{path} is of format {form}, written by mfdeq {found.get('version')}; this is mfdeq "
            f"{__version__}, which reads format {FORMAT}: continue with the version that wrote it, "
            "or delete it to start anew"
        )
    raise CheckpointError(
        f"{path} holds {kind}; {' or '.join(kinds)} was expected: name another file, or delete it "
        "to start anew"
    )


def unwritten(path: str, error: OSError) -> CheckpointError:
    """The error for a file that cannot be written."""
    return CheckpointError(
        f"{path} cannot be written: {error}. Name a file in a directory that exists, may be "
        "written to and has room"
    )


def other_run(path: str, how: str) -> CheckpointError:
    """The error for a file that is of another run."""
    return CheckpointError(
        f"{path} is a checkpoint of another run: {how}. Name another file, or delete it to start "
        "anew"
    )


def digest(*arrays: Array | None) -> str | None:
    """A name for the bits of arrays; None where there are none."""
    found = hashlib.sha256()
    for x in arrays:
        if x is not None:
            found.update(f"{x.dtype} {x.shape}".encode() + library_of(x).fingerprint(x))
    return None if all(x is None for x in arrays) else found.hexdigest()[:DIGITS]


def _path(path: Any) -> str:
    try:
        return os.fspath(path)
    except TypeError:
        raise ArgumentError(
            f"checkpoint is {path!r}; the name of a file, or None, was expected"
        ) from None


def _packed(tree: Any, name: str, arrays: dict[str, Any]) -> Any:
    """The tree as JSON takes it, its arrays put under names."""
    if isinstance(tree, dict):
        return {key: _packed(value, f"{name}.{key}", arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_packed(value, f"{name}.{i}", arrays) for i, value in enumerate(tree)]
    if not is_dense(tree):
        return tree
    if tree.ndim == 0:
        return tree.item()
    arrays[name] = tree
    return {HEAD: name}


def _unpacked(tree: Any, arrays: Any) -> Any:
    if isinstance(tree, list):
        return [_unpacked(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if HEAD in tree:
        return arrays[tree[HEAD]]
    return {key: _unpacked(value, arrays) for key, value in tree.items()}
