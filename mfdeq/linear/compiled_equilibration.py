"""The iterations of `equilibration` for sparse matrices on the host, compiled by numba."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import host
from ..arrays.jit import njit


@njit
def curtis_reid(starts: Any, columns: Any, logarithms: Any, steps: Any, rtol: Any) -> Any:
    """Return rho and gamma with the least sum of (rho_i + gamma_j + log |A_ij|)^2.

    The matrix of the logarithms is in CSR format. The method is that of `equilibration`.
    """
    n = starts.shape[0] - 1
    M, N = host.empty(n), host.zeros(n)
    along_rows, along_columns = host.zeros(n), host.zeros(n)
    for i in range(n):
        M[i] = starts[i + 1] - starts[i]
        for e in range(starts[i], starts[i + 1]):
            N[columns[e]] += 1.0
            along_rows[i] += logarithms[e]
            along_columns[columns[e]] += logarithms[e]
    rho, t = host.zeros(n), along_columns / N
    r, z = host.empty(n), host.empty(n)
    for i in range(n):
        total = 0.0
        for e in range(starts[i], starts[i + 1]):
            total += t[columns[e]]
        r[i] = total - along_rows[i]
        z[i] = r[i] / M[i]
    p, rz = z.copy(), host.dot(r, z)
    for _ in range(steps):
        if host.abs(z).max() <= rtol:
            break
        _sums_along_columns(starts, columns, p, t)
        curvature = 0.0
        q = host.empty(n)
        for j in range(n):
            t[j] /= N[j]
        for i in range(n):
            total = 0.0
            for e in range(starts[i], starts[i + 1]):
                total += t[columns[e]]
            q[i] = M[i] * p[i] - total
            curvature += p[i] * q[i]
        if not curvature > 0.0:
            break
        step = rz / curvature
        before, rz = rz, 0.0
        for i in range(n):
            rho[i] += step * p[i]
            r[i] -= step * q[i]
            z[i] = r[i] / M[i]
            rz += r[i] * z[i]
        for i in range(n):
            p[i] = z[i] + (rz / before) * p[i]
    _sums_along_columns(starts, columns, rho, t)
    return rho, -(along_columns + t) / N


@njit
def _sums_along_columns(starts: Any, columns: Any, x: Any, sums: Any) -> None:
    """Add x over the entries of each column."""
    sums[:] = 0.0
    for i in range(x.shape[0]):
        for e in range(starts[i], starts[i + 1]):
            sums[columns[e]] += x[i]


@njit
def balance(starts: Any, indices: Any, sizes: Any, rows: Any, columns: Any, sweeps: Any) -> Any:
    """Divide the rows and columns of a CSR matrix by the square roots of their sums in turn."""
    n = starts.shape[0] - 1
    rows, columns = rows.copy(), columns.copy()
    along_rows, along_columns = host.empty(n), host.empty(n)
    for _ in range(sweeps):
        along_columns[:] = 0.0
        for i in range(n):
            total = 0.0
            for e in range(starts[i], starts[i + 1]):
                j = indices[e]
                total += sizes[e] * columns[j]
                along_columns[j] += sizes[e] * rows[i]
            along_rows[i] = total
        for i in range(n):
            rows[i] /= host.sqrt(rows[i] * along_rows[i])
            columns[i] /= host.sqrt(columns[i] * along_columns[i])
    return rows, columns
