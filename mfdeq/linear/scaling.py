"""Solve with R A C in place of A, with diagonal R and C, so that solves do not depend on units.

`equilibration` finds R and C. Its numbers for the rows and columns of one connected component of A
are determined up to a factor, so components have no common unit. Their right-hand sides are scaled
to the same length before they are judged together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..arrays.kernels import scale_rows
from ..operators.dot_tests import is_symmetric
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from .equilibration import (
    LOG_RTOL,
    MAX_SMALL_SIZE,
    balance,
    equilibrate,
    has_empty_line,
    in_float64,
    is_balanced,
)

MAX_UNIFORM_RATIO = 4.0  # of the entries of R and of C, up to which iterations run without them
LEAST_TIGHTENING = 0.1  # factor of tolerances
# The same where A itself is balanced, from which on iterations run without a scaling. A norm
# in which some rows hardly count does not measure what is asked for: that of upwind differences,
# for example, whose scaling grows exponentially along the flow.
MAX_BALANCED_RATIO = 1e3
ROUNDED_LOG_RTOL = 1e-2  # `LOG_RTOL` for scalings of large matrices that are rounded afterwards
MAX_SWEEPS = 20  # where the scaling starts from the identity
SIGN_VECTORS = 4  # products from which the sizes of rows are estimated


@dataclass(frozen=True)
class Scaling:
    """R A C in place of A, with diagonal R and C.

    Attributes
    ----------
    rows, columns : (N,) array or None
        The diagonals of R and C; None is the identity.
    balanced : bool
        Whether the rows and columns of A itself are of similar size. Residuals are then judged
        without R, so that tolerances have their usual meaning.
    """

    rows: Array | None = None
    columns: Array | None = None
    balanced: bool = False

    @classmethod
    def of(cls, A: Any, sizes: Any = None) -> Scaling:
        """Find a scaling by powers of two of an (N, N) matrix; none if A is balanced.

        Scaling by powers of two does not round the entries. R = C if A is symmetric. |A| may be
        passed as `sizes`.
        """
        if is_balanced(A, sizes):
            return NO_SCALING
        rtol = LOG_RTOL if A.shape[0] <= MAX_SMALL_SIZE else ROUNDED_LOG_RTOL
        return cls(*(_round_to_power_of_two(x) for x in equilibrate(A, rtol)))

    @classmethod
    def of_operator(cls, A: Operator) -> Scaling:
        """Find the scaling of the matrix of an operator, or return it if it is known."""
        found = vars(A).get("_rounded_scaling")
        if found is None:  # estimates of costs and several factors need it
            found = vars(A)["_rounded_scaling"] = cls.of(A.array, _dense_sizes(A))
        return found

    @classmethod
    def sums_of_operator(cls, A: Operator) -> Scaling:
        """Find the scaling of the matrix of an operator like `by_sums`."""
        return cls.by_sums(A.array, _dense_sizes(A))

    @classmethod
    def by_sums(cls, A: Any, sizes: Any = None) -> Scaling:
        """Find a scaling like `of` by sweeps alone, from the identity.

        Large entries stay large, since the logarithms of small entries do not count as much. |A|
        may be passed as `sizes`.
        """
        if is_balanced(A, sizes):
            return NO_SCALING
        backend = Backend.of(A if is_dense(A) else A.data)
        ones = backend.zeros(A.shape[0]) + 1.0
        rows, columns = balance(in_float64(abs(A)), ones, ones, MAX_SWEEPS)
        return cls(*(_round_to_power_of_two(backend.asarray(x)) for x in (rows, columns)))

    @classmethod
    def exact(cls, A: Operator) -> Scaling:
        """Find the scaling of an operator whose entries are known, unless it is nearly uniform.

        Iterations with R A C then depend on units by rounding only.
        """
        found = vars(A).get("_exact_scaling")
        if found is None:
            found = cls() if has_empty_line(A.array) else cls(*equilibrate(A.array))
            if found.rows is not None:
                spread = max(ratio(found.rows), ratio(found.columns))
                found = replace(found, balanced=is_balanced(A.array))
                if spread <= MAX_UNIFORM_RATIO or (found.balanced and spread > MAX_BALANCED_RATIO):
                    found = cls()
            vars(A)["_exact_scaling"] = found  # preconditioners need it, too
        return found

    @classmethod
    def from_scales(cls, A: Operator) -> Scaling:
        """Return the scaling by ``A.scales``, the sizes of equations and unknowns.

        If one of the two is not known, a symmetric A has a symmetric scaling, and otherwise the
        sizes of equations are |A| times those of the unknowns, or conversely.
        """
        equations, unknowns = A.scales if A.scales is not None else (None, None)
        known = [x for x in (equations, unknowns) if x is not None]
        if not known or (A.has_entries and A.array is None) or all(ratio(x) == 1 for x in known):
            return cls()
        rows = None if equations is None else 1.0 / equations
        if rows is not None and unknowns is not None:
            return cls(rows, unknowns)
        one_side = unknowns if rows is None else rows
        symmetric = cls(one_side, one_side)
        if is_symmetric(symmetric.operator(A)):
            return symmetric
        if rows is None:
            return cls(1.0 / row_sizes(A, one_side), one_side)
        return cls(one_side, 1.0 / row_sizes(A.H, one_side))  # type: ignore[attr-defined]

    @property
    def adjoint(self) -> Scaling:
        """The scaling of A'."""
        return Scaling(self.columns, self.rows, self.balanced)

    def tightened(self, b: Array, rtol: float) -> float:
        """Return the tolerance of R b - R A x that implies `rtol` of the residual as judged."""
        if not self.balanced or self.rows is None:
            return rtol
        backend = Backend.of(b)
        norms = [array_on_host(backend.column_norms(x)) for x in (b, scale_rows(self.rows, b))]
        least = float(backend.xp.min(self.rows)) * norms[0]
        ratio = (least / host.where(norms[1] > 0, norms[1], 1.0))[norms[1] > 0].min(initial=1.0)
        return rtol * max(float(ratio), LEAST_TIGHTENING)

    def multiply_rows(self, x: Array) -> Array:
        """Return R x."""
        return weigh(self.rows, x)

    def multiply_columns(self, x: Array) -> Array:
        """Return C x."""
        return weigh(self.columns, x)

    def divide_rows(self, x: Array) -> Array:
        """Return R^-1 x."""
        return _divide(x, self.rows)

    def divide_columns(self, x: Array) -> Array:
        """Return C^-1 x."""
        return _divide(x, self.columns)

    def operator(self, A: Operator) -> Operator:
        """Return R A C as an operator, which is A if there is no scaling."""
        no_scaling = self.rows is None and self.columns is None
        return A if no_scaling else ScaledOperator(A, self.rows, self.columns)

    def inverse_operator(self, M: Operator) -> Operator:
        """Return C^-1 M R^-1 for an operator M in place of the inverse of A."""
        rows, columns = (None if x is None else 1.0 / x for x in (self.columns, self.rows))
        return Scaling(rows, columns).operator(M)

    def apply(self, A: Any) -> Any:
        """Return R A C, with the pattern of A: stored zeros stay stored."""
        if self.rows is None or self.columns is None:
            return A
        if is_dense(A):
            return self.rows[:, None] * A * self.columns[None, :]
        entries, backend = A.tocoo(), Backend.of(A.data)
        i, j = entries.row, entries.col
        data = backend.xp.asarray(self.rows[i] * entries.data * self.columns[j], dtype=A.dtype)
        return backend.sparse.coo_matrix((data, (i, j)), shape=A.shape).tocsr()

    def solve(self, scaled_solve: Callable[[Array, bool], Array], b: Array, adjoint: bool) -> Array:
        """Solve with A, or with A' if `adjoint`, given solves (b, adjoint) with R A C."""
        if self.rows is None or self.columns is None:
            return scaled_solve(b, adjoint)
        before, after = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        with Backend.ignore_overflow():  # the true residual shows it
            return scale_rows(after, scaled_solve(scale_rows(before, b), adjoint))


