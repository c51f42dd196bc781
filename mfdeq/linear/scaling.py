"""Scaling of rows and columns to similar size, which makes solves independent of units.

If equations are multiplied by numbers and unknowns are measured in other units, A becomes D A E
with diagonal D and E. The scaling R A C found here is that of D A E as well: first R and C with the
least sum of (log |R_i A_ij C_j|)^2 [1]_, by conjugate gradients, then a few sweeps that divide rows
and columns by the square roots of their sums [2]_ [3]_, in which large entries count most.

Numbers for the rows and columns of one connected component of A are determined up to a factor, so
components have no common unit. Their right-hand sides are scaled to the same length before they are
judged together.

References
----------
.. [1] A. R. Curtis and J. K. Reid, "On the automatic scaling of matrices for Gaussian elimination",
       IMA Journal of Applied Mathematics 10(1), 118-124, 1972.
.. [2] D. Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices",
       Rutherford Appleton Laboratory, RAL-TR-2001-034, 2001.
.. [3] P. A. Knight, D. Ruiz and B. Uçar, "A symmetry preserving algorithm for matrix scaling",
       SIAM Journal on Matrix Analysis and Applications 35(3), 931-955, 2014.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scipy.sparse import csr_array, csr_matrix

from ..arrays import jit
from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..arrays.kernels import scale_rows
from ..arrays.sparse import lines_of, magnitude
from ..operators.dot_tests import is_symmetric
from ..operators.operator import Operator
from .components import Components, components_of

MAX_UNIFORM_RATIO = 4.0  # of the entries of R and of C, up to which iterations go without
LEAST_TIGHTENING = 0.1  # factor of tolerances
# The same where rows are alike without a scaling, from which on iterations go without. Norms in
# which some rows do not count hardly measure what is asked for, as of upwind differences, whose
# scaling grows exponentially along the flow.
MAX_ALIKE_RATIO = 1e3
MAX_UNSCALED_RATIO = 100.0  # largest row or column sum, over the least, that needs no scaling
LOG_RTOL = 1e-8  # accuracy of the logarithms of the scaling, at which its iteration stops
ROUNDED_LOG_RTOL = 1e-2  # the same for scalings of large matrices that are rounded afterwards
MAX_SMALL_SIZE = 2_000  # unknowns up to which the iteration may take as many steps as needed
MAX_STEPS = 60  # of the iteration for a larger matrix
SWEEPS = 10
MAX_SWEEPS = 20  # where the scaling starts from the identity
SYMMETRY_RTOL = 1e-3  # difference of R and C up to which they are made equal
SIGN_VECTORS = 4  # products from which the sizes of rows are estimated
ROUNDING = 100.0  # in units of eps, of sums that would be equal
MAX_LOG = 300.0  # of a scale, so that products of two do not overflow


@dataclass(frozen=True)
class Scaling:
    """R A C in place of A, with diagonal R and C.

    Attributes
    ----------
    rows, columns : (N,) array or None
        The diagonals of R and C; None is the identity.
    alike : bool
        Whether the rows and columns of A are alike as they are. Residuals are then judged without
        R, so that tolerances have their usual meaning.
    """

    rows: Array | None = None
    columns: Array | None = None
    alike: bool = False

    @classmethod
    def of(cls, A: Any) -> Scaling:
        """Find a scaling by powers of two of an (N, N) matrix; none if its rows are alike.

        Scaling by powers of two does not round the entries. R = C if A is symmetric.
        """
        if is_balanced(A):
            return cls()
        rtol = LOG_RTOL if A.shape[0] <= MAX_SMALL_SIZE else ROUNDED_LOG_RTOL
        return cls(*(_round_to_power_of_two(x) for x in equilibrate(A, rtol)))

    @classmethod
    def of_operator(cls, A: Operator) -> Scaling:
        """Return `of` the matrix of A, which is found once."""
        found = vars(A).get("_rounded_scaling")
        if found is None:
            found = vars(A)["_rounded_scaling"] = cls.of(A.array)  # estimates and factors need it
        return found

    @classmethod
    def by_sums(cls, A: Any) -> Scaling:
        """Find a scaling like `of` by sweeps alone, from the identity.

        Large entries stay large, since the logarithms of small entries do not count as much.
        """
        if is_balanced(A):
            return cls()
        backend = Backend.of(A if is_dense(A) else A.data)
        ones = backend.zeros(A.shape[0]) + 1.0
        rows, columns = _balance(_in_float64(abs(A)), ones, ones, MAX_SWEEPS)
        return cls(*(_round_to_power_of_two(backend.asarray(x)) for x in (rows, columns)))

    @classmethod
    def exact(cls, A: Operator) -> Scaling:
        """Find the scaling of an operator whose entries are known, unless it is nearly uniform.

        Iterations with R A C then depend on units by rounding only.
        """
        found = vars(A).get("_exact_scaling")
        if found is None:
            found = cls() if _has_empty_line(A.array) else cls(*equilibrate(A.array))
            if found.rows is not None:
                spread = max(ratio(found.rows), ratio(found.columns))
                found = replace(found, alike=is_balanced(A.array))
                if spread <= MAX_UNIFORM_RATIO or (found.alike and spread > MAX_ALIKE_RATIO):
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
        return Scaling(self.columns, self.rows, self.alike)

    def tightened(self, b: Array, rtol: float) -> float:
        """Return the tolerance of R b - R A x that implies `rtol` of the residual as judged."""
        if not self.alike or self.rows is None:
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


def is_balanced(A: Any) -> bool:
    """Return whether the sums of |A| along rows and columns are alike, or one of them is zero.

    No scaling helps a matrix with an empty row or column: its factorization reports it.
    """
    sizes = magnitude(A)
    backend = Backend.of(A if is_dense(A) else A.data)
    xp = backend.xp
    ones = backend.zeros(A.shape[0]) + 1.0
    if backend.is_numpy and not is_dense(A) and A.format in ("csr", "csc"):
        along = host.bincount(A.indices, sizes.data, A.shape[0])
        sums = host.concatenate([host.bincount(lines_of(A), sizes.data, A.shape[0]), along])
    else:
        sums = xp.concat([sizes @ ones, sizes.T @ ones])
    least = float(xp.min(sums))
    return float(xp.max(sums)) <= MAX_UNSCALED_RATIO * least or least == 0.0


def ratio(x: Array) -> float:
    """Return the greatest entry over the least."""
    xp = Backend.of(x).xp
    return float(xp.max(x)) / float(xp.min(x))


def _has_empty_line(A: Any) -> bool:
    present = _present(A)
    ones = _ones(A)
    return not all(bool((present @ ones > 0).all()) for present in (present, present.T))


def equilibrate(A: Any, log_rtol: float = LOG_RTOL) -> tuple[Array, Array]:
    """Return R and C, which do not depend on the units of the rows and columns of A.

    Parameters
    ----------
    A : (N, N) sparse matrix or array
        Without empty rows or columns.
    log_rtol : float
        The accuracy of the logarithms at which the first iteration stops.

    Returns
    -------
    rows, columns : (N,) arrays
        The diagonals of R and C, which are equal if A is symmetric.
    """
    backend = Backend.of(A if is_dense(A) else A.data)
    xp = backend.xp
    rho, gamma = _curtis_reid(xp, *_logarithms(A), log_rtol)
    rho, gamma = _centred(backend, components_of(A), rho, gamma)
    rows, columns = (xp.exp(xp.clip(x, -MAX_LOG, MAX_LOG)) for x in (rho, gamma))
    magnitude = _in_float64(abs(A))
    if _is_symmetric(backend, magnitude):  # The iteration may have stopped before R = C.
        rows = columns = xp.sqrt(rows * columns)
    rows, columns = _balance(magnitude, rows, columns, SWEEPS)
    if bool(xp.all(xp.abs(rows - columns) <= SYMMETRY_RTOL * rows)):
        rows = columns = xp.sqrt(rows * columns)
    return backend.asarray(rows), backend.asarray(columns)


def _compiled(matrix: Any) -> Any:
    """Return the module of compiled iterations if they suit a matrix, or None."""
    csr = isinstance(matrix, (csr_matrix, csr_array))
    if csr and jit.pays(matrix.nnz):
        return importlib.import_module("mfdeq.linear.compiled_scaling")
    return None


def _is_symmetric(backend: Backend, magnitude: Any) -> bool:
    """Return whether |A| = |A'|, by the products with one positive vector."""
    x = backend.xp.astype(abs(backend.random(magnitude.shape[0], seed=4)), backend.xp.float64)
    rows, columns = magnitude @ x, magnitude.T @ x
    return bool(backend.xp.all(abs(rows - columns) <= ROUNDING * backend.eps * (rows + columns)))


