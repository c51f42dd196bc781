"""`mfdeq.eigsh` against dense eigenvalues: values, bounds, arguments and failures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support.cases import CASES, SINGLE, build, close
from support.spectra import symmetric_matrix, wanted_eigenvalues

import mfdeq
from mfdeq.spectrum.arguments import WHICH


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("case", [*CASES, *SINGLE], ids=str)
def test_eigenpairs_of_every_hessian_match_dense_ones(case, which):
    H = case.equilibrium().hessian(case.loss)
    P = H.shape[0]
    true = np.linalg.eigvalsh(case.truth.H)
    scale = abs(true).max()
    for k in {1, (P + 1) // 2, P}:
        pairs = mfdeq.eigsh(H, k=k, which=which)
        assert pairs.values.shape == (k,)
        assert pairs.vectors.shape == (P, k)
        off = abs(pairs.values - wanted_eigenvalues(true, k, which)).max()
        assert off <= 10 * case.rtol * scale
        distance = abs(true[:, None] - pairs.values).min(axis=0)
        assert np.all(distance <= pairs.error_bounds)
        assert np.all(pairs.error_bounds <= 1e-3 * scale + 1e-30)
        close(pairs.vectors.T @ pairs.vectors, np.eye(k), 1e-5)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.parametrize("blocks", [False, True], ids=["vectors only", "blocks"])
def test_eigenpairs_of_a_scipy_operator_match_its_spectrum(k, which, blocks):
    values = np.r_[-50.0, -20.0, -19.0, -1.0, np.linspace(0, 0.9, 190), 3.0 ** np.arange(6)]
    dense = symmetric_matrix(values)
    by_vectors = LinearOperator(dense.shape, matvec=lambda x: dense @ x, dtype=float)
    H = aslinearoperator(dense) if blocks else by_vectors
    pairs = mfdeq.eigsh(H, k=k, which=which, rtol=1e-8)
    close(pairs.values, wanted_eigenvalues(values, k, which), 1e-9)
    assert np.all(abs(dense @ pairs.vectors - pairs.vectors * pairs.values) <= 1e-6)
    assert np.all(abs(pairs.values - wanted_eigenvalues(values, k, which)) <= pairs.error_bounds)
    assert 0 < pairs.report.products < 20000


@pytest.mark.parametrize(
    "values",
    [np.ones(60), np.zeros(60), np.r_[np.zeros(57), 2.0, 2.0, 5.0], 1e-9 * np.arange(60.0)],
    ids=["identity", "zero", "rank three", "tiny"],
)
@pytest.mark.parametrize("which", WHICH)
def test_copies_of_eigenvalues_are_found(values, which):
    pairs = mfdeq.eigsh(aslinearoperator(symmetric_matrix(values)), k=3, which=which)
    size = abs(values).max()
    assert np.all(abs(pairs.values - wanted_eigenvalues(values, 3, which)) <= 1e-6 * size)


def test_bounds_include_the_rounding_of_a_product_that_cancels():
    """Bounds include the rounding of the matrix even if a product happens to be exact."""
    pairs = mfdeq.eigsh(np.array([[1.0, -1.0], [-1.0, 1.0]]), k=2)
    assert pairs.error_bounds[0] >= np.finfo(float).eps * pairs.values[1]


def test_bounds_include_the_error_of_the_products():
    """With products off by 1e-6 the residual alone would be too small a bound."""
    case = build("diffusion")
    exact = case.equilibrium()
    off = exact.state + 1e-6 * np.linalg.norm(exact.state) * case.random(20, seed=1)
    inexact = mfdeq.Equilibrium(
        exact.problem, off, exact.problem.linearize(off), exact.solver, mfdeq.SolveReport()
    )
    pairs = mfdeq.eigsh(inexact.hessian(case.loss), k=6)
    true = np.linalg.eigvalsh(case.truth.H)
    distance = abs(true - pairs.values)
    assert distance.max() > 10 * pairs.report.residuals.max()
    assert np.all(distance <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= 100 * distance.max())


def test_too_few_products_are_an_error_with_their_number():
    values = np.concatenate([np.linspace(0, 1e-3, 2000), [1.0]])
    H = LinearOperator((2001, 2001), matvec=lambda x: values * x, dtype=float)
    with pytest.raises(mfdeq.ConvergenceError, match=r"in \d+ products\. Raise max_products"):
        mfdeq.eigsh(H, k=5, which="SA", rtol=1e-10, max_products=40)


def test_an_operator_that_is_not_symmetric_is_an_error():
    skew = np.triu(np.random.default_rng(0).standard_normal((100, 100)))
    dense = symmetric_matrix(np.arange(100.0)) + skew
    with pytest.raises(mfdeq.ConvergenceError, match="not symmetric"):
        mfdeq.eigsh(aslinearoperator(dense), k=3)


@pytest.mark.parametrize("k", [0, -1, 4, 2.0, True, None])
def test_k_must_be_an_integer_from_1_to_P(k):
    with pytest.raises(mfdeq.ArgumentError, match="k: expected an integer from 1 to P = 3"):
        mfdeq.eigsh(np.eye(3), k=k)


def test_which_sm_suggests_sigma():
    with pytest.raises(mfdeq.ArgumentError, match=r"'LM', 'LA', 'SA', 'BE', got 'SM'.*sigma=0"):
        mfdeq.eigsh(np.eye(3), k=1, which="SM")


def test_a_start_that_is_an_eigenvector_finds_its_pair():
    dense = symmetric_matrix(np.arange(80.0))
    v0 = np.linalg.eigh(dense)[1][:, -1]
    pairs = mfdeq.eigsh(aslinearoperator(dense), k=1, which="LA", v0=v0)
    close(pairs.values, [79.0], 1e-12)


@pytest.mark.parametrize("which", ["LM", "LA", "BE"])
def test_a_preconditioner_is_only_accepted_for_the_smallest_or_a_shift(which):
    with pytest.raises(mfdeq.ArgumentError, match="preconditioner: expected which='SA' or sigma"):
        mfdeq.eigsh(np.diag(np.arange(60.0)), 2, which, preconditioner=np.eye(60))


def test_a_preconditioner_does_not_go_with_resume():
    H = np.diag(np.arange(60.0))
    pairs = mfdeq.eigsh(H, k=2)
    with pytest.raises(mfdeq.ArgumentError, match="and no resume"):
        mfdeq.eigsh(H, 2, "SA", preconditioner=np.eye(60), resume=pairs)


def test_printed_pairs_are_a_table_of_at_most_twenty_rows():
    pairs = mfdeq.eigsh(np.diag(np.arange(1.0, 61.0)), k=30)
    lines = str(pairs).splitlines()
    assert lines[0].split() == ["value", "bound", "residual"]
    assert [float(line.split()[0]) for line in lines[1:21]] == pytest.approx(pairs.values[:20])
    assert lines[21] == "… 10 more pairs"
    assert f"{pairs.report.products} products" in lines[22]
    assert len(str(mfdeq.eigsh(np.diag([1.0, 2.0]), k=1)).splitlines()) == 3
    assert repr(pairs).startswith("Eigenpairs(values=")


def test_printed_pairs_name_M_where_units_hide_values():
    """The unit of the last parameter makes its eigenvalue 1e24, whose rounding hides the others."""
    sizes = np.array([1.0, 1.0, 1e-12])
    H = (np.eye(3) + 0.5) / np.outer(sizes, sizes)
    assert "bounds exceed their values" in str(mfdeq.eigsh(H, k=3))
    assert "pass M=1 / sizes**2" in str(mfdeq.eigsh(H, k=3))
    scaled = mfdeq.eigsh(H, k=3, M=1 / sizes**2)
    assert scaled.values == pytest.approx([1.0, 1.0, 2.5])
    assert "exceed" not in str(scaled)
    assert "exceed" not in str(mfdeq.eigsh(np.eye(3) + 0.5, k=3))


def test_resume_with_a_shift_is_refused_with_advice():
    H = scipy.sparse.diags_array(np.arange(1.0, 101.0)).tocsc()
    pairs = mfdeq.eigsh(H, k=2)
    with pytest.raises(mfdeq.ArgumentError, match=r"resume.*with sigma.*checkpoint="):
        mfdeq.eigsh(H, k=2, sigma=0.5, resume=pairs)
