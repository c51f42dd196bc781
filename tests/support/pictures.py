"""matplotlib without a screen for the tests of plots, and eigenpairs to plot."""

from __future__ import annotations

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the plots need the extra plot")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.tri import Triangulation  # noqa: E402

import mfdeq  # noqa: E402
from mfdeq import plot  # noqa: E402
from mfdeq.spectrum.eigen_report import EigenReport  # noqa: E402

__all__ = ["Triangulation", "eigenpairs", "legend", "plot", "plt"]


def eigenpairs(values, bounds=0.0, error=1e-9, dtype="float64", vectors=None):
    """Return Eigenpairs with these values and bounds."""
    values = np.asarray(values, dtype)
    bounds = np.full(values.shape, bounds, dtype) if np.isscalar(bounds) else np.asarray(bounds)
    errors = np.full(values.shape, error, dtype)
    report = EigenReport(True, "made", 1, 1.0, bounds, errors)
    vectors = np.eye(8, dtype=dtype)[:, : values.size] if vectors is None else vectors
    return mfdeq.Eigenpairs(values, vectors, bounds, report)


def legend(ax):
    """Return the labels of a legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]
