"""Every test of this folder runs by numpy's loops and by the compiled ones."""

import pytest

from mfdeq.arrays import jit


@pytest.fixture(autouse=True, params=["numpy", "numba"])
def loops(request, monkeypatch):
    """The loops over vertices and fronts, whatever the size of the matrix."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="the fast extra is not installed")
    monkeypatch.setattr(jit, "is_available", lambda: request.param == "numba")
    monkeypatch.setattr(jit, "min_entries", lambda: 0)
