"""What the tests of pictures share: matplotlib without a screen, figures closed, legends read."""

from __future__ import annotations

import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the plots need the extra plot")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.tri import Triangulation  # noqa: E402

from mfdeq import plot  # noqa: E402

__all__ = ["Triangulation", "closed", "legend", "plot", "plt"]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]
