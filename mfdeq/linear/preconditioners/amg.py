"""Algebraic multigrid as a preconditioner: its options, and matrices in the model's units."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

from ...arguments import count, one_of
from ...arrays.backend import Array, Backend, check_block, is_sparse
from ...arrays.kernels import scale_rows
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator
from ..operands import matrix_of, operator_of
from ..protocols import Preconditioner, PreconditionerOperator
from ..scaling import Scaling
from .amg_cycle import AMGCycle, CycleOptions
from .hierarchies import SMOOTHED
from .jacobi import inverse_diagonal

METHODS = (None, SMOOTHED, "ruge_stuben", "air")
LEVELS = (None, "float32", "float64")


@dataclass(frozen=True)
class AMG(Preconditioner):
    """One V-cycle of algebraic multigrid.

    Parameters
    ----------
    method : {None, "smoothed_aggregation", "ruge_stuben", "air"}, optional
        How the coarse levels are made. "smoothed_aggregation" suits diffusion and elasticity;
        "ruge_stuben" (classical multigrid) has coarse levels that stay stable under advection;
        "air" (approximate ideal restriction) is for advection with very little diffusion. None is
        "smoothed_aggregation" for a symmetric A, or if `near_nullspace` or `block_size` is passed,
        and "ruge_stuben" otherwise.
    degree : int, optional
        Degree of the Chebyshev smoother before and after each coarse correction. Degree 1 is damped
        Jacobi, which is multiplied into the transfers once. "air" ignores the degree: it relaxes by
        Jacobi on the fine and then on the coarse points.
    near_nullspace : (N,) or (N, m) array, optional
        Vectors that the coarse levels must represent, such as the rigid motions of elasticity. None
        is the constant vector. Only for smoothed aggregation.
    block_size : int, optional
        Number of unknowns per point, which must be numbered consecutively. They are aggregated
        together, and the smoother is block Jacobi. Only for smoothed aggregation.
    levels : {None, "float32", "float64"}, optional
        Precision of the cycle. float32 halves the memory that it reads, and is enough inside a
        float64 Krylov method that recomputes its residual. The cycle is then linear only to the
        rounding of float32, so that GMRES stores twice as many vectors. None is float32 for a
        symmetric A, and float64 otherwise or in an `mfdeq.FieldSplit`.

    Raises
    ------
    ArgumentError
        If a value is not one of those above, or options exclude each other.

    Notes
    -----
    Multigrid assumes that unknowns are in the same unit. Where they are not, let the model define
    `state_scale` and `residual_scale`: the hierarchy is then that of the matrix in these units.

    Levels in float32 are those of A divided by its largest diagonal entry, to avoid overflow.

    References
    ----------
    P. Vaněk, J. Mandel and M. Brezina, Algebraic multigrid by smoothed aggregation for second and
    fourth order elliptic problems, Computing 56 (1996).

    J. W. Ruge and K. Stüben, Algebraic multigrid, in: S. F. McCormick (ed.), Multigrid Methods,
    SIAM (1987).

    T. A. Manteuffel, S. Münzenmaier, J. Ruge and B. S. Southworth, Nonsymmetric reduction-based
    algebraic multigrid, SIAM J. Sci. Comput. 41 (2019).

    N. Bell, L. N. Olson, J. Schroder and B. S. Southworth, PyAMG: algebraic multigrid solvers in
    Python, J. Open Source Softw. 8 (2023).

    Examples
    --------
    The number of iterations is nearly independent of the size of a diffusion problem:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> T = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(40, 40))
    >>> A = sp.kronsum(T, T).tocsr()
    >>> factor = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(A)
    >>> x = factor.solve(np.ones(1600))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8), factor.counts.iterations < 20
    (True, True)
    """

    method: str | None = None
    degree: int = 1
    near_nullspace: Any = None
    block_size: int = 1
    levels: str | None = None

    follows_scale = True
    suits_singular = True
    # With so few iterations, a search space shared by columns costs more than it saves.
    columns_per_space = 1

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method of mfdeq.AMG")
        one_of(self.levels, LEVELS, "levels of mfdeq.AMG")
        count(self.degree, "degree of mfdeq.AMG")
        count(self.block_size, "block_size of mfdeq.AMG")
        if self.method in ("ruge_stuben", "air"):
            if self.near_nullspace is not None:
                raise ArgumentError(
                    f"near_nullspace is for smoothed aggregation, not {self.method}"
                )
            if self.block_size != 1:
                raise ArgumentError(f"block_size is for smoothed aggregation, not {self.method}")

    @property
    def description(self) -> str:
        """The name in reports: AMG, with the method if one was passed."""
        return f"AMG ({self.method})" if self.method else "AMG"

    @property
    def never_symmetric(self) -> bool:
        """Whether the cycle is not symmetric even if A is: True for "air"."""
        return self.method == "air"

    def linear(self) -> AMG:
        """Return this description, with levels in float64 unless it says otherwise."""
        return self if self.levels else replace(self, levels="float64")

    def method_for(self, symmetric: bool) -> str:
        """Return the method, by default one that suits the symmetry of A."""
        systems = self.near_nullspace is not None or self.block_size > 1
        chosen = SMOOTHED if symmetric or systems else "ruge_stuben"
        return self.method or chosen

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Build the hierarchy for A.

        Raises
        ------
        ArgumentError
            If A is dense or only products with it are available, if its diagonal has a zero, or if
            it does not fit the options.
        """
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.AMG()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.AMG() needs a sparse A; for a dense one use mfdeq.Direct()")
        inverse_diagonal(A.backend, array, "mfdeq.AMG()")  # PyAMG would only warn about zeros
        if A.shape[0] % self.block_size:
            raise ArgumentError(
                f"block_size {self.block_size} of mfdeq.AMG does not divide N = {A.shape[0]}"
            )
        if (B := self.near_nullspace) is not None:
            B = Backend.of(B).check_array(B, None, "near_nullspace of mfdeq.AMG", ArgumentError)
            check_block(B, Backend.of(B), A.shape[0], "near_nullspace of mfdeq.AMG")
            if not bool(Backend.of(B).xp.all(Backend.of(B).column_norms(B) > 0)):
                raise ArgumentError("near_nullspace of mfdeq.AMG has a column of zeros")
        scaling = Scaling.from_scales(A)
        options = self
        if B is None and A.null_space is not None and self.method_for(is_symmetric(A)) == SMOOTHED:
            B = A.null_space.candidates()
            options = replace(self, near_nullspace=B)
        if scaling.rows is None:
            return options._cycle(A, array)
        # In the model's own units, the errors that relaxation leaves are smooth.
        scaled = Matrix(A.backend, scaling.apply(array))
        scaled.null_space = A.null_space
        if B is not None:
            options = replace(options, near_nullspace=_in_units(scaling, B))
        return _RescaledCycle(A, options._cycle(scaled, scaled.array), scaling)

    def _cycle(self, A: Operator, matrix: Any) -> AMGCycle:
        symmetric = is_symmetric(A)
        precision = self.levels or ("float32" if symmetric else "float64")
        options = CycleOptions(
            self.method_for(symmetric),
            self.degree,
            self.near_nullspace,
            self.block_size,
            precision,
            symmetric,
            self.description,
        )
        return AMGCycle(A, matrix, options)


