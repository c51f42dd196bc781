"""Grids and random samples of cases."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from support.refusing import refused

import mfdeq
from mfdeq.studies import grid, sample

PARAMS = {"leak": scipy.stats.loguniform(1e-3, 1.0), "n": scipy.stats.randint(5, 9), "k": "x"}


def test_a_grid_has_every_combination():
    assert grid(a=[1, 2], b=["x"]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    assert [case["b"] for case in grid(a=[1, 2], b=[3, 4])] == [3, 4, 3, 4]


@pytest.mark.parametrize("method", ["random", "sobol", "halton", "latin"])
def test_samples_follow_their_distributions(method):
    cases = sample(PARAMS, 64, seed=3, method=method)
    assert all(isinstance(case["n"], int) and 5 <= case["n"] < 9 for case in cases)
    leaks = np.log10([case["leak"] for case in cases])
    assert abs(leaks.mean() + 1.5) < 0.4
    assert {case["k"] for case in cases} == {"x"}


@pytest.mark.parametrize("method", ["random", "sobol", "halton", "latin"])
def test_samples_depend_on_the_seed_alone(method):
    cases = sample(PARAMS, 64, seed=3, method=method)
    assert cases == sample(PARAMS, 64, seed=3, method=method)
    assert cases != sample(PARAMS, 64, seed=4, method=method)


@pytest.mark.parametrize("method", ["random", "sobol", "halton"])
def test_larger_samples_begin_with_the_smaller_ones(method):
    assert sample(PARAMS, 8, method=method)[:4] == sample(PARAMS, 4, method=method)


def test_values_that_are_not_a_list_are_refused():
    with refused(mfdeq.ArgumentError, "b: expected a list of values, got 'xy'"):
        grid(a=[1], b="xy")


def test_samples_without_a_distribution_are_refused():
    with refused(mfdeq.ArgumentError, "params: expected a distribution for at least one"):
        sample({"n": 3}, 4)