def _balance(magnitude: Any, rows: Array, columns: Array, sweeps: int) -> tuple[Array, Array]:
    """Divide the rows and columns of |A| by the square roots of their sums in turn."""
    xp = Backend.of(rows).xp
    if loops := _compiled(magnitude):
        parts = magnitude.indptr, magnitude.indices, magnitude.data
        return loops.balance(*parts, rows, columns, sweeps)
    for _ in range(sweeps):
        sums = rows * (magnitude @ columns), columns * (magnitude.T @ rows)
        rows, columns = rows / xp.sqrt(sums[0]), columns / xp.sqrt(sums[1])
    return rows, columns


def _curtis_reid(xp: Any, present: Any, logarithm: Any, log_rtol: float) -> tuple[Array, Array]:
    """Return rho and gamma with the least sum of (rho_i + gamma_j + log |A_ij|)^2.

    With gamma eliminated the system is (M - E N^-1 E') rho = ..., where E is the pattern and M and
    N have the numbers of entries in rows and columns. The conjugate gradients start from zero and
    are preconditioned by M.
    """
    steps = present.shape[0] if present.shape[0] <= MAX_SMALL_SIZE else MAX_STEPS
    if loops := _compiled(logarithm):
        parts = logarithm.indptr, logarithm.indices, logarithm.data
        return loops.curtis_reid(*parts, steps, log_rtol)
    ones = _ones(present)
    E, Et = present, present.T
    M, N = E @ ones, Et @ ones
    along_columns = logarithm.T @ ones
    rho = 0.0 * M
    r = E @ (along_columns / N) - logarithm @ ones
    z = r / M
    p, rz = z, float(xp.vecdot(r, z))
    for _ in range(steps):
        if float(xp.max(xp.abs(z))) <= log_rtol:
            break
        q = M * p - E @ ((Et @ p) / N)
        curvature = float(xp.vecdot(p, q))
        if not curvature > 0.0:
            break
        step = rz / curvature
        rho, r = rho + step * p, r - step * q
        z = r / M
        before, rz = rz, float(xp.vecdot(r, z))
        p = z + (rz / before) * p
    return rho, -(along_columns + Et @ rho) / N