def _in_units(scaling: Scaling, B: Array) -> Array:
    """Return vectors of unknowns in the units of R A C."""
    assert scaling.columns is not None
    return scale_rows(Backend.of(B).xp.asarray(1.0 / scaling.columns, dtype=B.dtype), B)


class _RescaledCycle(PreconditionerOperator):
    """A V-cycle for R A C in place of the inverse of A."""

    def __init__(self, A: Operator, cycle: AMGCycle, scaling: Scaling) -> None:
        super().__init__(A, A.shape)
        self.cycle, self.scaling = cycle, scaling
        self.description, self.flexible = cycle.description, cycle.flexible
        self.linear_alternative = cycle.linear_alternative

    @property
    def nbytes(self) -> int:
        """Bytes of the levels."""
        return self.cycle.nbytes

    @property
    def row_growth(self) -> float:
        """Entries per row of the first coarse level, over those of A."""
        return self.cycle.row_growth

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the cost of a cycle."""
        return self.cycle.application_cost(product_entry, triangular_entry)

    def refresh(self, A: Operator) -> bool:
        """Become the cycle of another matrix in its own scales, with the same transfers."""
        scaling = Scaling.from_scales(A)
        matrix = scaling.apply(matrix_of(A, "mfdeq.AMG()"))
        cycle, scaled = copy.copy(self.cycle), Matrix(A.backend, matrix)
        scaled.null_space = A.null_space
        if not cycle.refresh(scaled):
            return False
        self.cycle, self.scaling = cycle, scaling
        return True

    def _apply(self, x: Array) -> Array:
        return self.scaling.solve(self._cycle, x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.scaling.solve(self._cycle, y, True)

    def _cycle(self, x: Array, adjoint: bool) -> Array:
        return self.cycle._apply_adjoint(x) if adjoint else self.cycle._apply(x)
