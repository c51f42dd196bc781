"""Precisions: solves, roots, variances and determinants of every kind of R, against dense truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator, splu
from support.matrices import BASIS, diffusion, symmetric
from support.precisions import dense, precision_by_products

import mfdeq

N = 7
GRID = (diffusion(N) + 0.05 * sp.identity(N * N)).tocsr()
ROUGH = (GRID @ GRID).tocsr()
UNITS = sp.diags(10.0 ** np.linspace(-4, 4, N * N))  # of parameters in other units
DENSE = symmetric(np.logspace(0, 4, 80))
KINDS = {
    "sparse": ROUGH,
    "badly scaled": (UNITS @ ROUGH @ UNITS).tocsr(),
    "two grids": sp.block_diag([ROUGH, 3 * GRID]).tocsr(),
    "dense": DENSE,
    "diagonal": np.logspace(-2, 3, 40),
    "one": np.ones(1),
}


def precision_root(R, P):
    """The root G of which samples are G w, w the white noise of a seed."""
    white = R.backend.random(P, 4 * P, seed=3)
    return np.linalg.lstsq(white.T, R.samples(4 * P, seed=3).T, rcond=None)[0].T


@pytest.mark.parametrize("kind", KINDS)
def test_solves_samples_variances_and_determinants_match_dense_algebra(kind):
    R, truth = mfdeq.Precision(KINDS[kind]), dense(KINDS[kind])
    P, inverse = truth.shape[0], np.linalg.inv(truth)
    X = np.random.default_rng(0).standard_normal((P, 3))
    size = np.sqrt(np.outer(np.diag(inverse), np.diag(inverse)))
    for x in (X, X[:, 0]):
        np.testing.assert_allclose(R @ x, truth @ x, rtol=1e-12)
        np.testing.assert_allclose(truth @ R.solve(x), x, atol=1e-8)
        np.testing.assert_allclose(R.covariance @ x, R.solve(x))
    np.testing.assert_allclose(R.variances(), np.diag(inverse), rtol=1e-8)
    assert R.log_determinant() == pytest.approx(np.linalg.slogdet(truth)[1], rel=1e-9, abs=1e-12)
    G = precision_root(R, P)
    assert np.all(abs(G @ G.T - inverse) <= 1e-8 * size)


def test_a_dense_precision_does_not_depend_on_units():
    correlated, units = np.eye(5) + 0.5, 10.0 ** np.linspace(-9, 9, 5)
    R, other = mfdeq.Precision(correlated), mfdeq.Precision(correlated * np.outer(units, units))
    b = np.arange(1.0, 6.0)
    np.testing.assert_allclose(units * other.solve(units * b), R.solve(b), rtol=1e-13)
    np.testing.assert_allclose(units * other.samples(seed=2), R.samples(seed=2), rtol=1e-13)
    np.testing.assert_allclose(units**2 * other.variances(), R.variances(), rtol=1e-13)
    determinant = R.log_determinant() + 2 * np.log(units).sum()
    assert other.log_determinant() == pytest.approx(determinant, abs=1e-12)
    M = np.diag([1.0, 1e16])
    assert mfdeq.eigsh(3 * M, k=2, M=M).values == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize("kind", KINDS)
def test_samples_depend_on_the_seed_only(kind):
    R = mfdeq.Precision(KINDS[kind])
    assert R.samples(4, seed=3).shape == (R.shape[0], 4)
    np.testing.assert_array_equal(R.samples(seed=3), R.samples(seed=3))
    assert np.any(R.samples(seed=3) != R.samples(seed=4))


def test_results_have_the_dtype_of_the_precision():
    R = mfdeq.Precision(GRID.astype("float32"))
    assert R.variances().dtype == R.samples().dtype == R.solve(np.ones(N * N)).dtype == np.float32
    inverse = np.linalg.inv(GRID.toarray())
    np.testing.assert_allclose(R.variances(), np.diag(inverse), rtol=1e-4)


def test_a_precision_of_products_solves_by_the_function_precision_by_products():
    R, truth = precision_by_products(ROUGH), ROUGH.toarray()
    b = np.random.default_rng(0).standard_normal((N * N, 2))
    np.testing.assert_allclose(truth @ R.solve(b), b, atol=1e-9)
    np.testing.assert_allclose(truth @ R.solve(b[:, 0]), b[:, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("method", "needed"),
    [("samples", "root="), ("variances", "sparse matrix"), ("log_determinant", "sparse matrix")],
)
def test_what_a_precision_of_products_does_not_know_is_an_error(method, needed):
    with pytest.raises(mfdeq.ArgumentError, match=needed):
        getattr(precision_by_products(ROUGH), method)()


def test_samples_by_the_root_precision_by_products():
    lu = splu(GRID.tocsc())
    root = LinearOperator(GRID.shape, matvec=lu.solve, rmatvec=lambda x: lu.solve(x, "T"))
    R = precision_by_products(ROUGH, root=root)
    white = np.random.default_rng(0).standard_normal((N * N, 5))
    np.testing.assert_allclose(R.samples(5), lu.solve(white), rtol=1e-9)
    assert R.samples().shape == (N * N,)


def test_a_quadratic_prior_takes_it_as_its_matrix():
    theta = np.random.default_rng(0).standard_normal(N * N)
    for R in (mfdeq.Precision(ROUGH), ROUGH):
        prior = mfdeq.QuadraticPrior(R, mean=0.5)
        assert prior.value(np.ones(2), theta) == pytest.approx(
            0.5 * (theta - 0.5) @ (ROUGH @ (theta - 0.5))
        )


INDEFINITE = (ROUGH - 30.0 * sp.identity(N * N)).tocsr()
INVALID = {
    "indefinite": (lambda: mfdeq.Precision(INDEFINITE), "not positive definite: .* negative"),
    "indefinite, dense": (lambda: mfdeq.Precision(-DENSE), "not positive definite"),
    "singular, dense": (
        lambda: mfdeq.Precision(np.outer([1.0, 1e8], [1.0, 1e8])),
        "scaled to a unit diagonal, its smallest eigenvalue is",
    ),
    "indefinite, diagonal": (lambda: mfdeq.Precision(np.array([1.0, 0.0])), "diagonal entry is 0"),
    "indefinite, products": (lambda: precision_by_products(-ROUGH), "not positive definite"),
    "singular": (lambda: mfdeq.Precision(sp.csr_matrix((5, 5))), "not positive definite"),
    "not symmetric": (lambda: mfdeq.Precision(BASIS), "not symmetric"),
    "not square": (lambda: mfdeq.Precision(np.ones((3, 2))), r"shape \(3, 2\)"),
    "NaN": (lambda: mfdeq.Precision(np.array([1.0, np.nan])), "NaN"),
    "a number": (lambda: mfdeq.Precision(2.0), r"got 2.0: pass the diagonal, numpy.full\(P, 2.0\)"),
    "a prior": (
        lambda: mfdeq.eigsh(np.eye(5), 2, M=mfdeq.QuadraticPrior(np.eye(5))),
        "got a QuadraticPrior: pass its precision, prior.precision",
    ),
    "another loss": (
        lambda: mfdeq.Precision(mfdeq.LeastSquares(np.arange(2), np.zeros(2))),
        "or its diagonal, got a LeastSquares",
    ),
    "no solve": (lambda: mfdeq.Precision(aslinearoperator(DENSE)), "solve="),
    "another's solve": (
        lambda: mfdeq.Precision(aslinearoperator(DENSE), solve=lambda b: b),
        "another R",
    ),
    "a solve that is none": (lambda: mfdeq.Precision(aslinearoperator(DENSE), solve=3), "int"),
    "another's root": (
        lambda: precision_by_products(ROUGH, root=aslinearoperator(GRID)),
        "another R",
    ),
    "a root of a matrix": (lambda: mfdeq.Precision(ROUGH, root=GRID), "LinearOperator"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_no_precision_is_an_error_that_says_why(case):
    make, message = INVALID[case]
    with pytest.raises(mfdeq.MfdeqError, match=message):
        make()
