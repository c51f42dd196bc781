"""Lanczos in `mfdeq.eigsh`: awkward spectra, blocks, restarts, resuming, inexact products."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import LinearOperator
from support.spectra import (
    AWKWARD_SPECTRA,
    awkward_operator,
    symmetric_operator,
    wanted_eigenvalues,
)

import mfdeq
from mfdeq.spectrum.arguments import WHICH


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", AWKWARD_SPECTRA)
def test_awkward_spectra_are_found_and_bounded(name, which, block, scale):
    values = scale * AWKWARD_SPECTRA[name]
    size = abs(values).max()
    H = symmetric_operator(values)
    pairs = mfdeq.eigsh(
        H, k=5, which=which, block=block, rtol=1e-8, basis=100 if name == "decay" else 30
    )
    wanted = wanted_eigenvalues(values, 5, which)
    if name != "repeated" or block >= 3:  # each column finds one copy
        assert np.all(abs(pairs.values - wanted) <= 1e-7 * size)
    assert np.all(abs(values[:, None] - pairs.values).min(axis=0) <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= max(1e-8 * abs(wanted).max(), 1e-12 * size))
    off = H @ pairs.vectors - pairs.vectors * pairs.values
    assert np.all(np.linalg.norm(off, axis=0) <= pairs.error_bounds)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(5), atol=1e-12)


def test_a_block_larger_than_the_rank_finds_all_eigenvalues():
    pairs = mfdeq.eigsh(awkward_operator("low rank"), k=4, block=8, basis=30)
    np.testing.assert_allclose(pairs.values, [-3, 1, 2, 2], atol=1e-12)
    assert pairs.report.products <= 40


def test_an_identity_of_any_size_takes_few_products():
    n = 100_000
    H = LinearOperator((n, n), matvec=lambda x: 3 * x, matmat=lambda X: 3 * X, dtype=float)
    pairs = mfdeq.eigsh(H, k=3)
    np.testing.assert_allclose(pairs.values, 3.0)
    assert pairs.report.products <= 8


def test_float32_stays_float32():
    values = AWKWARD_SPECTRA["indefinite"].astype("float32")
    pairs = mfdeq.eigsh(symmetric_operator(values, dtype="float32"), k=4, rtol=1e-4)
    assert pairs.values.dtype == pairs.vectors.dtype == np.float32
    assert np.all(abs(pairs.values - wanted_eigenvalues(values, 4, "LM")) <= pairs.error_bounds)


def test_resume_repeats_no_products():
    """Resuming to a smaller rtol, to more pairs or after a failure reuses earlier products."""
    H = awkward_operator("clusters")
    eigsh = functools.partial(mfdeq.eigsh, complete=False)
    whole = eigsh(H, k=6, rtol=1e-10).report.products
    rough = eigsh(H, k=6, rtol=1e-2)
    fine = eigsh(H, k=6, rtol=1e-10, resume=rough)
    assert fine.report.products <= whole - rough.report.products + 2 * 6 + 1
    more = eigsh(H, k=9, rtol=1e-10, resume=fine)
    np.testing.assert_allclose(
        more.values, wanted_eigenvalues(AWKWARD_SPECTRA["clusters"], 9, "LM"), atol=1e-9
    )
    again = eigsh(H, k=6, rtol=1e-10, resume=fine)
    assert again.report.products == 6  # for the bounds
    with pytest.raises(mfdeq.ConvergenceError, match="resume") as caught:
        eigsh(H, k=6, rtol=1e-10, max_products=15)
    done = eigsh(H, k=6, rtol=1e-10, resume=caught.value.best)
    np.testing.assert_allclose(done.values, fine.values, atol=1e-9)
    assert done.report.products < whole


def test_bounds_of_many_pairs_take_few_products(monkeypatch):
    """Random combinations give bounds that hold and reveal wrong products."""
    values = AWKWARD_SPECTRA["indefinite"]
    H = symmetric_operator(values)
    pairs = mfdeq.eigsh(H, k=20, rtol=1e-8, basis=60)
    assert np.all(abs(pairs.values - wanted_eigenvalues(values, 20, "LM")) <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= 1e-8)
    krylov, (ritz, Y, _) = pairs.krylov, pairs.krylov.ritz()
    X, residuals = krylov.vectors(Y[:, -20:]), krylov.next_duals @ krylov.couplings(Y[:, -20:])
    assert np.linalg.norm(H @ X - X * ritz[-20:] - residuals, axis=0).max() < 1e-12

    pairs = mfdeq.eigsh(symmetric_operator(values, noise=1e-6), k=20, rtol=1e-2, basis=60)
    true = np.linalg.norm(H @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    assert np.all(true <= pairs.report.residuals)

    monkeypatch.setattr("mfdeq.spectrum.lanczos_search.MAX_PAIRS_WITH_TRUE_PRODUCTS", 10**6)
    exact = mfdeq.eigsh(symmetric_operator(values, noise=1e-6), k=20, rtol=1e-2, basis=60)
    assert exact.report.products == pairs.report.products + 20 - 4


def test_a_small_basis_restarts():
    values = np.sqrt(np.arange(1.0, 501))
    H = LinearOperator((500, 500), matvec=lambda x: values * x.ravel(), dtype=float)
    pairs = mfdeq.eigsh(H, k=4, which="BE", rtol=1e-9, basis=12)
    np.testing.assert_allclose(pairs.values, wanted_eigenvalues(values, 4, "BE"), atol=1e-7)
    assert pairs.krylov.basis.shape == (13, 500)


def test_a_start_in_an_invariant_space_finds_its_pairs():
    values = np.arange(80.0)
    H = LinearOperator((80, 80), matvec=lambda x: values * x.ravel(), dtype=float)
    v0 = np.eye(80)[:, -2:]
    for start in (v0, v0[:, 0], v0 @ np.ones(2)):  # invariant, but other pairs may exist
        pairs = mfdeq.eigsh(H, k=2, which="LA", v0=start)
        np.testing.assert_allclose(pairs.values, [78, 79])


def test_products_less_accurate_than_rtol_are_an_error():
    H = symmetric_operator(AWKWARD_SPECTRA["gap"], noise=1e-3)
    with pytest.raises(mfdeq.ConvergenceError, match="products are not that accurate") as caught:
        mfdeq.eigsh(H, k=3, rtol=1e-9)
    np.testing.assert_allclose(caught.value.best.values, [-1e4, 1e3, 1e4], rtol=1e-3)
    assert caught.value.best.report.products < 40


def hessian_by_iterative_solves():
    model = Diffusion(24)
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, model.lognormal(), solver=solver)
    _ = eq.factor
    return eq, eq.hessian(model.loss(60))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_relaxed_products_take_fewer_inner_iterations(rtol):
    taken = []
    for relaxed in (False, True):
        eq, H = hessian_by_iterative_solves()
        before = eq.report.linear.iterations
        pairs = mfdeq.eigsh(H, k=5, rtol=rtol, relaxed=relaxed)
        taken.append((eq.report.linear.iterations - before, pairs))
    (tight, exact), (loose, pairs) = taken
    assert loose < 0.7 * tight
    scale = abs(exact.values).max()
    assert np.all(abs(pairs.values - exact.values) <= rtol * scale)
    assert np.all(pairs.report.residuals <= rtol * scale)


@pytest.mark.parametrize("relaxed", [True, False])
def test_a_basis_of_loose_products_is_resumed_to_a_small_rtol(relaxed):
    """A basis of loose products contains their errors, which a smaller rtol excludes."""
    _, H = hessian_by_iterative_solves()
    rough = mfdeq.eigsh(H, k=3, rtol=1e-2)
    pairs = mfdeq.eigsh(H, k=3, rtol=1e-9, resume=rough, relaxed=relaxed)
    exact = mfdeq.eigsh(H, k=3, rtol=1e-9, relaxed=False)
    np.testing.assert_allclose(pairs.values, exact.values, rtol=1e-8)
    assert np.all(pairs.report.residuals <= 1e-9 * abs(pairs.values).max())


def test_a_zero_hessian_has_zero_eigenvalues():
    eq, _ = hessian_by_iterative_solves()
    nothing = mfdeq.Loss(lambda h, theta: 0.0, lambda h, theta: 0 * h)
    pairs = mfdeq.eigsh(eq.hessian(nothing), k=3)
    assert np.all(pairs.values == 0)
    assert np.all(pairs.error_bounds == 0)


def test_an_error_contains_the_report():
    _, H = hessian_by_iterative_solves()
    with pytest.raises(mfdeq.ConvergenceError, match="max_products") as caught:
        mfdeq.eigsh(H, k=6, rtol=1e-10, max_products=8)
    assert caught.value.report is caught.value.best.report
    assert not caught.value.report.converged
    assert caught.value.report.products >= 8


def test_relaxed_products_that_are_too_loose_are_repeated_tightly(monkeypatch):
    monkeypatch.setattr("mfdeq.spectrum.counted_operator.ERROR_SHARE", 1e3)
    _, H = hessian_by_iterative_solves()
    pairs = mfdeq.eigsh(H, k=5, rtol=1e-8)
    exact = mfdeq.eigsh(H, k=5, rtol=1e-8, relaxed=False)
    assert np.all(pairs.report.residuals <= 1e-8 * abs(pairs.values).max())
    np.testing.assert_allclose(pairs.values, exact.values, rtol=1e-8)
    assert pairs.report.products > exact.report.products


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": 6}, "basis: expected at least k .* vectors, got 6"),
        ({"block": 0}, "block"),
        ({"v0": np.ones((120, 0))}, "v0: expected shape"),
        ({"v0": np.zeros(120)}, "v0: expected a nonzero start"),
        ({"resume": 3}, "resume: expected .* got a int"),
        ({"max_products": -1}, "max_products"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.eigsh(awkward_operator("decay"), k=5, **options)
