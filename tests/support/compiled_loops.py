"""Compiled loops on small arrays, for modules that test nothing else."""

import os

import pytest

from mfdeq.arrays import compiled, jit

pytest.importorskip("numba", reason="the fast extra is not installed")
if os.environ.get(jit.VARIABLE) == "0":
    pytest.skip("compiled loops are switched off", allow_module_level=True)


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Use compiled loops at any size, with several parts and pieces of small arrays."""
    monkeypatch.setattr(jit, "min_entries", lambda: 0)
    monkeypatch.setattr(jit, "min_rows", lambda: 0)
    monkeypatch.setattr(jit, "is_available", lambda: True)
    monkeypatch.setattr(compiled, "PART_ENTRIES", 50)
    monkeypatch.setattr(compiled, "PIECE_ENTRIES", 64)
