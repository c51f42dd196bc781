"""Records as pandas data frames and xarray datasets."""

from __future__ import annotations

import numpy as np
import pytest
from support import study_functions as functions
from support.refusing import refused

import mfdeq
from mfdeq.studies import grid


def test_a_data_frame_has_a_row_for_each_record(study):
    pandas = pytest.importorskip("pandas", reason="the studies extra is not installed")
    study.map(functions.pair, functions.PAIRS, workers=0)
    frame = study.to_pandas()
    assert list(frame.columns) == ["i", "j", "sum", "word", "status", "seconds", "started", "error"]
    assert (frame["sum"] == frame["i"] + frame["j"]).all()
    assert isinstance(frame, pandas.DataFrame)
    failing = mfdeq.Study(study.directory / "failing")
    failing.map(functions.fail_for_one_and_two, grid(i=range(4)), workers=0)
    assert list(failing.to_pandas()["status"]) == ["done", "failed", "failed", "done"]


def test_ragged_lists_are_refused_in_datasets(study):
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.ragged_list, grid(i=range(2)), workers=0)
    with refused(
        mfdeq.ArgumentError, "output 'rows': expected numbers.* different lengths", "names="
    ):
        study.to_xarray()
    assert study.to_xarray(names=["even"])["even"].dtype == bool


@pytest.fixture
def most_pairs(study):
    """A study of all pairs but the last."""
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.pair, functions.PAIRS[:-1], workers=0)
    return study


def test_a_dataset_without_dims_has_one_case_after_another(most_pairs):
    flat = most_pairs.to_xarray(names=["state", "sum"])
    assert flat["state"].dims == ("case", "state_0")
    assert list(flat["i"].values) == [case["i"] for case in functions.PAIRS[:-1]]


def test_a_dataset_has_parameters_as_dimensions(most_pairs):
    dataset = most_pairs.to_xarray(["i", "j"], ["state", "sum"])
    assert dataset["state"].dims == ("i", "j", "state_0")
    np.testing.assert_array_equal(dataset["state"].sel(i=2, j=1), np.arange(3.0) + 21)
    assert float(dataset["sum"].sel(i=1, j=2)) == 3
    assert np.isnan(dataset["sum"].sel(i=3, j=2))
    assert dataset["sum"].dtype == float


@pytest.mark.parametrize("dims", [(), ["i", "j"]])
def test_a_dataset_has_the_units_of_parameters_and_outputs(most_pairs, dims):
    units = {"i": "m", "state": "Pa", "word": "of an output that is left out"}
    most_pairs.map(functions.pair, functions.PAIRS[:1], workers=0, units=units)
    dataset = most_pairs.to_xarray(dims, ["state", "sum"])
    assert dataset["i"].attrs["units"] == "m"
    assert dataset["state"].attrs["units"] == "Pa"
    assert dataset["sum"].attrs == {}


def test_bools_stay_bools_in_datasets(study):
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.fail_for_one, grid(i=range(3)), workers=0)
    assert study.to_xarray()["even"].dtype == bool
    even = study.to_xarray("i")["even"]
    assert even.dtype == object
    assert even.values[[0, 2]].tolist() == [True, False]
    assert np.isnan(even.values[1])


def test_failed_cases_are_nan_in_datasets(study):
    pytest.importorskip("xarray", reason="the studies extra is not installed")
    study.map(functions.fail_for_one_and_two, grid(i=range(4)), workers=0)
    twice = study.to_xarray("i")["twice"]  # 1 and 2 failed
    assert list(twice["i"].values) == [0, 1, 2, 3]
    np.testing.assert_array_equal(twice, [0.0, np.nan, np.nan, 6.0])


@pytest.mark.parametrize(
    ("dims", "names", "words"),
    [
        (["k"], None, ["dims: expected some of i, j, got 'k'"]),
        (["i"], None, ["dims: expected parameters that together differ", "got i"]),
        ([], ["nothing"], ["names: expected some of sum, state, word, got 'nothing'"]),
    ],
)
def test_unknown_names_are_refused_in_datasets(most_pairs, dims, names, words):
    with refused(mfdeq.ArgumentError, *words):
        most_pairs.to_xarray(dims, names)
