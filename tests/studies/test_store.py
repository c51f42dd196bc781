"""The directory of a study: its lock, its layout and its files."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from support import study_functions as functions
from support.refusing import refused, table

import mfdeq


def change_layout(study):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db:
        db.execute("pragma user_version = 7")


def change_application(study):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db:
        db.execute("pragma application_id = 7")


def overwrite(study):
    study.store.path.write_bytes(b"no database at all" * 100)


@pytest.mark.parametrize(
    ("spoil", "words"),
    table(
        (
            "another layout",
            change_layout,
            ["expected layout 3", "got layout 7", "another directory"],
        ),
        ("another's database", change_application, ["not a study of mfdeq"]),
        ("no database", overwrite, ["cannot be read", "not a database"]),
    ),
)
def test_a_database_that_is_not_a_study_is_refused(study, spoil, words):
    study.map(functions.pair, functions.PAIRS[:1], workers=0)
    spoil(study)
    with refused(mfdeq.StudyError, *words):
        mfdeq.Study(study.directory)


def test_a_file_as_the_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(mfdeq.StudyError, "expected a directory, got a file"):
        mfdeq.Study(tmp_path / "file")


def test_only_one_process_writes(study):
    with study.store.writing():
        assert study.status().running
        with refused(mfdeq.StudyError, "already being written by this process"):
            study.map(functions.pair, functions.PAIRS, workers=0)
        assert study.status().running  # the query did not release the lock
        code = f"import mfdeq; mfdeq.Study({str(study.directory)!r}).map(len, [], workers=0)"
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()}" in done.stderr
    assert not study.status().running


def test_changed_and_missing_files_are_found_and_computed_again(study):
    record, other = study.map(functions.pair, functions.PAIRS[:2], workers=0)
    file = record.outputs.file("state")
    np.save(file, np.load(file) + 1e-9)
    other.outputs.file("state").unlink()
    assert record.damaged == other.damaged == ["state"]
    assert other.outputs.shape("state") == (3,)
    with refused(mfdeq.StudyError, "state.npy cannot be read", "retry=True"):
        other.outputs["state"]
    again = study.map(functions.pair, functions.PAIRS[:2], workers=0, retry=True)
    assert [one.damaged for one in again] == [[], []]
    np.testing.assert_array_equal(again[0].outputs["state"], np.arange(3.0))
