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


def test_products_that_overflow_are_an_error():
    H = np.full((60, 60), 1e308)
    with pytest.raises(mfdeq.ArgumentError, match="overflows float64: divide H"):
        mfdeq.eigsh(H, k=2)
