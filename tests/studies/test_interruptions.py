"""Every case is recorded exactly once, even after kills, Ctrl-C and full disks."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from support import study_functions as functions
from support.refusing import refused
from support.study_checks import assert_complete, start_script

import mfdeq
from mfdeq.studies import grid
from mfdeq.studies.store import Writer


def recorded(study):
    return {record.key: (record.started, record.worker["pid"]) for record in study}


def kill_at_random(study, number, rows, wait):
    """Kill a study so many times; what was recorded stays. Return the ids of all workers."""
    before: dict = {}
    for _ in range(number):
        process = start_script(study.directory, rows)
        wait(process, study, len(before))
        process.kill()
        process.wait()
        after = recorded(study)
        assert {key: after[key] for key in before} == before  # neither lost nor made again
        before = after
    return {pid for _, pid in before.values()}


def assert_completes(study, rows):
    before = recorded(study)
    assert start_script(study.directory, rows).wait() == 0
    params = assert_complete(study)
    assert sorted((p["i"], p["j"]) for p in params) == [
        (i, j) for i in range(rows) for j in range(20)
    ]
    after = recorded(study)
    assert {key: after[key] for key in before} == before
    for record in study:
        i, j = record.params["i"], record.params["j"]
        np.testing.assert_array_equal(record.outputs["state"], np.arange(3.0) + 10 * i + j)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A study of 100 cases that was killed twice on its way, and the ids of its workers."""
    study = mfdeq.Study(tmp_path_factory.mktemp("killed") / "study")
    rng = random.Random(0)

    def wait(process, study, count):
        while len(study) <= count and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.1))

    return study, kill_at_random(study, 2, 5, wait)


def test_workers_end_with_a_killed_driver(killed):
    _, workers = killed
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.02)


def test_a_killed_study_continues_and_loses_nothing(killed):
    assert_completes(killed[0], 5)


@pytest.mark.slow
def test_a_study_killed_a_hundred_times_loses_nothing(study):
    rng = random.Random(0)

    def wait(process, study, count):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.0, 1.2))

    kill_at_random(study, 100, 25, wait)
    assert_completes(study, 25)


def test_an_interrupt_keeps_finished_cases(study):
    with pytest.raises(KeyboardInterrupt):
        study.map(functions.interrupt_for_two, grid(i=range(4)), workers=0)
    assert [params["i"] for params in assert_complete(study)] == [0, 1]


def test_ctrl_c_ends_workers_silently_and_keeps_finished_cases(study):
    process = start_script(
        study.directory,
        seconds_per_case=0.1,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(study) < 10:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert "SpawnProcess" not in said  # no tracebacks of workers
    assert 10 <= len(assert_complete(study)) < 500


def test_a_case_that_kills_its_worker_fails_and_the_others_run(study):
    records = study.map(functions.kill_worker_for_three, grid(i=range(6)), workers=2)
    assert [record.status for record in records] == ["done"] * 3 + ["failed"] + ["done"] * 2
    assert "the worker process died" in records[3].error


def test_a_broken_executor_ends_the_run_and_loses_nothing(study):
    with (
        futures.ProcessPoolExecutor(1, get_context("spawn")) as executor,
        refused(mfdeq.StudyError, "executor: broken", "run the study again"),
    ):
        study.map(functions.kill_worker_for_three, grid(i=[0, 1, 3, 4]), executor=executor, ahead=1)
    assert [params["i"] for params in assert_complete(study)] == [0, 1]


@pytest.mark.parametrize("kind", [futures.ThreadPoolExecutor, futures.ProcessPoolExecutor])
def test_an_executor_that_was_shut_down_is_refused(study, kind):
    with kind(1) as executor:
        pass
    with refused(mfdeq.StudyError, "executor: accepts no cases", "new futures", "a new executor"):
        study.map(functions.pair, functions.PAIRS, executor=executor)


def test_a_script_without_main_guard_is_explained(tmp_path):
    """Spawned workers run it again: the library says what is missing."""
    script = tmp_path / "script.py"
    script.write_text(
        "import mfdeq\ndef f(i):\n    return i\n"
        f"mfdeq.Study({str(tmp_path / 'study')!r}).map(f, [dict(i=1)], workers=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no worker could be started" in done.stderr
    assert "__main__" in done.stderr.splitlines()[-1]


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full after five arrays."""
    save, saved = np.save, []

    def fail_when_full(*args, **kwargs):
        saved.append(args)
        if len(saved) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", fail_when_full)
        yield patch


@pytest.mark.parametrize("in_processes", [False, True])
def test_a_full_disk_loses_no_result(study, full_disk, processes, in_processes):
    options = {"executor": processes} if in_processes else {"workers": 0}
    with refused(mfdeq.StudyError, "No space left", "free some space") as caught:
        study.map(functions.pair, functions.PAIRS, **options)
    full_disk.undo()
    unrecorded = {
        str(dict(item.case.params)): item.outcome.started for item in caught.value.unrecorded
    }
    assert unrecorded
    # The results of processes may all come at once, and are then all recorded later.
    assert (not in_processes) <= len(assert_complete(study)) <= 5
    records = study.map(functions.pair, functions.PAIRS, **options)
    started = {str(dict(record.params)): record.started for record in records}
    assert {params: started[params] for params in unrecorded} == unrecorded  # not computed again
    assert len(assert_complete(study)) == 12


def test_a_full_database_loses_no_record(study, monkeypatch):
    study.map(functions.pair, functions.PAIRS[:2], workers=0)
    begin = Writer.begin_session

    def begin_with_little_room(writer, *args):
        session = begin(writer, *args)
        pages = writer.db.execute("pragma page_count").fetchone()[0]
        writer.db.execute(f"pragma max_page_count = {pages + 1}")
        return session

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "begin_session", begin_with_little_room)
        with refused(mfdeq.StudyError, "full", "free some space"):
            study.map(functions.pair, functions.PAIRS, workers=0)
    recorded = assert_complete(study)
    assert recorded[:2] == functions.PAIRS[:2]
    assert len(recorded) < 12
    records = study.map(functions.pair, functions.PAIRS, workers=0)
    assert [dict(record.params) for record in records] == functions.PAIRS
    assert len(assert_complete(study)) == 12
