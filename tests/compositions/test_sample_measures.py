"""Residuals and corrections of samples are measured by compiled loops as by numpy."""

import numpy as np
import pytest
from support.compiled_loops import any_size  # noqa: F401

import mfdeq
from mfdeq.arrays import dense_blocks
from mfdeq.compositions.sample_measures import Level, measure

SAMPLES, N = 6, 5


def arrays(dtype):
    """Samples that fulfil all criteria, some and none, with units of zero and NaN."""
    rng = np.random.default_rng(0)
    R, D = 1e-12 * rng.standard_normal((2, SAMPLES, N))
    R[1] *= 1e6
    R[2, 3] = np.nan
    R[3] = 0.0
    D[0] *= 1e6
    D[4, 1] = np.nan
    terms, scale, sizes = 1.0 + rng.random((3, SAMPLES, N))
    scale[3, :2] = terms[3, 0] = 0.0
    scale[5, 0] = terms[5, 0] = 0.0
    sizes[3, 2] = sizes[5, 3] = 0.0
    floor = 1e-14 * terms
    floor[4] *= 1e4
    return {
        name: x.astype(dtype)
        for name, x in zip(
            ("R", "D", "terms", "scale", "sizes", "floor"),
            (R, D, terms, scale, sizes, floor),
            strict=True,
        )
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2])
def test_loops_measure_what_numpy_does(dtype, threads, monkeypatch):
    rtols = (1e-10, 1e-9, 2e-10)
    with mfdeq.threads(threads):
        by_loops = measure(np, **arrays(dtype), rtols=rtols)
    monkeypatch.setattr(dense_blocks, "loops_pay", lambda *_: False)
    by_numpy = measure(np, **arrays(dtype), rtols=rtols)
    for name, expected in vars(by_numpy).items():
        np.testing.assert_array_equal(getattr(by_loops, name), expected, err_msg=name)
    assert by_numpy.satisfied.tolist() == [True, False, False, True, True, False]
    assert by_numpy.settled.tolist() == [False, True, True, False, False, False]
    assert np.isnan(by_numpy.ratios[2])
    assert by_numpy.ratios[3] == 0.0
    assert by_numpy.corrections[5] == np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_norms_of_what_exceeds_the_floor(dtype, monkeypatch):
    given = arrays(dtype)
    terms, floor = given["terms"], given["floor"]
    level = Level(np, terms, floor)
    found = [level(given["R"])]
    monkeypatch.setattr(dense_blocks, "loops_pay", lambda *_: False)
    found.append(level(given["R"]))
    above = np.maximum(abs(given["R"]) - floor, 0.0) / np.where(terms > 0.0, terms, 1.0)
    for values in found:
        assert values.dtype == dtype
        np.testing.assert_allclose(values, np.linalg.norm(above, axis=1), rtol=1e-5)
