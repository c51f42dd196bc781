"""Extreme eigenvalues of a symmetric operator, each with a bound that was computed."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

from .adapters import SymmetricFromUser, as_operator
from .arguments import count, fraction
from .arrays import Array, Backend
from .errors import ArgumentError, ConvergenceError
from .operators import DENSE_LIMIT, Operator

DENSE = 40  # sizes up to which every eigenpair is computed at once
WHICH = ("LM", "LA", "SA", "BE")
POWER_STEPS = 3
SHIFT = 4.0  # of H / ||H||, which moves every value away from zero
SAFETY = 2.0  # on the estimated error of the products


@dataclass
class EigenReport:
    """How an eigenvalue computation went.

    Attributes
    ----------
    converged : bool
    method : str
    products : int
        Products with H, counted by columns.
    residuals : array
        ||H x - mu x|| of each pair.
    product_errors : array
        Estimated error of H x for each pair, with its safety factor; counted in the bounds.
    """

    converged: bool
    method: str
    products: int
    residuals: Any = field(repr=False)
    product_errors: Any = field(repr=False)


@dataclass
class Eigenpairs:
    """Eigenvalues in ascending order.

    Attributes
    ----------
    values : (k,) array
    vectors : (P, k) array
    error_bounds : (k,) array
        The interval value ± bound contains an eigenvalue of H.
    report : EigenReport
    """

    values: Array
    vectors: Array
    error_bounds: Array
    report: EigenReport


def eigsh(
    H: Any,
    k: int = 6,
    which: str = "LM",
    rtol: float = 1e-6,
    *,
    v0: Array | None = None,
    max_products: int | None = None,
    progress: bool = False,
) -> Eigenpairs:
    """Extreme eigenpairs of a symmetric operator by Lanczos.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        Symmetric. For an `mfdeq.ReducedHessian` (or its parts) the error of the products is
        estimated and counted; for others only their rounding.
    k : int, optional
        How many, 1 <= k <= P.
    which : {"LM", "LA", "SA", "BE"}, optional
        Largest in magnitude, largest, smallest, or both ends.
    rtol : float, optional
        Residuals ||H x - mu x|| reach rtol times the largest of the values' magnitudes.
    v0 : (P,) array, optional
        The start; by default random, the same at every call.
    max_products : int, optional
        Products before giving up; by default 10 P, at least 1000.
    progress : bool, optional
        Show the products as they are made.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ConvergenceError
        With the pairs found as `best`, where fewer than k converged.
    ArgumentError
        For k outside 1 ... P, an unknown `which`, an operator that is not square.

    Notes
    -----
    For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu,
    delta bounding the error of the product H x. That no eigenvalue was missed is not claimed.
    """
    P = _check(H, k, which, rtol)
    limit = max(1000, 10 * P) if max_products is None else count(max_products, "max_products")
    backend = Backend.of_operator(H)
    start = backend.random(P, seed=13) if v0 is None else _start(backend, v0, P)
    counted = _Counted(_symmetric(backend, H), backend, progress)
    try:
        size = _norm(counted, P)
        if P <= DENSE or k >= P - 1:
            vectors, method = _dense(counted, P, k, which), "dense"
        elif size == 0.0:
            vectors, method = backend.eye(P, k), "zero operator"
        else:
            vectors = _lanczos(counted, P, k, which, rtol, start, limit, size)
            method = "Lanczos (ARPACK)"
        pairs = _bounded(counted, vectors, method)
    finally:
        counted.close()
    scale = float(backend.xp.max(backend.xp.abs(pairs.values)))
    worst = float(backend.xp.max(pairs.report.residuals))
    if not worst <= max(rtol * scale, 100 * backend.eps * size):
        pairs.report.converged = False
        raise ConvergenceError(
            f"eigsh: the worst residual ||H x - mu x|| is {worst:.2e}, above rtol = {rtol:.1e} of "
            f"the largest value {scale:.2e}: H is not symmetric to that accuracy, or its products "
            "are not that accurate. Raise rtol, or tighten the solver's",
            best=pairs,
            report=pairs.report,
        )
    return pairs


def _check(H: Any, k: Any, which: str, rtol: float) -> int:
    shape = tuple(getattr(H, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ArgumentError(f"H has shape {shape}; a square symmetric operator was expected")
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= operator.index(k) <= shape[0]:
        raise ArgumentError(f"k is {k!r}; an integer from 1 to P = {shape[0]} was expected")
    if which not in WHICH:
        raise ArgumentError(f"which is {which!r}; one of {', '.join(WHICH)} was expected")
    fraction(rtol, "rtol")
    return shape[0]


def _start(backend: Backend, v0: Array, P: int) -> Array:
    start = backend.checked(v0, (P,), "v0", ArgumentError)
    if backend.norm(start) == 0.0:
        raise ArgumentError("v0 is zero: give a start that is not, or None")
    return start


def _symmetric(backend: Backend, H: Any) -> Operator:
    if hasattr(H, "matvec") and not isinstance(H, Operator):
        return SymmetricFromUser(backend, H, "H")
    return as_operator(backend, H, tuple(H.shape), "H")


class _Counted:
    """H, its products counted and shown."""

    def __init__(self, H: Operator, backend: Backend, progress: bool) -> None:
        self.H, self.backend, self.products = H, backend, 0
        self._bar = None
        if progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(desc="eigsh", unit=" products")

    def __call__(self, x: Array) -> Array:
        self._count(x)
        return self.H._apply(x)

    def with_error(self, x: Array) -> tuple[Array, Array]:
        if not hasattr(self.H, "with_error"):
            return self(x), self.backend.zeros(*x.shape)
        self._count(x)
        return self.H.with_error(x)

    def _count(self, x: Array) -> None:
        columns = 1 if x.ndim == 1 else x.shape[1]
        self.products += columns
        if self._bar is not None:
            self._bar.update(columns)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _norm(H: _Counted, P: int) -> float:
    """||H||, a little underestimated, by power steps from a random vector."""
    x = H.backend.random(P, seed=14)
    size = H.backend.norm(x)
    for _ in range(POWER_STEPS):
        x = H(x / size)
        size = H.backend.norm(x)
        if size == 0.0:
            break
    return size


def _dense(H: _Counted, P: int, k: int, which: str) -> Array:
    if P * P > DENSE_LIMIT:
        raise ArgumentError(
            f"k = {k} of P = {P} eigenpairs needs the dense H, more than {DENSE_LIMIT} entries: "
            f"ask for at most P - 2 = {P - 2}"
        )
    xp = H.backend.xp
    dense = H(H.backend.eye(P, P))
    values, vectors = xp.linalg.eigh(0.5 * (dense + dense.T))
    chosen = _chosen(xp, values, k, which)
    return xp.take(vectors, chosen, axis=1)


def _chosen(xp: Any, values: Array, k: int, which: str) -> Array:
    """Indices of the k of ascending `values` that `which` means; of "BE" the odd one is above."""
    n = values.shape[0]
    order = xp.argsort(values, stable=True)
    if which == "LM":
        return xp.sort(xp.argsort(-xp.abs(values), stable=True)[:k])
    if which == "BE":
        return xp.concat([order[: k // 2], order[n - (k - k // 2) :]])
    return order[:k] if which == "SA" else order[n - k :]


def _lanczos(
    H: _Counted,
    P: int,
    k: int,
    which: str,
    rtol: float,
    start: Array,
    limit: int,
    size: float,
) -> Array:
    backend = H.backend
    linalg = backend.sparse_linalg
    # ARPACK's tolerance is relative to each value: away from zero, it is relative to ||H||.
    shift = 0.0 if which == "LM" else SHIFT
    unit = linalg.LinearOperator(
        (P, P), matvec=lambda x: H(x) / size + shift * x, dtype=backend.dtype
    )
    kept = min(P - 1, max(2 * k + 1, 20))
    tol = 0.1 * rtol
    try:
        while True:
            values, vectors = linalg.eigsh(
                unit,
                k=k,
                which="LA" if which == "BE" and k == 1 else which,
                v0=start,
                tol=tol,
                ncv=kept,
                maxiter=max(1, limit // (kept - k)),
            )
            needed = 0.1 * rtol * float(backend.xp.max(backend.xp.abs(values - shift)))
            if shift == 0.0 or tol <= max(needed, 4 * backend.eps):
                break
            # Small values at this end: once more, from what is known, to their own tolerance.
            tol, start = max(needed, 2 * backend.eps), vectors.sum(axis=1)
    except linalg.ArpackNoConvergence as error:
        found = (
            _bounded(H, error.eigenvectors, "Lanczos (ARPACK)") if len(error.eigenvalues) else None
        )
        if found is not None:
            found.report.converged = False
        raise ConvergenceError(
            f"eigsh: {len(error.eigenvalues)} of {k} eigenpairs converged to rtol = {rtol:.1e} in "
            f"{H.products} products. Raise max_products or rtol, or ask for fewer; eigenvalues "
            "that crowd at this end of the spectrum converge slowly",
            best=found,
            report=None if found is None else found.report,
        ) from error
    except linalg.ArpackError as error:
        raise ConvergenceError(f"eigsh: ARPACK failed, try another v0: {error}") from error
    return vectors


def _bounded(H: _Counted, vectors: Array, method: str) -> Eigenpairs:
    """Rayleigh quotients of orthonormal vectors, with residuals and bounds, ascending."""
    backend = H.backend
    xp = backend.xp
    vectors, _ = xp.linalg.qr(vectors)
    product, error = H.with_error(vectors)
    values = xp.vecdot(vectors, product, axis=-2)
    residuals = backend.column_norms(product - vectors * values)
    # The rounding of one product and its sums, where no other error is known.
    rounding = 10 * backend.eps * backend.column_norms(product)
    errors = SAFETY * backend.column_norms(error) + rounding
    order = xp.argsort(values)

    def ascending(x: Array) -> Array:
        return xp.take(x, order, axis=-1)

    return Eigenpairs(
        ascending(values),
        ascending(vectors),
        ascending(residuals + errors),
        EigenReport(True, method, H.products, ascending(residuals), ascending(errors)),
    )
