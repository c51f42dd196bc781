"""Settings of doctests: examples of optional packages run where those are installed."""

import importlib.util
import os

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a screen

NEEDED = {"mfdeq/plot": ["matplotlib"], "mfdeq/petsc": ["petsc4py", "slepc4py", "mpi4py"]}
collect_ignore = [
    folder
    for folder, packages in NEEDED.items()
    if not all(map(importlib.util.find_spec, packages))
]
