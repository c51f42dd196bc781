"""A pytest plugin for the examples in docstrings, which skips modules that need absent packages.

python -m pytest -p tests.support.docstring_examples --doctest-modules mfdeq
"""

import os
from pathlib import Path

import pytest

from mfdeq.linear.direct import pardiso

from .packages import is_installed

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a screen

ROOT = Path(__file__).parents[2]
NEEDED = {
    "mfdeq/derivatives/jax.py": ["jax"],
    "mfdeq/derivatives/torch.py": ["torch"],
    "mfdeq/nodes/jax.py": ["jax"],
    "mfdeq/nodes/last_error.py": ["jax"],
    "mfdeq/nodes/program_hessian.py": ["torch"],
    **{f"mfdeq/nodes/{path.name}": ["torch"] for path in (ROOT / "mfdeq/nodes").glob("torch*.py")},
    "mfdeq/openmdao": ["openmdao"],
    "mfdeq/petsc": ["petsc4py", "slepc4py", "mpi4py"],
    "mfdeq/plot": ["matplotlib"],
}
LEFT_OUT = {
    ROOT / path for path, packages in NEEDED.items() if not all(map(is_installed, packages))
}


@pytest.fixture(autouse=True)
def without_pardiso(monkeypatch):
    """What "auto" chooses in the examples is what it chooses without the extra pardiso."""
    monkeypatch.setattr(pardiso, "has_pardiso", lambda: False)


def pytest_ignore_collect(collection_path):
    return True if collection_path in LEFT_OUT else None
