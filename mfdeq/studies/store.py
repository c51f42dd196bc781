"""The directory of a study: records in SQLite, and arrays in npy files beside them.

Only one process writes at a time. The arrays of a case are written to a folder of their own and
flushed to the disk before its record is committed, so every record is complete. A folder without a
record was left behind by a process that was killed; the next writer removes it. SQLite's rollback
journal is used, because its write-ahead log does not work on network file systems.

    study.sqlite      settings, sessions, records
    arrays/ab/key.1/  arrays of the first attempt at the case with that key: output.name.npy
    driver.lock       locked by the process that writes; the kernel unlocks it when that ends
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arrays.backend import host
from ..errors import StudyError
from ..files.atomic import flush_to_disk, sync_directory
from ..files.checkpoints import digest
from .cases import KEY_LENGTH, Case
from .schema import (
    APPLICATION_ID,
    COLUMNS,
    CREATE_TABLES,
    LAYOUT_VERSION,
    SAFE_PRAGMAS,
    expected_schema,
    row_digest,
    schema_of,
)
from .worker import Outcome

LOCK_ATTEMPTS = 10
LOCK_INTERVAL = 0.05  # seconds between attempts
DATABASE_TIMEOUT = 60.0  # seconds to wait for another process's lock of the database
CASE_FOLDER = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}\.[0-9]+")

# Directories that this process writes to: a lock does not exclude the process that holds it.
_locked_directories: set[str] = set()


@dataclass(frozen=True)
class FinishedCase:
    """A case with its outcome, ready to be recorded.

    Attributes
    ----------
    case : Case
    outcome : Outcome
    seed : str
        The seed of its random numbers, as JSON.
    warm : str or None
        The key of the case that its warm start came from.
    """

    case: Case
    outcome: Outcome
    seed: str
    warm: str | None


class Store:
    """Reads and writes the directory of a study.

    Parameters
    ----------
    directory : str or path
        Created, with its parents, by the first writer.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        self.path = self.directory / "study.sqlite"
        if self.directory.exists() and not self.directory.is_dir():
            raise StudyError(f"{self.directory}: expected a directory, got a file")
        if self.path.exists():
            self._check_layout()

    # Reading

    def _check_layout(self) -> None:
        with self._connect() as db:
            application = db.execute("pragma application_id").fetchone()[0]
            version = db.execute("pragma user_version").fetchone()[0]
            schema = schema_of(db)
        if version == application == 0 and not schema:
            return  # a writer was killed before it created the tables
        if application != APPLICATION_ID:
            raise StudyError(f"{self.path} is not a study of mfdeq; use another directory")
        if version != LAYOUT_VERSION:
            raise StudyError(
                f"{self.path}: expected layout {LAYOUT_VERSION}, which this version of mfdeq "
                f"reads, got layout {version}. Read it with the version that wrote it, which its "
                "sessions name, or use another directory"
            )
        if schema != expected_schema():  # views and triggers could change what is written
            raise StudyError(
                f"{self.path} has other tables than a study of mfdeq; use another directory"
            )

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # Open for writing: after a kill the next reader rolls the transaction back.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=DATABASE_TIMEOUT)) as db:
                for pragma in SAFE_PRAGMAS:
                    db.execute(pragma)
                db.text_factory = _text_or_bytes
                yield db
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise StudyError(
                f"{self.path} cannot be read: {error}. Use a copy of the directory that is not "
                "damaged, or another directory"
            ) from error

    @property
    def exists(self) -> bool:
        """Whether a study has been written to the directory."""
        return bool(self.select("pragma user_version"))

    def select(self, query: str, values: Iterable[Any] = ()) -> list[tuple]:
        """Return the rows of a query; none if nothing has been written yet."""
        if not self.path.exists():
            return []
        with self._connect() as db:
            if not db.execute("pragma user_version").fetchone()[0]:
                return []
            return db.execute(query, tuple(values)).fetchall()

    def setting(self, name: str) -> Any:
        """Return a setting written by `Writer.save_setting`, or None."""
        rows = self.select("select value from settings where name = ?", [name])
        try:
            return json.loads(rows[0][0]) if rows else None
        except (TypeError, ValueError) as error:
            raise StudyError(f"{self.path}: the setting {name!r} is damaged ({error})") from error

    def folder(self, key: str, attempt: int) -> Path:
        """Return the folder of the arrays of an attempt at a case."""
        return self.directory / "arrays" / key[:2] / f"{key}.{attempt}"

    # Writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Lock the directory for the block, and yield its only writer."""
        with contextlib.ExitStack() as stack:
            with explain_write_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._locked())
                writer = Writer(self)
                stack.callback(writer.db.close)
            yield writer

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        name = str(self.directory.resolve())
        if name in _locked_directories:  # checked before opening: closing would release the lock
            raise StudyError(f"{self.directory} is already being written by this process")
        # Locks of lockf belong to a process and are not inherited by workers that outlive it.
        # A link in a directory of someone else could lead to any file.
        with open(self.directory / "driver.lock", "a+", opener=_open_no_link) as lock:
            for left in reversed(range(LOCK_ATTEMPTS)):
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError) as error:
                    if left:  # `is_being_written` in another process holds it for an instant
                        time.sleep(LOCK_INTERVAL)
                        continue
                    lock.seek(0)
                    owner = lock.read().strip() or "another process"
                    raise StudyError(
                        f"{self.directory} is being written by {owner}: wait until it ends, or "
                        "stop it"
                    ) from error
            _locked_directories.add(name)
            try:
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
                lock.flush()
                yield
            finally:
                _locked_directories.discard(name)

    def is_being_written(self) -> bool:
        """Return whether a process is writing to the study."""
        try:
            with self._locked():
                return False
        except StudyError:
            return True
        except OSError:  # the directory is read-only
            return False


