"""Densities and functions of H from random products: dense truth, and standard errors that hold."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from scipy.integrate import trapezoid
from scipy.sparse.linalg import LinearOperator
from support.matrices import diffusion
from support.repeats import one_fast
from support.sampled_spectra import SPECTRA, P, sampled_matrix
from support.spectra import symmetric_matrix

import mfdeq
from mfdeq.priors.metric import Euclidean
from mfdeq.spectrum.estimate import random_unit_vectors


def estimators(name):
    """Return, by name, the estimators of a spectrum, functions of (H, seed), and their truths."""
    values = SPECTRA[name]
    level = 0.1 * abs(values).max()

    def log1p(H, seed):
        return mfdeq.spectral_density(H, seed=seed, probes=8).sum(lambda x: np.log1p(x**2))

    found = {
        "trace": (lambda H, seed: mfdeq.trace(H, products=60, seed=seed), values.sum()),
        "frobenius_norm": (
            lambda H, seed: mfdeq.frobenius_norm(H, products=60, seed=seed),
            np.linalg.norm(values),
        ),
        "rank": (
            lambda H, seed: mfdeq.numerical_rank(H, 0.1, seed=seed, probes=8),
            (abs(values) > level).sum(),
        ),
        "log1p": (log1p, np.log1p(values**2).sum()),
    }
    if values.min() > 0:
        found["log_determinant"] = (
            lambda H, seed: mfdeq.log_determinant(H, seed=seed, steps=80, probes=8),
            np.log(values).sum(),
        )
    return found


@pytest.mark.parametrize("name", one_fast(*SPECTRA))
def test_two_standard_errors_contain_the_truth_in_95_of_100_cases(name):
    """Two standard errors contain the truth in 95 of 100 cases, and are not much too wide."""
    H = sampled_matrix(name)
    for what, (estimate, truth) in estimators(name).items():
        found = [estimate(H, seed) for seed in range(60)]
        off = np.array([e.value - truth for e in found])
        error = np.array([e.standard_error for e in found])
        inside = np.mean(abs(off) <= 2 * error + 1e-12 * abs(truth))
        assert inside >= 0.88, (what, inside)  # 57 of 60 on average, 53 or more in 98 of 100
        assert error.mean() <= 3 * off.std() + 1e-9 * abs(truth), (what, error.mean(), off.std())
        assert float(found[0]) == found[0].value


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_quadrature_is_exact_up_to_its_degree(scale):
    H = scale * sampled_matrix("indefinite")
    density = mfdeq.spectral_density(H, probes=5, steps=4, seed=3)
    assert density.products == 20
    z = random_unit_vectors(Euclidean(mfdeq.arrays.backend.Backend.of(H)), P, 5, 3)
    for power in range(8):
        truth = P * np.mean(np.sum(z * (np.linalg.matrix_power(H / scale, power) @ z), axis=0))
        found = density.sum(lambda x, p=power: (x / scale) ** p)
        assert found.value == pytest.approx(truth, rel=1e-9)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_multiple_of_the_identity_is_estimated_exactly(value):
    H = LinearOperator((P, P), matvec=lambda x: value * x, matmat=lambda X: value * X, dtype=float)
    density = mfdeq.spectral_density(H, steps=10)
    found = density.sum(np.exp)
    assert found.value == pytest.approx(P * np.exp(value))
    assert found.standard_error <= 1e-9 * found.value
    assert mfdeq.trace(H).value == pytest.approx(P * value)
    assert mfdeq.frobenius_norm(H).value == pytest.approx(np.sqrt(P) * value)
    assert mfdeq.numerical_rank(H).value == pytest.approx(P * (value > 0))


def test_known_pairs_make_errors_smaller():
    values = SPECTRA["indefinite"]
    H = sampled_matrix("indefinite")
    pairs = mfdeq.eigsh(H, 4, rtol=1e-10)
    plain, deflated = (
        mfdeq.spectral_density(H, probes=8, pairs=known).sum(np.square) for known in (None, pairs)
    )
    assert deflated.standard_error < 0.3 * plain.standard_error
    assert abs(deflated.value - (values**2).sum()) <= 3 * deflated.standard_error
    density = mfdeq.spectral_density(H, probes=8, pairs=pairs)
    assert density.nodes.max() < 1.1  # known eigenvalues are not found again
    assert density.cumulative(5.0) == pytest.approx(P - 2)


def test_cumulative_and_density_match_a_uniform_spectrum():
    values = np.linspace(-1, 1, P)
    density = mfdeq.spectral_density(symmetric_matrix(values), probes=30, steps=60)
    x = np.linspace(-1.3, 1.3, 200)
    np.testing.assert_allclose(density.cumulative(x), P * np.clip((x + 1) / 2, 0, 1), atol=8)
    assert density.cumulative(0.0).shape == ()
    curve = density(x, 0.05)
    assert trapezoid(curve, x) == pytest.approx(P, rel=1e-3)
    inside = abs(x) < 0.8
    np.testing.assert_allclose(curve[inside], P / 2, rtol=0.15)


def generalized():
    grid = (diffusion(6) + 0.05 * sp.identity(36)).tocsr()
    R = (grid @ grid).tocsr()
    S = np.random.default_rng(3).standard_normal((36, 10))
    H = S @ S.T + 0.2 * np.eye(36)
    return H, R, scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)


def test_generalized_estimates_match_dense_truth():
    H, R, values = generalized()
    M = mfdeq.Precision(R)
    pairs = mfdeq.eigsh(H, 5, M=M, rtol=1e-10)
    for estimate, truth in (
        (mfdeq.trace(H, M=M, products=45), values.sum()),
        (mfdeq.frobenius_norm(H, M=M, products=45), np.linalg.norm(values)),
        (mfdeq.log_determinant(H, M=M, probes=40, steps=36), np.log(values).sum()),
        (
            mfdeq.spectral_density(H, M=M, pairs=pairs, probes=40, steps=31).sum(np.log1p),
            np.log1p(values).sum(),
        ),
    ):
        assert abs(estimate.value - truth) <= 3 * estimate.standard_error
        assert estimate.standard_error < 0.2 * abs(truth)


def test_float32_is_accepted():
    H = sampled_matrix("flat").astype("float32")
    for estimate in (mfdeq.trace(H), mfdeq.log_determinant(H)):
        assert abs(estimate.value) < 1000


REFUSED = {
    "few probes": (lambda H: mfdeq.spectral_density(H, probes=3), "probes: expected at least 4"),
    "few products": (lambda H: mfdeq.trace(H, products=11), "products: expected at least 12"),
    "an indefinite determinant": (mfdeq.log_determinant, "H: expected a positive definite"),
    "not finite": (
        lambda H: mfdeq.spectral_density(H).sum(lambda x: x / 0),
        "f: expected finite",
    ),
    "not square": (lambda H: mfdeq.trace(H[:3]), "square"),
    "all pairs": (
        lambda H: mfdeq.spectral_density(H[:9, :9], pairs=mfdeq.eigsh(H[:9, :9], 9)),
        "expected fewer than P = 9 pairs, got 9",
    ),
    "width": (lambda H: mfdeq.spectral_density(H)(0.0, 0.0), "width"),
    "steps": (lambda H: mfdeq.spectral_density(H, steps=0), "steps"),
    "a precision without samples": (
        lambda H: mfdeq.trace(
            H,
            M=mfdeq.Precision(
                LinearOperator((P, P), matvec=np.asarray, rmatvec=np.asarray, dtype=float),
                solve=np.asarray,
            ),
        ),
        "root=",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_named(case):
    compute, message = REFUSED[case]
    with pytest.raises(mfdeq.ArgumentError, match=message):
        compute(sampled_matrix("indefinite"))


def test_nan_products_are_a_model_error():
    H = LinearOperator(
        (P, P), matvec=lambda x: np.nan * x, matmat=lambda X: np.nan * X, dtype=float
    )
    for compute in (
        mfdeq.trace,
        mfdeq.spectral_density,
        mfdeq.frobenius_norm,
        mfdeq.eigsh,
        mfdeq.randomized_eigsh,
        lambda H: mfdeq.eigsh(H, which="SA", preconditioner=np.eye(P)),
        lambda H: mfdeq.Nystrom(H, 5),
    ):
        with pytest.raises(mfdeq.ModelError, match="NaN"):
            compute(H)
