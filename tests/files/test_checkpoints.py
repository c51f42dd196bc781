"""Unusable checkpoints are refused, and a failed write leaves the last one unchanged."""

from __future__ import annotations

import errno
import functools
import json
import os

import numpy as np
import pytest
from support.branch_models import PITCHFORK, SADDLE
from support.checkpointed_runs import METRIC
from support.functionals import WAVY_LOSS, IdentityModel
from support.interruptions import assert_same, kill_after_writing
from support.spectra import AWKWARD_SPECTRA, symmetric_operator

import mfdeq


def minimum(path, start=(0.1, -0.2, 0.05), model=None, weight=1.0, **options):
    F = mfdeq.ReducedFunctional(model or IdentityModel(len(start)), weight * WAVY_LOSS)
    return mfdeq.minimize(F, np.array(start), checkpoint=path, gtol=1e-6, **options)


def branch(path, theta0=-1.0, model=PITCHFORK, **options):
    options = {"span": (-0.1, 0.5), **options}
    return mfdeq.follow(model, np.array([theta0]), checkpoint=path, **options)


def pairs(path, values=AWKWARD_SPECTRA["indefinite"], **options):
    return mfdeq.eigsh(symmetric_operator(values), checkpoint=path, **{"k": 3, **options})


RUNS = {"minimize": minimum, "follow": branch, "eigsh": pairs}
OTHERS = {
    "minimize": {
        "theta0": {"start": (0.1, -0.2, 0.06)},
        "N and P": {"start": (0.1, -0.2)},
        "method": {"method": "l-bfgs"},
        "bounds": {"bounds": (-9.0, 9.0)},
        "radius": {"radius": 0.5},
        "preconditioner": {"preconditioner": np.eye(3)},
        "loss": {"weight": 1.01},
        "model": {"model": type("Other", (IdentityModel,), {})()},
    },
    "follow": {
        "theta0": {"theta0": -0.9},
        "span": {"span": (-0.1, 0.6)},
        "towards": {"towards": -1.0},
        "method": {"method": "natural"},
        "step and longest": {"step": 0.01},
        "start": {"start": np.array([0.0, 1.0])},
        "eigenvalues": {"eigenvalues": 1},
        "direction": {"direction": np.array([2.0])},
        "the model differs": {"model": SADDLE},
    },
    "eigsh": {
        "k": {"k": 4},
        "which": {"which": "LA"},
        "rtol": {"rtol": 1e-5},
        "M": {"M": METRIC},
        "start": {"block": 2},
        "basis": {"basis": 50},
        "preconditioner": {"which": "SA", "preconditioner": np.eye(120)},
        "H or M": {"values": AWKWARD_SPECTRA["gap"]},
        "P": {"values": np.arange(50.0)},
    },
}


@pytest.mark.parametrize("ended", [False, True], ids=["killed", "ended"])
@pytest.mark.parametrize(("of", "what"), [(of, what) for of in OTHERS for what in OTHERS[of]])
def test_a_checkpoint_of_another_run_is_refused(of, what, ended, tmp_path, monkeypatch):
    run, path = RUNS[of], tmp_path / "run"
    if ended:
        run(path)
    else:
        kill_after_writing(lambda: run(path, checkpoint_every=1), monkeypatch)
    before = path.read_bytes()
    with pytest.raises(mfdeq.CheckpointError, match="another run") as caught:
        run(path, **OTHERS[of][what])
    assert what in str(caught.value)
    assert "delete it to start again" in str(caught.value)
    assert path.read_bytes() == before


def test_a_checkpoint_with_another_metric_is_refused(tmp_path, monkeypatch):
    run = functools.partial(pairs, tmp_path / "run", checkpoint_every=1)
    kill_after_writing(lambda: run(M=METRIC), monkeypatch)
    with pytest.raises(mfdeq.CheckpointError, match="H or M differs"):
        run(M=METRIC + 1.0)


