"""Estimates of what iterations cost, by which "auto" chooses; `direct.costs` has factorizations.

Everything is counted in entries and operations, and nothing is timed: the same A gives the same
choice. The units are nanoseconds, of which only the ratios matter.
"""

from __future__ import annotations

from dataclasses import dataclass

SOLVES_PER_SETUP = 100  # solves that a solver is chosen for: 50 Hessian products
MIN_PRODUCTS_WITH_AMG = 80  # products with A, in work, of a solve with AMG at its best
MIN_ITERATIONS_WITH_AMG = 8
BYTES_PER_ENTRY = 10  # of a sparse matrix, with its index, between float32 and float64


@dataclass(frozen=True)
class Machine:
    """Costs where the arrays are, in nanoseconds.

    Attributes
    ----------
    product_entry : float
        Of a sparse product for each entry.
    cg_entry : float
        Of an iteration's updates and inner products for each unknown.
    gmres_entry : float
        Of an iteration of GMRES for each unknown and vector kept.
    iteration : float
        Of an iteration, however small.
    triangular_entry : float
        Of a triangular solve for each entry, as of an incomplete LU.
    """

    product_entry: float
    cg_entry: float
    gmres_entry: float
    iteration: float
    triangular_entry: float

    def least_with_amg(self, nnz: int) -> float:
        """The least that `SOLVES_PER_SETUP` solves with AMG can cost."""
        work = MIN_PRODUCTS_WITH_AMG * self.product_entry * nnz
        return SOLVES_PER_SETUP * (work + MIN_ITERATIONS_WITH_AMG * self.iteration)


CORE = Machine(  # one core in 2026
    product_entry=1.1, cg_entry=8.0, gmres_entry=1.5, iteration=0.0, triangular_entry=2.8
)
# A device of 3 TB/s that takes 5 microseconds for a launch, estimated from what is read and
# launched rather than measured.
DEVICE = Machine(
    product_entry=0.004,
    cg_entry=0.035,
    gmres_entry=0.008,
    iteration=250_000.0,
    triangular_entry=0.05,
)
