"""A pytest plugin for the examples in docstrings, which skips modules that need absent packages.

python -m pytest -p tests.support.docstring_examples --doctest-modules mfdeq
"""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a screen

ROOT = Path(__file__).parents[2]
NEEDED = {
    "mfdeq/derivatives/jax.py": ["jax"],
    "mfdeq/derivatives/torch.py": ["torch"],
    "mfdeq/petsc": ["petsc4py", "slepc4py", "mpi4py"],
    "mfdeq/plot": ["matplotlib"],
}
LEFT_OUT = {ROOT / path for path, packages in NEEDED.items() if not all(map(find_spec, packages))}


def pytest_ignore_collect(collection_path):
    return True if collection_path in LEFT_OUT else None
