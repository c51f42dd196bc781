"""Lanczos on spectra of every awkward shape: found, bounded, resumed, in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import LinearOperator
from spectrum.test_spectrum import WHICH, expected

import mfdeq

P = 120
DECAY = np.exp(-0.08 * np.arange(P))
SPECTRA = {
    "decay": DECAY,
    "indefinite": np.where(np.arange(P) % 2, DECAY, -0.7 * DECAY),
    "clusters": np.r_[
        np.linspace(0, 0.5, P - 12), 1 + 1e-4 * np.arange(6), -1.01 - 1e-4 * np.arange(6)
    ],
    "repeated": np.r_[np.linspace(-0.2, 0.5, P - 9), np.ones(4), -1.1 * np.ones(3), 2 * np.ones(2)],
    "low rank": np.r_[np.zeros(P - 5), -3.0, 1.0, 1.0, 2.0, 2.0],
    "identity": np.ones(P),
    "two values": np.r_[np.ones(P // 2), -0.9 * np.ones(P // 2)],
    "zero": np.zeros(P),
    "gap": np.r_[np.linspace(0, 1, P - 3), 1e3, 1e4, -1e4],
}


def operator(values, seed=0, dtype=float, noise=0.0):
    """Q diag(values) Q', with products off by a random vector of that size."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(values),) * 2))[0]
    dense = ((Q * values) @ Q.T).astype(dtype)
    dense = (dense + dense.T) / 2

    def product(X):
        off = rng.standard_normal(X.shape)
        return (dense @ X + noise * off / np.linalg.norm(off, axis=0)).astype(dtype)

    return LinearOperator(dense.shape, matvec=product, matmat=product, dtype=dtype)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", SPECTRA)
def test_awkward_spectra(name, which, block, scale):
    values = scale * SPECTRA[name]
    size = abs(values).max()
    H = operator(values)
    pairs = mfdeq.eigsh(
        H, k=5, which=which, block=block, rtol=1e-8, basis=100 if name == "decay" else 30
    )
    wanted = expected(values, 5, which)
    if name != "repeated" or block >= 3:  # of copies, each column finds one
        assert np.all(abs(pairs.values - wanted) <= 1e-7 * size)
    assert np.all(abs(values[:, None] - pairs.values).min(axis=0) <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= max(1e-8 * abs(wanted).max(), 1e-12 * size))
    off = H @ pairs.vectors - pairs.vectors * pairs.values
    assert np.all(np.linalg.norm(off, axis=0) <= pairs.error_bounds)
    np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(5), atol=1e-12)


def test_a_block_larger_than_the_rank():
    pairs = mfdeq.eigsh(operator(SPECTRA["low rank"]), k=4, block=8, basis=30)
    np.testing.assert_allclose(pairs.values, [-3, 1, 2, 2], atol=1e-12)
    assert pairs.report.products <= 40


def test_an_identity_of_any_size_takes_few_products():
    n = 100_000
    H = LinearOperator((n, n), matvec=lambda x: 3 * x, matmat=lambda X: 3 * X, dtype=float)
    pairs = mfdeq.eigsh(H, k=3)
    np.testing.assert_allclose(pairs.values, 3.0)
    assert pairs.report.products <= 8


def test_float32():
    values = SPECTRA["indefinite"].astype("float32")
    pairs = mfdeq.eigsh(operator(values, dtype="float32"), k=4, rtol=1e-4)
    assert pairs.values.dtype == pairs.vectors.dtype == np.float32
    assert np.all(abs(pairs.values - expected(values, 4, "LM")) <= pairs.error_bounds)


def test_what_was_found_is_gone_on_from():
    """To a smaller rtol, to more pairs, and from a failure, without the products again."""
    H = operator(SPECTRA["clusters"])
    whole = mfdeq.eigsh(H, k=6, rtol=1e-10).report.products
    rough = mfdeq.eigsh(H, k=6, rtol=1e-2)
    fine = mfdeq.eigsh(H, k=6, rtol=1e-10, resume=rough)
    assert fine.report.products <= whole - rough.report.products + 2 * 6 + 1
    more = mfdeq.eigsh(H, k=9, rtol=1e-10, resume=fine)
    np.testing.assert_allclose(more.values, expected(SPECTRA["clusters"], 9, "LM"), atol=1e-9)
    again = mfdeq.eigsh(H, k=6, rtol=1e-10, resume=fine)
    assert again.report.products == 6  # which the bounds take
    with pytest.raises(mfdeq.ConvergenceError, match="resume") as caught:
        mfdeq.eigsh(H, k=6, rtol=1e-10, max_products=15)
    done = mfdeq.eigsh(H, k=6, rtol=1e-10, resume=caught.value.best)
    np.testing.assert_allclose(done.values, fine.values, atol=1e-9)
    assert done.report.products < whole


