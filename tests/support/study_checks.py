"""Checks of the files of a study, and a script that runs one in its own process."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("study_functions.py")


def assert_complete(study):
    """Assert that every record has its arrays and nothing is left over; return the parameters."""
    records = study.records()
    assert all(not record.damaged for record in records)
    folders = {folder.name for folder in (study.directory / "arrays").glob("*/*")}
    assert folders <= {f"{record.key}.{n}" for record in records for n in (1, 2, 3)}
    assert len(folders) <= len(records)
    return [dict(record.params) for record in records]


def start_script(directory, rows=25, seconds_per_case=0.004, **options):
    """Start a process that runs a study of rows · 20 cases on two workers."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, directory, str(rows), str(seconds_per_case)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        **options,
    )
