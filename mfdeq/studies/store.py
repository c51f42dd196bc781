"""The directory of a study: records in SQLite, arrays in npy files beside them.

Only one process writes. The arrays of a case are written to a folder of their own and brought to
the disk before its record is committed, so that a record, once there, is whole; a folder without a
record is what a kill has left, and is removed by the next writer. The journal is SQLite's older
one, which works on file systems of a network, too, as its write-ahead log does not.

    study.sqlite      settings, sessions, records
    arrays/ab/key.1/  arrays of the first attempt at the case with that key: name.npy
    driver.lock       held by the process that writes, and let go by the kernel when that ends
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arrays.backend import host
from ..errors import StudyError
from ..files.atomic import flushed, sync
from ..files.checkpoints import digest
from .cases import Case

APPLICATION = 0x6D666471  # "mfdq", of SQLite's file format
SCHEMA = 2  # 1 had no shapes
TRIES = 10  # at the lock, half a second
PATIENCE = 60.0  # seconds that a reader's lock is waited for
TABLES = """
create table settings (name text primary key, value text not null);
create table sessions (
    id integer primary key,
    started text not null,
    planned integer not null,
    provenance text not null
);
create table records (
    key text primary key,
    session integer not null references sessions,
    attempt integer not null,
    status text not null check (status in ('done', 'failed')),
    params text not null,
    outputs text not null,
    error text,
    traceback text,
    seed text not null,
    warm text,
    started text not null,
    seconds real not null,
    worker text not null
);
"""
COLUMNS = (
    "key, session, attempt, status, params, outputs, error, traceback, seed, warm, started, "
    "seconds, worker"
)

_writing: set[str] = set()  # directories, of this process, which its own lock does not keep out


@dataclass(frozen=True)
class Outcome:
    """What has become of a case, as a worker sends it.

    Attributes
    ----------
    status : {"done", "failed"}
    outputs : dict
        Numbers and words by their names, arrays on the host.
    error, traceback : str or None
        Of what failed.
    started : str
    seconds : float
    worker : dict
        The machine and process.
    """

    status: str
    outputs: dict[str, Any]
    error: str | None
    traceback: str | None
    started: str
    seconds: float
    worker: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A case with its outcome.

    Attributes
    ----------
    case : Case
    outcome : Outcome
    seed : str
    warm : str or None
        Key of the case that it was started from.
    """

    case: Case
    outcome: Outcome
    seed: str
    warm: str | None


