"""Lanczos vectors are orthogonal by a bound, with few passes over the basis."""

import numpy as np
import pytest
import scipy.sparse as sp
from support.spectra import symmetric_matrix

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.spectrum.orthogonality import MAX_LOSS, OrthogonalityEstimate, orthogonalize_pair

EPS = float(np.finfo(float).eps)
SPECTRA = {
    "dense": np.linspace(-1.0, 1.0, 900),
    "decay": 1.0 / np.arange(1.0, 901.0),
    "fast decay": np.exp(-0.5 * np.arange(900.0)),
    "outliers": np.r_[1e3, -1e2, 10.0, np.linspace(-1.0, 1.0, 897)],
    "low rank": np.r_[np.linspace(1.0, 2.0, 30), np.zeros(870)],
}


@pytest.fixture
def passes(monkeypatch):
    """Record at each step the rows of a pass and those that there are, None without one."""
    steps, estimate = [], OrthogonalityEstimate
    allows, record = estimate.allows_skipping, estimate.record_pass

    def allows_skipping(self, length):
        skipped = allows(self, length)
        if skipped:
            steps.append(None)
        return skipped

    def record_pass(self, measured, length, both):
        rows = len(measured) - 1
        steps.append((rows, rows if self.following is None else len(self.following) - 1))
        record(self, measured, length, both)

    monkeypatch.setattr(estimate, "allows_skipping", allows_skipping)
    monkeypatch.setattr(estimate, "record_pass", record_pass)
    return steps


@pytest.mark.parametrize("k", [4, 20])
@pytest.mark.parametrize("name", SPECTRA)
def test_vectors_are_orthogonal_within_the_limit(name, k, passes):
    H = sp.diags_array(SPECTRA[name]).tocsr()
    found = mfdeq.eigsh(H, k=k, complete=False)
    V = found.krylov.basis[: found.krylov.size]
    limit = found.krylov.orthogonality.limit
    assert EPS < limit <= min(MAX_LOSS * EPS**0.5, 1e-2 * 1e-6)
    assert abs(V @ V.T - np.eye(len(V))).max() <= limit
    assert abs(found.vectors.T @ found.vectors - np.eye(k)).max() <= 100 * EPS
    wanted = np.sort(abs(SPECTRA[name]))[-k:]  # of either sign, where two are as large
    np.testing.assert_allclose(np.sort(abs(found.values)), wanted, atol=1e-6 * wanted[-1])
    if name in ("dense", "decay"):  # where they decay, the vectors before normalization are short
        assert passes.count(None) > (0.8 if name == "dense" else 0.3) * len(passes)
    if name == "decay":  # the first vectors lose orthogonality long before the others
        rows, available = np.sum([rows for rows in passes if rows is not None], axis=0)
        assert rows < available


def test_products_that_are_not_exact_take_a_pass_at_every_step(passes):
    A, rng = symmetric_matrix(SPECTRA["decay"][:200], seed=1), np.random.default_rng(0)

    def product(X):
        return A @ X + 1e-11 * rng.standard_normal(X.shape)

    H = sp.linalg.LinearOperator(A.shape, matvec=product, matmat=product, dtype=float)
    found = mfdeq.eigsh(H, k=5, rtol=1e-9, complete=False)
    V = found.krylov.basis[: found.krylov.size]
    assert passes.count(None) <= 3
    assert abs(V @ V.T - np.eye(len(V))).max() <= 100 * EPS


def test_a_tight_tolerance_takes_a_pass_at_every_step(passes):
    mfdeq.eigsh(sp.diags_array(SPECTRA["decay"]).tocsr(), k=4, rtol=1e-14, complete=False)
    assert None not in passes


def test_results_are_those_of_a_pass_at_every_step(monkeypatch):
    H = sp.diags_array(SPECTRA["decay"]).tocsr()
    few = mfdeq.eigsh(H, k=8)
    monkeypatch.setattr(OrthogonalityEstimate, "allows_skipping", lambda *_: False)
    every = mfdeq.eigsh(H, k=8)
    np.testing.assert_allclose(few.values, every.values, rtol=1e-13)
    assert abs(few.report.products - every.report.products) <= 2


@pytest.mark.parametrize("rows", [12, 5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pair_of_vectors_is_made_orthogonal_to_the_rows_before_it(dtype, rows):
    rng, n, j = np.random.default_rng(1), 5000, 12
    basis = np.zeros((j + 3, n), dtype)
    basis[: j + 1] = np.linalg.qr(rng.standard_normal((n, j + 1)))[0].T
    loss = 1e-3 * basis[3]
    basis[j] += loss
    backend = Backend.of(basis)
    w = np.asarray(rng.standard_normal((n, 1)), dtype)
    before = basis[: j + 1].astype(float) @ w.astype(float)
    W, removed = orthogonalize_pair(backend, basis, rows, j, w.copy(order="F"))
    eps = float(np.finfo(dtype).eps)
    assert abs(basis[:rows] @ basis[j]).max() <= 20 * eps
    orthogonal = [*range(rows), j]
    assert abs(basis[orthogonal] @ W).max() <= 20 * eps * np.linalg.norm(w)
    np.testing.assert_allclose(removed[:rows], before[:rows], atol=100 * eps)
    np.testing.assert_allclose(basis[rows:j] @ W, before[rows:j], atol=100 * eps)


def test_losses_are_small_beside_a_tolerance_that_decreases(monkeypatch):
    """The tolerance is relative to the wanted values, which decrease to a null space."""
    limits, set_tolerance = [], OrthogonalityEstimate.set_tolerance

    def record(self, *given):
        set_tolerance(self, *given)
        limits.append(self.limit)

    monkeypatch.setattr(OrthogonalityEstimate, "set_tolerance", record)
    values = np.r_[np.zeros(62), np.logspace(-4, 3, 58)]
    found = mfdeq.eigsh(symmetric_matrix(values, seed=2), k=4, which="SA", complete=False)
    assert abs(found.values).max() <= 1e-9
    assert 0.0 < max(limits) <= 100 * EPS
