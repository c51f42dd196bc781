"""Studies: calls, records, arguments, errors and warnings."""

from __future__ import annotations

import concurrent.futures as futures
import linecache
import re
import sys
import warnings
from functools import partial

import numpy as np
import pytest
from support import study_functions as functions
from support.refusing import refused, table
from support.study_checks import assert_complete

import mfdeq
from mfdeq.studies import Status, grid
from mfdeq.studies.provenance import THREAD_VARIABLES

EXECUTORS = table(
    ("in process", lambda: {"workers": 0}),
    ("processes", lambda: {"workers": 2}),
    ("threads", lambda: {"executor": futures.ThreadPoolExecutor(2)}),
    ("ahead", lambda: {"executor": futures.ThreadPoolExecutor(2), "ahead": 3}),
)


@pytest.mark.parametrize("options", EXECUTORS)
def test_every_case_is_recorded_by_every_executor(study, options):
    records = study.map(functions.pair, functions.PAIRS, **options())
    assert [dict(record.params) for record in records] == functions.PAIRS
    for record, case in zip(records, functions.PAIRS, strict=True):
        i, j = case.values()
        assert record.outputs["sum"] == i + j
        assert record.outputs["word"] == f"{i}{j}"
        np.testing.assert_array_equal(record.outputs["state"], np.arange(3.0) + 10 * i + j)
        assert record.status == "done"
        assert record.provenance["packages"]["numpy"] == np.__version__
        assert record.provenance["function"] == "support.study_functions.pair"
        assert record.worker["pid"]
    assert len(assert_complete(study)) == len(study) == 12
    status = study.status()
    assert status == Status(12, 0, 12, False, status.seconds)
    assert status.left == 0


def test_workers_of_dask(study):
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with (
        warnings.catch_warnings(),
        distributed.Client(processes=False, n_workers=2, dashboard_address=None) as client,
    ):
        warnings.simplefilter("ignore")
        study.map(functions.pair, functions.PAIRS, executor=client.get_executor())
    assert len(assert_complete(study)) == 12


def test_recorded_cases_are_not_run_again(study):
    first = {r.key: r.started for r in study.map(functions.pair, functions.PAIRS[:5], workers=0)}
    again = mfdeq.Study(study.directory).map(functions.pair, functions.PAIRS[::-1], workers=0)
    assert [dict(record.params) for record in again] == functions.PAIRS[::-1]
    assert {r.key: r.started for r in study.records() if r.key in first} == first
    assert len(assert_complete(study)) == 12


def test_cases_are_identified_by_their_content(study):
    study.map(functions.pair, [{"i": 1, "j": 2}], workers=0)
    study.map(functions.pair, [{"j": 2, "i": np.int64(1)}], workers=0)
    assert len(study) == 1
    x = np.arange(3.0)
    weigh = mfdeq.Study(study.directory / "arrays of params")
    weigh.map(np.linalg.norm, [{"x": x}, {"x": x + 1}, {"x": x.astype(np.float32)}], workers=0)
    weigh.map(np.linalg.norm, [{"x": np.arange(3.0)}], workers=0)
    assert len(weigh) == 3
    np.testing.assert_array_equal(weigh.records()[1].params["x"], x + 1)
    assert weigh.records()[1].outputs["value"] == np.linalg.norm(x + 1)


def test_failed_cases_are_recorded_and_the_others_run(study):
    records = study.map(functions.fail_for_one_and_two, grid(i=range(4)), workers=0)
    assert [record.status for record in records] == ["done", "failed", "failed", "done"]
    assert "one is not liked" in records[1].error
    assert 'raise ValueError("one is not liked")' in records[1].traceback
    assert "output 'bad': expected a number" in records[2].error
    assert [record.key for record in study.failures] == [records[1].key, records[2].key]
    with refused(mfdeq.StudyError, "one is not liked", "retry=True"):
        records[1].outputs["twice"]
    before = records[1].started
    assert (
        study.map(functions.fail_for_one_and_two, grid(i=range(4)), workers=0)[1].started == before
    )
    assert (
        study.map(functions.fail_for_one_and_two, grid(i=range(4)), workers=0, retry=True)[
            1
        ].started
        > before
    )
    assert len(assert_complete(study)) == 4


