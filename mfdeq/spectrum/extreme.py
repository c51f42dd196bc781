"""Extreme eigenvalues of a symmetric operator, or those nearest to a shift."""

from __future__ import annotations

import operator
from typing import Any

from ..adapters import as_symmetric
from ..arguments import count, fraction
from ..arrays import Array, Backend, array_on_host
from ..errors import ArgumentError, ConvergenceError
from ..hessian import Reduced
from ..lagrangian import ShiftedInverse, parts
from ..memory import memory_told
from ..operators import DENSE_LIMIT, Operator, Product
from ..precision import Precision, metric_of
from .davidson import Davidson
from .eigenpairs import FLOOR, Eigenpairs, allowed, bounded, inaccurate, sampled, worst
from .lanczos import Lanczos, chosen
from .products import Products
from .shift_invert import IteratedInverse, entries, missed, refined

DENSE = 40  # sizes up to which every eigenpair is computed at once
WHICH = ("LM", "LA", "SA", "BE")
RECURRED = 0.5  # of the tolerance, which residuals by the recurrence reach before true ones are
SAME = 1e-4  # relative difference of products with M, of which two are the same
MANY = 8  # pairs, beyond which their products are sampled where those of the basis are exact
INVERSE_RTOL = 1e-8  # of the eigenpairs of an inverse
BASIS = 40  # vectors at least of a basis, or three times as many as pairs


