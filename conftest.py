"""Settings of doctests: examples of optional packages run where those are installed."""

import os
from importlib.util import find_spec

os.environ.setdefault("MPLBACKEND", "Agg")  # plots without a screen

NEEDED = {
    "mfdeq/derivatives/jax.py": ["jax"],
    "mfdeq/derivatives/torch.py": ["torch"],
    "mfdeq/petsc": ["petsc4py", "slepc4py", "mpi4py"],
    "mfdeq/plot": ["matplotlib"],
}
collect_ignore = [path for path, packages in NEEDED.items() if not all(map(find_spec, packages))]