def _centred(
    backend: Backend, components: Components | None, rho: Array, gamma: Array
) -> tuple[Array, Array]:
    """Shift rho and gamma of each component, so that both have the same mean."""
    xp = backend.xp
    if components is None:
        shift = 0.5 * (xp.mean(rho) - xp.mean(gamma))
        return rho - shift, gamma + shift
    shifts = 0.5 * (components.rows.means(rho) - components.columns.means(gamma))
    return rho - components.rows.spread(shifts), gamma + components.columns.spread(shifts)


def _in_float64(A: Any) -> Any:
    if is_dense(A):
        xp = Backend.of(A).xp
        return xp.astype(A, xp.float64, copy=False)
    return A.astype("float64")


def _present(A: Any) -> Any:
    """Return a matrix of ones where A is not zero."""
    if is_dense(A):
        xp = Backend.of(A).xp
        return xp.astype(A != 0, xp.float64)
    found = _in_float64(A).copy()
    if not bool((found.data != 0).all()):
        found.eliminate_zeros()
    found.data[:] = 1.0
    return found


def _logarithms(A: Any) -> tuple[Any, Any]:
    """Return a matrix of ones where A is not zero, and one of log |A| there."""
    present = _present(A)
    if is_dense(A):
        xp = Backend.of(A).xp
        size = xp.where(A == 0, xp.ones_like(A), xp.abs(A))
        return present, xp.astype(xp.log(size), xp.float64)
    logarithm = _in_float64(abs(A)).copy()
    logarithm.eliminate_zeros()
    xp = Backend.of(logarithm.data).xp
    logarithm.data = xp.log(logarithm.data)
    return present, logarithm


def _ones(A: Any) -> Array:
    backend = Backend.of(A if is_dense(A) else A.data)
    return backend.xp.ones(A.shape[0], dtype=backend.xp.float64, device=backend.device)


def _round_to_power_of_two(x: Array) -> Array:
    """Return the nearest powers of two, because scaling by them does not round."""
    xp = Backend.of(x).xp
    return 2.0 ** xp.round(xp.log2(x))
