"""Davidson's method misses no small eigenvalues, and the report says with what chance."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from support.repeats import one_fast
from support.spectra import symmetric_matrix

import mfdeq
from mfdeq.operators.user_operators import as_symmetric, backend_of
from mfdeq.priors.precision import metric_of
from mfdeq.spectrum.counted_operator import CountedOperator
from mfdeq.spectrum.pencil_probe import PencilProbe
from mfdeq.spectrum.schur_complement import Complement
from mfdeq.spectrum.sides import Side

P = 200
SPECTRA = {
    "simple": np.r_[np.geomspace(1e-6, 1e-3, 20), np.geomspace(1e-2, 1, P - 20)],
    "copies": np.r_[np.full(4, 1e-5), np.full(3, 2e-5), np.geomspace(1e-4, 1, P - 7)],
    "null space": np.r_[np.zeros(12), np.geomspace(1e-4, 1, P - 12)],
    "close cluster": np.r_[1e-5 * (1 + 1e-9 * np.arange(8)), np.geomspace(1e-4, 1, P - 8)],
    "cluster": np.r_[1e-5 * (1 + 1e-3 * np.arange(8)), np.geomspace(1e-4, 1, P - 8)],
    "indefinite": np.r_[np.full(3, -1e-3), np.geomspace(1e-4, 1, P - 3)],
    "many copies": np.r_[np.full(30, 1e-3), np.geomspace(1e-2, 1, P - 30)],
}


def preconditioner(values, quality, seed=1):
    """Return an approximate inverse of the matrix with these values."""
    H = symmetric_matrix(abs(values), seed)
    if quality == "good":
        return np.linalg.inv(H + 1e-6 * np.eye(P))
    if quality == "in other units":
        return 1e9 * np.linalg.inv(H + 1e-5 * np.eye(P))
    strength = {"mediocre": 1e-3, "bad": 1e-2}[quality]
    return np.linalg.inv(H + strength * np.diag(np.linspace(0.1, 1.0, P)))


@pytest.mark.parametrize(
    "quality", [*one_fast("good", "in other units"), *one_fast("bad", "mediocre")]
)
@pytest.mark.parametrize("name", SPECTRA)
def test_no_small_eigenvalue_is_missed(name, quality):
    values = np.sort(SPECTRA[name])
    H, M = symmetric_matrix(values, seed=1), preconditioner(values, quality)
    for k, block in ((1, 1), (3, 2), (6, 1), (15, 3)):
        found = mfdeq.eigsh(H, k, "SA", preconditioner=M, block=block)
        tol = max(1e-6 * abs(found.values).max(), 1e-13)
        assert abs(found.values - values[:k]).max() <= 2 * tol
        nearest = abs(found.values[:, None] - values).min(axis=1)
        assert np.all(nearest <= found.error_bounds)
        assert 0.0 <= found.report.miss_chance <= 1e-6
        if quality == "good":
            assert found.report.miss_gap <= 1e-7
            assert 0 < found.report.extra_products < 70


@pytest.mark.parametrize("hidden", [1, 3])
def test_eigenvectors_orthogonal_to_the_start_are_found(hidden):
    """With the exact inverse, no step of Davidson's method leaves the invariant subspace."""
    values = SPECTRA["simple"]
    Q = np.eye(P)
    H, M = np.diag(values), np.diag(1.0 / values)
    start = Q[:, hidden:] @ np.random.default_rng(0).standard_normal((P - hidden, 4))
    lost = mfdeq.eigsh(H, 4, "SA", preconditioner=M, v0=start, complete=False)
    np.testing.assert_allclose(lost.values, values[hidden : hidden + 4], rtol=1e-5)
    assert (lost.report.miss_chance, lost.report.extra_products) == (None, 0)
    found = mfdeq.eigsh(H, 4, "SA", preconditioner=M, v0=start)
    np.testing.assert_allclose(found.values, values[:4], rtol=1e-5)
    assert found.report.miss_chance <= 1e-6
    assert found.report.extra_products > 0


