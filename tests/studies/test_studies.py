"""Studies: every case recorded exactly once, whatever ends the run."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import errno
import linecache
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import study_functions as functions
from support.refusing import refused, table

import mfdeq
from mfdeq.studies import grid, sample
from mfdeq.studies import store as stores

PAIRS = grid(i=range(4), j=range(3))
HERE = Path(__file__).parents[1]


@pytest.fixture
def study(tmp_path):
    return mfdeq.Study(tmp_path / "study")


def whole(study):
    """Every record has what was written, and nothing else is there; their parameters."""
    records = study.records()
    assert all(not record.damaged for record in records)
    folders = {folder.name for folder in (study.store.directory / "arrays").glob("*/*")}
    assert folders <= {f"{r.key}.{n}" for r in records for n in (1, 2, 3)}
    assert len(folders) <= len(records)
    return [dict(record.params) for record in records]


# Running.


def executors():
    yield "here", lambda: {"workers": 0}
    yield "processes", lambda: {"workers": 2}
    yield "threads", lambda: {"executor": futures.ThreadPoolExecutor(2)}
    yield "ahead", lambda: {"executor": futures.ThreadPoolExecutor(2), "ahead": 3}


@pytest.mark.parametrize("made", table(*executors()))
def test_every_case_is_recorded(study, made):
    records = study.map(functions.pair, PAIRS, **made())
    assert [dict(record.params) for record in records] == PAIRS
    for record, case in zip(records, PAIRS, strict=True):
        i, j = case.values()
        assert record.outputs["sum"] == i + j
        assert record.outputs["word"] == f"{i}{j}"
        np.testing.assert_array_equal(record.outputs["state"], np.arange(3.0) + 10 * i + j)
        assert record.status == "done"
        assert record.provenance["packages"]["numpy"] == np.__version__
        assert record.provenance["function"] == "study_functions.pair"
        assert record.worker["pid"]
    assert len(whole(study)) == len(study) == 12
    assert study.status() == mfdeq.studies.study.Status(12, 0, 12, False, study.status().seconds)


def test_workers_of_dask(study):
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with (
        warnings.catch_warnings(),
        distributed.Client(processes=False, n_workers=2, dashboard_address=None) as client,
    ):
        warnings.simplefilter("ignore")
        study.map(functions.pair, PAIRS, executor=client.get_executor())
    assert len(whole(study)) == 12


def test_what_is_recorded_is_not_run_again(study):
    first = {r.key: r.started for r in study.map(functions.pair, PAIRS[:5], workers=0)}
    again = mfdeq.Study(study.store.directory).map(functions.pair, PAIRS[::-1], workers=0)
    assert [dict(record.params) for record in again] == PAIRS[::-1]
    assert {r.key: r.started for r in study.records() if r.key in first} == first
    assert len(whole(study)) == 12


def test_the_case_is_its_content(study):
    study.map(functions.pair, [{"i": 1, "j": 2}], workers=0)
    study.map(functions.pair, [{"j": 2, "i": np.int64(1)}], workers=0)
    assert len(study) == 1
    x = np.arange(3.0)
    weigh = mfdeq.Study(study.store.directory / "arrays of params")
    weigh.map(np.linalg.norm, [{"x": x}, {"x": x + 1}, {"x": x.astype(np.float32)}], workers=0)
    weigh.map(np.linalg.norm, [{"x": np.arange(3.0)}], workers=0)
    assert len(weigh) == 3
    np.testing.assert_array_equal(weigh.records()[1].params["x"], x + 1)
    assert weigh.records()[1].outputs["value"] == np.linalg.norm(x + 1)


def test_what_fails_is_recorded_and_the_rest_goes_on(study):
    records = study.map(functions.moody, grid(i=range(4)), workers=0)
    assert [record.status for record in records] == ["done", "failed", "failed", "done"]
    assert "one is not liked" in records[1].error
    assert 'raise ValueError("one is not liked")' in records[1].traceback
    assert "'bad' is a object" in records[2].error
    assert [record.key for record in study.failures] == [records[1].key, records[2].key]
    with refused(mfdeq.StudyError, "one is not liked", "retry=True"):
        records[1].outputs["twice"]
    before = records[1].started
    assert study.map(functions.moody, grid(i=range(4)), workers=0)[1].started == before
    assert study.map(functions.moody, grid(i=range(4)), workers=0, retry=True)[1].started > before
    assert len(whole(study)) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_one_bad_output_fails_its_case_alone(study, workers):
    records = study.map(functions.partly, grid(i=range(5)), workers=workers)
    assert [record.status for record in records] == ["done", *["failed"] * 3, "done"]
    for record, kind in zip(records[1:4], ("dia_array", "csr_matrix", "Operator"), strict=True):
        assert re.search(rf"'m' is a \w*{kind}; a number, a string", record.error)
        assert "twice, x are kept, in record.kept" in record.error
        assert record.kept["twice"] == 2 * record.params["i"]
        np.testing.assert_array_equal(record.kept["x"], np.ones(2) * record.params["i"])
        with refused(mfdeq.StudyError, "'m' is a"):
            _ = record.outputs
    assert len(whole(study)) == 5


def test_series_are_no_outputs(study):
    pandas = pytest.importorskip("pandas", reason="the studies extra is not installed")
    [record] = study.map(lambda i: pandas.Series([i, 2]), grid(i=[1]), workers=0)
    assert "'value' is a Series" in record.error


def test_a_case_that_kills_its_worker(study):
    records = study.map(functions.deadly, grid(i=range(6)), workers=2)
    assert [record.status for record in records] == ["done"] * 3 + ["failed"] + ["done"] * 2
    assert "the worker process ended" in records[3].error


def test_random_numbers_are_a_cases_own(tmp_path):
    runs = [
        mfdeq.Study(tmp_path / f"{n}").map(functions.drawn, cases, workers=workers, seed=seed)
        for n, (cases, workers, seed) in enumerate(
            [(grid(i=range(4)), 0, 0), (grid(i=range(3, -1, -1)), 2, 0), (grid(i=range(4)), 0, 1)]
        )
    ]
    values = [{r.params["i"]: tuple(r.outputs["numbers"]) for r in run} for run in runs]
    assert values[0] == values[1]
    assert not set(values[0].values()) & set(values[2].values())
    assert len(set(values[0].values())) == 4
    record = runs[0][0]
    drawn = np.random.default_rng(record.seed).standard_normal(4)
    np.testing.assert_array_equal(record.outputs["numbers"], drawn)


def test_warm_starts_are_from_the_nearest(study):
    cases = [{"x": x, "kind": kind} for kind in ("a", "b") for x in (0.0, 10.0, 1.0, 6.0, 4.9)]
    warm = {"start": "state"}
    records = study.map(functions.started, cases, workers=0, warm=warm)
    assert [r.outputs["was"] for r in records] == [None, 0.0, 0.0, 10.0, 6.0] * 2
    assert records[4].warm == records[3].key
    assert records[0].warm is None
    [later] = study.map(functions.started, [{"x": 5.5, "kind": "b"}], workers=0, warm=warm)
    assert later.warm is None  # of the cases of that call
    with refused(mfdeq.StudyError, "'nothing'", "state, was"):
        study.map(
            functions.started,
            [{"x": x, "kind": "c"} for x in (1.0, 2.0)],
            workers=0,
            warm={"start": "nothing"},
        )
    assert len(whole(study)) == 12


# Cases.


def test_a_grid_and_a_sample():
    assert grid(a=[1, 2], b=["x"]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    params = {"leak": scipy.stats.loguniform(1e-3, 1.0), "n": scipy.stats.randint(5, 9), "k": "x"}
    for method in ("random", "sobol", "halton", "latin"):
        found = sample(params, 64, seed=3, method=method)
        assert found == sample(params, 64, seed=3, method=method)
        assert found != sample(params, 64, seed=4, method=method)
        assert all(isinstance(case["n"], int) and 5 <= case["n"] < 9 for case in found)
        leaks = np.log10([case["leak"] for case in found])
        assert abs(leaks.mean() + 1.5) < 0.4
        assert {case["k"] for case in found} == {"x"}


# Failing.


def unwritten(study):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db:
        db.execute("pragma user_version = 7")


def foreign(study):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db:
        db.execute("pragma application_id = 7")


def garbage(study):
    study.store.path.write_bytes(b"no database at all" * 100)


@pytest.mark.parametrize(
    ("spoil", "words"),
    table(
        ("another layout", unwritten, ["layout 7", "reads layout 2", "another directory"]),
        ("another's database", foreign, ["not a study of mfdeq"]),
        ("no database", garbage, ["cannot be read", "not a database"]),
    ),
)
def test_a_directory_of_something_else(study, spoil, words):
    study.map(functions.pair, PAIRS[:1], workers=0)
    spoil(study)
    with refused(mfdeq.StudyError, *words):
        mfdeq.Study(study.store.directory)


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(mfdeq.StudyError, "is a file; a directory was expected"):
        mfdeq.Study(tmp_path / "file")


@pytest.mark.parametrize(
    ("kind", "call", "words"),
    table(
        ("function", mfdeq.StudyError, (functions.drawn, grid(i=[1])), ["study_functions.pair"]),
        ("not callable", mfdeq.ArgumentError, (3, PAIRS), ["a callable was expected"]),
        ("twice", mfdeq.ArgumentError, (functions.pair, PAIRS + PAIRS[1:2]), ["1 and 12 are the"]),
        ("no dict", mfdeq.ArgumentError, (functions.pair, [3]), ["case 0 is a int"]),
        ("a name", mfdeq.ArgumentError, (functions.pair, [{"a b": 3}]), ["'a b'"]),
        ("reserved", mfdeq.ArgumentError, (functions.pair, [{"status": 3}]), ["'status'"]),
        ("no such", mfdeq.ArgumentError, (functions.pair, grid(i=[1])), ["i, j", "missing a requ"]),
        ("own rng", mfdeq.ArgumentError, (functions.drawn, grid(i=[1], rng=[2])), ["'rng' of a"]),
        ("value", mfdeq.ArgumentError, (functions.pair, [{"i": {}}]), ["i of case 0 is a dict"]),
    ),
)
def test_what_is_refused(study, kind, call, words):
    study.map(functions.pair, PAIRS[:1], workers=0)
    with refused(kind, *words):
        study.map(*call, workers=0)
    assert len(study) == 1


def test_another_seed_or_another_fixed_argument(study):
    study.map(functions.drawn, grid(i=[1]), workers=0)
    with refused(mfdeq.StudyError, "the seed 0; 1 came"):
        study.map(functions.drawn, grid(i=[2]), workers=0, seed=1)
    fixed = mfdeq.Study(study.store.directory / "fixed")
    fixed.map(partial(functions.pair, i=1), grid(j=[1]), workers=0)
    with refused(mfdeq.StudyError, r'"i": 1.*"i": 2'):
        fixed.map(partial(functions.pair, i=2), grid(j=[1]), workers=0)


def test_functions_that_do_not_go_to_workers(study):
    with refused(mfdeq.ArgumentError, "cannot be sent", "workers=0"):
        study.map(lambda i: i, grid(i=[1]), workers=1)
    with refused(mfdeq.ArgumentError, "Executor was expected"):
        study.map(functions.drawn, grid(i=[1]), executor=3)
    assert study.map(lambda i: i, grid(i=[1]), workers=0)[0].outputs["value"] == 1


@pytest.mark.parametrize("kind", [futures.ThreadPoolExecutor, futures.ProcessPoolExecutor])
def test_an_executor_that_was_shut_down(study, kind):
    with kind(1) as executor:
        pass
    with refused(mfdeq.StudyError, "executor takes no cases", "new futures", "a new executor"):
        study.map(functions.pair, PAIRS, executor=executor)


def test_threads_take_whatever_is_callable(study):
    with futures.ThreadPoolExecutor(2) as executor:
        records = study.map(lambda i: i + len(PAIRS), grid(i=[1, 2]), executor=executor)
    assert [record.outputs["value"] for record in records] == [13, 14]


def test_a_script_without_a_guard(tmp_path):
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


def test_an_executor_that_breaks(study):
    with (
        futures.ProcessPoolExecutor(1, get_context("spawn")) as executor,
        refused(mfdeq.StudyError, "the executor is broken", "run the study again"),
    ):
        study.map(functions.deadly, grid(i=[0, 1, 3, 4]), executor=executor, ahead=1)
    assert [params["i"] for params in whole(study)] == [0, 1]


def test_two_writers(study):
    with study.store.writing():
        assert study.status().running
        with refused(mfdeq.StudyError, "by this process already"):
            study.map(functions.pair, PAIRS, workers=0)
        assert study.status().running  # looking has not let the lock go
        code = f"import mfdeq; mfdeq.Study({str(study.store.directory)!r}).map(len, [])"
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()}" in done.stderr
    assert not study.status().running


@pytest.fixture
def full(monkeypatch):
    """A disk that is full from the n-th array on."""

    def at(n):
        save, saved = np.save, []

        def fails(*args, **kwargs):
            saved.append(args)
            if len(saved) > n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return save(*args, **kwargs)

        monkeypatch.setattr(np, "save", fails)

    return at


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_loses_nothing(study, full, monkeypatch, workers):
    with monkeypatch.context():
        full(5)
        with refused(mfdeq.StudyError, "No space left", "make room") as caught:
            study.map(functions.pair, PAIRS, workers=workers)
        monkeypatch.undo()
    computed = {str(dict(one.case.params)): one.outcome.started for one in caught.value.unrecorded}
    assert computed
    assert 1 <= len(whole(study)) <= 5
    records = study.map(functions.pair, PAIRS, workers=workers)
    kept = {str(dict(r.params)): r.started for r in records if str(dict(r.params)) in computed}
    assert kept == computed  # recorded, not computed again
    assert len(whole(study)) == 12


def test_a_full_database(study, monkeypatch):
    study.map(functions.pair, PAIRS[:2], workers=0)
    begin = stores.Writer.begin

    def small(writer, *args):
        session = begin(writer, *args)
        pages = writer.db.execute("pragma page_count").fetchone()[0]
        writer.db.execute(f"pragma max_page_count = {pages + 1}")
        return session

    with monkeypatch.context() as patch:
        patch.setattr(stores.Writer, "begin", small)
        with refused(mfdeq.StudyError, "full", "make room"):
            study.map(functions.pair, PAIRS, workers=0)
    recorded = whole(study)
    assert recorded[:2] == PAIRS[:2]
    assert len(recorded) < 12
    assert [dict(r.params) for r in study.map(functions.pair, PAIRS, workers=0)] == PAIRS
    assert len(whole(study)) == 12


def test_an_interrupt_keeps_what_is_done(study):
    with pytest.raises(KeyboardInterrupt):
        study.map(functions.interrupted, grid(i=range(4)), workers=0)
    assert [params["i"] for params in whole(study)] == [0, 1]


def test_an_interrupt_from_the_keyboard_ends_all_and_keeps_what_is_done(study):
    script = [sys.executable, HERE / "support" / "study_functions.py", study.store.directory]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "SECONDS_A_CASE": "0.1"}
    process = subprocess.Popen(
        script, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while len(study) < 10:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert "SpawnProcess" not in said  # no tracebacks of workers
    assert 10 <= len(whole(study)) < 500


def test_an_argument_may_have_the_name_of_the_output_it_is(study):
    cases, warm = grid(x=[1.0, 2.0]), {"state": "state"}
    first, second = study.map(functions.onwards, cases, workers=0, warm=warm)
    assert (first.outputs["state"], second.outputs["state"]) == (0, 1)
    with refused(mfdeq.ArgumentError, "'state' of a case is one that the study passes"):
        study.map(functions.onwards, grid(state=[1]), workers=0, warm=warm)


def test_sizes_are_not_near_each_other(study):
    """A start of another size would not fit."""
    cases = [{"x": x, "kind": n} for n in (40, 80) for x in (0.0, 1.0)]
    records = study.map(functions.started, cases, workers=0, warm={"start": "state"})
    assert [record.outputs["was"] for record in records] == [None, 0.0, None, 0.0]


class Power:
    def __init__(self, exponent):
        self.exponent = exponent

    def __call__(self, x):
        return x**self.exponent

    def raised(self, x):
        return x**self.exponent


def holding(exponent):
    return lambda x: x**exponent


@pytest.mark.parametrize(
    "made", [Power, lambda n: Power(n).raised, holding], ids=["object", "method", "closure"]
)
def test_a_function_that_holds_other_values_is_noticed(study, made):
    study.map(made(2), grid(x=[3]), workers=0)
    study.map(made(2), grid(x=[4]), workers=0)
    with pytest.warns(mfdeq.StudyWarning, match=r"2 records of a function .* have changed"):
        records = study.map(made(3), grid(x=[3]), workers=0)
    assert records[0].outputs["value"] == 9
    assert records[0].provenance["fingerprint"]


def test_a_function_whose_source_has_changed_is_noticed(study, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for body, warned in (("x", False), ("x", False), ("1000 * x", True), ("1000 * x", True)):
        (tmp_path / "edited_function.py").write_text(f"def f(x):\n    return {body}\n")
        sys.modules.pop("edited_function", None)
        linecache.clearcache()
        from edited_function import f

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            study.map(f, grid(x=[3]), workers=0)
        assert [w.category for w in caught] == [mfdeq.StudyWarning] * warned


def test_complex_numbers(study):
    [record] = study.map(functions.waves, grid(i=[2]), workers=0)
    assert record.outputs["python"] == 1 + 4j
    assert record.outputs["single"] == 3j
    assert record.outputs["single"].dtype == np.complex64
    np.testing.assert_array_equal(record.outputs["array"], [1j, 2.0])
    assert not record.damaged


def test_complex_numbers_in_a_report(study):
    pytest.importorskip("jinja2", reason="the studies extra is not installed")
    study.map(functions.waves, grid(i=[2, 3]), workers=0)
    assert "waves" in study.to_html()


def test_masked_arrays_are_refused(study):
    [record] = study.map(functions.masked, grid(i=[1]), workers=0)
    assert "'x' is a masked array" in record.error


def test_files_that_were_changed_are_noticed(study):
    record, other = study.map(functions.pair, PAIRS[:2], workers=0)
    file = record.outputs.file("state")
    np.save(file, np.load(file) + 1e-9)
    other.outputs.file("state").unlink()
    assert record.damaged == other.damaged == ["state"]
    assert other.outputs.shape("state") == (3,)
    with refused(mfdeq.StudyError, "state.npy cannot be read", "retry=True"):
        other.outputs["state"]
    again = study.map(functions.pair, PAIRS[:2], workers=0, retry=True)
    assert [one.damaged for one in again] == [[], []]
    np.testing.assert_array_equal(again[0].outputs["state"], np.arange(3.0))


# Kills.


def kills(study, number, longest):
    """A study of 500 cases killed so many times at random, and then let be."""
    script = [sys.executable, HERE / "support" / "study_functions.py", study.store.directory]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    rng = random.Random(0)
    before: dict = {}
    for _ in range(number):
        process = subprocess.Popen(script, env=environment)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.0, longest))
        process.kill()
        process.wait()
        if study.store.path.exists():
            rows = {r.key: (r.started, r.worker["pid"]) for r in mfdeq.Study(study.store.directory)}
            assert {key: rows[key] for key in before} == before  # neither lost nor made again
            before = rows
    subprocess.run(script, env=environment, check=True)
    found = whole(study)
    assert sorted((p["i"], p["j"]) for p in found) == [(i, j) for i in range(25) for j in range(20)]
    for record in study:
        i, j = record.params["i"], record.params["j"]
        np.testing.assert_array_equal(record.outputs["state"], np.arange(3.0) + 10 * i + j)
    return len(before)


def test_kills(study):
    kills(study, 4, 1.5)


@pytest.mark.slow
def test_two_hundred_kills(study):
    kills(study, 200, 1.2)


def test_workers_do_not_outlive_their_driver(tmp_path):
    script = [sys.executable, HERE / "support" / "study_functions.py", tmp_path / "study"]
    process = subprocess.Popen(script, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    study = mfdeq.Study(tmp_path / "study")
    while not len(study):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {record.worker["pid"] for record in study}
    deadline = time.monotonic() + 20
    while alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.02)


# Tables.


def test_a_table(study):
    pandas = pytest.importorskip("pandas", reason="the studies extra is not installed")
    study.map(functions.pair, PAIRS, workers=0)
    frame = study.to_pandas()
    assert list(frame.columns) == ["i", "j", "sum", "word", "status", "seconds", "started", "error"]
    assert (frame["sum"] == frame["i"] + frame["j"]).all()
    assert isinstance(frame, pandas.DataFrame)
    failing = mfdeq.Study(study.store.directory / "failing")
    failing.map(functions.moody, grid(i=range(4)), workers=0)
    assert list(failing.to_pandas()["status"]) == ["done", "failed", "failed", "done"]


def test_a_dataset_of_ragged_lists(study):
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.ragged, grid(i=range(2)), workers=0)
    with refused(mfdeq.ArgumentError, "'rows' has lists of different lengths", "names="):
        study.to_xarray()
    assert study.to_xarray(names=["even"])["even"].dtype == bool


def test_a_dataset(study):
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.pair, PAIRS[:-1], workers=0)
    flat = study.to_xarray(names=["state", "sum"])
    assert flat["state"].dims == ("case", "state_0")
    assert list(flat["i"].values) == [case["i"] for case in PAIRS[:-1]]
    whole = study.to_xarray(["i", "j"], ["state", "sum"])
    assert whole["state"].dims == ("i", "j", "state_0")
    np.testing.assert_array_equal(whole["state"].sel(i=2, j=1), np.arange(3.0) + 21)
    assert float(whole["sum"].sel(i=1, j=2)) == 3
    assert np.isnan(whole["sum"].sel(i=3, j=2))
    assert whole["sum"].dtype == float
    some = mfdeq.Study(study.store.directory / "some")
    some.map(functions.seldom, grid(i=range(3)), workers=0)
    assert some.to_xarray()["even"].dtype == bool
    even = some.to_xarray("i")["even"]
    assert even.dtype == object
    assert even.values[[0, 2]].tolist() == [True, False]
    assert np.isnan(even.values[1])
    partly = mfdeq.Study(study.store.directory / "partly")
    partly.map(functions.moody, grid(i=range(4)), workers=0)
    twice = partly.to_xarray("i")["twice"]  # of 1 and 2, which failed, too
    assert list(twice["i"].values) == [0, 1, 2, 3]
    np.testing.assert_array_equal(twice, [0.0, np.nan, np.nan, 6.0])
    for dims, names, words in (
        (["k"], None, ["'k'", "some of i, j"]),
        (["i"], None, ["do not tell all cases apart"]),
        ([], ["nothing"], ["'nothing'", "sum, state, word"]),
    ):
        with refused(mfdeq.ArgumentError, *words):
            study.to_xarray(dims, names)
