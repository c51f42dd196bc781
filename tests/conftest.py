"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

import pytest

# The models are tiny: threads of the BLAS would only wait for each other.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# The tests compile the same small functions again and again, in every worker. In the ignored folder
# of pytest's cache, so that the next run finds them as well.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

os.environ.setdefault("JAX_ENABLE_X64", "1")  # else a test passes or fails by what ran before it

# Before anything imports array_api_compat, and through it cupy.
SIMULATED = os.environ.get("MFDEQ_CUPY") == "simulated"
if SIMULATED:
    sys.path.insert(0, str(Path(__file__).parent / "simulated"))


_generators: list[tuple] = []  # random generators of modules, and their states


def pytest_collection_finish(session):
    """Remember the random generators of the modules as they are after the imports."""
    import numpy as np  # after the numbers of threads have been set

    modules = {id(item.module): item.module for item in session.items if hasattr(item, "module")}
    for module in modules.values():
        for value in vars(module).values():
            if isinstance(value, np.random.Generator):
                _generators.append((value, value.bit_generator.state))


def pytest_runtest_setup(item):
    """Draw the same numbers in each test, in any order and selection of the tests."""
    for generator, state in _generators:
        generator.bit_generator.state = state


def pytest_report_header():
    return "cupy: a simulation on the host (MFDEQ_CUPY), no GPU" if SIMULATED else None


@pytest.fixture(autouse=True)
def _print_options():
    """Restore how numpy prints numbers, which wntr changes when it is imported."""
    import numpy as np

    with np.printoptions():
        yield


@pytest.fixture
def reuse_of_small_factors(monkeypatch):
    """Let factors of small matrices precondition the next ones, as those of large ones do."""
    from mfdeq.linear.direct.dense import DenseFactor
    from mfdeq.linear.direct.factors import DirectFactor, SparseFactor
    from mfdeq.linear.direct.package import DirectPackage
    from mfdeq.linear.direct.tridiagonal import TridiagonalPackage
    from mfdeq.linear.factor import Factor

    for cls in (DenseFactor, DirectFactor, DirectPackage, TridiagonalPackage):
        monkeypatch.setattr(cls, "max_renewed_bytes", 0)
    monkeypatch.setattr(SparseFactor, "iterations_per_setup", Factor.iterations_per_setup)