@pytest.mark.parametrize("options", EXECUTORS)
def test_a_case_outside_of_the_domain_of_its_model_is_recorded_by_every_executor(study, options):
    records = study.map(functions.root_of, grid(x=[4.0, -4.0, 9.0]), **options())
    assert [record.status for record in records] == ["done", "failed", "done"]
    assert [records[i].outputs["root"] for i in (0, 2)] == pytest.approx([2.0, 3.0])
    assert "DomainError: no root of a negative number" in records[1].error
    before = records[1].started
    again = study.map(functions.root_of, grid(x=[4.0, -4.0, 9.0]), workers=0)
    assert again[1].started == before
    again = study.map(functions.root_of, grid(x=[4.0, -4.0, 9.0]), workers=0, retry=True)
    assert again[1].started > before
    assert again[0].started == records[0].started


@pytest.mark.parametrize("in_processes", [False, True])
def test_an_output_that_cannot_be_stored_fails_only_its_case(study, processes, in_processes):
    options = {"executor": processes} if in_processes else {"workers": 0}
    records = study.map(functions.partly_storable, grid(i=range(5)), **options)
    assert [record.status for record in records] == ["done", *["failed"] * 3, "done"]
    for record, kind in zip(records[1:4], ("dia_array", "csr_matrix", "Operator"), strict=True):
        assert re.search(
            rf"output 'm': expected a number, a string, .* got \w*{kind}", record.error
        )
        assert "record.kept holds the others: twice, x" in record.error
        assert record.kept["twice"] == 2 * record.params["i"]
        np.testing.assert_array_equal(record.kept["x"], np.ones(2) * record.params["i"])
        with refused(mfdeq.StudyError, "output 'm': expected"):
            _ = record.outputs
    assert len(assert_complete(study)) == 5


def test_pandas_series_are_refused_as_outputs(study):
    pandas = pytest.importorskip("pandas", reason="the studies extra is not installed")
    [record] = study.map(lambda i: pandas.Series([i, 2]), grid(i=[1]), workers=0)
    assert "output 'value': expected a number" in record.error
    assert "got Series" in record.error


def test_masked_arrays_are_refused(study):
    [record] = study.map(functions.masked_array, grid(i=[1]), workers=0)
    assert "output 'x': expected an array without a mask" in record.error


def test_complex_numbers_are_stored(study):
    [record] = study.map(functions.complex_outputs, grid(i=[2]), workers=0)
    assert record.outputs["python"] == 1 + 4j
    assert record.outputs["single"] == 3j
    assert record.outputs["single"].dtype == np.complex64
    np.testing.assert_array_equal(record.outputs["array"], [1j, 2.0])
    assert not record.damaged


def test_random_numbers_depend_only_on_seed_and_case(tmp_path, processes):
    runs = [
        mfdeq.Study(tmp_path / f"{n}").map(functions.random_numbers, grid(i=indices), **options)
        for n, (indices, options) in enumerate(
            [
                (range(4), {"workers": 0}),
                (range(3, -1, -1), {"executor": processes}),
                (range(4), {"workers": 0, "seed": 1}),
            ]
        )
    ]
    values = [{r.params["i"]: tuple(r.outputs["numbers"]) for r in run} for run in runs]
    assert values[0] == values[1]
    assert not set(values[0].values()) & set(values[2].values())
    assert len(set(values[0].values())) == 4
    record = runs[0][0]
    drawn = np.random.default_rng(record.seed).standard_normal(4)
    np.testing.assert_array_equal(record.outputs["numbers"], drawn)


@pytest.mark.parametrize(
    ("kind", "call", "words"),
    table(
        (
            "another function",
            mfdeq.StudyError,
            (functions.random_numbers, grid(i=[1])),
            ["expected the function support.study_functions.pair", "got .*random_numbers"],
        ),
        (
            "not callable",
            mfdeq.ArgumentError,
            (3, functions.PAIRS),
            ["function: expected a callable, got int"],
        ),
        (
            "the same case twice",
            mfdeq.ArgumentError,
            (functions.pair, functions.PAIRS + functions.PAIRS[1:2]),
            ["cases 1 and 12 are the same"],
        ),
        ("no dict", mfdeq.ArgumentError, (functions.pair, [3]), ["case 0: expected a dict.* int"]),
        ("a bad name", mfdeq.ArgumentError, (functions.pair, [{"a b": 3}]), ["got 'a b'"]),
        (
            "a reserved name",
            mfdeq.ArgumentError,
            (functions.pair, [{"status": 3}]),
            ["'status' is reserved"],
        ),
        (
            "a missing argument",
            mfdeq.ArgumentError,
            (functions.pair, grid(i=[1])),
            ["i, j", "missing a required"],
        ),
        (
            "rng as a parameter",
            mfdeq.ArgumentError,
            (functions.random_numbers, grid(i=[1], rng=[2])),
            ["the study itself passes 'rng'"],
        ),
        (
            "a dict as a value",
            mfdeq.ArgumentError,
            (functions.pair, [{"i": {}}]),
            ["case 0: i: expected a number", "got dict"],
        ),
    ),
)
def test_arguments_that_cannot_be_used_are_refused(study, kind, call, words):
    study.map(functions.pair, functions.PAIRS[:1], workers=0)
    with refused(kind, *words):
        study.map(*call, workers=0)
    assert len(study) == 1


