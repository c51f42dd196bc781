"""Operators of any size that the dtype holds: the pairs are those of one of size one, scaled."""

import numpy as np
import pytest
from support.generalized_problems import R

import mfdeq
from mfdeq.spectrum.arguments import WHICH

POWERS = {"float64": [-990, -700, -530, 520, 700, 1000], "float32": [-100, -80, 70, 110]}
RTOL = {"float64": 1e-7, "float32": 1e-3}
P = R.shape[0]
RNG = np.random.default_rng(3)
BASIS = np.linalg.qr(RNG.standard_normal((P, P)))[0]
INDEFINITE = (BASIS * RNG.standard_normal(P)) @ BASIS.T
DEFINITE = (BASIS * np.linspace(1.0, 60.0, P)) @ BASIS.T
LOW_RANK = (BASIS[:, :8] * 0.5 ** np.arange(8)) @ BASIS[:, :8].T
NEAR = np.linalg.inv(DEFINITE + 0.5 * np.eye(P))


def eigsh(H, **options):
    return mfdeq.eigsh(H, k=3, rtol=RTOL[str(H.dtype)], **options)


def davidson(H, power):
    near = np.asarray(NEAR, H.dtype) * np.asarray(2.0, H.dtype) ** -power
    return eigsh(H, which="SA", preconditioner=near)


SEARCHES = {
    **{which: (INDEFINITE, lambda H, p, w=which: eigsh(H, which=w)) for which in WHICH},
    "block": (INDEFINITE, lambda H, p: eigsh(H, block=4)),
    "incomplete": (INDEFINITE, lambda H, p: eigsh(H, complete=False)),
    "dense": (INDEFINITE, lambda H, p: mfdeq.eigsh(H, k=P)),
    "Davidson": (DEFINITE, davidson),
    "generalized": (DEFINITE, lambda H, p: eigsh(H, M=R.astype(H.dtype))),
    "randomized": (LOW_RANK, lambda H, p: mfdeq.randomized_eigsh(H, k=4, rtol=1e-3)),
}


def scaled(H, dtype, power):
    with np.errstate(over="ignore"):
        return np.ldexp(H.astype(dtype), power)


def assert_scaled(pairs, unit, power):
    """Assert that pairs are those of the matrix of size one, times 2^power."""
    dtype = pairs.values.dtype
    assert pairs.report.products == unit.report.products
    if pairs.report.method == "Davidson":  # LAPACK's norms round differently at each size
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(np.ldexp(pairs.values, -power), unit.values, rtol=20 * eps)
        assert np.all(pairs.error_bounds <= 2.0 * np.ldexp(unit.error_bounds, power))
        return
    np.testing.assert_array_equal(np.ldexp(pairs.values, -power), unit.values)
    np.testing.assert_array_equal(pairs.vectors, unit.vectors)
    assert pairs.report.norm == np.ldexp(unit.report.norm, power)
    bounds = np.ldexp(unit.error_bounds.astype("longdouble"), power)
    least = 4 * float(np.finfo(dtype).smallest_subnormal)
    assert np.all((pairs.error_bounds >= bounds) & (pairs.error_bounds <= bounds + least))


@pytest.mark.parametrize("dtype", POWERS)
@pytest.mark.parametrize("name", SEARCHES)
def test_pairs_scale_with_the_operator(name, dtype):
    H, search = SEARCHES[name]
    unit = search(scaled(H, dtype, 0), 0)
    for power in POWERS[dtype]:
        assert_scaled(search(scaled(H, dtype, power), power), unit, power)


@pytest.mark.parametrize("power", [-700, 0, 700])
def test_a_search_is_resumed_at_any_size(power, tmp_path):
    H, options = scaled(INDEFINITE, "float64", power), {"k": 3, "which": "LA", "rtol": 1e-10}
    whole = mfdeq.eigsh(H, **options)
    file = tmp_path / "run"
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        mfdeq.eigsh(H, max_products=25, checkpoint=file, checkpoint_every=1, **options)
    best = caught.value.best
    size = np.ldexp(1.0, power)
    assert np.all(abs(best.report.norm) > 0.1 * size)
    for again in (
        mfdeq.eigsh(H, checkpoint=file, checkpoint_every=1, **options),
        mfdeq.eigsh(H, checkpoint=file, checkpoint_every=1, **options),  # its result
        mfdeq.eigsh(H, resume=best, **options),
        mfdeq.eigsh(H, resume=whole, **options),
    ):
        np.testing.assert_allclose(again.values, whole.values, rtol=1e-9)
        assert np.all(again.error_bounds <= 1e-8 * size)