class Writer:
    """The writer of a study's directory.

    Parameters
    ----------
    store : Store
        It must be locked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.db = sqlite3.connect(store.path, timeout=DATABASE_TIMEOUT, isolation_level=None)
        for pragma in SAFE_PRAGMAS:
            self.db.execute(pragma)
        self.db.execute("pragma journal_mode = delete")
        self.db.execute("pragma synchronous = extra")  # flushes the removal of the journal, too
        if not self.db.execute("pragma user_version").fetchone()[0]:
            self.db.executescript(
                f"begin exclusive; {CREATE_TABLES} pragma application_id = {APPLICATION_ID}; "
                f"pragma user_version = {LAYOUT_VERSION}; commit;"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.db.execute("begin immediate")
        try:
            yield
            self.db.execute("commit")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("rollback")
            raise

    def save_setting(self, name: str, value: Any) -> None:
        """Write a setting, replacing an earlier one of the same name."""
        row = name, json.dumps(value)
        with explain_write_errors(self.store.directory):
            self.db.execute("insert or replace into settings values (?, ?)", row)

    def begin_session(self, started: str, planned: int, provenance: Mapping[str, Any]) -> int:
        """Write a session, and return its number for the records that belong to it."""
        row = started, planned, json.dumps(provenance)
        query = "insert into sessions (started, planned, provenance) values (?, ?, ?)"
        with explain_write_errors(self.store.directory):
            number = self.db.execute(query, row).lastrowid
        assert number is not None
        return number

    def remove_orphans(self) -> None:
        """Remove the array folders without a record that killed processes left behind."""
        with explain_write_errors(self.store.directory):
            rows = self.db.execute("select key, attempt from records").fetchall()
            recorded = {self.store.folder(*row).name for row in rows}
            for folder in (self.store.directory / "arrays").glob("*/*"):
                if folder.name not in recorded and CASE_FOLDER.fullmatch(folder.name):
                    shutil.rmtree(folder)  # raises for a link

    def remove_records(self, rows: Iterable[int]) -> None:
        """Remove records by their row numbers, so that their cases are run again."""
        with explain_write_errors(self.store.directory), self._transaction():
            self.db.executemany("delete from records where rowid = ?", [[row] for row in rows])

    def record(self, session: int, finished: Iterable[FinishedCase]) -> None:
        """Record either all of these cases or none."""
        finished = list(finished)
        with explain_write_errors(self.store.directory):
            attempts = {item.case.key: self._last_attempt(item.case.key) for item in finished}
        folders: list[Path] = []
        try:
            with explain_write_errors(self.store.directory):
                self._write(session, finished, attempts, folders)
        except BaseException:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        for key, attempt in attempts.items():
            if attempt:
                shutil.rmtree(self.store.folder(key, attempt), ignore_errors=True)

    def _write(
        self,
        session: int,
        finished: list[FinishedCase],
        attempts: dict[str, int],
        folders: list[Path],
    ) -> None:
        """Write arrays, then records; append the folders made to `folders`."""
        rows = []
        for item in finished:
            attempt = attempts[item.case.key] + 1
            folders.append(self.store.folder(item.case.key, attempt))
            rows.append(_write_arrays(session, attempt, item, folders[-1]))
        for parent in {folder.parent for folder in folders if folder.exists()}:
            sync_directory(parent)
        with self._transaction():
            marks = ", ".join("?" * len(COLUMNS.split(", ")))
            query = f"insert or replace into records ({COLUMNS}) values ({marks})"
            self.db.executemany(query, rows)

    def _last_attempt(self, key: str) -> int:
        row = self.db.execute("select attempt from records where key = ?", [key]).fetchone()
        return int(row[0]) if row else 0


def _write_arrays(session: int, attempt: int, item: FinishedCase, folder: Path) -> tuple:
    """Write the arrays of a case to the disk, and return the row of its record."""
    outcome = item.outcome
    outputs, files = {}, {f"param.{name}": array for name, array in item.case.arrays.items()}
    for name, value in outcome.outputs.items():
        if isinstance(value, host.ndarray):
            files[f"output.{name}"] = value
            value = {"array": digest(value), "shape": value.shape}
        outputs[name] = value
    if files:
        folder.mkdir(parents=True)
        for name, array in files.items():
            with open(folder / f"{name}.npy", "xb") as file:
                host.save(file, array, allow_pickle=False)
                flush_to_disk(file)
        sync_directory(folder)
    row = (
        item.case.key,
        session,
        attempt,
        outcome.status,
        item.case.text,
        json.dumps(outputs),
        outcome.error,
        outcome.traceback,
        item.seed,
        item.warm,
        outcome.started,
        outcome.seconds,
        json.dumps(outcome.worker),
    )
    return *row, row_digest(row)


def _text_or_bytes(data: bytes) -> str | bytes:
    """Return text, or bytes where it is damaged, so that the other rows can be read."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def explain_write_errors(directory: Path) -> Iterator[None]:
    """Convert errors of the disk and the database to a StudyError that says what to do."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        # numpy's error for a file that was written only in part has no error number.
        numbers = None, errno.ENOSPC, errno.EDQUOT
        full = getattr(error, "errno", 0) in numbers or "full" in str(error)
        advice = "free some space" if full else "make it writable"
        raise StudyError(
            f"{directory} cannot be written: {error}. The records so far are kept; {advice} and "
            "run the study again to compute the rest"
        ) from error