def test_bounds_of_many_take_few_products(monkeypatch):
    """By random combinations of them: bounds hold, and products that are off are seen."""
    values = SPECTRA["indefinite"]
    H = operator(values)
    pairs = mfdeq.eigsh(H, k=20, rtol=1e-8, basis=60)
    assert np.all(abs(pairs.values - expected(values, 20, "LM")) <= pairs.error_bounds)
    assert np.all(pairs.error_bounds <= 1e-8)
    Y = pairs.krylov.ritz()[1][:, -20:]
    off = H @ pairs.krylov.vectors(Y) - pairs.krylov.images(Y)[1]
    assert np.linalg.norm(off, axis=0).max() < 1e-12

    pairs = mfdeq.eigsh(operator(values, noise=1e-6), k=20, rtol=1e-2, basis=60)
    true = np.linalg.norm(H @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    assert np.all(true <= pairs.report.residuals)

    monkeypatch.setattr("mfdeq.spectrum.search.MANY", 10**6)
    exact = mfdeq.eigsh(operator(values, noise=1e-6), k=20, rtol=1e-2, basis=60)
    assert exact.report.products == pairs.report.products + 20 - 4


def test_restarts_with_a_small_basis():
    values = np.sqrt(np.arange(1.0, 501))
    H = LinearOperator((500, 500), matvec=lambda x: values * x.ravel(), dtype=float)
    pairs = mfdeq.eigsh(H, k=4, which="BE", rtol=1e-9, basis=12)
    np.testing.assert_allclose(pairs.values, expected(values, 4, "BE"), atol=1e-7)
    assert pairs.krylov.rows.shape == (13, 500)


def test_starts():
    values = np.arange(80.0)
    H = LinearOperator((80, 80), matvec=lambda x: values * x.ravel(), dtype=float)
    v0 = np.eye(80)[:, -2:]
    for start in (v0, v0[:, 0], v0 @ np.ones(2)):  # invariant, but not known to be all
        pairs = mfdeq.eigsh(H, k=2, which="LA", v0=start)
        np.testing.assert_allclose(pairs.values, [78, 79])


def test_products_not_as_accurate_as_asked_for():
    H = operator(SPECTRA["gap"], noise=1e-3)
    with pytest.raises(mfdeq.ConvergenceError, match="products are not that accurate") as caught:
        mfdeq.eigsh(H, k=3, rtol=1e-9)
    np.testing.assert_allclose(caught.value.best.values, [-1e4, 1e3, 1e4], rtol=1e-3)
    assert caught.value.best.report.products < 40


def relaxed_problem():
    model = Diffusion(24)
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, model.lognormal(), solver=solver)
    _ = eq.factor
    return eq, eq.hessian(model.loss(60))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_products_are_no_more_accurate_than_needed(rtol):
    taken = []
    for relaxed in (False, True):
        eq, H = relaxed_problem()
        before = eq.report.linear.iterations
        pairs = mfdeq.eigsh(H, k=5, rtol=rtol, relaxed=relaxed)
        taken.append((eq.report.linear.iterations - before, pairs))
    (tight, exact), (loose, pairs) = taken
    assert loose < 0.7 * tight
    scale = abs(exact.values).max()
    assert np.all(abs(pairs.values - exact.values) <= rtol * scale)
    assert np.all(pairs.report.residuals <= rtol * scale)


@pytest.mark.parametrize("relaxed", [True, False])
def test_a_rough_basis_is_gone_on_from(relaxed):
    """One whose products were loose holds their errors, which a smaller rtol does not allow."""
    _, H = relaxed_problem()
    rough = mfdeq.eigsh(H, k=3, rtol=1e-2)
    pairs = mfdeq.eigsh(H, k=3, rtol=1e-9, resume=rough, relaxed=relaxed)
    exact = mfdeq.eigsh(H, k=3, rtol=1e-9, relaxed=False)
    np.testing.assert_allclose(pairs.values, exact.values, rtol=1e-8)
    assert np.all(pairs.report.residuals <= 1e-9 * abs(pairs.values).max())


def test_a_hessian_that_is_zero():
    eq, _ = relaxed_problem()
    nothing = mfdeq.Loss(lambda h, theta: 0.0, lambda h, theta: 0 * h)
    pairs = mfdeq.eigsh(eq.hessian(nothing), k=3)
    assert np.all(pairs.values == 0)
    assert np.all(pairs.error_bounds == 0)


def test_a_failure_carries_its_report():
    _, H = relaxed_problem()
    with pytest.raises(mfdeq.ConvergenceError, match="max_products") as caught:
        mfdeq.eigsh(H, k=6, rtol=1e-10, max_products=8)
    assert caught.value.report is caught.value.best.report
    assert not caught.value.report.converged
    assert caught.value.report.products >= 8


def test_relaxed_products_that_were_not_enough_are_made_up_for(monkeypatch):
    monkeypatch.setattr("mfdeq.spectrum.products.SHARE", 1e3)
    _, H = relaxed_problem()
    pairs = mfdeq.eigsh(H, k=5, rtol=1e-8)
    exact = mfdeq.eigsh(H, k=5, rtol=1e-8, relaxed=False)
    assert np.all(pairs.report.residuals <= 1e-8 * abs(pairs.values).max())
    np.testing.assert_allclose(pairs.values, exact.values, rtol=1e-8)
    assert pairs.report.products > exact.report.products


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": 6}, "basis is 6; at least k"),
        ({"block": 0}, "block"),
        ({"v0": np.ones((P, 0))}, "v0 has shape"),
        ({"v0": np.zeros(P)}, "v0 is zero"),
        ({"resume": 3}, "resume is a int"),
        ({"max_products": -1}, "max_products"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.eigsh(operator(SPECTRA["decay"]), k=5, **options)
