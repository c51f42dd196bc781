"""Convergence tests of the iterations: the scale, rtol and the rounding floor."""

import numpy as np
import pytest
from support.cases import build, close
from support.small_maps import Line

import mfdeq
from mfdeq.forward import METHODS


def test_a_warm_start_has_the_tolerance_of_a_cold_one():
    case = build("bratu_field")
    cold = case.solve()
    warm = mfdeq.solve(case.model, case.params, cold.state + 1e-7)
    assert warm.report.scale == cold.report.scale
    assert warm.report.iterations <= 2
    again = mfdeq.solve(case.model, case.params, cold.state)
    assert again.report.iterations == 0
    assert np.array_equal(again.state, cold.state)


def test_a_model_may_set_start_and_scale():
    theta = np.array([1.0, -2.0])
    eq = mfdeq.solve(Line(start=2 * theta), theta)
    assert eq.report.iterations == 0
    eq = mfdeq.solve(Line(scale=1e6), theta, method="picard")
    assert eq.report.scale == 1e6
    assert 1e-6 < np.linalg.norm(eq.state - 2 * theta) < 1e-3


def test_rtol_is_reached_or_an_error_below_the_rounding_floor():
    theta = np.array([1.0, -2.0])
    for rtol in (1e-2, 1e-6):
        eq = mfdeq.solve(Line(), theta, method="picard", rtol=rtol)
        assert 0.1 * rtol < eq.report.residual / eq.report.scale <= rtol
    for method in ("auto", *METHODS):
        with pytest.raises(mfdeq.ConvergenceError, match="rounding error") as caught:
            mfdeq.solve(Line(), theta, method=method, rtol=1e-17)
        close(caught.value.best, 2 * theta, 1e-14)
    with pytest.raises(mfdeq.ConvergenceError, match="floor"):
        mfdeq.solve(Line(), theta.astype("float32"), rtol=1e-9)
