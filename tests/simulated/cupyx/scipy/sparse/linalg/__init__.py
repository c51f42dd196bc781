"""Solvers: cupyx's arguments; factorizations on the host, as cupyx's are."""

import cupy
import numpy as np
import scipy.sparse.linalg as host
from cupy import _simulated as _s

from .._classes import _spbase, _wrapped
from ._interface import LinearOperator, aslinearoperator

__all__ = [
    "LinearOperator",
    "SuperLU",
    "aslinearoperator",
    "bicgstab",
    "cg",
    "cgs",
    "gmres",
    "minres",
    "norm",
    "spilu",
    "splu",
    "spsolve",
]


class SuperLU:
    """Factors of the host's; solutions in Fortran's order."""

    def __init__(self, obj):
        self._lu, self.shape, self.nnz = obj, obj.shape, obj.nnz
        self.perm_r, self.perm_c = _s.wrap(obj.perm_r), _s.wrap(obj.perm_c)
        self.L, self.U = _wrapped(obj.L.tocsr()), _wrapped(obj.U.tocsr())

    def solve(self, rhs, trans="N"):
        if not isinstance(rhs, _s.ndarray):
            raise TypeError("ojb must be cupy.ndarray")
        if rhs.ndim not in (1, 2):
            raise ValueError(f"rhs.ndim must be 1 or 2 (actual: {rhs.ndim})")
        if rhs.shape[0] != self.shape[0]:
            raise ValueError(f"shape mismatch (self.shape: {self.shape}, rhs.shape: {rhs.shape})")
        if 0 in rhs.shape:
            raise RuntimeError("CUSPARSE_STATUS_INVALID_VALUE")
        found = self._lu.solve(_s.unwrap(rhs).astype(self.L.dtype), trans)
        return _s.wrap(np.asfortranarray(found))


def _on_host(A):
    if not isinstance(A, _spbase):
        raise TypeError("A must be cupyx.scipy.sparse.spmatrix")
    if A.dtype.char not in "fdFD":
        raise TypeError(f"Invalid dtype (actual: {A.dtype})")
    return A.get().tocsc()


def splu(
    A, permc_spec=None, diag_pivot_thresh=None, relax=None, panel_size=None, options={}  # noqa: B006
):  # fmt: skip
    a = _on_host(A)
    return SuperLU(host.splu(a, permc_spec, diag_pivot_thresh, relax, panel_size, options))


def spilu(
    A,
    drop_tol=None,
    fill_factor=None,
    drop_rule=None,
    permc_spec=None,
    diag_pivot_thresh=None,
    relax=None,
    panel_size=None,
    options={},  # noqa: B006
):
    a = _on_host(A)
    given = (drop_tol, fill_factor, drop_rule, permc_spec, diag_pivot_thresh, relax, panel_size)
    if fill_factor == 1:
        raise NotImplementedError("ILU(0) is computed on the device")
    return SuperLU(host.spilu(a, *given, options=options))


def spsolve(A, b):
    return _s.wrap(host.spsolve(_on_host(A), _s.unwrap(b)))


def norm(x, ord=None, axis=None):
    return _s.wrap(host.norm(x._m, ord, axis))


def _for_host(op):
    """An operator over cupy arrays as one over numpy's."""
    op = aslinearoperator(op)

    def matvec(x):
        return _s.unwrap(op.matvec(_s.wrap(np.array(x).ravel())))

    return host.LinearOperator(op.shape, matvec=matvec, dtype=op.dtype)


def _iterative(name, A, b, x0, maxiter, M, callback, **options):
    A, b = aslinearoperator(A), b.ravel()
    if not isinstance(b, _s.ndarray) or b.device != _s.Device():
        raise TypeError("unsupported b")
    told = None if callback is None else (lambda x: callback(_s.wrap(x)))
    options |= {"maxiter": maxiter, "callback": told, "M": None if M is None else _for_host(M)}
    x, info = getattr(host, name)(
        _for_host(A), _s.unwrap(b), x0=None if x0 is None else _s.unwrap(x0).ravel(), **options
    )
    return _s.wrap(x).astype(cupy.result_type(A.dtype, b.dtype)), info


def _krylov(name):
    def solve(A, b, x0=None, *, rtol=1e-5, atol=0.0, maxiter=None, M=None, callback=None):
        return _iterative(name, A, b, x0, maxiter, M, callback, rtol=rtol, atol=atol)

    return solve


cg, bicgstab, cgs = _krylov("cg"), _krylov("bicgstab"), _krylov("cgs")


def gmres(
    A,
    b,
    x0=None,
    *,
    rtol=1e-5,
    atol=0.0,
    restart=None,
    maxiter=None,
    M=None,
    callback=None,
    callback_type=None,
):
    """`maxiter` counts inner steps."""
    n = b.shape[0]
    restart = min(restart or 20, n)
    cycles = -(-(maxiter or 10 * n) // restart)
    options = {"rtol": rtol, "atol": atol, "restart": restart, "callback_type": "pr_norm"}
    return _iterative("gmres", A, b, x0, cycles, M, callback, **options)


def minres(
    A, b, x0=None, shift=0.0, tol=1e-5, maxiter=None, M=None, callback=None, check=False
):  # fmt: skip
    options = {"rtol": tol, "shift": shift, "check": check}
    return _iterative("minres", A, b, x0, maxiter, M, callback, **options)
