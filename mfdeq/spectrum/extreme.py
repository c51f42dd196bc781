"""Extreme eigenvalues of a symmetric operator, or those nearest to a shift."""

from __future__ import annotations

import functools
import operator
from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array, Backend, array_on_host, host, shape_of
from ..arrays.memory import translate_memory_errors
from ..equilibrium.lagrangian_system import solver_for
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..errors import ArgumentError
from ..files.checkpoints import digest, opened
from ..operators.operator import MAX_DENSE_ENTRIES, Operator, Product
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import Precision, metric_of
from .davidson import smallest
from .eigenpairs import Eigenpairs, allowed, bounded, inaccurate, worst
from .kept import Kept
from .lanczos import Lanczos, chosen
from .products import Products
from .search import Search
from .shift_invert import IteratedInverse, entries, missed, refined

DENSE = 40  # sizes up to which every eigenpair is computed at once
WHICH = ("LM", "LA", "SA", "BE")
INVERSE_RTOL = 1e-8  # of the eigenpairs of an inverse
BASIS = 40  # vectors at least of a basis, or three times as many as pairs


@translate_memory_errors
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
    checkpoint: Any = None,
    checkpoint_every: int = 25,
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
        one factorization of the Lagrangian system. For an mfdeq Hessian
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
    checkpoint : str or PathLike, optional
        A file to continue from. Where there is none, the run starts anew and writes it; see Notes.
    checkpoint_every : int, optional
        Products (of the inverse, with `sigma`) from one checkpoint to the next.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ConvergenceError
        With the pairs found as `best`, where fewer than k converged.
    ArgumentError
        For k outside 1 ... P, an unknown `which`, an operator that is not square.
    CheckpointError
        Where the file is none of this run, or none can be written there.

    Warns
    -----
    CheckpointWarning
        Where a checkpoint could not be written; the run goes on.

    Notes
    -----
    For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu,
    delta bounding the error of the product H x. That no eigenvalue was missed is claimed only
    where `certify` has shown it.

    Relaxed products: at residuals r an error of tol ||H|| / r may enter (Simoncini 2005). What
    inner tolerance that is, the error of the first product tells, which is estimated.

    The generalized problem takes one solve with M for each product beside it, and M itself only
    for the start and the bounds (Parlett 1998, section 15.11; Saibaba, Lee and Kitanidis 2016).

    A run that was killed and is started again with the same file continues from its last
    checkpoint and, on a CPU with as many threads, ends in the same bits; one that had ended
    returns its pairs after one product, which must agree with them. So that what follows depends
    on the file alone, an mfdeq H drops at each checkpoint the spaces that its solves recycle; an
    operator of yours must give the same product whatever came before. `max_products` and
    `checkpoint_every` may differ from one start to the next. Where all eigenpairs are computed at
    once (P up to 40, or k above P - 2), the result alone is written.
    """
    P = check_operator(H, k)
    check_which(which)
    fraction(rtol, "rtol")
    backend = backend_of(H)
    limit = max(1000, 10 * P) if max_products is None else count(max_products, "max_products")
    most = max(3 * k, BASIS) if basis is None else count(basis, "basis")
    start = start_of(backend, v0, P, min(count(block, "block"), P))
    if most < k + 2 * start.shape[1] and most < P:
        raise ArgumentError(
            f"basis is {most}; at least k + 2 b = {k + 2 * start.shape[1]} vectors are needed"
        )
    metric = metric_of(M, backend, P)
    hessian = as_symmetric(backend, H, (P, P), "H")
    if certify:
        solver_for(backend).assemble_blocks(reduced(hessian))  # refused before the work
    if sigma is not None and resume is not None:
        raise ArgumentError("resume goes on from a basis of H, which sigma has no use for")
    if preconditioner is not None:
        if (which != "SA" and sigma is None) or resume is not None:
            raise ArgumentError("a preconditioner is for which='SA' or sigma, without resume")
        preconditioner = as_symmetric(backend, preconditioner, (P, P), "preconditioner")
    file = opened(
        checkpoint,
        checkpoint_every,
        "eigenpairs",
        lambda: {
            "H": type(hessian).__name__,
            "P": P,
            "params": digest(hessian.eq.params) if isinstance(hessian, ReducedCurvature) else None,
            "k": int(k),
            "which": which,
            "rtol": float(rtol),
            "M": type(M).__name__,
            "sigma": None if sigma is None else float(sigma),
            "certify": bool(certify),
            "preconditioner": type(preconditioner).__name__,
            "start": digest(start),
            "basis": most,
            "resume": None if resume is None else digest(resume.values),
            "relaxed": bool(relaxed),
        },
        backend,
    )
    products = Products(hessian, progress, metric)
    kept = Kept(file, products)
    inverse: Operator | None = None
    try:
        if (done := kept.pairs()) is not None:
            return done
        if sigma is not None:
            inverse = _inverse(products, sigma, preconditioner)
        if inverse is not None:
            pairs = _nearest(inverse, products, k, start, most, limit, progress, kept)
        elif P <= DENSE or k >= P - 1:
            pairs = bounded(products, *_dense(products, P, k, which), "dense")
        elif preconditioner is not None:
            pairs = smallest(products, preconditioner, start, k, most, rtol, limit, kept)
        else:
            begin = functools.partial(Lanczos, backend, products, start, most, metric)
            if resume is not None:
                begin = functools.partial(_resumed, resume, products, most)
            inexact = isinstance(hessian, ReducedCurvature) and hessian.eq.factor.iterative
            products.relaxed = relaxed and inexact
            search = Search(begin, products, k, which, rtol, limit, kept)
            pairs, found = search.run(), search.lanczos
            rough = products.relaxed or resume is not None or found.locked > 0
            if rough and not search.last and worst(pairs) > allowed(pairs, rtol):
                products.relaxed = False  # the errors have added up: from what was found, tightly
                V, more = pairs.vectors, max(most, 4 * k)
                again = functools.partial(Lanczos, backend, products, V, more, metric)
                pairs = Search(again, products, k, which, rtol, limit, kept, last=True).run()
    finally:
        products.close()
    if not worst(pairs) <= allowed(pairs, rtol):
        raise inaccurate(worst(pairs), rtol, pairs)
    if certify:
        pairs.report.missed = missed(reduced(hessian), pairs, inverse)
    kept.end(pairs)
    return pairs


def _inverse(H: Products, sigma: float, preconditioner: Operator | None) -> Operator:
    """(H - sigma M)^-1, iterated or factorized."""
    if preconditioner is not None:
        return IteratedInverse(H, sigma, preconditioner)
    return solver_for(H.backend).shifted_inverse(reduced(H.H), sigma, entries(H.metric))


def _nearest(
    inverse: Operator,
    H: Products,
    k: int,
    start: Array,
    most: int,
    limit: int,
    progress: bool,
    kept: Kept,
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
            kept.all = [H, solves]
            begin = functools.partial(Lanczos, inverse.backend, solves, start, most, metric)
            search = Search(begin, solves, k, "LM", INVERSE_RTOL, limit, kept, each=True)
            vectors = search.run().vectors
    finally:
        solves.close()
    vectors = refined(inverse, vectors, metric)
    iterated = isinstance(inverse, IteratedInverse)
    how = "iterated solves" if iterated else "the Lagrangian system"
    return bounded(H, vectors, size_of(H, start[:, :1]), f"Lanczos with {how}")


def size_of(H: Products, x: Array) -> float:
    """||H||, underestimated: what two products grow by."""
    size = float(H.metric.norms(x, H.metric.apply(x))[0])
    for _ in range(2):
        dual = H(x / size)
        x = H.metric.solve(dual)
        if (size := float(H.metric.norms(x, dual)[0])) == 0.0:
            break
    return size


def _dense(H: Products, P: int, k: int, which: str) -> tuple[Array, float]:
    if P * P > MAX_DENSE_ENTRIES:
        raise ArgumentError(
            f"k = {k} of P = {P} eigenpairs needs the dense H of more than {MAX_DENSE_ENTRIES} "
            f"entries: ask for at most P - 2 = {P - 2}"
        )
    eye = H.backend.eye(P, P)
    dense, solve = array_on_host(H(eye)), host.linalg.solve
    if not H.metric.is_identity:  # L^-1 H L^-T, M = L L'
        L = host.linalg.cholesky(array_on_host(H.metric.apply(eye)))
        dense = solve(L, solve(L, dense).T)
    values, vectors = host.linalg.eigh(0.5 * (dense + dense.T))
    if not H.metric.is_identity:
        vectors = solve(L.T, vectors)
    vectors = vectors[:, chosen(values, k, which)]
    return H.backend.from_host(vectors, eye.shape[0]), float(abs(values).max())


def check_operator(H: Any, k: Any) -> int:
    """The size P of a square H that has k eigenvalues."""
    shape = shape_of(H)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ArgumentError(f"H has shape {shape}; a square symmetric operator was expected")
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= operator.index(k) <= shape[0]:
        raise ArgumentError(f"k is {k!r}; an integer from 1 to P = {shape[0]} was expected")
    return shape[0]


def check_which(which: str) -> None:
    """Raise an `ArgumentError` for a word that is not known."""
    if which not in WHICH:
        smallest = "; for those nearest to zero give sigma=0.0" if which == "SM" else ""
        raise ArgumentError(f"which is {which!r}; one of {', '.join(WHICH)} was expected{smallest}")


def start_of(backend: Backend, v0: Array | None, P: int, block: int) -> Array:
    """Where a search starts, (P, b): checked, or random."""
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
    if not found.measured_by(product.metric):
        raise ArgumentError("resume is of another inner product: give the same M")
    return found.continued(product, most)


def reduced(H: Operator) -> ReducedCurvature:
    """H where it is a Hessian of this library's, or an `ArgumentError`."""
    if not isinstance(H, ReducedCurvature):
        raise ArgumentError(
            f"sigma and certify of mfdeq.eigsh are for an mfdeq Hessian; {type(H).__name__} came. "
            "For another operator pass its inverse, (H - sigma I)^-1, to mfdeq.eigsh"
        )
    return H
