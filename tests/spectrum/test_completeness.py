"""Copies and other wanted eigenvalues are not missed, and the report says with what chance."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.spectrum import extreme
from mfdeq.spectrum.lanczos import select_wanted
from mfdeq.spectrum.miss_chance import Run
from mfdeq.spectrum.schur_complement import UnwantedPairs
from mfdeq.spectrum.sides import wanted_sides


def rotated(values, seed=0):
    """Return a dense symmetric matrix of these eigenvalues."""
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return Q * values @ Q.T


def cycle(n):
    ones = np.ones
    return sp.diags_array(
        [-ones(1), -ones(n - 1), 2.0 * ones(n), -ones(n - 1), -ones(1)],
        offsets=[1 - n, -1, 0, 1, n - 1],
    ).toarray()


RANDOM = np.random.default_rng(5)
SPECTRA = {
    "cycle": np.linalg.eigvalsh(cycle(90)),
    "five copies": np.r_[np.full(5, 2.0), RANDOM.uniform(-1, 1, 85)],
    "copies at both ends": np.r_[np.full(4, -2.0), RANDOM.uniform(-1, 1, 80), np.full(3, 2.0)],
    "copies below the largest": np.r_[3.0, np.full(4, 2.0), RANDOM.uniform(-1, 1, 85)],
    "null space": np.r_[np.zeros(50), RANDOM.uniform(0.1, 1, 40)],
    "Wilkinson": np.linalg.eigvalsh(
        np.diag(abs(np.arange(-30.0, 31.0))) + np.diag(np.ones(60), 1) + np.diag(np.ones(60), -1)
    ),
    "graded": np.r_[np.repeat(10.0 ** -np.arange(8.0), 3), np.zeros(66)],
    "low rank": np.r_[np.full(3, 7.0), np.zeros(87)],
    "two clusters": np.r_[1 + 1e-9 * np.arange(10), 2 + 1e-9 * np.arange(10), np.zeros(70)],
}


@pytest.mark.parametrize("rtol", [1e-6, 1e-10])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("name", SPECTRA)
def test_no_wanted_eigenvalue_is_missed(name, which, rtol):
    values = np.sort(SPECTRA[name])
    for k, seed in ((1, 0), (3, 1), (6, 2)):
        found = mfdeq.eigsh(rotated(values, seed), k=k, which=which, rtol=rtol)
        wanted, got = values[select_wanted(values, k, which)], found.values
        if which == "LM":  # of values of equal magnitude either may be returned
            wanted, got = np.sort(abs(wanted)), np.sort(abs(got))
        assert abs(got - wanted).max() <= 2.0 * max(rtol * abs(values).max(), 1e-13)
        nearest = abs(found.values[:, None] - values).min(axis=1)
        assert np.all(nearest <= found.error_bounds)
        assert 0.0 <= found.report.miss_chance <= 1e-6
        # Of many copies, the dense method takes over after three times as many products as rows.
        dense = found.report.method == "dense"
        assert dense or 0 < found.report.extra_products < found.report.products


def test_copies_are_found_in_the_inner_product_of_a_precision():
    n = 80
    R = sp.diags_array([-np.ones(n - 1), 2.5 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    L = np.linalg.cholesky(R.toarray())
    values = np.r_[np.full(4, 2.0), RANDOM.uniform(-1, 1, n - 4)]
    H = L @ rotated(values) @ L.T
    by_products = mfdeq.Precision(
        sp.linalg.aslinearoperator(R.tocsr()), solve=lambda b: np.linalg.solve(R.toarray(), b)
    )
    for M in (R.tocsr(), mfdeq.Precision(R.tocsr()), by_products):
        found = mfdeq.eigsh(0.5 * (H + H.T), k=6, which="LA", M=M)
        np.testing.assert_allclose(found.values, np.sort(values)[-6:], atol=1e-6)


def test_without_the_search_a_copy_is_missed_and_the_report_says_nothing_of_chances():
    found = mfdeq.eigsh(rotated(SPECTRA["five copies"]), k=3, which="LA", complete=False)
    assert found.values[0] < 1.5
    assert (found.report.miss_chance, found.report.miss_gap) == (None, None)
    assert found.report.extra_products == 0


def test_a_missing_eigenvalue_whose_pair_is_not_found_is_an_error(monkeypatch):
    search, first = extreme._search, []

    def stubborn(problem, begin):
        first[:] = first or [search(problem, begin)]
        return first[0]

    monkeypatch.setattr(extreme, "_search", stubborn)
    with pytest.raises(mfdeq.ConvergenceError, match="beyond the 3 found is missing") as caught:
        mfdeq.eigsh(rotated(SPECTRA["five copies"]), k=3, which="LA")
    assert caught.value.best is first[0]
    assert not caught.value.report.converged


def test_among_dense_eigenvalues_the_chance_is_that_of_a_gap():
    values = np.cos(np.linspace(0.0, np.pi, 1500))  # less than 1e-5 apart at the ends
    H = sp.diags_array(values).tocsr()
    found = mfdeq.eigsh(H, k=2, which="LA", complete=False).report.products
    report = mfdeq.eigsh(H, k=2, which="LA", max_products=found + 60).report
    assert 1e-5 < report.miss_gap < 0.1
    assert 0.0 < report.miss_chance <= 1e-6
    assert report.extra_products == 60
    uniform = mfdeq.eigsh(sp.diags_array(np.linspace(0.0, 1.0, 2000)).tocsr(), k=6).report
    assert uniform.miss_gap <= 2e-6
    assert 0.0 < uniform.miss_chance <= 1e-6


@pytest.mark.parametrize("k", [3, 6])
def test_a_copy_that_takes_hundreds_of_products_is_found(k):
    found = mfdeq.eigsh(sp.csr_array(cycle(800)), k=k, which="SA")
    angles = 2.0 * np.pi * np.arange(800) / 800
    np.testing.assert_allclose(found.values, np.sort(2.0 - 2.0 * np.cos(angles))[:k], atol=1e-9)
    assert found.report.miss_chance <= 1e-6


def test_a_search_continues_with_the_copies_that_it_has_missed():
    """It keeps what it knows of the unwanted eigenvectors, so that the copies converge soon."""
    values = np.repeat(np.geomspace(1.0, 1e-3, 500), 3)
    pairs = mfdeq.eigsh(sp.diags(values).tocsr(), 9, "LA")
    np.testing.assert_allclose(pairs.values, np.sort(values)[-9:], rtol=1e-5)
    report = pairs.report
    assert report.extra_products < 2.3 * (report.products - report.extra_products)


def test_further_pairs_are_found_from_the_basis_of_a_complete_result():
    values = np.sort(SPECTRA["copies below the largest"])
    first = mfdeq.eigsh(rotated(values), k=3, which="LA")
    more = mfdeq.eigsh(rotated(values), k=7, which="LA", resume=first)
    np.testing.assert_allclose(more.values, values[-7:], atol=1e-6)


@pytest.mark.parametrize("M", [None, sp.diags_array(np.linspace(1.0, 2.0, 90)).tocsr()])
def test_no_random_block_is_drawn_twice_also_after_a_search_is_resumed(M, monkeypatch):
    drawn, random = [], Backend.random

    def recorded(self, *shape, seed):
        drawn.append(seed)
        return random(self, *shape, seed=seed)

    H = rotated(SPECTRA["five copies"])
    options = {"which": "LA", "M": M}
    monkeypatch.setattr(Backend, "random", recorded)
    first = mfdeq.eigsh(H, k=3, **options)
    mfdeq.eigsh(H, k=6, resume=first, **options)
    in_complements = [seed for seed in drawn if seed >= 40_000]
    assert len(set(in_complements)) == len(in_complements) >= 2


def test_copies_beyond_those_of_a_resumed_search_are_found(tmp_path):
    values = np.r_[np.full(12, 2.0), RANDOM.uniform(-1, 1, 78)]
    found = None
    for k in (2, 4, 7, 11, 13):
        found = mfdeq.eigsh(rotated(values), k=k, which="LA", resume=found)
        np.testing.assert_allclose(found.values, np.sort(values)[-k:], atol=1e-6)


SIMPLE = {
    "inverse squares": 1.0 / np.arange(1.0, 2001.0) ** 2,
    "inverses": 1.0 / np.arange(1.0, 2001.0),
    "exponential": np.exp(-0.05 * np.arange(1500)),
    "of both signs": np.where(np.arange(1500) % 2, 1.0, -0.7) * np.exp(-0.05 * np.arange(1500)),
}


def test_on_simple_spectra_a_quarter_of_the_products_is_added():
    found, extra = 0, 0
    for name, values in SIMPLE.items():
        for k in (8, 50):
            report = mfdeq.eigsh(sp.diags_array(values).tocsr(), k=k).report
            own = report.products - report.extra_products
            assert report.extra_products <= 0.28 * own, (name, k)
            assert report.miss_gap <= 2e-6
            found, extra = found + own, extra + report.extra_products
    assert extra <= 0.2 * found


def lanczos_steps(values, steps, rng, kept=None):
    """Return the start and the `Run` of a Lanczos process with a diagonal H.

    With `kept`, it is restarted with that many of the largest Ritz values after half of the steps.
    """
    q = rng.standard_normal(len(values))
    start = q / np.linalg.norm(q)
    Q, run = start[:, None], Run()
    for step in range(steps):
        w = values * Q[:, -1]
        for _ in range(2):
            w = w - Q @ (Q.T @ w)
        length = float(np.linalg.norm(w))
        ritz, Y = np.linalg.eigh((Q.T * values) @ Q)
        run.record(ritz, length * abs(Y[-1]), length)
        if kept is not None and step == steps // 2:
            run.record_restart(ritz, ritz[-kept:])
            Q = Q @ Y[:, -kept:]
        Q = np.c_[Q, w / length]
    return start, run


@pytest.mark.parametrize("kept", [None, 2])
def test_the_chance_bounds_the_component_of_a_start_that_hides_an_eigenvalue(kept):
    """A component c of a random vector is as small as that with the chance c sqrt(2 n / pi)."""
    n, steps, last = 30, 6 if kept is None else 7, 1.05
    values = np.r_[np.linspace(-1.0, 1.0, n - 1), 1.2]
    rng, hidden, bounds = np.random.default_rng(0), [], []
    for _ in range(4000):
        start, run = lanczos_steps(values, steps, rng, kept)
        if run.values.max() < last:
            hidden.append(abs(start[-1]))
            bounds.append(math.exp(run.log_chance(1, values[-1], n)))
    assert len(bounds) > 20
    chances = np.array(hidden) * math.sqrt(2.0 * n / math.pi)
    assert np.all(chances <= np.array(bounds) * (1.0 + 1e-9))
    assert np.median(np.array(bounds) / chances) < 5.0


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_the_operator_on_a_complement_has_the_eigenvalues_that_are_missing(which):
    """G has as many eigenvalues beyond the last wanted value as H has beyond it and Y lacks."""
    n, k, rng = 60, 4, np.random.default_rng(2)
    values = np.sort(np.r_[rng.uniform(-1.0, 1.0, n - 6), -2.0, -1.5, 1.3, 1.5, 2.0, 2.0])
    H = rotated(values, 4)
    Q = rng.standard_normal((n, 1))
    for _ in range(44):
        Q = np.linalg.qr(np.c_[Q, H @ Q[:, -1]])[0]
    V, q = Q[:, :-1], Q[:, -1:]
    ritz, Y = np.linalg.eigh(V.T @ H @ V)
    couplings, tolerance = q.T @ H @ V @ Y, 1e-6
    wanted = select_wanted(ritz, k, which)
    sides = wanted_sides(ritz[wanted], np.zeros(k), which)
    ends = [side.end(tolerance) for side in sides]
    unwanted = np.setdiff1d(np.arange(len(ritz)), wanted)
    others = UnwantedPairs(sides, ends, ritz[unwanted], couplings[:, unwanted], 0.0)
    chosen, clearance = others.choose(20)
    assert len(chosen) > 4
    vectors = V @ Y[:, np.r_[wanted, unwanted[chosen]]]
    complement = others.complement(
        chosen, vectors, ritz[wanted], np.linalg.norm(couplings[:, wanted], axis=0)
    )
    basis = np.linalg.svd(vectors)[0][:, vectors.shape[1] :]
    assert complement.dimension == basis.shape[1]
    G = np.linalg.eigvalsh(basis.T @ (H + q @ complement.weights @ q.T) @ basis)
    for side, end in zip(sides, ends, strict=True):
        left_out = complement.bound(side.sign, end)
        assert left_out < 0.2
        missing = (side.sign * values > end).sum() - (side.sign * ritz[wanted] > end).sum()
        at_most = (side.sign * G > end - left_out).sum()
        assert missing <= at_most
        if side.sign == complement.sign:
            assert missing == (side.sign * G > end).sum() == at_most
            assert clearance > 0.2 or missing


def test_values_closer_than_the_tolerance_are_not_called_complete():
    """A search in the complement decides only about a gap, and takes no more than the first."""
    wanted, others = np.geomspace(1e5, 0.17, 60), np.geomspace(0.168, 0.02, 60)
    values = np.concatenate([wanted, others, np.zeros(480)])
    pairs = mfdeq.eigsh(sp.diags_array(values), 60, rtol=1e-6)
    last = pairs.values.min() + pairs.error_bounds[pairs.values.argmin()]
    apart = abs(values[:, None] - pairs.values) > pairs.error_bounds
    missed = values[(values > last) & apart.all(axis=1)]
    assert len(missed) == 1
    assert missed.max() < last + pairs.report.miss_gap * pairs.report.norm
    assert pairs.report.extra_products <= 100
    assert "no wanted eigenvalue missed" not in str(pairs.report)
