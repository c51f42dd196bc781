"""The functions on distributed arrays are those of numpy on the whole arrays."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import N, vec_of

from mfdeq.petsc import namespace as xp
from mfdeq.petsc.arrays import DistributedArray

X = np.random.default_rng(3).standard_normal(N)


def on_ranks(array):
    return DistributedArray.from_petsc(vec_of(array))


def with_entry(value, at):
    changed = X.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize(
    "array",
    [X, with_entry(np.nan, 61), with_entry(9.0, [3, 70]), with_entry(-9.0, [3, 70]), 0 * X, X > 0],
)
def test_positions_of_extremes_are_those_of_numpy(name, array):
    distributed = on_ranks(array.astype(float))
    if array.dtype == bool:
        distributed = distributed > 0.5
    assert getattr(xp, name)(distributed) == getattr(np, name)(array)


@pytest.mark.parametrize(
    ("name", "others"),
    [("clip", (-0.5, 0.5)), ("maximum", (0.25,)), ("minimum", (0.25,)), ("square", ())],
)
def test_entrywise_functions_are_those_of_numpy(name, others):
    found = getattr(xp, name)(on_ranks(X), *others).gathered()
    np.testing.assert_array_equal(found, getattr(np, name)(X, *others))


def test_entries_are_chosen_by_conditions_of_two_arrays():
    x = on_ranks(X)
    found = xp.where(xp.logical_and(x > 0.0, xp.isfinite(x)), xp.abs(x), 0.0 * x)
    np.testing.assert_array_equal(found.gathered(), np.where(X > 0.0, X, 0.0))


@pytest.mark.parametrize("descending", [False, True])
def test_sorting_is_that_of_numpy(descending):
    step = -1 if descending else 1
    np.testing.assert_array_equal(xp.sort(on_ranks(X), descending=descending), np.sort(X)[::step])
    block = np.stack([X, -X, X**2], axis=1)
    columns = [on_ranks(block[:, j].copy()) for j in range(3)]
    found = xp.sort(xp.stack(columns, axis=1), axis=1, descending=descending)
    np.testing.assert_array_equal(found.gathered(), np.sort(block, axis=1)[:, ::step])
