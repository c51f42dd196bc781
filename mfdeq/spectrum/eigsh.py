"""`mfdeq.eigsh`: extreme eigenvalues of a symmetric operator, or those nearest to a shift."""

from __future__ import annotations

from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..equilibrium.lagrangian_system import solver_for
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..errors import ArgumentError
from ..files.checkpoints import digest, open_checkpoint
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .arguments import check_operator, check_which, require_hessian, start_block
from .checkpoint import EigenCheckpoint
from .counted_operator import CountedOperator
from .davidson import DAVIDSON
from .dense import DENSE
from .eigenpairs import (
    Eigenpairs,
    inaccurate_products_error,
    largest_residual,
    residual_tolerance,
)
from .lanczos_search import LANCZOS
from .problem import EigenMethod, EigenProblem
from .shift_invert import SHIFT_INVERT, count_missed, shifted_inverse

# The first method that applies is taken.
METHODS: tuple[EigenMethod, ...] = (SHIFT_INVERT, DENSE, DAVIDSON, LANCZOS)
MIN_BASIS_SIZE = 40  # vectors of a basis by default, or three times as many as pairs


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
    """Find eigenpairs at the ends of the spectrum of a symmetric operator, or nearest to a shift.

    The method follows from the arguments: thick-restart block Lanczos with products of H; with
    ``sigma``, Lanczos with a shifted inverse; with ``preconditioner`` and ``which="SA"``,
    generalized Davidson; and dense linear algebra where P is at most 40 or k at least P - 1.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        Symmetric. For an `mfdeq.ReducedHessian` (or its parts) the error of the products is
        estimated and included in the bounds; for others only their rounding is.
    k : int, optional
        How many pairs, 1 <= k <= P; 6 by default.
    which : {"LM", "LA", "SA", "BE"}, optional
        Largest in magnitude (the default), largest, smallest, or k / 2 at both ends.
    rtol : float, optional
        Residuals ||H x - mu x|| reach rtol times the largest magnitude of the k values.
    M : Precision, (P, P) matrix or (P,) array, optional
        For the generalized problem H x = mu M x: symmetric and positive definite, the precision of
        a prior. Vectors are orthonormal in x' M y; residuals and bounds are in the norm of M^-1. An
        M known by its products only is given as ``mfdeq.Precision(M, solve=)``.
    sigma : float, optional
        Find the k eigenvalues nearest to sigma, in place of those of `which`, by Lanczos with
        (H - sigma M)^-1, for which the Lagrangian system is factorized once. H must be an mfdeq
        Hessian whose A, B and curvature are sparse matrices; any other H needs `preconditioner`.
    certify : bool, optional
        Whether to count, by one or two further factorizations, the eigenvalues between those
        found: ``report.missed`` is 0 where this shows that there are no others.
    preconditioner : LinearOperator, (P, P), optional
        An approximate H^-1, symmetric and positive definite, for where no sparse matrices are at
        hand. With which="SA", the smallest pairs are found by generalized Davidson. With sigma,
        the nearest ones are found by Lanczos with iterated solves, for which products with H must
        be accurate. For a Hessian with its prior, `mfdeq.LowRank` of the Gauss-Newton part is one;
        `mfdeq.Nystrom` is one for any definite H.
    v0 : (P,) or (P, b) array, optional
        The start; blocks of b columns are multiplied at once. By default it is random, and the
        same in every call.
    block : int, optional
        Columns of the random start; 1 by default. More columns take more products, each of which
        is cheaper where H multiplies blocks fast.
    basis : int, optional
        The largest number of vectors in the basis; by default 3 k, at least 40. Fewer take less
        memory and more products.
    resume : Eigenpairs, optional
        What an earlier call returned, or the `best` of its `ConvergenceError`: continue from its
        basis, to more pairs, a smaller rtol or the other end, without repeating its products. H
        must be the same.
    relaxed : bool, optional
        Whether products with an `mfdeq.ReducedHessian` are only as accurate as still needed, which
        is less and less as the residuals fall, so that iterative solvers take fewer iterations.
        The last products, for the bounds, are to the solver's own tolerance all the same.
    max_products : int, optional
        Products before giving up; by default 10 P, at least 1000.
    progress : bool, optional
        Show a progress bar of the products.
    checkpoint : str or PathLike, optional
        A file to continue from. Where there is none, the run starts anew and writes it; see Notes.
    checkpoint_every : int, optional
        Products (with the inverse, if `sigma` is given) from one checkpoint to the next.

    Returns
    -------
    Eigenpairs
        ``values`` in ascending order, ``vectors``, ``error_bounds`` and ``report``.

    Raises
    ------
    ConvergenceError
        Where fewer than k pairs converged; `best` has those that did.
    ArgumentError
        If k is not in 1 ... P, `which` is unknown, or H is not square.
    SingularStateError
        If sigma is an eigenvalue.
    CheckpointError
        If the file is of another run, or none can be written there.

    Warns
    -----
    CheckpointWarning
        If a checkpoint could not be written; the run goes on.

    Notes
    -----
    For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, where
    delta bounds the error of the product H x. That no eigenvalue was missed is claimed only where
    `certify` has shown it.

    Relaxed products: at residuals r an error of tol ||H|| / r may enter. The estimated error of the
    first product tells which tolerance of the inner solves gives that.

    The generalized problem takes one solve with M for each product with H; M itself is multiplied
    only for the start and the bounds.

    A run that was killed and is started again with the same file continues from its last
    checkpoint and, on a CPU with as many threads, gives the same result bit for bit. A run that had
    ended returns its pairs after one product, which must agree with them. So that everything after
    a checkpoint depends on the file alone, an mfdeq H drops the spaces that its solves recycle
    there; an operator of yours must give the same product whatever came before. `max_products` and
    `checkpoint_every` may differ between starts. Where all eigenpairs are computed at once, only
    the result is written.

    References
    ----------
    C. Lanczos, "An iteration method for the solution of the eigenvalue problem of linear
    differential and integral operators", 1950. K. Wu and H. Simon, "Thick-restart Lanczos method
    for large symmetric eigenvalue problems", 2000. B. N. Parlett, "The Symmetric Eigenvalue
    Problem", 1998. R. B. Morgan and D. S. Scott, "Generalizations of Davidson's method for
    computing eigenvalues of sparse symmetric matrices", 1986. T. Ericsson and A. Ruhe, "The
    spectral transformation Lanczos method for the numerical solution of large sparse generalized
    symmetric eigenvalue problems", 1980. V. Simoncini, "Variable accuracy of matrix-vector products
    in projection methods for eigencomputation", 2005. A. K. Saibaba, J. Lee and P. K. Kitanidis,
    "Randomized algorithms for generalized Hermitian eigenvalue problems with application to
    computing Karhunen-Loeve expansion", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(np.arange(1.0, 101.0))
    >>> pairs = mfdeq.eigsh(H, k=3, which="LA")
    >>> pairs.values.round(6).tolist()
    [98.0, 99.0, 100.0]
    >>> bool(np.all(abs(pairs.values - [98, 99, 100]) <= pairs.error_bounds))
    True

    The smallest ones with an approximate inverse:

    >>> near = np.diag(1 / np.diag(H + 0.1))
    >>> smallest = mfdeq.eigsh(H, k=2, which="SA", preconditioner=near)
    >>> smallest.values.round(6).tolist()
    [1.0, 2.0]
    """
    P = check_operator(H, k)
    check_which(which)
    fraction(rtol, "rtol")
    backend = backend_of(H)
    limit = max(1000, 10 * P) if max_products is None else count(max_products, "max_products")
    max_size = max(3 * k, MIN_BASIS_SIZE) if basis is None else count(basis, "basis")
    start = start_block(backend, v0, P, min(count(block, "block"), P))
    if max_size < k + 2 * start.shape[1] and max_size < P:
        raise ArgumentError(
            f"basis: expected at least k + 2 b = {k + 2 * start.shape[1]} vectors, got {max_size}"
        )
    metric = metric_of(M, backend, P)
    hessian = as_symmetric(backend, H, (P, P), "H")
    if certify:
        solver_for(backend).assemble_blocks(require_hessian(hessian))  # refused before the work
    if sigma is not None and resume is not None:
        raise ArgumentError("resume: expected None with sigma, got pairs of H itself")
    if preconditioner is not None:
        if (which != "SA" and sigma is None) or resume is not None:
            raise ArgumentError(
                "preconditioner: expected which='SA' or sigma with it, and no resume"
            )
        preconditioner = as_symmetric(backend, preconditioner, (P, P), "preconditioner")
    file = open_checkpoint(
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
            "basis": max_size,
            "resume": None if resume is None else digest(resume.values),
            "relaxed": bool(relaxed),
        },
        backend,
    )
    products = CountedOperator(hessian, progress, metric)
    saved = EigenCheckpoint(file, products)
    try:
        if (pairs := saved.load_result()) is not None:
            return pairs
        inverse = None if sigma is None else shifted_inverse(products, sigma, preconditioner)
        problem = EigenProblem(
            H=products,
            k=k,
            which=which,
            rtol=rtol,
            preconditioner=preconditioner,
            inverse=inverse,
            start=start,
            max_size=max_size,
            max_products=limit,
            resume=resume,
            relaxed=relaxed,
            progress=progress,
            checkpoint=saved,
        )
        pairs = next(method for method in METHODS if method.applies(problem)).solve(problem)
    finally:
        products.close()
    if not largest_residual(pairs) <= residual_tolerance(pairs, rtol):
        raise inaccurate_products_error(largest_residual(pairs), rtol, pairs)
    if certify:
        counting = inverse if preconditioner is None else None
        pairs.report.missed = count_missed(require_hessian(hessian), pairs, counting)
    saved.save_result(pairs)
    return pairs
