"""The packages that `mfdeq.Direct` and "auto" choose from, each registered by one line."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...operators.operator import Operator
from ..costs import compiled_threads
from .cholmod import CholmodPackage
from .costs import Fill
from .cudss import CuDSSPackage
from .multifrontal import MultifrontalPackage
from .package import DirectPackage
from .pardiso import PardisoPackage
from .superlu import SuperLUPackage
from .tridiagonal import TridiagonalPackage

MAX_MEMORY_SHARE = 0.4  # expected size of the factors, over the free memory, up to which they fit
BYTES_PER_FACTOR_ENTRY = 12

PACKAGES: dict[str, DirectPackage] = {}  # by name


def register(package: DirectPackage) -> None:
    """Add a package to those of `mfdeq.Direct` and "auto", or replace one of the same name.

    ``mfdeq.Direct()`` tries the packages in the reverse order of registration.

    Parameters
    ----------
    package : DirectPackage

    Examples
    --------
    SuperLU without scaling of rows and columns, under another name:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import mfdeq
    >>> from mfdeq.linear.direct.registry import PACKAGES, register
    >>> from mfdeq.linear.direct.superlu import SuperLUPackage
    >>> class Unscaled(SuperLUPackage):
    ...     name = "unscaled"
    ...     title = "SuperLU, unscaled"
    ...     equilibrates = False
    >>> register(Unscaled())
    >>> mfdeq.Direct(package="unscaled").setup(sp.csr_array(np.diag([1.0, 2.0]))).name
    'Direct (SuperLU, unscaled)'
    >>> del PACKAGES["unscaled"]
    """
    PACKAGES[package.name] = package


register(SuperLUPackage())
register(MultifrontalPackage())
register(CholmodPackage())
register(PardisoPackage())
register(CuDSSPackage())
register(TridiagonalPackage())


def default_packages(A: Operator) -> Iterator[tuple[DirectPackage, float]]:
    """Yield the packages that ``mfdeq.Direct()`` tries for A, and their limits of operations."""
    for package in reversed(PACKAGES.values()):
        max_operations = package.default_max_operations(A)
        if max_operations is not None and not package.obstacle(A):
            yield package, max_operations


def fastest_package(A: Operator) -> DirectPackage | None:
    """Return the package that is faster for A than any other solver, or None."""
    for package in reversed(PACKAGES.values()):
        if package.always_fastest and not package.obstacle(A):
            return package
    return None


def package_costs(A: Operator, fill: Fill) -> dict[str, tuple[float, float, float]]:
    """Estimate the times of the packages that suit a sparse A.

    Returns
    -------
    dict of tuples of nanoseconds
        By the name of the package: of a set-up, of a solve, and of a column in a wide block. If
        the factors are not expected to fit in memory, only the packages that pivot, which take any
        A, at infinite cost.
    """
    n, threads = A.shape[0], compiled_threads()
    costs = {}
    for package in PACKAGES.values():
        cost = package.cost(A)
        if cost is not None and package.is_candidate(A, fill):
            solve = cost.one_solve(n, fill)
            in_block = cost.share_in_block(n, fill) * solve
            costs[package.name] = cost.setup(n, fill, threads), solve, in_block
    if BYTES_PER_FACTOR_ENTRY * fill.entries > MAX_MEMORY_SHARE * A.backend.available_bytes():
        return {name: (math.inf, math.inf, math.inf) for name in costs if PACKAGES[name].pivots}
    return costs