@pytest.mark.parametrize("by_products", [False, True])
def test_eigenvectors_hidden_in_the_inner_product_of_a_precision_are_found(by_products):
    R = sp.diags_array([-np.ones(P - 1), 2.5 * np.ones(P), -np.ones(P - 1)], offsets=[-1, 0, 1])
    R = R.tocsr()
    L = np.linalg.cholesky(R.toarray())
    values = np.r_[np.full(4, 1e-3), np.geomspace(1e-2, 1, P - 4)]
    H = L @ symmetric_matrix(values) @ L.T
    H, M = 0.5 * (H + H.T), R
    if by_products:
        M = mfdeq.Precision(
            sp.linalg.aslinearoperator(R), solve=lambda b: np.linalg.solve(R.toarray(), b)
        )
    truth, vectors = scipy.linalg.eigh(H, R.toarray())
    inverse = vectors / truth @ vectors.T
    start = vectors[:, 3:] @ np.random.default_rng(0).standard_normal((P - 3, 3))
    for k in (2, 6):
        found = mfdeq.eigsh(H, k, "SA", M=M, preconditioner=inverse, v0=start)
        np.testing.assert_allclose(found.values, truth[:k], atol=1e-6)
        assert found.report.miss_chance <= 1e-6
        assert found.report.miss_gap <= 1e-5
        V = found.vectors
        np.testing.assert_allclose(V.T @ (R @ V), np.eye(k), atol=1e-9)


def test_float32_stays_float32():
    values = np.r_[np.full(5, 1.0), np.linspace(1.5, 20, 95)].astype("float32")
    H, inverse = np.diag(values), np.diag(1 / values)
    start = np.eye(100, dtype="float32")[:, 3:5]
    found = mfdeq.eigsh(H, 4, "SA", preconditioner=inverse, rtol=1e-4, v0=start)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, 1.0, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.3, 3.0])
def test_the_chance_bounds_the_component_of_a_start_that_hides_an_eigenvalue(strength):
    """A component c of a normal vector is as small as that with the chance c sqrt(2 / pi)."""
    n, rng = 40, np.random.default_rng(3)
    values = np.r_[0.5, 1.0, np.linspace(1.2, 30.0, n - 2)]
    noise = strength * np.diag(rng.uniform(0.1, 1.0, n))
    H, E = symmetric_matrix(values), np.linalg.eigh(symmetric_matrix(values))[1]
    M = np.linalg.inv(H + noise)
    backend = backend_of(H)
    counted = CountedOperator(
        as_symmetric(backend, H, (n, n), "H"), False, metric_of(None, backend, n)
    )
    operator = as_symmetric(backend, M, (n, n), "M")
    known = Complement(E[:, 1:2], values[1:2], np.zeros(1), np.zeros((0, 0)), -1)
    Q = scipy.linalg.null_space(E[:, 1:2].T)
    bounds, chances = [], []
    for seed in range(300):
        probe = PencilProbe(counted, operator, known, Side(-1, -1.0, 0.0), 1e-8, seed, 30)
        w = Q.T @ probe.lanczos.dual_basis[0] * probe.squared_length**0.5
        S = Q.T @ (H - probe.shift * np.eye(n)) @ Q
        v = scipy.linalg.eigh(S, Q.T @ np.linalg.inv(M) @ Q)[1][:, 0]
        hidden = abs(v @ w) / np.linalg.norm(v)
        for _ in range(3):
            probe.expand()
            if probe.run.values.min() > 0:
                bounds.append(probe.chance(0.5))
                chances.append(hidden * math.sqrt(2.0 / math.pi))
    bounds, chances = np.array(bounds), np.array(chances)
    assert len(bounds) > 50
    assert np.all(np.minimum(chances, 1.0) <= bounds * (1.0 + 1e-6))
