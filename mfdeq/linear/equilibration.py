"""Scaling factors that make the rows and columns of a matrix similar in size, in any units.

If equations are multiplied by numbers and unknowns are measured in other units, A becomes D A E
with diagonal D and E. The scaling R A C found here is that of D A E as well: first R and C with the
least sum of (log |R_i A_ij C_j|)^2 [1]_, by conjugate gradients, then a few sweeps that divide rows
and columns by the square roots of their sums [2]_ [3]_, in which large entries count most.

Numbers for the rows and columns of one connected component of A are determined up to a factor, so
components have no common unit.

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

from typing import Any

from scipy.sparse import csr_array, csr_matrix

from ..arrays import jit
from ..arrays.backend import Array, Backend, host, is_dense
from ..arrays.sparse import lines_of, magnitude
from .components import Components, components_of

MAX_UNSCALED_RATIO = 100.0  # largest row or column sum, over the least, that needs no scaling
LOG_RTOL = 1e-8  # accuracy of the logarithms of the scaling, at which its iteration stops
MAX_SMALL_SIZE = 2_000  # unknowns up to which the iteration may take as many steps as needed
MAX_STEPS = 60  # of the iteration for a larger matrix
SWEEPS = 10
SYMMETRY_RTOL = 1e-3  # difference of R and C up to which they are made equal
ROUNDING = 100.0  # in units of eps, of sums that would be equal
MAX_LOG = 300.0  # of a scale, so that products of two do not overflow


def is_balanced(A: Any, sizes: Any = None) -> bool:
    """Return whether the sums of |A| along rows and columns are similar, or one of them is zero.

    No scaling helps a matrix with an empty row or column: its factorization reports it.

    Parameters
    ----------
    A : (N, N) array or sparse matrix
    sizes : array or sparse matrix, optional
        |A|, if it is known.
    """
    sizes = magnitude(A) if sizes is None else sizes
    if type(sizes) is host.ndarray:
        along_rows, along_columns = host.add.reduce(sizes, axis=1), host.add.reduce(sizes)
        least = min(host.minimum.reduce(along_rows), host.minimum.reduce(along_columns))
        most = max(host.maximum.reduce(along_rows), host.maximum.reduce(along_columns))
        return bool(most <= MAX_UNSCALED_RATIO * least or least == 0.0)
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


def has_empty_line(A: Any) -> bool:
    """Return whether a row or a column of A is zero."""
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
    magnitude = in_float64(abs(A))
    if _is_symmetric(backend, magnitude):  # The iteration may have stopped before R = C.
        rows = columns = xp.sqrt(rows * columns)
    rows, columns = balance(magnitude, rows, columns, SWEEPS)
    if bool(xp.all(xp.abs(rows - columns) <= SYMMETRY_RTOL * rows)):
        rows = columns = xp.sqrt(rows * columns)
    return backend.asarray(rows), backend.asarray(columns)


def _compiled(matrix: Any) -> Any:
    """Return the module of compiled iterations if they suit a matrix, or None."""
    csr = isinstance(matrix, (csr_matrix, csr_array))
    if not (csr and jit.pays(matrix.nnz)):
        return None
    from . import compiled_equilibration

    return compiled_equilibration


def _is_symmetric(backend: Backend, magnitude: Any) -> bool:
    """Return whether |A| = |A'|, by the products with one positive vector."""
    x = backend.xp.astype(abs(backend.random(magnitude.shape[0], seed=4)), backend.xp.float64)
    rows, columns = magnitude @ x, magnitude.T @ x
    return bool(backend.xp.all(abs(rows - columns) <= ROUNDING * backend.eps * (rows + columns)))


def balance(magnitude: Any, rows: Array, columns: Array, sweeps: int) -> tuple[Array, Array]:
    """Divide the rows and columns of |A|, in float64, by the square roots of their sums in turn."""
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


def in_float64(A: Any) -> Any:
    """Convert an array or a sparse matrix to float64."""
    if is_dense(A):
        xp = Backend.of(A).xp
        return xp.astype(A, xp.float64, copy=False)
    return A.astype("float64")


def _present(A: Any) -> Any:
    """Return a matrix of ones where A is not zero."""
    if is_dense(A):
        xp = Backend.of(A).xp
        return xp.astype(A != 0, xp.float64)
    found = in_float64(A).copy()
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
    logarithm = in_float64(abs(A)).copy()
    logarithm.eliminate_zeros()
    xp = Backend.of(logarithm.data).xp
    logarithm.data = xp.log(logarithm.data)
    return present, logarithm


def _ones(A: Any) -> Array:
    backend = Backend.of(A if is_dense(A) else A.data)
    return backend.xp.ones(A.shape[0], dtype=backend.xp.float64, device=backend.device)
