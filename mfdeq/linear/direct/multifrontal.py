"""The package for the multifrontal factorization of `mfdeq.linear.multifrontal`."""

from __future__ import annotations

import math
from typing import Any

from ...arrays import jit
from ...arrays.backend import is_sparse
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ..multifrontal.fronts import has_metis
from ..multifrontal.multifrontal import Multifrontal
from .costs import Fill, PackageCost
from .fill import estimate_fill
from .package import DirectPackage, passes_trial_solve, unsuitable

MAX_SUPERLU_SIZE = 10_000  # unknowns up to which SuperLU's sparse columns are as fast as fronts
MAX_OPERATIONS_RATIO = 8.0  # of the operations that SuperLU's fill is estimated to take


class MultifrontalPackage(DirectPackage):
    """The multifrontal factorization, for sparse matrices whose graphs have small separators.

    Rows are exchanged only inside a front, so a trial solve decides whether a factorization is
    good enough.
    """

    name = "multifrontal"
    title = "multifrontal"
    # Dissections of volumes take fewer operations than SuperLU's orderings, which are counted.
    cost_on_host = PackageCost(
        unknown=13_000.0,
        operation=0.1,
        entry=1.2,
        solved_unknown=100.0,
        threaded=0.5,
        block_share=0.25,
    )
    # The set-up runs on the host.
    cost_on_device = PackageCost(unknown=13_000.0, operation=0.1, entry=0.005, solve=1e6)

    def cost(self, A: Operator) -> PackageCost | None:
        """Return the time model, by which compiled loops take a fraction of the set-up."""
        found = super().cost(A)
        assert found is not None
        compiled = jit.pays(A.array.nnz)
        return found._replace(unknown=3_500.0, operation=0.02) if compiled else found

    def obstacle(self, A: Operator) -> str:
        """Return why a dense A is not factorized; "" for a sparse one."""
        return "" if is_sparse(A.array) else "expected a sparse matrix, got a dense one"

    def is_candidate(self, A: Operator, fill: Fill) -> bool:
        """Return whether A may have small separators: in a mesh, or by METIS."""
        return fill.compact or has_metis()

    def default_max_operations(self, A: Operator) -> float | None:
        """Return a multiple of SuperLU's estimated operations; None for a small A on the host."""
        if A.shape[0] <= MAX_SUPERLU_SIZE and A.backend.library.on_host:
            return None
        return MAX_OPERATIONS_RATIO * estimate_fill(A.array).operations

    def factorize(self, A: Operator, matrix: Any, max_operations: float = math.inf) -> Multifrontal:
        """Factorize by fronts, and check the pivots by a trial solve."""
        try:
            factors = Multifrontal(matrix, A.backend, is_symmetric(A), max_operations)
        except ZeroDivisionError as error:
            raise unsuitable(self, str(error), singular=True) from error
        except ArithmeticError as error:
            raise unsuitable(self, str(error)) from error
        if not passes_trial_solve(A.backend, lambda x: matrix @ x, factors.solve, A.shape[0]):
            raise unsuitable(self, "its fronts are too badly conditioned")
        return factors
