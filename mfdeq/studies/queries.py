"""Queries of a study's database: its records, their outputs and its progress."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ArgumentError, StudyError, short_repr
from .cases import check_name, checked_units
from .records import Record, Session, Status, Values
from .schema import COLUMNS, row_digest
from .store import Store

T = TypeVar("T")

NAMES = tuple(COLUMNS.split(", "))
SESSION = "started, provenance"
# Of a session, what reports show.
SHOWN, SHOWN_OF_MACHINE = ("python", "commit"), ("host", "cpus", "platform")


def read_records(store: Store) -> list[Record]:
    """Return all records, in the order in which they were made."""
    sessions = {number: session.provenance for number, session in _read_sessions(store)}
    rows = store.select(f"select {COLUMNS} from records order by rowid")
    return [_record_of(store, row, sessions) for row in rows]


@dataclass(frozen=True)
class IntactRows:
    """What the database of a study holds as it was written.

    Attributes
    ----------
    function : str or None
        The qualified name of the function; None if no case has been run, or its row is damaged.
    units : dict of str to str
    status : Status
        Of the intact records.
    records : list of Record
        Those of a damaged session have no provenance.
    sessions : list of Session
    damaged : list of str
        A message for each row that is left out.
    """

    function: str | None
    units: dict[str, str]
    status: Status
    records: list[Record]
    sessions: list[Session]
    damaged: list[str]


def read_intact_rows(store: Store) -> IntactRows:
    """Return what can be read of a study, with a message for each row that is damaged."""
    damaged: list[str] = []

    def read(function: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return function(store, *arguments)
        except StudyError as error:
            damaged.append(str(error))
            return None

    sessions: dict[int, Session | None] = {}
    planned = 0
    query = f"select id, planned, {SESSION} from sessions order by id"
    for number, cases, *session in store.select(query):
        sessions[number] = read(_session_of, number, session)
        planned = cases if isinstance(cases, int) else planned
    provenances = {n: {} if x is None else x.provenance for n, x in sessions.items()}
    records = []
    for row in store.select(f"select {COLUMNS} from records order by rowid"):
        record = read(_record_of, row, provenances)
        records += [] if record is None else [record]
    done = sum(record.status == "done" for record in records)
    status = Status(
        done=done,
        failed=len(records) - done,
        planned=planned,
        running=store.is_being_written(),
        seconds=sum(record.seconds for record in records),
    )
    return IntactRows(
        function=read(Store.setting, "function"),
        units=read(read_units) or {},
        status=status,
        records=records,
        sessions=[session for session in sessions.values() if session is not None],
        damaged=damaged,
    )


def damaged_rows(store: Store) -> list[int]:
    """Return the row numbers of the records that are not as they were written."""
    rows = store.select(f"select rowid, {COLUMNS} from records")
    return [number for number, *row in rows if not _is_intact(row)]


def _is_intact(row: Any) -> bool:
    try:
        return row_digest(row[:-1]) == row[-1]
    except TypeError:  # bytes, which mfdeq does not write
        return False


def _record_of(store: Store, row: tuple, sessions: dict[int, Any]) -> Record:
    found = _checked(store, row)
    with _explain_damage(store, f"the record of case {found['key']}"):
        return Record(
            key=found["key"],
            params=_values(store, found, "param"),
            status=found["status"],
            error=found["error"],
            traceback=found["traceback"],
            seed=json.loads(found["seed"]),
            warm=found["warm"],
            started=found["started"],
            seconds=found["seconds"],
            worker=json.loads(found["worker"]),
            provenance=sessions[found["session"]],
            _outputs=_values(store, found, "output"),
        )


def _checked(store: Store, row: tuple) -> dict[str, Any]:
    """Return a row of the records by the names of its columns, if it is intact."""
    if not _is_intact(row):
        raise _damage(store, f"the record of case {row[0]!r}", "it is not what was written")
    return dict(zip(NAMES, row, strict=True))


def _values(store: Store, row: dict[str, Any], kind: str) -> Values:
    """Return the parameters or the outputs in a row, whose names become those of files."""
    values = json.loads(row[f"{kind}s"])
    for name in values:
        check_name(name, f"name of the {kind}")
    return Values(values, store.folder(row["key"], row["attempt"]), kind)


def read_outputs(store: Store, key: str) -> Values:
    """Return the outputs of the case with a key, without reading other records."""
    rows = store.select(f"select {COLUMNS} from records where key = ?", [key])
    if not rows:
        raise ArgumentError(f"key: expected the key of a record, got {key!r}")
    found = _checked(store, rows[0])
    with _explain_damage(store, f"the record of case {key}"):
        return _values(store, found, "output")


def read_status(store: Store) -> Status:
    """Return how many cases are done, failed and left."""
    rows = store.select("select status, count(*), sum(seconds) from records group by status")
    counts = {status: n for status, n, _ in rows}
    planned = store.select("select planned from sessions order by id desc limit 1")
    with _explain_damage(store, "its records"):
        return Status(
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            planned=int(planned[0][0]) if planned else 0,
            running=store.is_being_written(),
            seconds=sum(float(seconds) for _, _, seconds in rows),
        )


def read_sessions(store: Store) -> list[Session]:
    """Return one session for each call of `Study.map`, in their order."""
    return [session for _, session in _read_sessions(store)]


def read_units(store: Store) -> dict[str, str]:
    """Return the units of parameters and outputs by their names."""
    units = store.setting("units")
    with _explain_damage(store, "the setting 'units'"):
        return {} if units is None else checked_units(units)


def _read_sessions(store: Store) -> list[tuple[int, Session]]:
    rows = store.select(f"select id, {SESSION} from sessions order by id")
    return [(number, _session_of(store, number, row)) for number, *row in rows]


def _session_of(store: Store, number: int, row: list[str]) -> Session:
    started, provenance = row
    with _explain_damage(store, f"session {number}"):
        return Session(str(started), _provenance(provenance))


def _provenance(text: str) -> dict[str, Any]:
    """Return the provenance in JSON, with at least what reports show."""
    found = json.loads(text)
    parts = (found, SHOWN), (found["packages"], ()), (found["machine"], SHOWN_OF_MACHINE)
    for part, names in parts:
        if not isinstance(part, dict) or not part.keys() >= set(names):
            raise ValueError(f"expected {', '.join(names) or 'versions'}, got {short_repr(part)}")
    return found


@contextlib.contextmanager
def _explain_damage(store: Store, what: str) -> Iterator[None]:
    """Convert errors of values that mfdeq does not write to a StudyError."""
    try:
        yield
    except (ArgumentError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damage(store, what, f"{type(error).__name__}: {error}") from error


def _damage(store: Store, what: str, why: str) -> StudyError:
    return StudyError(
        f"{store.path}: {what} cannot be read, because it is damaged ({why}). "
        "study.map(..., retry=True) computes damaged cases again; or use another directory"
    )
