"""What the main example computes, on a crop: slow, and where matplotlib is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import mfdeq

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
pytestmark = pytest.mark.slow


@pytest.fixture
def groundwater():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import groundwater

    return groundwater


def test_groundwater_derivatives(groundwater):
    model = groundwater.Groundwater(groundwater.load_terrain(40))
    theta = np.full(model.param_size, np.log(groundwater.CONDUCTIVITY))
    misfit = mfdeq.LeastSquares(np.arange(0, model.state_size, 50), model.surface[::50])
    loss = misfit + mfdeq.QuadraticPrior(model.smoothness(), theta)
    found = mfdeq.verify(model, theta, loss)
    assert found.verdict == "PASS", str(found)


def test_groundwater_from_far_below_the_surface_is_a_typed_error(groundwater):
    model = groundwater.Groundwater(groundwater.load_terrain(40))
    theta = np.full(model.param_size, np.log(groundwater.CONDUCTIVITY))
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError)):
        mfdeq.solve(model, theta, model.surface - 60.0)