NO_SCALING = Scaling()


def _dense_sizes(A: Operator) -> Any:
    """Return |A| of a dense matrix, if it is kept."""
    return A.sizes if isinstance(A, Matrix) and is_dense(A.array) else None


class ScaledOperator(Operator):
    """R A C for an operator A.

    Parameters
    ----------
    A : Operator, (N, N)
    rows, columns : (N,) array or None
        The diagonals of R and C; None is the identity.
    """

    def __init__(self, A: Operator, rows: Array | None, columns: Array | None) -> None:
        super().__init__(A, A.shape)
        self.of, self.rows, self.columns = A, rows, columns

    def _apply(self, x: Array) -> Array:
        return weigh(self.rows, self.of._apply(weigh(self.columns, x)))

    def _apply_adjoint(self, y: Array) -> Array:
        return weigh(self.columns, self.of._apply_adjoint(weigh(self.rows, y)))


def weigh(weights: Array | None, x: Array) -> Array:
    """Multiply the entries of an (N,) or (N, k) array by weights of shape (N,) or (N, k)."""
    if weights is None:
        return x
    return weights * x if weights.ndim == x.ndim else scale_rows(weights, x)


def _divide(x: Array, weights: Array | None) -> Array:
    """Divide the entries of an (N,) or (N, k) array by weights of shape (N,)."""
    if weights is None:
        return x
    return x / weights if x.ndim == 1 else x / weights[:, None]


def row_sizes(A: Operator, sizes: Array) -> Array:
    """Return |A| times the sizes of unknowns, or an estimate from products with random signs."""
    xp = A.backend.xp
    if A.array is not None:
        found = A.abs_apply(sizes)
    else:
        # One vector at a time, since some operators compile a product for each width.
        signs = (xp.sign(A.backend.random(A.shape[1], seed=s)) for s in range(SIGN_VECTORS))
        products = xp.stack([A._apply(sizes * sign) for sign in signs])
        found = xp.sqrt(xp.mean(products * products, axis=0))
    return xp.where(found > 0, found, xp.ones_like(found))


def ratio(x: Array) -> float:
    """Return the greatest entry over the least."""
    xp = Backend.of(x).xp
    return float(xp.max(x)) / float(xp.min(x))


def _round_to_power_of_two(x: Array) -> Array:
    """Return the nearest powers of two, because scaling by them does not round."""
    xp = Backend.of(x).xp
    return 2.0 ** xp.round(xp.log2(x))
