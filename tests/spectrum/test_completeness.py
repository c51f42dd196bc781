"""Copies and other wanted eigenvalues are not missed, and the report says with what chance."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq
from mfdeq.spectrum import extreme
from mfdeq.spectrum.completeness import Run
from mfdeq.spectrum.lanczos import select_wanted


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
        assert 0 < found.report.extra_products < found.report.products


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
    report = mfdeq.eigsh(sp.diags_array(np.linspace(0.0, 1.0, 2000)).tocsr(), k=6).report
    assert 1e-5 < report.miss_gap < 0.1
    assert 0.0 < report.miss_chance <= 1e-6


def test_further_pairs_are_found_from_the_basis_of_a_complete_result():
    values = np.sort(SPECTRA["copies below the largest"])
    first = mfdeq.eigsh(rotated(values), k=3, which="LA")
    more = mfdeq.eigsh(rotated(values), k=7, which="LA", resume=first)
    np.testing.assert_allclose(more.values, values[-7:], atol=1e-6)


def test_a_simple_spectrum_takes_few_further_products():
    H = sp.diags_array(1.0 / np.arange(1.0, 2001.0) ** 2).tocsr()
    for k, share in ((6, 0.5), (50, 0.35)):
        report = mfdeq.eigsh(H, k=k).report
        assert report.extra_products <= share * (report.products - report.extra_products)
        assert report.miss_gap <= 2e-6


def test_the_chance_bounds_the_component_of_a_start_that_hides_an_eigenvalue():
    """A component c of a random vector is as small as that with the chance c sqrt(2 n / pi)."""
    n, steps, last = 30, 6, 1.05
    values = np.r_[np.linspace(-1.0, 1.0, n - 1), 1.2]
    rng, hidden, bounds = np.random.default_rng(0), [], []
    for _ in range(4000):
        q = rng.standard_normal(n)
        Q, run = (q / np.linalg.norm(q))[None, :], Run()
        for _ in range(steps):
            w = values * Q[-1]
            for _ in range(2):
                w = w - Q.T @ (Q @ w)
            run.lengths.append(float(np.linalg.norm(w)))
            run.values = np.linalg.eigvalsh(Q * values @ Q.T)
            Q = np.vstack([Q, w / run.lengths[-1]])
        if run.values.max() < last:
            hidden.append(abs(Q[0, -1]))
            bounds.append(math.exp(run.log_chance(1, values[-1], n)))
    assert len(bounds) > 20
    chances = np.array(hidden) * math.sqrt(2.0 * n / math.pi)
    assert np.all(chances <= np.array(bounds) * (1.0 + 1e-9))
    assert np.median(np.array(bounds) / chances) < 10.0
