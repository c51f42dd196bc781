"""Factors by compiled loops, against those by numpy and on several threads."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.systems import diffusion as volume
from support.matrices import diffusion
from support.sparse_graphs import SPARSE_MATRICES

import mfdeq
from mfdeq.arrays import jit
from mfdeq.arrays.sparse import to_canonical_format
from mfdeq.linear.multifrontal import elimination, fronts

CASES = {**SPARSE_MATRICES, "large fronts": diffusion(70, 0.3)}


def factors(matrix, symmetric):
    """F11^-1, D and E of all batches."""
    fronts.clear_cache()
    layout = fronts.Fronts.of(matrix)
    return [part for batch in elimination.eliminate(matrix, layout, symmetric) for part in batch]


def canonical(name, dtype="float64"):
    matrix = to_canonical_format(CASES[name].tocsr().astype(dtype))
    return matrix, abs(matrix - matrix.T).max() == 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_factors_do_not_depend_on_the_compiler(name, dtype, monkeypatch):
    matrix, symmetric = canonical(name, dtype)
    found = factors(matrix, symmetric)
    monkeypatch.setattr(jit, "is_available", lambda: False)
    rtol = 1e-9 if dtype == "float64" else 2e-2
    for x, y in zip(found, factors(matrix, symmetric), strict=True):
        assert (x is None) == (y is None)
        if x is not None and x.size:
            np.testing.assert_allclose(x, y, rtol=0.0, atol=rtol * abs(y).max())


@pytest.mark.parametrize("name", ["large fronts", "windy", "plane"])
def test_factors_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    matrix, symmetric = canonical(name)
    monkeypatch.setattr(elimination, "MIN_SHARED_OPERATIONS", 0.0)
    with mfdeq.threads(1):
        expected = factors(matrix, symmetric)
    with mfdeq.threads(3):
        for x, y in zip(expected, factors(matrix, symmetric), strict=True):
            assert (x is None and y is None) or np.array_equal(x, y)


def forest(fronts, seed):
    """A random forest whose parents have larger numbers, and the children of each front."""
    rng = np.random.default_rng(seed)
    parent = np.array([f + 1 + rng.geometric(0.2) for f in range(fronts)])
    parent[parent >= fronts] = -1
    children = np.argsort(parent, kind="stable")[(parent < 0).sum() :]
    counts = np.bincount(parent[parent >= 0], minlength=fronts)
    return parent, (np.concatenate([[0], np.cumsum(counts)]), children), rng


@pytest.mark.parametrize("tasks", [1, 4, 40])
@pytest.mark.parametrize("fronts", [1, 2, 300])
def test_updates_that_wait_do_not_overlap(tasks, fronts):
    """From the elimination of a front to that of its parent, also in tasks side by side."""
    pytest.importorskip("numba", reason="the fast extra is not installed")
    from mfdeq.linear.multifrontal import compiled_fronts

    parent, tree, rng = forest(fronts, tasks)
    squares = rng.integers(0, 9, fronts) ** 2
    operations = rng.random(fronts)
    order, bounds, places, size = compiled_fronts.schedule(parent, tree, operations, squares, tasks)
    assert sorted(order) == list(range(fronts))
    step = np.argsort(order)
    assert (step < step[parent])[parent >= 0].all()
    if tasks == 1:
        assert list(bounds) == [0, fronts]
        assert size < squares.sum() or fronts < 10
    task = np.searchsorted(bounds, step, "right") - 1  # that of fronts above is the last
    above = bounds.shape[0] - 1
    inside = [f for f in range(fronts) if task[f] < above]
    for f in inside:
        descends = parent[f] >= 0 and task[parent[f]] < above
        assert not descends or task[parent[f]] == task[f]
    used = [[] for _ in range(size)]  # of each entry: the task, and the steps in which it waits
    for f in inside:
        end = step[parent[f]] if parent[f] >= 0 else step[f]
        for at in range(places[f], places[f] + squares[f]):
            for other, first, last in used[at]:
                assert other == task[f]
                assert last < step[f] or end < first
            used[at].append((task[f], step[f], end))


def test_large_fronts_do_not_depend_on_the_number_of_threads(monkeypatch):
    """Those that are inverted by sweeps, of which threads share the products."""
    pytest.importorskip("numba", reason="the fast extra is not installed")
    from mfdeq.linear.multifrontal import compiled_inverses

    matrix = to_canonical_format(volume(30, 3).A)
    monkeypatch.setattr(jit, "pays", lambda entries: True)
    with mfdeq.threads(1):
        expected = factors(matrix, True)
    assert max(x.shape[-1] for x in expected[::3]) >= compiled_inverses.MIN_SWEPT
    with mfdeq.threads(2):
        for x, y in zip(expected, factors(matrix, True), strict=True):
            assert (x is None and y is None) or np.array_equal(x, y)


@pytest.mark.parametrize("size", [1, 127, 128, 300])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sweeps_invert_a_definite_front_and_refuse_others(size, dtype):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    from mfdeq.arrays.compiled_lapack import routines
    from mfdeq.linear.multifrontal import compiled_inverses

    root = np.random.default_rng(size).standard_normal((size, size))
    for shift in (1.0, -0.5):
        G = (root @ root.T / size + shift * np.eye(size)).astype(dtype)
        panel, found = G.T.ravel().copy(), np.zeros((size, size), dtype)
        work = np.empty(2 * size * compiled_inverses.SWEPT, dtype)
        letters = np.frombuffer(b"NTL", dtype=np.uint8).copy()
        integers, numbers = np.empty(8, np.int32), np.empty(2, dtype)
        nothing = np.empty(0, dtype)
        scratch = (panel, nothing, None, None, None, integers, work, letters, routines(dtype))
        scratch = (*(np.empty(0, np.int64) if x is None else x for x in scratch), numbers)
        layout = tuple(np.array([x]) for x in (0, 0, 0, 0, size, 0))
        factors = found.reshape(-1)
        definite = compiled_inverses.copy_definite(0, size, 0, layout, factors, scratch)
        definite = definite and compiled_inverses.sweep_all(0, size, layout, factors, scratch)
        assert bool(definite) == bool(np.linalg.eigvalsh(G).min() > 0.0)
        if definite:
            expected = np.linalg.inv(G.astype("float64"))
            rtol = 1e-11 if dtype == "float64" else 1e-3
            np.testing.assert_allclose(found, expected, rtol=0.0, atol=rtol * abs(expected).max())


@pytest.mark.parametrize("count", [1, 3])
def test_a_singular_front_is_an_error(count, monkeypatch):
    matrix = diffusion(20).tolil()
    matrix[7, :] = 0.0
    matrix[:, 7] = 0.0
    matrix[7, 7] = 0.0  # stored
    matrix = (diffusion(20) * 0.0 + matrix).tocsr()
    monkeypatch.setattr(elimination, "MIN_SHARED_OPERATIONS", 0.0)
    with mfdeq.threads(count), pytest.raises(np.linalg.LinAlgError):
        factors(to_canonical_format(matrix), True)
