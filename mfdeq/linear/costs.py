"""Cost estimates of iterations, by which "auto" chooses; `direct.costs` has the factorizations.

Entries and operations are counted and nothing is timed, so that the same A gives the same choice.
The unit is the nanosecond, but only the ratios of costs matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import parallel
from ..arrays import jit
from ..operators.operator import Operator

MIN_PRODUCTS_WITH_AMG = 80  # work of the fastest solve with AMG, in products with A
MIN_ITERATIONS_WITH_AMG = 8  # iterations of the fastest solve with AMG
# Set-up of a hierarchy, on the host whatever the array library, and its growth where no compact
# parts can be aggregated.
AMG_SETUP, AMG_SETUP_ENTRY = 1e7, 600.0
LONG_EDGE_RATIO = 5.0
# AIR inverts a small dense block for each row of each level. Levels shrink by a factor, while their
# rows grow by more than those of classical multigrid do.
AIR_OPERATION = 3.0
AIR_COARSENING = 0.6
AIR_ROW_GROWTH = 1.1
MIN_AIR_SIZE = 400  # unknowns of a level that is not coarsened further
# The scaling of a nonsymmetric A for GMRES: its iterations, and the work in products with A.
SCALING_ITERATIONS, SCALING_PRODUCTS = 60, 250
# Estimating the fill of an LU.
ESTIMATE_SETUP, ESTIMATE_UNKNOWN = 3e7, 2_000.0
# Share of products and updates that threads divide, and their number from which on memory limits.
THREADED_SHARE, MAX_THREADS = 0.85, 4
# Columns of an assembled matrix per product with one vector, in time: for a block it is less.
ASSEMBLED_COLUMNS_PER_PRODUCT = 4
BYTES_PER_ENTRY = 10  # of a sparse matrix, with its index: between float32 and float64


def compiled_threads() -> int:
    """Return the number of threads of compiled loops; 1 if none are compiled."""
    return parallel.threads() if jit.is_available() else 1


def threaded(share: float, threads: int) -> float:
    """Return the time on several threads over that on one, if they divide a share of the work."""
    return 1.0 - share + share / threads


def estimate_cost(n: int) -> float:
    """Estimate the nanoseconds of an estimate of the fill of an LU of n unknowns."""
    return ESTIMATE_SETUP + ESTIMATE_UNKNOWN * n


def amg_setup_cost(nnz: int, compact: bool) -> float:
    """Return a lower bound on the nanoseconds of the set-up of AMG."""
    return (AMG_SETUP + AMG_SETUP_ENTRY * nnz) * (1.0 if compact else LONG_EDGE_RATIO)


def air_setup_cost(n: int, nnz: int, row_growth: float) -> float:
    """Estimate the nanoseconds of the set-up of AMG("air").

    Parameters
    ----------
    n, nnz : int
        Unknowns and entries of A.
    row_growth : float
        Entries per row of the first coarse level of classical multigrid, over those of A.
    """
    size, row, operations = float(n), nnz / n, 0.0
    while size > MIN_AIR_SIZE:
        operations += size * min(row, size) ** 2
        size *= AIR_COARSENING
        row *= AIR_ROW_GROWTH * max(row_growth, 1.0)
    return AMG_SETUP + AIR_OPERATION * operations


@dataclass(frozen=True)
class Machine:
    """Costs on the host or on a device, in nanoseconds.

    Attributes
    ----------
    product_entry : float
        Cost of a sparse product per entry.
    cg_entry : float
        Cost per unknown of the updates and inner products of an iteration of CG.
    gmres_entry : float
        Cost of an iteration of GMRES per unknown and stored vector.
    iteration, gmres_iteration : float
        Cost of an iteration of CG and of GMRES regardless of the size.
    triangular_entry : float
        Cost of a triangular solve per entry, as with an incomplete LU.
    """

    product_entry: float
    cg_entry: float
    gmres_entry: float
    iteration: float
    gmres_iteration: float
    triangular_entry: float

    def least_with_amg(self, nnz: int, compact: bool = True) -> float:
        """Return a lower bound on the cost of a solve with AMG."""
        work = MIN_PRODUCTS_WITH_AMG * self.product_entry * nnz
        return (work if compact else LONG_EDGE_RATIO * work) + (
            MIN_ITERATIONS_WITH_AMG * self.iteration
        )

    def on_threads(self, threads: int) -> Machine:
        """Return the costs where threads share the work on long vectors and sparse products.

        They share the memory, too, so that more than a few do not help.
        """
        factor = threaded(THREADED_SHARE, min(threads, MAX_THREADS))
        return replace(
            self,
            product_entry=factor * self.product_entry,
            cg_entry=factor * self.cg_entry,
            gmres_entry=factor * self.gmres_entry,
        )

    def scaling(self, nnz: int) -> float:
        """Estimate the cost of the scaling with which GMRES runs."""
        return SCALING_ITERATIONS * self.iteration + SCALING_PRODUCTS * self.product_entry * nnz


CORE = Machine(  # one core in 2026
    product_entry=1.1,
    cg_entry=8.0,
    gmres_entry=1.5,
    iteration=50_000.0,
    gmres_iteration=120_000.0,
    triangular_entry=2.8,
)
# A device with 3 TB/s and 5 microseconds per kernel launch. These are estimates from the bytes read
# and the kernels launched, not measurements.
DEVICE = Machine(
    product_entry=0.004,
    cg_entry=0.035,
    gmres_entry=0.008,
    iteration=250_000.0,
    gmres_iteration=250_000.0,
    triangular_entry=0.05,
)


def machine_of(A: Operator) -> Machine:
    """Return the costs where A is stored."""
    if not A.backend.library.on_host:
        return DEVICE
    return CORE.on_threads(compiled_threads())
