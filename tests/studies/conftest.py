import concurrent.futures as futures
from multiprocessing import get_context

import pytest

import mfdeq


@pytest.fixture
def study(tmp_path):
    return mfdeq.Study(tmp_path / "study")


@pytest.fixture(scope="session")
def processes():
    """Two worker processes for all tests that do not need processes of their own."""
    with futures.ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor
