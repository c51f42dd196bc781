"""Extreme eigenvalues against dense truth, with bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support.cases import CASES, SINGLE, build, close

import mfdeq

WHICH = ("LM", "LA", "SA", "BE")


def expected(values, k, which):
    values = np.sort(values)
    n = len(values)
    return {
        "LM": lambda: np.sort(values[np.argsort(-abs(values), kind="stable")][:k]),
        "LA": lambda: values[n - k :],
        "SA": lambda: values[:k],
        "BE": lambda: np.concatenate([values[: k // 2], values[n - (k - k // 2) :]]),
    }[which]()


def symmetric(values, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (Q * values) @ Q.T


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("case", [*CASES, *SINGLE], ids=str)
def test_hessian_eigenvalues(case, which):
    H = case.equilibrium().hessian(case.loss)
    P = H.shape[0]
    true = np.linalg.eigvalsh(case.truth.H)
    scale = abs(true).max()
    for k in {1, (P + 1) // 2, P}:
        pairs = mfdeq.eigsh(H, k=k, which=which)
        assert pairs.values.shape == (k,)
        assert pairs.vectors.shape == (P, k)
        off = abs(pairs.values - expected(true, k, which)).max()
        assert off <= 10 * case.rtol * scale
        distance = abs(true[:, None] - pairs.values).min(axis=0)
        assert np.all(distance <= pairs.error_bounds)
        assert np.all(pairs.error_bounds <= 1e-3 * scale + 1e-30)
        close(pairs.vectors.T @ pairs.vectors, np.eye(k), 1e-5)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.parametrize("foreign", [False, True])
def test_lanczos_on_a_larger_operator(k, which, foreign):
    values = np.r_[-50.0, -20.0, -19.0, -1.0, np.linspace(0, 0.9, 190), 3.0 ** np.arange(6)]
    dense = symmetric(values)
    H = (
        aslinearoperator(dense)
        if foreign
        else LinearOperator(dense.shape, matvec=lambda x: dense @ x, dtype=float)
    )
    pairs = mfdeq.eigsh(H, k=k, which=which, rtol=1e-8)
    close(pairs.values, expected(values, k, which), 1e-9)
    assert np.all(abs(dense @ pairs.vectors - pairs.vectors * pairs.values) <= 1e-6)
    assert np.all(abs(pairs.values - expected(values, k, which)) <= pairs.error_bounds)
    assert 0 < pairs.report.products < 20000


@pytest.mark.parametrize(
    "values",
    [np.ones(60), np.zeros(60), np.r_[np.zeros(57), 2.0, 2.0, 5.0], 1e-9 * np.arange(60.0)],
    ids=["identity", "zero", "rank three", "tiny"],
)
@pytest.mark.parametrize("which", WHICH)
def test_degenerate_spectra(values, which):
    dense = symmetric(values) if values.any() else np.zeros((60, 60))
    pairs = mfdeq.eigsh(aslinearoperator(dense), k=3, which=which)
    size = abs(values).max()
    assert np.all(abs(pairs.values - expected(values, 3, which)) <= 1e-6 * size)


def test_bounds_count_what_cancels():
    """A product that happens to be exact, of a matrix that rounding leaves only so well known."""
    pairs = mfdeq.eigsh(np.array([[1.0, -1.0], [-1.0, 1.0]]), k=2)
    assert pairs.error_bounds[0] >= np.finfo(float).eps * pairs.values[1]


def test_bounds_count_the_error_of_the_products():
    """Products that are wrong by 1e-6: the residual alone would promise too much."""
    case = build("diffusion")
    exact = case.equilibrium()
    off = exact.state + 1e-6 * np.linalg.norm(exact.state) * case.random(20, seed=1)
    moved = mfdeq.Equilibrium(
        exact.problem, off, exact.problem.linearize(off), exact.solver, mfdeq.SolveReport()
    )
    pairs = mfdeq.eigsh(moved.hessian(case.loss), k=6)
    true = np.linalg.eigvalsh(case.truth.H)
    distance = abs(true - pairs.values)
    assert distance.max() > 10 * pairs.report.residuals.max()
    assert np.all(distance <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= 100 * distance.max())


def test_not_converging_is_an_error_with_what_was_found():
    values = np.concatenate([np.linspace(0, 1e-3, 2000), [1.0]])
    H = LinearOperator((2001, 2001), matvec=lambda x: values * x, dtype=float)
    with pytest.raises(mfdeq.ConvergenceError, match="max_products") as caught:
        mfdeq.eigsh(H, k=5, which="SA", rtol=1e-10, max_products=40)
    assert "products" in str(caught.value)


def test_an_operator_that_is_not_symmetric_is_noticed():
    skew = np.triu(np.random.default_rng(0).standard_normal((100, 100)))
    dense = symmetric(np.arange(100.0)) + skew
    with pytest.raises(mfdeq.ConvergenceError, match="not symmetric"):
        mfdeq.eigsh(aslinearoperator(dense), k=3)


@pytest.mark.parametrize("k", [0, -1, 4, 2.0, True, None])
def test_k_out_of_range(k):
    H = build("smooth").equilibrium().hessian(build("smooth").loss)
    with pytest.raises(mfdeq.ArgumentError, match="k is"):
        mfdeq.eigsh(H, k=k)


def test_a_start_and_progress(capsys):
    dense = symmetric(np.arange(80.0))
    v0 = np.linalg.eigh(dense)[1][:, -1]
    pairs = mfdeq.eigsh(aslinearoperator(dense), k=1, which="LA", v0=v0, progress=True)
    close(pairs.values, [79.0], 1e-12)
    assert "products" in capsys.readouterr().err