def test_another_seed_or_another_partial_is_refused(study):
    study.map(functions.random_numbers, grid(i=[1]), workers=0)
    with refused(mfdeq.StudyError, "expected the seed 0", "got 1"):
        study.map(functions.random_numbers, grid(i=[2]), workers=0, seed=1)
    fixed = mfdeq.Study(study.directory / "fixed")
    fixed.map(partial(functions.pair, i=1), grid(j=[1]), workers=0)
    with refused(mfdeq.StudyError, r'"i": 1.*"i": 2'):
        fixed.map(partial(functions.pair, i=2), grid(j=[1]), workers=0)


def test_functions_that_cannot_be_pickled_need_workers_0(study):
    with refused(mfdeq.ArgumentError, "cannot be sent", "workers=0"):
        study.map(lambda i: i, grid(i=[1]), workers=1)
    with refused(mfdeq.ArgumentError, "executor: expected a concurrent.*Executor, got int"):
        study.map(functions.random_numbers, grid(i=[1]), executor=3)
    assert study.map(lambda i: i, grid(i=[1]), workers=0)[0].outputs["value"] == 1


class Knot:
    """An object that refers to itself, with an attribute that cannot be pickled."""

    def __init__(self):
        self.again, self.method = self, self.run
        self.scale = lambda t: t

    def run(self, j):
        return self.scale(j)


def test_the_attribute_of_a_model_that_cannot_be_pickled_is_named(study):
    model = mfdeq.from_function(lambda h, theta: h - theta, 1, 1, "residual")
    with refused(mfdeq.ArgumentError, "attribute 'f' of FunctionResidual is <function", "lambda"):
        study.map(partial(functions.pair, i=model), grid(j=[1]), workers=1)
    with refused(mfdeq.ArgumentError, "entry 'scale' of argument table of function is <function"):
        study.map(partial(functions.pair, table={"scale": lambda t: t}), grid(j=[1]), workers=1)
    knot = Knot()
    with refused(mfdeq.ArgumentError, "attribute 'scale' of Knot is <function"):
        study.map(knot.run, grid(j=[1]), workers=1)


class Unpicklable:
    def __repr__(self):
        return 10_000 * "x"

    def __reduce__(self):
        raise TypeError("no way")


def test_values_that_cannot_be_pickled_are_not_printed(study):
    with refused(mfdeq.ArgumentError, "argument table of function is a Unpicklable", "no way") as e:
        study.map(partial(functions.pair, table=Unpicklable()), grid(j=[1]), workers=1)
    assert len(str(e.value)) < 1000


def test_workers_share_the_threads_of_the_machine(study, monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    records = study.map(functions.threads_of_the_worker, grid(i=[1, 2, 3]), workers=2)
    assert {record.outputs["threads"] for record in records} == {3}


def test_threads_accept_functions_that_cannot_be_pickled(study):
    with futures.ThreadPoolExecutor(2) as executor:
        records = study.map(lambda i: i + len(functions.PAIRS), grid(i=[1, 2]), executor=executor)
    assert [record.outputs["value"] for record in records] == [13, 14]


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
def test_a_function_with_other_values_warns(study, made):
    study.map(made(2), grid(x=[3]), workers=0)
    study.map(made(2), grid(x=[4]), workers=0)
    with pytest.warns(mfdeq.StudyWarning, match=r"2 records of a function .* have changed"):
        records = study.map(made(3), grid(x=[3]), workers=0)
    assert records[0].outputs["value"] == 9
    assert records[0].provenance["fingerprint"]


def test_a_function_with_changed_source_warns(study, tmp_path, monkeypatch):
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
