"""Queries of a study's database: its records, their outputs and its progress."""

from __future__ import annotations

import json
from typing import Any

from ..errors import ArgumentError
from .records import Record, Session, Status, Values
from .store import COLUMNS, Store


def read_records(store: Store) -> list[Record]:
    """Return all records, in the order in which they were made."""
    sessions = {
        number: json.loads(text)
        for number, text in store.select("select id, provenance from sessions")
    }
    columns = COLUMNS.split(", ")
    rows = store.select(f"select {COLUMNS} from records order by rowid")
    return [_record_of(store, dict(zip(columns, row, strict=True)), sessions) for row in rows]


def _record_of(store: Store, row: dict[str, Any], sessions: dict[int, Any]) -> Record:
    folder = store.folder(row["key"], row["attempt"])
    return Record(
        key=row["key"],
        params=Values(json.loads(row["params"]), folder, "param"),
        status=row["status"],
        error=row["error"],
        traceback=row["traceback"],
        seed=json.loads(row["seed"]),
        warm=row["warm"],
        started=row["started"],
        seconds=row["seconds"],
        worker=json.loads(row["worker"]),
        provenance=sessions[row["session"]],
        _outputs=Values(json.loads(row["outputs"]), folder, "output"),
    )


def read_outputs(store: Store, key: str) -> Values:
    """Return the outputs of the case with a key, without reading other records."""
    rows = store.select("select attempt, outputs from records where key = ?", [key])
    if not rows:
        raise ArgumentError(f"key: expected the key of a record, got {key!r}")
    attempt, text = rows[0]
    return Values(json.loads(text), store.folder(key, attempt), "output")


def read_status(store: Store) -> Status:
    """Return how many cases are done, failed and left."""
    rows = store.select("select status, count(*), sum(seconds) from records group by status")
    counts = {status: n for status, n, _ in rows}
    planned = store.select("select planned from sessions order by id desc limit 1")
    return Status(
        done=counts.get("done", 0),
        failed=counts.get("failed", 0),
        planned=planned[0][0] if planned else 0,
        running=store.is_being_written(),
        seconds=sum(seconds for _, _, seconds in rows),
    )


def read_sessions(store: Store) -> list[Session]:
    """Return one session for each call of `Study.map`, in their order."""
    rows = store.select("select started, provenance from sessions order by id")
    return [Session(started, json.loads(text)) for started, text in rows]
