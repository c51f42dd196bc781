"""The Neumann iteration x <- J x + b, which solves (I - J) x = b where J contracts."""

from __future__ import annotations

from dataclasses import dataclass

from ...arguments import count, fraction
from ...arrays.backend import Array
from ...errors import ConvergenceError
from ...operators.operator import Operator
from ...report import LinearCounts
from ..factor import Factor, operator_of

PATIENCE = 500  # iterations without a tenth of a percent of progress that are called a stall
PROBE = 20  # applications of J before and during the estimate of its spectral radius


@dataclass(frozen=True)
class Neumann:
    """The fixed-point iteration on A = I - J itself: x <- x + (b - A x).

    Parameters
    ----------
    rtol : float, optional
        Relative true residual; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Iterations of one solve.
    """

    rtol: float | None = None
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Neumann")
        count(self.max_iterations, "max_iterations of mfdeq.Neumann")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Estimate the spectral radius of J and refuse if it is not below one.

        Raises
        ------
        ConvergenceError
            Where J does not contract.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with counts.timed():
            radius = spectral_radius(A)
        if not radius < 1.0:
            raise ConvergenceError(
                f"mfdeq.Neumann() cannot converge: the spectral radius of J = I - A is about "
                f"{radius:.3g}, not below one. Use mfdeq.Direct() or mfdeq.Krylov()",
                report=counts,
            )
        return _NeumannFactor(A, self, counts)


class _NeumannFactor(Factor):
    name = "Neumann"

    def __init__(self, A: Operator, solver: Neumann, counts: LinearCounts) -> None:
        super().__init__(A, solver.rtol, counts)
        self.solver, self.max_iterations = solver, solver.max_iterations

    def nearby(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor:
        return self.solver.setup(A, counts)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        A = self.A.H if adjoint else self.A  # type: ignore[attr-defined]
        norm, xp = self.backend.column_norms, self.backend.xp
        limit = rtol * norm(b)
        x, r = self.backend.zeros(*b.shape), b
        earlier = norm(r)
        for k in range(1, self.max_iterations + 1):
            r_norm = norm(r)
            if bool(xp.all(r_norm <= limit)) or not bool(xp.all(xp.isfinite(r_norm))):
                break
            if k % PATIENCE == 0:
                if bool(xp.any((r_norm > limit) & (r_norm > 0.999 * earlier))):
                    break
                earlier = r_norm
            x = x + r
            r = r - A._apply(r)
            self.counts.iterations += 1
        return x

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self._attempt(r, 0.01, adjoint)


def spectral_radius(A: Operator) -> float:
    """The spectral radius of I - A, from the growth of its powers on a random vector."""
    backend = A.backend
    x = backend.random(A.shape[0], seed=5)
    growth = []
    for _ in range(2 * PROBE):
        size = backend.norm(x)
        if size == 0.0 or size != size:
            break
        x = x / size
        x = x - A._apply(x)
        growth.append(backend.norm(x))
    late = growth[PROBE:]
    if not late or min(late) == 0.0:
        return 0.0
    product = 1.0
    for factor in late:
        product *= factor
    return product ** (1.0 / len(late))