@memory_told
def eigsh(
    H: Any,
    k: int = 6,
    which: str = "LM",
    rtol: float = 1e-6,
    *,
    M: Any = None,
    sigma: float | None = None,
    certify: bool = False,
    preconditioner: Any = None,
    v0: Array | None = None,
    block: int = 1,
    basis: int | None = None,
    resume: Eigenpairs | None = None,
    relaxed: bool = True,
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
    M : Precision, (P, P) matrix or (P,) array, optional
        Of the generalized problem H x = mu M x: symmetric and positive definite, the precision of
        a prior. Vectors are orthonormal in x' M y, residuals and bounds in the norm of M^-1. One
        known by its products is given as ``mfdeq.Precision(M, solve=)``.
    sigma : float, optional
        The k eigenvalues nearest to sigma, in place of `which`: by Lanczos with (H - sigma M)^-1,
        one factorization of the Lagrangian system (`mfdeq.lagrangian`). For an mfdeq Hessian
        whose A, B and curvature are sparse matrices; for others with `preconditioner`.
    certify : bool, optional
        Whether to count, by one or two further factorizations, the eigenvalues between those
        found: ``report.missed`` is 0 where it is shown that there are no others.
    preconditioner : LinearOperator, (P, P), optional
        Near H^-1, symmetric and positive definite, where no sparse matrices are to be had. With
        which="SA": the smallest, by generalized Davidson. With sigma: those nearest to it, by
        Lanczos with solves that are iterated, for which products with H must be accurate. Of a
        Hessian with its prior `mfdeq.LowRank` of the Gauss-Newton part is one; `mfdeq.Nystrom` of
        any.
    v0 : (P,) or (P, b) array, optional
        The start, of as many columns as are then multiplied at once; by default random, the
        same at every call.
    block : int, optional
        Columns of the random start. More of them take more products, each of which is cheaper
        where H takes blocks well.
    basis : int, optional
        Vectors that are kept; by default three times k, at least 40. Fewer take less memory and
        more products.
    resume : Eigenpairs, optional
        What an earlier call found, or the `best` of its `ConvergenceError`: go on from its basis,
        to more pairs, a smaller rtol or the other end, without its products again. H must be
        the same.
    relaxed : bool, optional
        Whether products with an `mfdeq.ReducedHessian` are only as accurate as still needed, which
        is less and less as the residuals fall; iterative solvers then take fewer iterations. The
        last products, of the bounds, are to the solver's own tolerance all the same.
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
    delta bounding the error of the product H x. That no eigenvalue was missed is claimed only
    where `certify` has shown it.

    Relaxed products: at residuals r an error of tol ||H|| / r may enter (Simoncini 2005). What
    inner tolerance that is, the error of the first product tells, which is estimated.

    The generalized problem takes one solve with M for each product beside it, and M itself only
    for the start and the bounds (Parlett 1998, section 15.11; Saibaba, Lee and Kitanidis 2016).
    """
    P = check_operator(H, k)
    _check_which(which)
    fraction(rtol, "rtol")
    limit = max(1000, 10 * P) if max_products is None else count(max_products, "max_products")
    backend = Backend.of_operator(H)
    most = max(3 * k, BASIS) if basis is None else count(basis, "basis")
    start = _start(backend, v0, P, min(count(block, "block"), P))
    if most < k + 2 * start.shape[1] and most < P:
        raise ArgumentError(
            f"basis is {most}; at least k + 2 b = {k + 2 * start.shape[1]} vectors are needed"
        )
    metric = metric_of(M, backend, P)
    hessian = as_symmetric(backend, H, (P, P), "H")
    if certify:
        parts(_reduced(hessian))  # refused before the work
    if sigma is not None and resume is not None:
        raise ArgumentError("resume goes on from a basis of H, which sigma has no use for")
    if preconditioner is not None:
        if (which != "SA" and sigma is None) or resume is not None:
            raise ArgumentError("a preconditioner is for which='SA' or sigma, without resume")
        preconditioner = as_symmetric(backend, preconditioner, (P, P), "preconditioner")
    products = Products(hessian, progress, metric)
    inverse: Operator | None = None
    if sigma is not None and preconditioner is not None:
        inverse = IteratedInverse(products, sigma, preconditioner)
    elif sigma is not None:
        inverse = ShiftedInverse(_reduced(hessian), sigma, entries(metric))
    try:
        if inverse is not None:
            pairs = _nearest(inverse, products, k, start, most, limit, progress)
        elif P <= DENSE or k >= P - 1:
            pairs = bounded(products, *_dense(products, P, k, which), "dense")
        elif preconditioner is not None:
            pairs = _preconditioned(products, preconditioner, start, k, most, rtol, limit)
        else:
            lanczos = Lanczos(backend, products, start, most, metric)
            if resume is not None:
                lanczos = _resumed(resume, products, most)
            inexact = isinstance(hessian, Reduced) and hessian.eq.factor.iterative
            products.relaxed = relaxed and inexact
            pairs = _extreme(lanczos, products, k, which, rtol, limit)
            rough = products.relaxed or resume is not None or lanczos.locked > 0
            if rough and worst(pairs) > allowed(pairs, rtol):
                products.relaxed = False  # the errors have added up: from what was found, tightly
                lanczos = Lanczos(backend, products, pairs.vectors, max(most, 4 * k), metric)
                pairs = _extreme(lanczos, products, k, which, rtol, limit)
    finally:
        products.close()
    if not worst(pairs) <= allowed(pairs, rtol):
        raise inaccurate(worst(pairs), rtol, pairs)
    if certify:
        pairs.report.missed = missed(_reduced(hessian), pairs, inverse)
    return pairs


def _extreme(
    lanczos: Lanczos,
    H: Products,
    k: int,
    which: str,
    rtol: float,
    limit: int,
    each: bool = False,
) -> Eigenpairs:
    """The pairs whose residuals by the recurrence reach the tolerance, with true residuals.

    An invariant space has residuals of zero, and may lack copies of repeated eigenvalues: what is
    wanted counts as found there once a search from a random start has brought nothing new. The
    tolerance is relative to the largest of the values, or to the least if `each` is to have it.
    """
    before: Any = None
    norm = 0.0
    if not lanczos.size:
        lanczos.expand()
    while True:
        values, Y, residuals = lanczos.ritz()
        wanted = chosen(values, min(k, values.shape[0]), which)
        sizes, norm = abs(values[wanted]), max(norm, float(abs(values).max()))
        scale = float(sizes.min() if each else sizes.max())
        # Rounding of H is a floor, and the whole space has nothing left.
        tol = RECURRED * max(rtol * scale, FLOOR * H.backend.eps * norm)
        if not H.relaxed:  # residuals below what the products are off by mean nothing
            tol = max(tol, lanczos.asymmetry)
        converged = residuals[wanted] <= tol
        if lanczos.left <= tol and not (lanczos.invariant or lanczos.complete):
            # Nothing more will come of this start, but copies may from another.
            lanczos.begin_again(lanczos.width)
            values, Y, residuals = lanczos.ritz()
            converged = residuals[wanted] <= tol
        enough = len(wanted) == k
        if enough and lanczos.invariant:
            known = before is not None and abs(values[wanted] - before).max() <= tol
            before = values[wanted]
        else:
            known = enough and lanczos.searched(k, which, tol)
        if converged.all() and (known or lanczos.complete):
            return _found(lanczos, H, Y[:, wanted], norm, rtol)
        if H.count >= limit:
            good = wanted[converged]
            best = _found(lanczos, H, Y[:, good], norm)
            raise ConvergenceError(
                f"eigsh: {len(good)} of {k} eigenpairs converged to rtol = {rtol:.1e} in "
                f"{H.count} products. Raise max_products (with resume=, the error's `best`, "
                "nothing is computed again) or rtol, or ask for fewer; eigenvalues that crowd "
                "at this end of the spectrum converge slowly",
                best=best,
                report=best.report,
            )
        H.allow(tol, float(residuals[wanted].max()) if enough else norm, norm, k)
        if lanczos.invariant:
            lanczos.lock(k, which)
        elif lanczos.full:
            lanczos.restart(k, which)
        lanczos.expand()


def _found(
    lanczos: Lanczos, H: Products, Y: Any, norm: float, rtol: float | None = None
) -> Eigenpairs:
    """The pairs of V Y; without a tolerance the best of a search that has failed."""
    vectors, pairs = lanczos.vectors(Y), None
    if rtol is not None and not H.relaxed and Y.shape[1] > MANY:
        pairs = sampled(H, vectors, *lanczos.images(Y), norm, "Lanczos")
    if pairs is None or rtol is None or worst(pairs) > allowed(pairs, rtol):
        pairs = bounded(H, vectors, norm, "Lanczos")
    pairs.krylov, pairs.report.converged = lanczos, rtol is not None
    return pairs


def _preconditioned(
    H: Products, M: Operator, start: Array, k: int, most: int, rtol: float, limit: int
) -> Eigenpairs:
    """The smallest, by Davidson with a preconditioner."""
    width, backend = start.shape[1], H.backend
    if width < k:
        start = backend.xp.concat(
            [start, backend.random(start.shape[0], k - width, seed=17)], axis=1
        )
    search = Davidson(H, M, M._apply(start), k, max(most, 3 * k + 2 * width))
    while True:
        floor = FLOOR * backend.eps * search.norm
        tol = RECURRED * max(rtol * float(abs(search.values).max()), floor)
        done = search.residuals <= tol
        if done.all():
            return bounded(H, search.vectors, search.norm, "Davidson")
        if H.count >= limit or not search.extend(tol, width):
            best = bounded(H, search.vectors, search.norm, "Davidson")
            best.report.converged = False
            raise ConvergenceError(
                f"eigsh: {int(done.sum())} of {k} smallest eigenpairs converged to rtol = "
                f"{rtol:.1e} in {H.count} products. Raise max_products or rtol, or give a better "
                "preconditioner: a LowRank of more pairs",
                best=best,
                report=best.report,
            )


def _nearest(
    inverse: Operator,
    H: Products,
    k: int,
    start: Array,
    most: int,
    limit: int,
    progress: bool,
) -> Eigenpairs:
    """Those of the largest magnitude of the inverse, judged by H."""
    P, metric = inverse.shape[0], H.metric
    if isinstance(metric, Precision):  # of (H - sigma M)^-1 M, times M: symmetric
        solves = Products(Product(metric, Product(inverse, metric)), progress, metric)
    else:
        solves = Products(inverse, progress, metric)
    try:
        if P <= DENSE or k >= P - 1:
            vectors = _dense(solves, P, k, "LM")[0]
        else:
            lanczos = Lanczos(inverse.backend, solves, start, most, metric)
            vectors = _extreme(lanczos, solves, k, "LM", INVERSE_RTOL, limit, True).vectors
    finally:
        solves.close()
    vectors = refined(inverse, vectors, metric)
    iterated = isinstance(inverse, IteratedInverse)
    how = "iterated solves" if iterated else "the Lagrangian system"
    return bounded(H, vectors, _norm(H, start[:, :1]), f"Lanczos with {how}")


def _norm(H: Products, x: Array) -> float:
    """||H||, underestimated: what two products grow by."""
    size = float(H.metric.norms(x, H.metric.apply(x))[0])
    for _ in range(2):
        dual = H(x / size)
        x = H.metric.solve(dual)
        if (size := float(H.metric.norms(x, dual)[0])) == 0.0:
            break
    return size


def _dense(H: Products, P: int, k: int, which: str) -> tuple[Array, float]:
    if P * P > DENSE_LIMIT:
        raise ArgumentError(
            f"k = {k} of P = {P} eigenpairs needs the dense H, more than {DENSE_LIMIT} entries: "
            f"ask for at most P - 2 = {P - 2}"
        )
    xp = H.backend.xp
    eye = H.backend.eye(P, P)
    dense, L = H(eye), eye
    if not H.metric.trivial:  # L^-1 H L^-T, M = L L'
        L = xp.linalg.cholesky(H.metric.apply(eye))
        dense = xp.linalg.solve(L, xp.linalg.solve(L, dense).T)
    values, vectors = xp.linalg.eigh(0.5 * (dense + dense.T))
    if not H.metric.trivial:
        vectors = xp.linalg.solve(L.T, vectors)
    found = array_on_host(values)
    return _columns(H.backend, vectors, chosen(found, k, which)), float(abs(found).max())


def _columns(backend: Backend, X: Array, which: Any) -> Array:
    """Columns by their numbers, which are on the host."""
    xp = backend.xp
    return xp.take(X, xp.asarray(which, dtype=xp.int64, device=backend.device), axis=1)


def check_operator(H: Any, k: Any) -> int:
    """The size P of a square H that has k eigenvalues."""
    shape = tuple(getattr(H, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ArgumentError(f"H has shape {shape}; a square symmetric operator was expected")
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= operator.index(k) <= shape[0]:
        raise ArgumentError(f"k is {k!r}; an integer from 1 to P = {shape[0]} was expected")
    return shape[0]


def _check_which(which: str) -> None:
    if which not in WHICH:
        smallest = "; for those nearest to zero give sigma=0.0" if which == "SM" else ""
        raise ArgumentError(f"which is {which!r}; one of {', '.join(WHICH)} was expected{smallest}")


def _start(backend: Backend, v0: Array | None, P: int, block: int) -> Array:
    if v0 is None:
        return backend.random(P, block, seed=13)
    start = backend.checked(v0, None, "v0", ArgumentError)
    if start.ndim not in (1, 2) or start.shape[0] != P or 0 in start.shape:
        raise ArgumentError(f"v0 has shape {tuple(start.shape)}; ({P},) or ({P}, b) was expected")
    if backend.norm(start) == 0.0:
        raise ArgumentError("v0 is zero: give a start that is not, or None")
    return start if start.ndim == 2 else start[:, None]


def _resumed(resume: Any, product: Products, most: int) -> Lanczos:
    found = getattr(resume, "krylov", None)
    if found is None or found.rows.shape[1] != product.H.shape[1]:
        raise ArgumentError(
            f"resume is a {type(resume).__name__}; what mfdeq.eigsh returned for the same H, by "
            "Lanczos, was expected"
        )
    first, dual = found.rows[0, :], found.duals[0, :]
    if product.backend.norm(product.metric.apply(first) - dual) > SAME * product.backend.norm(dual):
        raise ArgumentError("resume is of another inner product: give the same M")
    return found.continued(product, most)


def _reduced(H: Operator) -> Reduced:
    if not isinstance(H, Reduced):
        raise ArgumentError(
            f"sigma and certify of mfdeq.eigsh are for an mfdeq Hessian; {type(H).__name__} came. "
            "For another operator pass its inverse, (H - sigma I)^-1, to mfdeq.eigsh"
        )
    return H
