"""Runs that are killed at checkpoints and restarted, and a bitwise comparison of results."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mfdeq.files import checkpoints

NOT_COMPARED = {"seconds", "peak_bytes", "products_of"}  # depend on the clock and the process


class Killed(BaseException):
    """An exception that, like a signal, the library does not catch."""


def kill_and_restart(run, path, monkeypatch, before=False):
    """Run to the end, killed at every checkpoint; return the result and the number of kills.

    The run is killed right after it writes a file or, with `before`, before it writes the next one.
    """
    true, kills = checkpoints.write_members, 0
    while True:
        seen = []

        def write(*args, seen=seen):
            if before and seen:  # only the previous checkpoint is on the disk
                raise Killed
            true(*args)
            seen.append(1)
            if not before:
                raise Killed

        monkeypatch.setattr(checkpoints, "write_members", write)
        try:
            return run(path), kills
        except Killed:
            kills += 1
            assert kills < 500
        finally:
            monkeypatch.setattr(checkpoints, "write_members", true)


def kill_cases(cases, also_before, slow=()):
    """Return parameters (what, before): kills after writing, and before writing the next file.

    The latter compute everything twice and are marked slow, except for the cases in `also_before`.
    Cases in `slow` are always marked slow.
    """
    return [
        pytest.param(
            what,
            before,
            id=f"{what}-{'before' if before else 'after'}",
            marks=[pytest.mark.slow]
            if what in slow or (before and what not in also_before)
            else [],
        )
        for before in (False, True)
        for what in cases
    ]


def kill_after_writing(run, monkeypatch):
    """Start a run, and kill it right after its first checkpoint."""
    true = checkpoints.write_members

    def write(*args):
        true(*args)
        raise Killed

    monkeypatch.setattr(checkpoints, "write_members", write)
    with pytest.raises(Killed):
        run()
    monkeypatch.setattr(checkpoints, "write_members", true)


def kill_by_signal(code, path, seed, most, times):
    """Kill a script at random times, then let it end; return its output and the number of kills."""
    rng, kills = random.Random(seed), 0
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started = time.monotonic()
        while not path.exists() and process.poll() is None:
            assert time.monotonic() < started + 120
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, most))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return out.stdout, kills


def assert_same(found, expected, where="result"):
    """Assert that results are equal to the last bit, including dataclasses and lists."""
    assert type(found) is type(expected), where
    if dataclasses.is_dataclass(found):
        for name in [field.name for field in dataclasses.fields(found)]:
            if name not in NOT_COMPARED:
                assert_same(getattr(found, name), getattr(expected, name), f"{where}.{name}")
    elif isinstance(found, dict):
        assert set(found) == set(expected), where
        for name in found:
            assert_same(found[name], expected[name], f"{where}[{name}]")
    elif isinstance(found, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (x, y) in enumerate(zip(found, expected, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(found, np.ndarray):
        assert found.dtype == expected.dtype, where
        np.testing.assert_array_equal(found, expected, err_msg=where)
    else:
        assert found == expected or found != found, f"{where}: {found!r}, {expected!r}"