def truncate(path, data):
    path.write_bytes(data[: len(data) // 2])


def flip_a_bit(path, data):
    at = data.index(b"\x93NUMPY") + 200  # in the entries of an array
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def stored(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def held(path):
    with np.load(path) as members:
        return dict(members)


def change_format(path, data, version=99):
    members = held(path)
    head = {**json.loads(bytes(members.pop("mfdeq"))), "format": version, "version": "9.9"}
    if version < 4:
        del members["mfdeq.digest"]  # which format 4 has introduced
    stored(path, **members, mfdeq=np.frombuffer(json.dumps(head).encode(), "uint8"))


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"
DAMAGED = {
    "empty": (lambda path, data: path.write_bytes(b""), "not a checkpoint of mfdeq"),
    "text": (lambda path, data: path.write_bytes(b"theta = 3"), "not a checkpoint of mfdeq"),
    "one array": (lambda path, data: path.write_bytes(NPY), "not a checkpoint of mfdeq"),
    "truncated": (truncate, "damaged"),
    "flipped": (flip_a_bit, "damaged"),
    "pickled": (lambda path, data: stored(path, mfdeq=np.array([{}])), "not a checkpoint of mfdeq"),
    "without a head": (lambda path, data: stored(path, x=np.ones(3)), "not a checkpoint of mfdeq"),
    "lacking": (lambda path, data: stored(path, mfdeq=held(path)["mfdeq"]), "damaged"),
    "another format": (change_format, "expected format 4.*got format 99, written by mfdeq 9.9"),
    "an earlier format": (
        functools.partial(change_format, version=3),
        "expected format 4.*got format 3, written by mfdeq 9.9",
    ),
    "a directory": (lambda path, data: (path.unlink(), path.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("of", RUNS)
def test_files_that_are_not_checkpoints_are_refused(of, what, tmp_path):
    RUNS[of](path := tmp_path / "run")
    damage, words = DAMAGED[what]
    damage(path, path.read_bytes())
    with pytest.raises(mfdeq.CheckpointError, match=words) as caught:
        RUNS[of](path)
    assert str(path) in str(caught.value)
    with pytest.raises(mfdeq.CheckpointError):
        mfdeq.Branch.load(path)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    for of, run in RUNS.items():
        run(tmp_path / of)
    kinds = {"minimize": "a minimization", "follow": "a branch", "eigsh": "eigenpairs"}
    for of, run in RUNS.items():
        for other in RUNS:
            if of != other:
                with pytest.raises(mfdeq.CheckpointError, match=f"got one with {kinds[other]}"):
                    run(tmp_path / other)


@pytest.mark.parametrize("of", RUNS)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(of, tmp_path):
    with pytest.raises(mfdeq.CheckpointError, match="directory that exists"):
        RUNS[of](tmp_path / "nowhere" / "run")
    with pytest.raises(mfdeq.ArgumentError, match="checkpoint: expected the name of a file"):
        RUNS[of](3)
    with pytest.raises(mfdeq.ArgumentError, match=r"checkpoint_every: .* got 0"):
        RUNS[of](tmp_path / "run", checkpoint_every=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("of", RUNS)
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_ends(of, tmp_path, monkeypatch):
    """The run ends as it would have, and the file is the last that could be written."""
    run, written, true = RUNS[of], [], os.fsync

    def fsync(file):
        written.append(file)
        if len(written) > 2:  # of a file and of its directory
            raise OSError(errno.ENOSPC, "No space left on device")
        true(file)

    whole = run(tmp_path / "whole", checkpoint_every=1)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(mfdeq.CheckpointWarning, match="No space"):
        found = run(tmp_path / "run", checkpoint_every=1)
    monkeypatch.setattr(os, "fsync", true)
    assert len(written) > 3
    assert_same(compared(found), compared(whole))
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == ["run"]
    assert_same(compared(run(tmp_path / "run", checkpoint_every=1)), compared(whole))


def compared(found):
    """What is compared of a result."""
    if isinstance(found, mfdeq.Minimum):
        return [found.params, found.value, found.report]
    return found if isinstance(found, mfdeq.Branch) else [found.values, found.vectors, found.report]


def test_checkpoints_hold_no_pickles(tmp_path):
    for of, run in RUNS.items():
        run(tmp_path / of)
        with np.load(tmp_path / of, allow_pickle=False) as members:
            assert all(members[name].dtype.kind in "biufc" for name in members.files)
