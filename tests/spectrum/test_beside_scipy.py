"""What scipy's eigsh and lobpcg are tested for: every mode, form, dtype and misuse that applies."""

import gc
import threading
import weakref

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import mfdeq

FORMS = {
    "array": lambda A: A,
    "csr": sp.csr_array,
    "csc": sp.csc_array,
    "coo": sp.coo_array,
    "dia": sp.dia_array,
    "operator": aslinearoperator,
}
DIFFERENCES = sp.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(60, 60)).tocsr()


def definite(n, seed):
    """Return a random symmetric positive definite matrix that float32 holds exactly."""
    G = np.random.default_rng(seed).standard_normal((n, n))
    A = (G @ G.T / n + np.eye(n)).astype("float32").astype(float)
    return 0.5 * (A + A.T)


def wanted(values, k, which, transformed=None):
    """Return k of the eigenvalues, selected by their transformed values."""
    t = values if transformed is None else transformed
    order, n = np.argsort(t), len(t)
    if which == "LM":
        order = np.argsort(abs(t))
    picked = {
        "LM": order[n - k :],
        "LA": order[n - k :],
        "SA": order[:k],
        "BE": np.r_[order[: k // 2], order[n - (k - k // 2) :]],
    }[which]
    return np.sort(values[picked])


def check(pairs, A, truth, tol, M=None):
    """Check values against truth, the residuals of vectors, and that they are orthonormal."""
    w, V = np.asarray(pairs.values, float), np.asarray(pairs.vectors, float)
    M = np.eye(len(A)) if M is None else M
    scale = max(1.0, abs(truth).max())
    np.testing.assert_allclose(w, truth, atol=tol * scale)
    np.testing.assert_allclose(A @ V, M @ V * w, atol=100 * tol * scale)
    np.testing.assert_allclose(V.T @ M @ V, np.eye(len(w)), atol=tol)


@pytest.mark.parametrize("n", [6, 60])
@pytest.mark.parametrize("generalized", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("form", ["array", "csr", "operator"])
def test_extreme_eigenvalues_of_every_form_and_dtype(form, which, dtype, generalized, n):
    A, M = definite(n, 0), definite(n, 1)
    truth = scipy.linalg.eigvalsh(A, M if generalized else None)
    options = {"M": sp.csr_array(M.astype(dtype))} if generalized else {}
    pairs = mfdeq.eigsh(
        FORMS[form](A.astype(dtype)), 2, which, 1e-5 if dtype == "float32" else 1e-9, **options
    )
    assert pairs.values.dtype == dtype
    tol = 1e-4 if dtype == "float32" else 1e-8
    check(pairs, A, wanted(truth, 2, which), tol, M if generalized else None)


@pytest.mark.parametrize("n", [6, 60])
@pytest.mark.parametrize("mode", ["normal", "generalized", "buckling"])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
@pytest.mark.parametrize("form", ["array", "csr", "csc", "coo"])
def test_shifts_in_every_mode(form, which, mode, n):
    A, M, sigma = definite(n, 0), definite(n, 1), 1.37
    if mode == "buckling":  # A x = λ G x by G x = ν A x, ν = 1 / λ
        M = np.diag(np.linspace(-1.0, 1.0, n))
        nu = scipy.linalg.eigvalsh(M, A)
        pairs = mfdeq.eigsh(FORMS[form](M), 2, which, M=sp.csr_array(A), sigma=1 / sigma)
        check(pairs, M, wanted(nu, 2, which, 1 / (nu - 1 / sigma)), 1e-6, A)
        if which == "LM":
            values = 1 / nu
            by_mode = wanted(values, 2, "LM", values / (values - sigma))
            np.testing.assert_allclose(np.sort(1 / pairs.values), by_mode, rtol=1e-5)
        return
    options = {"M": sp.csr_array(M)} if mode == "generalized" else {}
    truth = scipy.linalg.eigvalsh(A, M if options else None)
    pairs = mfdeq.eigsh(FORMS[form](A), 2, which, sigma=sigma, **options)
    check(pairs, A, wanted(truth, 2, which, 1 / (truth - sigma)), 1e-6, M if options else None)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_any_start_serves(k, dtype):
    A = definite(50, 2)
    values, vectors = np.linalg.eigh(A)
    rtol = 1e-5 if dtype == "float32" else 1e-9
    rng = np.random.default_rng(k)
    starts = {
        "uniform": rng.uniform(size=50),
        "ones": np.ones(50),
        "an eigenvector": vectors[:, 3],
        "a column of A": A[:, 0],
        "few eigenvectors": vectors[:, [0, 7]] @ np.ones(2),
        "a block": rng.standard_normal((50, 3)),
    }
    for start in starts.values():
        pairs = mfdeq.eigsh(A.astype(dtype), k, rtol=rtol, v0=start.astype(dtype))
        check(pairs, A, values[-k:], 1e-4 if dtype == "float32" else 1e-8)


def test_what_has_converged_is_in_the_error():
    A = definite(60, 3)
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        mfdeq.eigsh(A, 4, rtol=1e-8, basis=9, max_products=45)
    best = caught.value.best
    assert not caught.value.report.converged
    assert 0 <= best.values.shape[0] < 4
    residuals = A @ best.vectors - best.vectors * best.values
    assert np.all(np.linalg.norm(residuals, axis=0) <= best.error_bounds)


def test_bad_arguments_are_refused():
    A = definite(20, 4)
    for bad, options in (
        (A[:5], {}),
        (A, {"k": 0}),
        (A, {"k": 21}),
        (A, {"which": "XX"}),
        (A, {"which": "SM"}),
        (A, {"rtol": -1.0}),
        (A, {"v0": np.ones(5)}),
        (A, {"basis": 3}),
        (aslinearoperator(A), {"sigma": 0.5}),
        (A, {"M": A[:5, :5]}),
    ):
        with pytest.raises(mfdeq.MfdeqError):
            mfdeq.eigsh(bad, **options)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("form", FORMS)
def test_small_matrices_have_all_their_pairs(form, k):
    A, M = definite(4, 5), definite(4, 6)
    check(mfdeq.eigsh(FORMS[form](A), k), A, np.linalg.eigvalsh(A)[-k:], 1e-10)
    truth = scipy.linalg.eigvalsh(A, M)[-k:]
    check(mfdeq.eigsh(FORMS[form](A), k, M=M), A, truth, 1e-10, M)


def test_the_pairs_for_k_are_among_those_for_more():
    rng = np.random.default_rng(2)
    A = np.where(rng.random((50, 50)) < 0.3, rng.uniform(-1.0, 1.0, (50, 50)), 0.0)
    A = sp.csr_array(A + A.T)
    for which, sigma in (("LM", None), ("SA", None), ("LM", 0.1), ("LA", 0.1)):
        before = np.zeros(0)
        for k in range(1, 9):
            found = mfdeq.eigsh(A, k, which, 1e-9, sigma=sigma).values
            assert np.all(abs(before[:, None] - found).min(axis=1) < 1e-7)
            before = found


def test_threads_agree():
    found = []

    def work():
        found.append(mfdeq.eigsh(DIFFERENCES, 3).values)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for values in found:
        np.testing.assert_array_equal(values, found[0])


def test_a_product_may_call_eigsh():
    def product(x):
        inner = mfdeq.eigsh(DIFFERENCES, 1).values[0]
        return DIFFERENCES @ x / inner

    A = LinearOperator((60, 60), matvec=product, dtype=float)
    truth = np.linalg.eigvalsh(DIFFERENCES.toarray())
    pairs = mfdeq.eigsh(A, 1, max_products=400)
    np.testing.assert_allclose(pairs.values, truth[:1] / truth[0], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"sigma": 0.5}, {"which": "SA"}])
def test_nothing_holds_the_matrix_afterwards(options):
    A = sp.csr_array(definite(60, 7))
    kept = weakref.ref(A)
    values = mfdeq.eigsh(A, 2, return_eigenvectors=False, **options).values
    del A
    gc.collect()
    assert kept() is None
    assert values.shape == (2,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_thousand_equal_steps(dtype):
    values = np.arange(1, 1001).astype(dtype)
    pairs = mfdeq.eigsh(sp.diags_array(values), 9, rtol=1e-5, basis=40)
    np.testing.assert_allclose(pairs.values, values[-9:], rtol=1e-5)


def test_the_identity_and_zero():
    for A, value in ((np.eye(50), 1.0), (np.zeros((50, 50)), 0.0)):
        for options in ({}, {"which": "SA", "preconditioner": np.eye(50)}):
            pairs = mfdeq.eigsh(A, 3, v0=np.ones((50, 1)), **options)
            np.testing.assert_allclose(pairs.values, value, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_every_dtype_and_form_of_a_diagonal(form, dtype):
    values = np.arange(1, 61).astype(dtype) ** 2
    A = FORMS[form](np.diag(values))
    pairs = mfdeq.eigsh(A, 3, "SA", 1e-5, preconditioner=FORMS[form](np.diag(1 / values)))
    np.testing.assert_allclose(pairs.values, [1, 4, 9], rtol=1e-4)


@pytest.mark.parametrize("form", ["array", "csr", "operator"])
@pytest.mark.parametrize("excluded", [0, 3])
def test_the_complement_of_given_vectors(form, excluded):
    n = 60
    values, Y = np.arange(1.0, n + 1), np.eye(n, excluded)
    A = FORMS[form](np.diag(values))

    def product(x):
        Ax = A @ (x - Y @ (Y.T @ x))
        return Ax - Y @ (Y.T @ Ax) + 100.0 * Y @ (Y.T @ x)

    operator = LinearOperator((n, n), matvec=product, dtype=float)
    start = np.random.default_rng(0).standard_normal((n, 4))
    pairs = mfdeq.eigsh(operator, 4, "SA", preconditioner=np.diag(1 / values), v0=start)
    np.testing.assert_allclose(pairs.values, excluded + np.arange(1, 5), rtol=1e-6)
    assert abs(Y.T @ pairs.vectors).max(initial=0.0) < 1e-6


def test_the_laplacian_of_a_path_from_its_own_vectors():
    n, p = 60, 2
    L = -DIFFERENCES.toarray()
    L[0, 0] = L[-1, -1] = 1.0
    angles = np.pi * np.arange(n) / n
    values, vectors = 2 - 2 * np.cos(angles), np.cos(np.outer(np.arange(n) + 0.5, angles))
    near = np.linalg.inv(L + 0.01 * np.eye(n))
    halves = np.r_[np.ones(n // 2), -np.ones(n // 2)]
    for start in (vectors[:, :p], np.c_[np.ones(n), halves], None):
        pairs = mfdeq.eigsh(L, p, "SA", preconditioner=near, v0=start)
        np.testing.assert_allclose(pairs.values, values[:p], atol=1e-8)
        pairs = mfdeq.eigsh(L, p, "LA", v0=vectors[:, -p:] if start is None else start)
        np.testing.assert_allclose(pairs.values, values[-p:], atol=1e-5)


def test_a_rank_deficient_matrix_from_many_starts():
    X = np.random.default_rng(0).standard_normal((100, 10))
    start = np.random.default_rng(1).standard_normal((100, 14))
    pairs = mfdeq.eigsh(X @ X.T, 14, "LA", 1e-10, v0=start)
    truth = np.r_[np.zeros(4), np.linalg.eigvalsh(X.T @ X)]
    np.testing.assert_allclose(pairs.values, truth, atol=1e-8 * truth[-1])


def test_a_nonsymmetric_matrix_is_refused():
    A = np.zeros((60, 60))
    A[0, 1] = 1.0
    with pytest.raises(mfdeq.MfdeqError, match="symmetric"):
        mfdeq.eigsh(A, 1)


@pytest.mark.parametrize("n", [10, 60])
def test_an_elastic_rod_in_its_own_units(n):
    stiffness, mass = 2.1e11 * 1e-4 * n, 7.85e3 * 1e-4 / (6 * n)
    off = sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1])
    ends = np.r_[np.full(n - 1, 2.0), 1.0]
    A = (stiffness * (sp.diags_array(ends) - off)).tocsc()
    B = (mass * (sp.diags_array(2 * ends) + off)).tocsc()
    truth = scipy.linalg.eigvalsh(A.toarray(), B.toarray())
    for options in ({"sigma": 0.0}, {"which": "SA", "preconditioner": np.linalg.inv(A.toarray())}):
        pairs = mfdeq.eigsh(A, 2, M=B, **options)
        np.testing.assert_allclose(pairs.values, truth[:2], rtol=1e-6)
    np.testing.assert_allclose(mfdeq.eigsh(A, 2, M=B).values, truth[-2:], rtol=1e-5)


@pytest.mark.parametrize("n", [50, 500])
def test_squares_of_differences_by_their_inverse_or_a_shift(n):
    """A has the condition number n^4: only relative to the inverse are the smallest ones large."""
    D = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsc()
    A = (D @ D).tocsc()
    truth = (2 - 2 * np.cos(np.pi * np.arange(1, 4) / (n + 1))) ** 2
    np.testing.assert_allclose(mfdeq.eigsh(A, 3, sigma=0.0).values, truth, rtol=1e-3)
    solve = sp.linalg.factorized(A)
    inverse = LinearOperator((n, n), matvec=solve, dtype=float)
    np.testing.assert_allclose(1 / mfdeq.eigsh(inverse, 3, "LA").values[::-1], truth, rtol=1e-3)
    near = mfdeq.eigsh(aslinearoperator(A), 3, "SA", preconditioner=inverse)
    np.testing.assert_allclose(near.values, truth, rtol=1e-3)


@pytest.mark.parametrize("n", [20, 256])
def test_masses_and_springs_with_values_that_are_squares(n):
    """The matrices of Mikota's vibration: the values of K x = λ M x are 1, 4, 9, ..."""
    i = np.arange(n, 0, -1.0)
    M = sp.diags_array(1.0 / np.arange(1.0, n + 1)).tocsc()
    K = sp.diags_array([-i[1:], 2 * i - 1, -i[1:]], offsets=[-1, 0, 1]).tocsc()
    truth = np.arange(1.0, 6.0) ** 2
    np.testing.assert_allclose(mfdeq.eigsh(K, 5, M=M, sigma=0.0).values, truth, rtol=1e-6)
    solve = LinearOperator((n, n), matvec=sp.linalg.factorized(K), dtype=float)
    pairs = mfdeq.eigsh(K, 5, "SA", M=M, preconditioner=solve)
    np.testing.assert_allclose(pairs.values, truth, rtol=1e-6)
    stiffness = mfdeq.Precision(aslinearoperator(K), solve=solve)
    inverted = mfdeq.eigsh(aslinearoperator(M), 5, "LA", M=stiffness)
    np.testing.assert_allclose(1 / inverted.values[::-1], truth, rtol=1e-5)


@pytest.mark.parametrize("generalized", [False, True])
def test_hermitian_matrices_in_their_real_form(generalized):
    rng, n = np.random.default_rng(0), 30
    C = rng.random((n, n)) + 1j * rng.random((n, n))
    H = 10 * np.eye(n) + C + C.conj().T
    B = 10 * np.eye(n) + C @ C.conj().T if generalized else np.eye(n)

    def real_form(X):
        return np.block([[X.real, -X.imag], [X.imag, X.real]])

    truth = scipy.linalg.eigvalsh(H, B)
    pairs = mfdeq.eigsh(real_form(H), 4, "LA", M=real_form(B))
    np.testing.assert_allclose(pairs.values, np.repeat(truth[-2:], 2), rtol=1e-5)
    with pytest.raises(mfdeq.MfdeqError):
        mfdeq.eigsh(H, 2)
