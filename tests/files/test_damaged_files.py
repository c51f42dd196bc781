"""Files that were damaged or forged, and files of other kinds, end in typed errors."""

from __future__ import annotations

import io
import json
import sqlite3
import zipfile

import numpy as np
import pytest
from support.branch_models import PITCHFORK
from support.functionals import WAVY_LOSS, IdentityModel
from support.interruptions import assert_same
from support.spectra import AWKWARD_SPECTRA, symmetric_operator

import mfdeq
from mfdeq.files.checkpoints import contents_digest
from mfdeq.files.npy import DamagedFileError, read_npy


def minimum(path):
    F = mfdeq.ReducedFunctional(IdentityModel(3), WAVY_LOSS)
    found = mfdeq.minimize(F, np.array([0.1, -0.2, 0.05]), checkpoint=path)
    return [found.params, found.value]


def branch(path):
    return mfdeq.follow(PITCHFORK, np.array([-1.0]), span=(-0.1, 0.5), checkpoint=path)


def pairs(path):
    H = symmetric_operator(AWKWARD_SPECTRA["indefinite"])
    found = mfdeq.eigsh(H, k=3, checkpoint=path)
    return [found.values, found.vectors]


def loaded(path):
    return mfdeq.Branch.load(path)


RUNS = {"minimize": minimum, "follow": branch, "eigsh": pairs}


def some_bytes(data, count):
    """Positions all over a file: in the headers, in the entries and in the directory."""
    inside = np.random.default_rng(3).choice(len(data), min(count, len(data)), replace=False)
    return sorted({*range(40), *range(len(data) - 40, len(data)), *inside.tolist()})


def with_flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]


def test_a_flipped_byte_anywhere_changes_nothing_or_is_an_error(tmp_path):
    branch(path := tmp_path / "run")
    whole, data, refused = loaded(path), path.read_bytes(), 0
    for at in some_bytes(data, 300):
        path.write_bytes(with_flipped(data, at))
        try:
            found = loaded(path)
        except mfdeq.CheckpointError:
            refused += 1
        else:  # a time or an attribute in the archive, which nothing depends on
            assert_same(found, whole)
    assert refused > 200


@pytest.mark.parametrize("of", RUNS)
def test_a_run_does_not_resume_from_a_flipped_or_truncated_file(of, tmp_path):
    run, path = RUNS[of], tmp_path / "run"
    whole = run(path)
    data = path.read_bytes()
    for at in (*some_bytes(data, 4)[::17], len(data) // 2):
        for damaged in (with_flipped(data, at), data[:at]):
            path.write_bytes(damaged)
            try:
                found = run(path)
            except mfdeq.CheckpointError:
                assert path.read_bytes() == damaged
            else:
                assert_same(found, whole)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def database(tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("create table records (key text)")
    return (tmp_path / "other.sqlite").read_bytes()


def compressed(tmp_path):
    np.savez_compressed(tmp_path / "other.npz", mfdeq=np.zeros(10_000_000, "uint8"))
    return (tmp_path / "other.npz").read_bytes()


def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("mfdeq.npy", "print('no array')")
        file.writestr("../outside.npy", npy(np.ones(3)))
    return (tmp_path / "other.zip").read_bytes()


FOREIGN = {
    "nothing": lambda folder: b"",
    "JSON": lambda folder: b'{"format": 4, "kind": "a branch", "state": {}}',
    "SQLite": database,
    "npy": lambda folder: npy(np.ones(3)),
    "pickles": lambda folder: npy(np.array([{"a": 1}])),
    "compressed": compressed,
    "zip": archive,
    "HDF5": lambda folder: b"\x89HDF\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_of_another_kind_is_refused_and_left_alone(what, tmp_path):
    content = FOREIGN[what](tmp_path)
    for name, read in {**RUNS, "load": loaded}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(mfdeq.CheckpointError, match="not a checkpoint of mfdeq"):
            read(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


def forge(path, change):
    """Change the state in a checkpoint, and everything that protects it as well."""
    with np.load(path) as members:
        arrays = dict(members)
    header = json.loads(arrays.pop("mfdeq").tobytes())
    del arrays["mfdeq.digest"]
    change(header)
    text = json.dumps(header).encode()
    own = {"mfdeq": text, "mfdeq.digest": contents_digest(text, arrays).encode()}
    with path.open("wb") as file:
        np.savez(file, **arrays, **{name: np.frombuffer(x, "uint8") for name, x in own.items()})


PARTS = {
    "minimize": (["at", "report", "method", "scale", "state", "stagnant"], lambda state: state),
    "follow": (["branch", "ds", "ended", "curve"], lambda state: state),
    "eigsh": (["values", "vectors", "error_bounds", "report"], lambda state: state["pairs"]),
}


@pytest.mark.parametrize("of", PARTS)
def test_a_forged_file_that_lacks_a_part_is_refused(of, tmp_path):
    run, path = RUNS[of], tmp_path / "run"
    run(path)
    whole = path.read_bytes()
    names, part_of = PARTS[of]
    for name in names:
        path.write_bytes(whole)
        forge(path, lambda header, name=name: part_of(header["state"]).pop(name))
        with pytest.raises(mfdeq.CheckpointError, match="or a damaged one"):
            run(path)


@pytest.mark.parametrize("of", RUNS)
@pytest.mark.parametrize("name", ["of", "state"])
@pytest.mark.parametrize("value", [None, 3, "text", [1, 2]])
def test_a_forged_file_of_another_structure_is_refused(of, name, value, tmp_path):
    RUNS[of](path := tmp_path / "run")
    forge(path, lambda header: header.update({name: value}))
    with pytest.raises(mfdeq.CheckpointError, match="or a damaged one"):
        RUNS[of](path)


def test_an_array_takes_no_more_memory_than_its_file(tmp_path):
    path = tmp_path / "large.npy"
    header = npy(np.ones(3))
    path.write_bytes(header.replace(b"(3,), }             ", b"(3000000000000,), } "))
    with pytest.raises(DamagedFileError, match="expected 24000000000128 bytes"):
        read_npy(path)


@pytest.mark.parametrize(
    ("descr", "shape", "size"),
    [("'<U0'", "(3,)", 0), ("'|V0'", "(3,)", 0), ("('<f8', (2,))", "(3,)", 48),
     ("'<f8'", "(0, 99999999999999999999)", 0), ("'<f8'", f"({'1, ' * 70})", 8)],
    ids=["text", "bytes", "subarrays", "a long axis", "many axes"],
)  # fmt: skip
def test_a_header_of_an_array_that_numpy_cannot_hold_is_refused(descr, shape, size, tmp_path):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (tmp_path / "a.npy").write_bytes(start + header + bytes(size))
    with pytest.raises(DamagedFileError):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "array",
    [np.ones((2, 3)), np.asfortranarray(np.ones((2, 3))), np.array(2j), np.zeros((0, 4)),
     np.array(["a", "bc"]), np.ones(2, dtype=[("x", "f4"), ("y", "i8")])],
    ids=["C", "Fortran", "scalar", "empty", "text", "structured"],
)  # fmt: skip
def test_arrays_are_read_as_numpy_writes_them(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    assert found.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(found, array)
    found[...] = found  # it can be written to
