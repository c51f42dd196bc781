"""The Neumann iteration x <- J x + b, which solves (I - J) x = b if J is a contraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arguments import count, fraction
from ...arrays.backend import Array, Backend, host
from ...errors import ConvergenceError
from ...operators.operator import Operator
from ...report import LinearCounts
from ..factor import Factor
from ..operands import operator_of
from ..protocols import Solver
from ..residuals import JointMeasure, ResidualMeasure, on_host

STALL_ITERATIONS = 500  # iterations in which the residual must fall below STALL_RATIO times itself
STALL_RATIO = 0.999
APPROXIMATION_RTOL = 0.01  # of the loose solve that serves as the approximate inverse
NORM_SHARE = 0.3  # of the tolerance, for norms in the units of a solution
_NO_CRITERION = 1e100
POWER_STEPS = 20  # of the power iteration, before the growth is measured and again while it is


@dataclass(frozen=True)
class Neumann(Solver):
    """The fixed-point (Neumann) iteration x <- x + (b - A x) on A = I - J.

    A step costs one product with J, and no basis is stored. The iteration converges if and only if
    the spectral radius of J is below one, as it is for a map whose Picard iteration converges.

    Parameters
    ----------
    rtol : float, optional
        Relative true residual of every solve; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Iterations of one solve.

    See Also
    --------
    Krylov : takes fewer products, and solves with any A

    Notes
    -----
    The iterates are the partial sums of the Neumann series, x = b + J b + J^2 b + ...

    The iteration does not depend on the units of the unknowns. So that its end does not either,
    residuals are also judged after scaling, like the rows of A if its entries are known, or by the
    model's `state_scale`; otherwise each residual is compared with its own unknown.

    References
    ----------
    Y. Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., SIAM (2003), section 4.2.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> A = np.eye(3) - 0.3 * np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    >>> x = mfdeq.Neumann().setup(A).solve(np.ones(3))
    >>> print(np.round(x, 4))
    [1.4286 1.4286 1.4286]
    """

    rtol: float | None = None
    max_iterations: int = 10_000

    def __post_init__(self) -> None:
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Neumann")
        count(self.max_iterations, "max_iterations of mfdeq.Neumann")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Check that the spectral radius of J is below one, by an estimate.

        Raises
        ------
        ConvergenceError
            If it is not.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with counts.add_time():
            radius = spectral_radius(A)
        if not radius < 1.0:
            raise ConvergenceError(
                "mfdeq.Neumann() cannot converge: expected the spectral radius of J = I - A to be "
                f"below one, got about {radius:.3g}. Use mfdeq.Direct() or mfdeq.Krylov()",
                report=counts,
            )
        return _NeumannFactor(A, self, counts)


class _NeumannFactor(Factor):
    """A factor that solves by the iteration.

    It is a flexible preconditioner, because the iteration count depends on b.
    """

    name = "Neumann"
    flexible = True

    def __init__(self, A: Operator, solver: Neumann, counts: LinearCounts) -> None:
        super().__init__(A, solver.rtol, counts)
        self.solver, self.max_iterations = solver, solver.max_iterations

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        try:
            return self.solver.setup(A, counts)
        except ConvergenceError:
            return None

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._attempt_weighted(b, rtol, adjoint, None)

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        A = self._adjoint_operator if adjoint else self.A
        x, r = self.backend.zeros(*b.shape), b
        measure = self._measure(b, adjoint, weights)
        limit, earlier = measure.target(rtol), measure.norms(r, x)
        for k in range(1, self.max_iterations + 1):
            r_norm = measure.norms(r, x)
            if (r_norm <= limit).all() or not host.isfinite(r_norm).all():
                break
            if k % STALL_ITERATIONS == 0:
                if ((r_norm > limit) & (r_norm > STALL_RATIO * earlier)).any():
                    break
                earlier = r_norm
            x = x + r
            r = r - A._apply(r)
            self.count_iterations(1)
        return x

    def _measure(self, b: Array, adjoint: bool, weights: Array | None = None) -> ResidualMeasure:
        known = self.A.array is not None or self.A.scales is not None
        if known or weights is not None:
            return super()._measure(b, adjoint, weights)
        # Nothing says which unknowns have the same unit, except a solution. The norm in the units
        # of A is reported, but not a criterion.
        in_units = ResidualMeasure(self.backend, None, b, rtol_factor=_NO_CRITERION)
        by_entry = [_ByEntry(self.backend, b, kind) for kind in (max, sum)]
        return JointMeasure([in_units, *by_entry])

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self._attempt(r, APPROXIMATION_RTOL, adjoint)


class _ByEntry(ResidualMeasure):
    """A residual relative to the unknowns of its entries, which have the same units.

    Parameters
    ----------
    backend : Backend
    b : (N,) or (N, k) array
    kind : max or sum
        The largest entry, or the norm relative to that of b.
    """

    def __init__(self, backend: Backend, b: Array, kind: Callable[..., Any]) -> None:
        self.b, self.kind = b, kind
        super().__init__(backend, None, b, 1.0 if kind is max else NORM_SHARE)
        self.size = 1.0 + 0.0 * self.size

    def residual(self, b: Array, product: Array, x: Array) -> Any:
        """Return the measure of each column of b - product."""
        return self.norms(b - product, x)

    def norms(self, r: Array, x: Array) -> Any:
        """Return the measure of each column of r, with entries divided by |x| + |b|."""
        xp = self.backend.xp
        sizes = xp.abs(x) + xp.abs(self.b)
        sizes = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
        if self.kind is max:
            return on_host(xp.max(xp.abs(r) / sizes, axis=0))
        norms = on_host(self.backend.column_norms(r / sizes))
        given = on_host(self.backend.column_norms(self.b / sizes))
        return norms / host.where(given > 0, given, 1.0)


def spectral_radius(A: Operator) -> float:
    """Estimate the spectral radius of J = I - A by the growth of J^k x for a random x."""
    backend = A.backend
    x = backend.random(A.shape[0], seed=5)
    growth = []
    for _ in range(2 * POWER_STEPS):
        size = backend.norm(x)
        if size == 0.0 or size != size:
            break
        x = x / size
        x = x - A._apply(x)
        growth.append(backend.norm(x))
    late = growth[POWER_STEPS:]
    if not late or min(late) == 0.0:
        return 0.0
    product = 1.0
    for factor in late:
        product *= factor
    return product ** (1.0 / len(late))
