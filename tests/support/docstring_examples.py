"""A pytest plugin for the examples in docstrings, which skips modules that need absent packages.

python -m pytest -p tests.support.docstring_examples --doctest-modules mfdeq
"""

import importlib
import os
from pathlib import Path

import pytest

import mfdeq
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


def pytest_collect_file(file_path):
    """Import a module of the package as Python does.

    pytest would execute a module that has not been imported yet a second time after its package has
    done so, and put it in the place of the function of the same name that the package exports.
    """
    package = Path(mfdeq.__file__).parent
    if file_path.suffix == ".py" and package in file_path.parents and file_path.stem[:2] != "__":
        parts = file_path.relative_to(package.parent).with_suffix("").parts
        importlib.import_module(".".join(parts))


def pytest_ignore_collect(collection_path):
    return True if collection_path in LEFT_OUT else None
