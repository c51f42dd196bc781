"""Cost estimates of iterations, by which "auto" chooses; `direct.costs` has the factorizations.

Entries and operations are counted and nothing is timed, so that the same A gives the same choice.
The unit is the nanosecond, but only the ratios of costs matter.
"""

from __future__ import annotations

from dataclasses import dataclass

SOLVES_PER_SETUP = 100  # solves for which a solver is chosen: 50 Hessian products
MIN_PRODUCTS_WITH_AMG = 80  # work of the fastest solve with AMG, in products with A
MIN_ITERATIONS_WITH_AMG = 8  # iterations of the fastest solve with AMG
# Columns of an assembled matrix per product with one vector, in time: for a block it is less.
ASSEMBLED_COLUMNS_PER_PRODUCT = 4
SOLVES_PER_ASSEMBLY = 10  # solves for which a matrix is assembled by products
BYTES_PER_ENTRY = 10  # of a sparse matrix, with its index: between float32 and float64


def assembly_cost(n: int) -> float:
    """Estimate the cost of one solve with a matrix assembled by products, in products."""
    return 1.0 + n / (ASSEMBLED_COLUMNS_PER_PRODUCT * SOLVES_PER_ASSEMBLY)


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
    iteration : float
        Cost of an iteration regardless of the size.
    triangular_entry : float
        Cost of a triangular solve per entry, as with an incomplete LU.
    """

    product_entry: float
    cg_entry: float
    gmres_entry: float
    iteration: float
    triangular_entry: float

    def least_with_amg(self, nnz: int) -> float:
        """Return a lower bound on the cost of `SOLVES_PER_SETUP` solves with AMG."""
        work = MIN_PRODUCTS_WITH_AMG * self.product_entry * nnz
        return SOLVES_PER_SETUP * (work + MIN_ITERATIONS_WITH_AMG * self.iteration)


CORE = Machine(  # one core in 2026
    product_entry=1.1, cg_entry=8.0, gmres_entry=1.5, iteration=0.0, triangular_entry=2.8
)
# A device with 3 TB/s and 5 microseconds per kernel launch. These are estimates from the bytes read
# and the kernels launched, not measurements.
DEVICE = Machine(
    product_entry=0.004,
    cg_entry=0.035,
    gmres_entry=0.008,
    iteration=250_000.0,
    triangular_entry=0.05,
)