@pytest.mark.parametrize("power", [-700, 700])
def test_a_checkpoint_of_another_operator_is_refused_at_any_size(power, tmp_path):
    file = tmp_path / "run"
    mfdeq.eigsh(scaled(INDEFINITE, "float64", power), k=3, checkpoint=file)
    with pytest.raises(mfdeq.CheckpointError, match="differs"):
        mfdeq.eigsh(scaled(DEFINITE, "float64", power), k=3, checkpoint=file)


def test_values_that_underflow_have_bounds_that_say_so():
    H = scaled(INDEFINITE, "float32", -128)
    found = mfdeq.eigsh(H, k=3, rtol=1e-3)
    true = np.linalg.eigvalsh(H.astype(float))
    off = abs(true[:, None] - found.values.astype(float)).min(axis=0)
    assert np.all(off <= found.error_bounds.astype(float))


ESTIMATES = {
    "trace": (LOW_RANK, lambda H, p: mfdeq.trace(H, products=36)),
    "trace, M": (DEFINITE, lambda H, p: mfdeq.trace(H, M=R.astype(H.dtype), products=36)),
    "exact trace": (DEFINITE, lambda H, p: mfdeq.trace(H, products=3 * P)),
    "Frobenius norm": (INDEFINITE, lambda H, p: mfdeq.frobenius_norm(H, products=36)),
    "sum": (INDEFINITE, lambda H, p: mfdeq.spectral_density(H, steps=12).sum(abs)),
    "sum, M": (
        DEFINITE,
        lambda H, p: mfdeq.spectral_density(H, M=R.astype(H.dtype), steps=12).sum(abs),
    ),
    "sum, with pairs": (
        DEFINITE,
        lambda H, p: mfdeq.spectral_density(H, pairs=eigsh(H), steps=12).sum(abs),
    ),
}
RATIOS = {
    "rank": (LOW_RANK, lambda H, p: mfdeq.numerical_rank(H, 1e-2, steps=20)),
    "count": (
        INDEFINITE,
        lambda H, p: mfdeq.spectral_density(H, steps=12).cumulative(np.ldexp(0.5, p)),
    ),
    "determinant": (
        DEFINITE,
        lambda H, p: mfdeq.log_determinant(H, steps=12).value - P * p * np.log(2.0),
    ),
    "condition number": (
        DEFINITE,
        lambda H, p: mfdeq.condition_number(
            H, preconditioner=np.asarray(NEAR, H.dtype) * np.asarray(2.0, H.dtype) ** -p, rtol=1e-3
        ),
    ),
}


@pytest.mark.parametrize("dtype", POWERS)
@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_scale_with_the_operator(name, dtype):
    H, estimate = ESTIMATES[name]
    unit = estimate(scaled(H, dtype, 0), 0)
    for power in POWERS[dtype]:
        found = estimate(scaled(H, dtype, power), power)
        assert found.products == unit.products
        np.testing.assert_allclose(np.ldexp(found.value, -power), unit.value, rtol=1e-12)
        error = np.ldexp(found.standard_error, -power)
        np.testing.assert_allclose(error, unit.standard_error, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", POWERS)
@pytest.mark.parametrize("name", RATIOS)
def test_ratios_and_counts_do_not_depend_on_the_size(name, dtype):
    H, ratio = RATIOS[name]
    unit = float(ratio(scaled(H, dtype, 0), 0))
    for power in POWERS[dtype]:
        np.testing.assert_allclose(float(ratio(scaled(H, dtype, power), power)), unit, rtol=1e-6)


@pytest.mark.parametrize("dtype", POWERS)
@pytest.mark.parametrize(("H", "shift"), [(DEFINITE, 0.0), (LOW_RANK, 0.25), (INDEFINITE, 0.5)])
def test_a_nystrom_preconditioner_scales_with_the_operator(H, shift, dtype):
    b = np.asarray(RNG.standard_normal(P), dtype)
    H = H @ H
    unit = mfdeq.Nystrom(scaled(H, dtype, 0), 12, shift)
    for power in POWERS[dtype]:
        found = mfdeq.Nystrom(scaled(H, dtype, power), 12, np.ldexp(shift, power))
        # LAPACK's norms round differently at each size.
        off = 100.0 * float(np.finfo(dtype).eps) * float(unit.values.max())
        np.testing.assert_allclose(np.ldexp(found.values, -power), unit.values, atol=off)
        np.testing.assert_allclose(found @ b, unit @ b, rtol=1e-2 if dtype == "float32" else 1e-9)


def test_a_nystrom_preconditioner_of_a_tiny_operator_and_a_large_shift_is_the_identity():
    found = mfdeq.Nystrom(scaled(DEFINITE, "float64", -900), 12, 1e200)
    np.testing.assert_array_equal(found @ np.ones(P), np.ones(P))


def test_products_that_overflow_are_an_error():
    H = np.full((60, 60), 1e308)
    with pytest.raises(mfdeq.ArgumentError, match="overflows float64: divide H"):
        mfdeq.eigsh(H, k=2)
