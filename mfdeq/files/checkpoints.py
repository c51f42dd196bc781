"""Checkpoints: files from which long runs continue, and digests of the data that they depend on.

A checkpoint is an npz file of dicts, lists, plain values and arrays, written atomically and without
pickles. A run that continues from it gives the same bits as one that was never interrupted, because
both discard, at every checkpoint, what the file lacks: factors, recycled spaces and warm starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from .. import __version__
from ..arguments import count
from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..arrays.library import library_of
from ..errors import ArgumentError, CheckpointError, CheckpointWarning, short_repr, warn
from .atomic import check_writable, replace_atomically
from .npy import DamagedFileError, read_npz

FORMAT_VERSION = 4  # of checkpoint files; version 3 had no digest of the contents
HEADER = "mfdeq"  # the member that describes the others, as JSON
CONTENTS_DIGEST = "mfdeq.digest"  # the member with the digest of all others
NUMERIC_KINDS = "biufc"  # of dtypes that npy files hold without pickling
DIGEST_LENGTH = 16  # hexadecimal digits


class CheckpointStore(Protocol):
    """Reads and writes checkpoints; `ArrayLibrary.checkpoint_store` may return another one."""

    def read(self, path: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read what identifies the run of a file, and its state."""

    def write(self, path: str, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
        """Write a state, replacing the file; raise CheckpointError if that fails."""


class Checkpoint:
    """The checkpoint of one run.

    Parameters
    ----------
    path : str or PathLike
    every : int
        The number of steps of the run between two checkpoints.
    kind : str
        The kind of run, as messages name it: "a minimization", "a branch", "eigenpairs".
    of : dict
        The plain values that identify the run. It continues only from a file with the same values.
    backend : Backend
        The backend of the run's arrays. The first rank reads and writes for all.
    processes : object, optional
        The processes that run together, if the arrays do not say so since each process has them
        whole. Their ``on_first_rank(function)`` returns the result on the first one, on all.

    Attributes
    ----------
    saved : dict or None
        The state in the file, or None if there is no file.

    Raises
    ------
    CheckpointError
        If the file belongs to another run, or no file can be written there.
    """

    def __init__(
        self,
        path: Any,
        every: int,
        kind: str,
        of: dict[str, Any],
        backend: Backend,
        processes: Any = None,
    ) -> None:
        self.path, self.every, self.kind = _fspath(path), every, kind
        self.of = json.loads(json.dumps(of))
        self._last = 0
        if processes is None:
            store = backend.library.checkpoint_store(self.path, backend.device)
            on_first_rank = backend.on_first_rank
        else:
            on_first_rank = processes.on_first_rank
            store = FirstRankNpzStore(on_first_rank)
        self.store: CheckpointStore = NpzStore() if store is None else store
        self.saved: dict[str, Any] | None = None
        if on_first_rank(self._exists):
            found, self.saved = self.store.read(self.path, self.kind)
            self._check_same_run(found)

    def _exists(self) -> bool:
        """Return True if the file exists; raise CheckpointError if none can be written."""
        if os.path.lexists(self.path):
            return True
        try:
            check_writable(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error
        return False

    def _check_same_run(self, found: dict[str, Any]) -> None:
        names = [name for name in {**self.of, **found} if found.get(name) != self.of.get(name)]
        if names:
            differences = [
                f"its {name} is {short_repr(found.get(name))}, this run's is "
                f"{short_repr(self.of.get(name))}"
                for name in names
            ]
            raise other_run_error(self.path, "; ".join(differences))

    def decoding(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the saved state is decoded, whose errors are those of the file."""
        return explain_read_errors(self.path)

    def due(self, done: int, ended: bool = False) -> bool:
        """Return True if a checkpoint is due after `done` steps, or at the end of the run."""
        return done - self._last >= (1 if ended else self.every)

    def continue_from(self, done: int) -> None:
        """Count the steps to the next checkpoint from `done`, where the run has continued."""
        self._last = done

    def write(self, done: int, state: dict[str, Any]) -> None:
        """Write the state after `done` steps; warn if that fails, and go on with the run."""
        self._last = done
        try:
            self.store.write(self.path, self.kind, self.of, state)
        except CheckpointError as error:
            warn(
                f"{error}. The run continues; an earlier checkpoint in that file is unchanged",
                CheckpointWarning,
            )


def open_checkpoint(
    path: Any,
    every: Any,
    kind: str,
    of: Callable[[], dict[str, Any]],
    backend: Backend,
    processes: Any = None,
) -> Checkpoint | None:
    """Return the checkpoint of a run, or None if `path` is None on the first rank."""
    every = count(every, "checkpoint_every")
    together = backend if processes is None else processes
    path = together.on_first_rank(lambda: path)  # the ranks may have different paths
    return None if path is None else Checkpoint(path, every, kind, of(), backend, processes)


class NpzStore:
    """Reads and writes a checkpoint as one npz file, from one process."""

    def read(self, path: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read what identifies the run of a file, and its state."""
        return read_state(path, kind)

    def write(self, path: str, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
        """Write a state, replacing the file."""
        write_state(path, kind, of, state)


class FirstRankNpzStore:
    """A checkpoint as one npz file, which the first of several processes reads and writes.

    Parameters
    ----------
    on_first_rank : callable
        ``on_first_rank(function)`` returns the result on the first process, on all.
    """

    def __init__(self, on_first_rank: Callable[[Callable[[], Any]], Any]) -> None:
        self.on_first_rank = on_first_rank

    def read(self, path: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read what identifies the run of a file, and its state."""
        return self.on_first_rank(lambda: read_state(path, kind))

    def write(self, path: str, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
        """Write a state, replacing the file."""
        members = encode_on_host(kind, of, state)
        self.on_first_rank(lambda: write_members(path, *members))


def write_state(path: Any, kind: str, of: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a state of dicts, lists, plain values and arrays to a file, atomically."""
    write_members(path, *encode_on_host(kind, of, state))


def read_state(path: Any, *kinds: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what identifies the run of a file, and its state with arrays on the host."""
    path = _fspath(path)
    with explain_read_errors(path):
        arrays = read_npz(path)
        header = arrays.pop(HEADER).tobytes()
        found = arrays.pop(CONTENTS_DIGEST).tobytes() if CONTENTS_DIGEST in arrays else b""
        return decode(path, header, arrays, found.decode(), kinds)


def encode(kind: str, of: dict[str, Any], state: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the members of a file: the header as JSON, and the arrays by name."""
    arrays: dict[str, Any] = {}
    packed = _pack(state, "state", arrays)
    header = {
        "format": FORMAT_VERSION,
        "version": __version__,
        "kind": kind,
        "of": of,
        "state": packed,
    }
    return json.dumps(header).encode(), arrays


def encode_on_host(kind: str, of: dict[str, Any], state: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the members of a file with all arrays on the host."""
    header, arrays = encode(kind, of, state)
    on_host = {name: array_on_host(array) for name, array in arrays.items()}
    assert all(array.dtype.kind in NUMERIC_KINDS for array in on_host.values())
    return header, on_host


def write_members(path: Any, header: bytes, arrays: dict[str, Any]) -> None:
    """Write the members of a file, atomically."""
    path = _fspath(path)
    try:
        with replace_atomically(path) as file:
            own = {HEADER: header, CONTENTS_DIGEST: contents_digest(header, arrays).encode()}
            members: dict[str, Any] = {
                name: host.frombuffer(text, dtype="uint8") for name, text in own.items()
            }
            host.savez(file, **{**arrays, **members})
    except OSError as error:
        raise write_error(path, error) from error


def contents_digest(header: bytes, arrays: Mapping[str, Any]) -> str:
    """Return a digest of the header and all arrays of a file."""
    sha256 = hashlib.sha256(header)
    for name in sorted(arrays):
        sha256.update(f"{name} {digest(arrays[name])}".encode())
    return sha256.hexdigest()


def decode(
    path: str,
    header: bytes,
    arrays: Mapping[str, Any],
    contents: str,
    kinds: tuple[str, ...],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode what identifies the run, and the state, from a file of one of these kinds.

    `contents` is the digest in the file, with which the rest must agree.
    """
    found = json.loads(header)
    version, kind = found["format"], found["kind"]
    if version == FORMAT_VERSION and kind in kinds:
        if contents != contents_digest(header, arrays):
            raise DamagedFileError("the contents are not those that were written")
        return dict(found["of"]), dict(_unpack(found["state"], arrays))
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format {FORMAT_VERSION}, which mfdeq {__version__} reads, got "
            f"format {version}, written by mfdeq {found.get('version')}. Use the version that "
            "wrote it, or delete it to start again"
        )
    raise CheckpointError(
        f"{path}: expected a file with {' or '.join(kinds)}, got one with {kind}. Use another "
        "file, or delete it to start again"
    )


@contextlib.contextmanager
def explain_read_errors(path: str) -> Iterator[None]:
    """Convert errors of reading to CheckpointErrors that say what to do."""
    try:
        yield
    except (MemoryError, CheckpointError):
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Use another file, or delete it to start again"
        ) from error
    except Exception as error:  # from zip, npy, JSON or contents that mfdeq does not write
        raise CheckpointError(
            f"{path} is not a checkpoint of mfdeq, or a damaged one ({type(error).__name__}: "
            f"{error}). Use another file, or delete it to start again"
        ) from error


def write_error(path: str, error: OSError) -> CheckpointError:
    """Return the error for a file that cannot be written."""
    return CheckpointError(
        f"{path} cannot be written: {error}. Use a file in a directory that exists, is writable "
        "and has free space"
    )


def other_run_error(path: str, difference: str) -> CheckpointError:
    """Return the error for a file that belongs to another run."""
    return CheckpointError(
        f"{path} is a checkpoint of another run: {difference}. Use another file, or delete it to "
        "start again"
    )


def digest(*arrays: Array | None) -> str | None:
    """Return a digest of the bits of all arrays that are not None; None if there are none."""
    sha256 = hashlib.sha256()
    for array in arrays:
        if array is not None:
            fingerprint = library_of(array).fingerprint(array)
            sha256.update(f"{array.dtype} {array.shape}".encode() + fingerprint)
    return None if all(x is None for x in arrays) else sha256.hexdigest()[:DIGEST_LENGTH]


def _fspath(path: Any) -> str:
    try:
        return os.fspath(path)
    except TypeError:
        raise ArgumentError(
            f"checkpoint: expected the name of a file or None, got {short_repr(path)}"
        ) from None


def _pack(tree: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Convert a tree for JSON, moving its arrays to `arrays` by their path in the tree."""
    if isinstance(tree, dict):
        return {key: _pack(value, f"{name}.{key}", arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_pack(value, f"{name}.{i}", arrays) for i, value in enumerate(tree)]
    if not is_dense(tree):
        return tree
    if tree.ndim == 0:
        return tree.item()
    arrays[name] = tree
    return {HEADER: name}


def _unpack(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """Rebuild the tree that `_pack` converted."""
    if isinstance(tree, list):
        return [_unpack(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if HEADER in tree:
        return arrays[tree[HEADER]]
    return {key: _unpack(value, arrays) for key, value in tree.items()}
