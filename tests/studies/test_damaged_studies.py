"""Studies that were damaged or come from elsewhere: typed errors, and nothing is executed."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from support import study_functions as functions
from support.refusing import refused

import mfdeq


def execute(study, command, *values):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db, db:
        db.execute(command, values)


def run(study, **options):
    return study.map(functions.pair, functions.PAIRS[:3], workers=0, **options)


def read_all(study):
    """Read all that a study says, in every way; return its numbers."""
    study = mfdeq.Study(study.directory)
    study.status(), study.sessions()
    return [(r.params["i"], r.outputs["sum"], r.outputs["state"].tolist()) for r in study]


def test_a_flipped_byte_of_the_database_changes_no_number(study):
    run(study)
    whole, data = read_all(study), study.store.path.read_bytes()
    refused_bytes = 0
    used = [at for at in range(len(data)) if data[at]]
    for at in np.random.default_rng(1).choice(used, 60, replace=False):
        study.store.path.write_bytes(data[:at] + bytes([data[at] ^ 0x11]) + data[at + 1 :])
        try:
            found = read_all(study)
        except mfdeq.StudyError:
            refused_bytes += 1
        else:  # a record may be lost, which is then run again
            assert all(one in whole for one in found)
    assert refused_bytes > 20


def test_a_truncated_database_is_an_error(study):
    run(study)
    data = study.store.path.read_bytes()
    for size in (50, 3000, len(data) // 2):
        study.store.path.write_bytes(data[:size])
        with refused(mfdeq.StudyError, "cannot be read"):
            read_all(study)
        with refused(mfdeq.StudyError):
            run(study)
        assert study.store.path.read_bytes() == data[:size]


@pytest.mark.parametrize(
    "change",
    ["outputs = '{\"sum\": 9}'", "outputs = x'00'", "outputs = '{'", "params = ''",
     "status = 'failed'", "attempt = '1/../../..'", "seconds = 'never'", "session = 'none'"],
)  # fmt: skip
def test_a_changed_record_is_named_and_computed_again(study, change):
    before = run(study)
    key = before[1].key
    execute(study, f"update records set {change} where key = ?", key)
    with refused(mfdeq.StudyError, key, "damaged", "retry=True"):
        study.records()
    again = run(study, retry=True)
    assert [r.outputs["sum"] for r in again] == [r.outputs["sum"] for r in before]
    assert [r.started == old.started for r, old in zip(again, before, strict=True)] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"machine": 3}', "null"])
def test_damaged_sessions_and_settings_are_errors(study, text):
    run(study)
    execute(study, "update settings set value = ? where name = 'function'", "{")
    with refused(mfdeq.StudyError, "the setting 'function' is damaged"):
        run(study)
    execute(study, "update sessions set provenance = ?", text)
    with refused(mfdeq.StudyError, "session 1 cannot be read"):
        study.records()


HOSTILE_SCHEMAS = {
    "a trigger": "create trigger t after insert on records begin delete from records; end",
    "a view": "create view more as select load_extension('evil')",
    "another table": "create table more (x)",
}


@pytest.mark.parametrize("what", HOSTILE_SCHEMAS)
def test_a_database_with_more_than_tables_of_a_study_is_refused(study, what):
    run(study)
    execute(study, HOSTILE_SCHEMAS[what])
    with refused(mfdeq.StudyError, "other tables than a study of mfdeq"):
        mfdeq.Study(study.directory)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "zip", "pickle", "empty"])
def test_a_damaged_array_is_an_error_until_it_is_computed_again(study, kind):
    record = run(study)[0]
    file = record.outputs.file("state")
    data = file.read_bytes()
    contents = {
        "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "truncated": data[:-8],
        "empty": b"",
    }
    if kind in contents:
        file.write_bytes(contents[kind])
    else:
        with file.open("wb") as opened:
            if kind == "zip":
                np.savez(opened, state=np.arange(3.0))
            else:
                np.save(opened, np.array([{}]), allow_pickle=True)
    with refused(mfdeq.StudyError, "state.npy cannot be read", "retry=True"):
        record.outputs["state"]
    assert record.damaged == ["state"]
    assert run(study, retry=True)[0].outputs["state"].tolist() == [0.0, 1.0, 2.0]


class Payload:
    """An object whose pickle runs code where it is loaded."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_reading_a_hostile_directory_executes_nothing(study, tmp_path):
    marker, hostile = tmp_path / "executed", study.directory
    for record in run(study):
        with record.outputs.file("state").open("wb") as file:
            np.save(file, np.array([Payload(str(marker))]), allow_pickle=True)
    np.savez(hostile / "run.npz", mfdeq=np.array([Payload(str(marker))]))
    code = f"import os; os.mkdir({str(marker)!r})"
    for module in ("json", "sqlite3", "numpy", "mfdeq", "matplotlib", "sitecustomize", "conftest"):
        (hostile / f"{module}.py").write_text(code)
        (hostile / "arrays" / f"{module}.py").write_text(code)
    (hostile / "matplotlibrc").write_text("backend: module://numpy")
    with refused(mfdeq.StudyError, "state.npy cannot be read"):
        study.records()[0].outputs["state"]
    with refused(mfdeq.CheckpointError):
        mfdeq.Branch.load(hostile / "run.npz")
    for command in ("status", "report"):
        line = [sys.executable, "-m", "mfdeq", command, str(hostile)]
        subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert not marker.exists()
    run(study, retry=True)
    assert not marker.exists()


def test_writing_to_a_hostile_directory_leaves_other_files_alone(study, tmp_path):
    run(study)
    precious = tmp_path / "precious"
    (precious / "folder").mkdir(parents=True)
    (precious / "notes").write_text("mine")
    (study.directory / "arrays" / "ab").symlink_to(precious)
    run(study)
    assert (precious / "folder").is_dir()
    lock = study.directory / "driver.lock"
    lock.unlink()
    lock.symlink_to(precious / "notes")
    with refused(mfdeq.StudyError, "cannot be written"):
        run(study)
    assert (precious / "notes").read_text() == "mine"


def test_names_from_a_database_lead_to_no_other_folder(study, tmp_path):
    """A record that was forged with its digest."""
    from mfdeq.studies.schema import COLUMNS, row_digest

    record = run(study)[0]
    np.save(tmp_path / "secret.npy", np.ones(3))
    [row] = study.store.select(f"select {COLUMNS} from records where key = ?", [record.key])
    names = COLUMNS.split(", ")
    forged = dict(zip(names, row, strict=True))
    name = f"x/../../../../../{tmp_path.name}/secret"
    forged["outputs"] = json.dumps({name: {"array": "0", "shape": [3]}})
    forged["digest"] = row_digest([forged[n] for n in names[:-1]])
    execute(
        study,
        "update records set outputs = ?, digest = ? where key = ?",
        forged["outputs"],
        forged["digest"],
        record.key,
    )
    with refused(mfdeq.StudyError, "expected letters, digits"):
        study.records()