class Store:
    """Reads and writes a study's directory.

    Parameters
    ----------
    directory : str or path
        Made, with its parents, where it is not there.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        self.path = self.directory / "study.sqlite"
        if self.directory.exists() and not self.directory.is_dir():
            raise StudyError(f"{self.directory} is a file; a directory was expected")
        if self.path.exists():
            self._check()

    # Reading.

    def _check(self) -> None:
        with self._reading() as db:
            application = db.execute("pragma application_id").fetchone()[0]
            version = db.execute("pragma user_version").fetchone()[0]
            tables = db.execute("select count(*) from sqlite_master").fetchone()[0]
        if version == application == tables == 0:
            return  # a kill between making the file and its tables
        if application != APPLICATION:
            raise StudyError(f"{self.path} is not a study of mfdeq; another directory was expected")
        if version != SCHEMA:
            raise StudyError(
                f"{self.path} has the layout {version}; this version of mfdeq reads layout "
                f"{SCHEMA}. Read it with the version that wrote it, which its sessions name, or "
                "use another directory"
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # To write, too: after a kill it is the next one to look who rolls back.
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as db:
                yield db
        except sqlite3.Error as error:
            raise StudyError(f"{self.path} cannot be read: {error}") from error

    @property
    def made(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.select("pragma user_version"))

    def select(self, query: str, values: Iterable[Any] = ()) -> list[tuple]:
        """Rows of a query; none where nothing has been written yet."""
        if not self.path.exists():
            return []
        with self._reading() as db:
            if not db.execute("pragma user_version").fetchone()[0]:
                return []
            return db.execute(query, tuple(values)).fetchall()

    def setting(self, name: str) -> Any:
        """What was set by `settle`, or None."""
        found = self.select("select value from settings where name = ?", [name])
        return json.loads(found[0][0]) if found else None

    def folder(self, key: str, attempt: int) -> Path:
        """Where the arrays of an attempt are."""
        return self.directory / "arrays" / key[:2] / f"{key}.{attempt}"

    # Writing.

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """The one writer of the directory, for as long as the block takes."""
        with contextlib.ExitStack() as stack:
            with unwritable(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._locked())
                writer = Writer(self)
                stack.callback(writer.db.close)
            yield writer

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        name = str(self.directory.resolve())
        if name in _writing:  # before the file is opened: closing it would let its lock go
            raise StudyError(f"{self.directory} is being written by this process already")
        # Locks by lockf are of a process and not inherited: workers that outlive it hold none.
        with open(self.directory / "driver.lock", "a+") as lock:
            for left in reversed(range(TRIES)):
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError) as error:
                    if left:  # by who only looks whether it is free, it is held for an instant
                        time.sleep(0.05)
                        continue
                    lock.seek(0)
                    raise StudyError(
                        f"{self.directory} is being written by {lock.read().strip() or 'another'}: "
                        "wait for its end, or stop it"
                    ) from error
            _writing.add(name)
            try:
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
                lock.flush()
                yield
            finally:
                _writing.discard(name)

    def being_written(self) -> bool:
        """Whether a process is writing."""
        try:
            with self._locked():
                return False
        except StudyError:
            return True
        except OSError:  # where one may only read
            return False


class Writer:
    """What only the one writer may do.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.db = sqlite3.connect(store.path, timeout=PATIENCE, isolation_level=None)
        self.db.execute("pragma journal_mode = delete")
        self.db.execute("pragma synchronous = extra")  # the journal's removal is on disk, too
        if not self.db.execute("pragma user_version").fetchone()[0]:
            self.db.executescript(
                f"begin exclusive; {TABLES} pragma application_id = {APPLICATION}; "
                f"pragma user_version = {SCHEMA}; commit;"
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

    def settle(self, name: str, value: Any) -> None:
        """Keep a setting."""
        row = name, json.dumps(value)
        with unwritable(self.store.directory):
            self.db.execute("insert or replace into settings values (?, ?)", row)

    def begin(self, started: str, planned: int, provenance: Mapping[str, Any]) -> int:
        """A session, which records refer to."""
        row = started, planned, json.dumps(provenance)
        query = "insert into sessions (started, planned, provenance) values (?, ?, ?)"
        with unwritable(self.store.directory):
            found = self.db.execute(query, row).lastrowid
        assert found is not None
        return found

    def tidy(self) -> None:
        """Remove folders without a record: what a kill has left."""
        kept = {
            self.store.folder(*row).name
            for row in self.db.execute("select key, attempt from records")
        }
        for folder in (self.store.directory / "arrays").glob("*/*"):
            if folder.name not in kept:
                with unwritable(self.store.directory):
                    shutil.rmtree(folder)

    def record(self, session: int, finished: Iterable[Finished]) -> None:
        """Records of some cases, all of them or none."""
        finished = list(finished)
        before = {f.case.key: self._attempt(f.case.key) for f in finished}
        folders: list[Path] = []
        try:
            with unwritable(self.store.directory):
                self._write(session, finished, before, folders)
        except BaseException:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        for key, attempt in before.items():
            if attempt:
                shutil.rmtree(self.store.folder(key, attempt), ignore_errors=True)

    def _write(
        self, session: int, finished: list[Finished], before: dict[str, int], folders: list[Path]
    ) -> None:
        rows = []
        for one in finished:
            attempt = before[one.case.key] + 1
            folders.append(self.store.folder(one.case.key, attempt))
            rows.append(_row(session, attempt, one, folders[-1]))
        for shelf in {folder.parent for folder in folders if folder.exists()}:
            sync(shelf)
        with self._transaction():
            marks = ", ".join("?" * len(COLUMNS.split(", ")))
            query = f"insert or replace into records ({COLUMNS}) values ({marks})"
            self.db.executemany(query, rows)

    def _attempt(self, key: str) -> int:
        found = self.db.execute("select attempt from records where key = ?", [key]).fetchone()
        return found[0] if found else 0


def _row(session: int, attempt: int, one: Finished, folder: Path) -> tuple:
    """A record, its arrays already on the disk."""
    outcome = one.outcome
    outputs, files = {}, {f"param.{name}": x for name, x in one.case.arrays.items()}
    for name, value in outcome.outputs.items():
        if isinstance(value, host.ndarray):
            files[f"output.{name}"] = value
            value = {"array": digest(value), "shape": value.shape}
        outputs[name] = value
    if files:
        folder.mkdir(parents=True)
        for name, x in files.items():
            with open(folder / f"{name}.npy", "xb") as file:
                host.save(file, x, allow_pickle=False)
                flushed(file)
        sync(folder)
    return (
        one.case.key,
        session,
        attempt,
        outcome.status,
        one.case.text,
        json.dumps(outputs),
        outcome.error,
        outcome.traceback,
        one.seed,
        one.warm,
        outcome.started,
        outcome.seconds,
        json.dumps(outcome.worker),
    )


@contextlib.contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Say what to do where the directory cannot be written."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        # numpy's error for a file that it could write in part only has no number.
        numbers = None, errno.ENOSPC, errno.EDQUOT
        full = getattr(error, "errno", 0) in numbers or "full" in str(error)
        advice = "make room and run it again" if full else "mend that and run it again"
        raise StudyError(
            f"{directory} cannot be written: {error}. What is recorded stays; {advice}, the rest "
            "is then computed"
        ) from error
