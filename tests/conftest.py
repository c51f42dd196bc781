"""Settings of the whole suite."""

import os
import sys
from pathlib import Path

# The models are tiny: threads of the BLAS would only wait for each other.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Before anything imports array_api_compat, and through it cupy.
SIMULATED = os.environ.get("MFDEQ_CUPY") == "simulated"
if SIMULATED:
    sys.path.insert(0, str(Path(__file__).parent / "simulated"))


def pytest_report_header():
    return "cupy: a simulation on the host (MFDEQ_CUPY), no GPU" if SIMULATED else None
