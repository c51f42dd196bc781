"""Settings of the tests with OpenMDAO."""

import pytest


@pytest.fixture(autouse=True)
def _in_a_scratch_folder(monkeypatch, tmp_path):
    """OpenMDAO writes a folder of outputs beside each program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENMDAO_REPORTS", "false")
