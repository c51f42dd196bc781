"""The tables of a study's database, and how damage and foreign definitions are recognized."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable
from typing import Any

APPLICATION_ID = 0x6D666471  # "mfdq", in the header of the SQLite file
LAYOUT_VERSION = 3  # version 1 stored no shapes of arrays, version 2 no digests of records
CREATE_TABLES = """
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
    worker text not null,
    digest text not null
);
"""
COLUMNS = (
    "key, session, attempt, status, params, outputs, error, traceback, seed, warm, started, "
    "seconds, worker, digest"
)
# Defences of SQLite against databases from elsewhere: functions in a schema are not called, and
# damaged pages are errors.
SAFE_PRAGMAS = ("pragma trusted_schema = off", "pragma cell_size_check = on")


def row_digest(row: Iterable[Any]) -> str:
    """Return a digest of the values of a row, with which damage to the database is found."""
    return hashlib.sha256(json.dumps([*row]).encode()).hexdigest()


def schema_of(db: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """Return the type, the name and the definition of all that is in a database."""
    return set(db.execute("select type, name, sql from sqlite_master"))


def expected_schema() -> set[tuple[Any, ...]]:
    """Return what `schema_of` returns for the database of a study."""
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(CREATE_TABLES)
        return schema_of(empty)
