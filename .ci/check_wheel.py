"""Check an installed mfdeq, outside of its repository: `python -P .ci/check_wheel.py`.

The version, the files beside the modules, all modules without optional packages, the command line,
and one problem from a function to its Hessian's eigenvalues.
"""

import importlib
import pkgutil
import subprocess
import sys
from importlib import metadata, resources

import numpy as np

import mfdeq

OPTIONAL = {"cupy", "cupyx", "jax", "torch", "petsc4py", "slepc4py", "mpi4py", "matplotlib"}
OPTIONAL |= {"numba", "llvmlite", "openmdao", "umbridge"}
DATA = {"mfdeq": "py.typed", "mfdeq.arrays": "cuda.cu", "mfdeq.studies": "report.html"}


def import_all() -> int:
    """Import all modules whose packages are there; return their number."""
    count = 0
    for module in pkgutil.walk_packages(mfdeq.__path__, "mfdeq."):
        if module.name == "mfdeq.__main__":
            continue
        try:
            importlib.import_module(module.name)
            count += 1
        except (ModuleNotFoundError, mfdeq.ArgumentError) as error:
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            if str(getattr(missing, "name", None)).partition(".")[0] not in OPTIONAL:
                raise
    return count


def residual(h, theta):
    """Return R for -h'' + h³ = exp(theta) on 20 points."""
    left, right = np.insert(h[:-1], 0, 0.0), np.append(h[1:], 0.0)
    return 21**2 * (2 * h - left - right) + h**3 - np.exp(theta)


if __name__ == "__main__":
    assert "site-packages" in mfdeq.__file__, mfdeq.__file__
    assert mfdeq.__version__ == metadata.version("mfdeq")
    for package, name in DATA.items():
        assert resources.files(package).joinpath(name).is_file(), name
    modules = import_all()
    command = [sys.executable, "-P", "-m", "mfdeq", "--help"]
    assert "verify" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    model = mfdeq.from_function(residual, 20, 20, "residual", sparsity="detect")
    loss = mfdeq.LeastSquares(np.arange(20), np.full(20, 0.1))
    functional = mfdeq.ReducedFunctional(model, loss + mfdeq.QuadraticPrior(1e-4 * np.eye(20)))
    minimum = mfdeq.minimize(functional, np.zeros(20))
    pairs = mfdeq.eigsh(functional.hessian(minimum.params), k=2)
    assert pairs.report.converged
    assert mfdeq.verify(model, np.zeros(20), loss)
    print(f"mfdeq {mfdeq.__version__} on Python {sys.version.split()[0]}: {modules} modules")
