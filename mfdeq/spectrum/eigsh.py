"""`mfdeq.eigsh`: extreme eigenvalues of a symmetric operator, or those nearest to a shift."""

from __future__ import annotations

from typing import Any

from ..arguments import count, fraction
from ..arrays.backend import Array
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..equilibrium.lagrangian_system import require_entries, solver_for
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ArgumentError, ConvergenceError
from ..files.checkpoints import digest, open_checkpoint
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .arguments import check_operator, check_which, start_block
from .checkpoint import EigenCheckpoint
from .counted_operator import CountedOperator
from .davidson import DAVIDSON
from .dense import DENSE
from .eigenpairs import (
    Eigenpairs,
    inaccurate_products_error,
    largest_residual,
    residual_tolerance,
    restore_scale,
    without_vectors,
)
from .extreme import LANCZOS
from .inertia_counts import check_none_missed, count_missed
from .problem import EigenMethod, EigenProblem
from .shift_invert import SHIFT_INVERT, shifted_inverse

# The first method that applies is used.
METHODS: tuple[EigenMethod, ...] = (SHIFT_INVERT, DENSE, DAVIDSON, LANCZOS)
MIN_BASIS_SIZE = 40  # of the default basis, which has three vectors per pair


@collective
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
    complete: bool = True,
    return_eigenvectors: bool = True,
    max_products: int | None = None,
    progress: bool = False,
    checkpoint: Any = None,
    checkpoint_every: int = 25,
) -> Eigenpairs:
    """Compute extreme eigenpairs of a symmetric operator, or those nearest to a shift.

    The method is thick-restart block Lanczos with products of H by default, Lanczos with a shifted
    inverse for ``sigma``, and generalized Davidson for ``preconditioner`` with ``which="SA"``.
    Dense linear algebra is used if P is at most 40 or k at least P - 1, and for P up to 4096 where
    3 P products were not enough, unless `max_products` forbids it.

    Parameters
    ----------
    H : LinearOperator, sparse matrix or array, (P, P)
        A symmetric operator; a sparse matrix may have any format. For an `mfdeq.ReducedHessian` or
        its parts the error of the products is estimated and included in the bounds; for others the
        bounds include rounding only.
    k : int, optional
        The number of pairs, 1 <= k <= P; 6 by default.
    which : {"LM", "LA", "SA", "BE"}, optional
        Largest in magnitude (the default), largest, smallest, or k / 2 at both ends. With sigma
        these are the values 1 / (mu - sigma), as in `scipy.sparse.linalg.eigsh`: "LM" are the
        nearest to sigma, "LA" the nearest above it, "SA" the nearest below it, and "BE" k / 2 on
        either side. Where there are too few on one side, values far on the other follow.
    rtol : float, optional
        The tolerance of the residuals ||H x - mu x||, relative to the largest magnitude of the k
        values.
    M : Precision, (P, P) matrix or (P,) array, optional
        The symmetric positive definite matrix of the generalized problem H x = mu M x, such as the
        precision of a prior. Vectors are orthonormal in x' M y; residuals and bounds are in the
        norm of M^-1. If M is known by its products only, pass ``mfdeq.Precision(M, solve=)``.
    sigma : float, optional
        Compute eigenvalues near sigma by Lanczos with (H - sigma M)^-1, by one factorization: of
        H - sigma M for a matrix H, of the Lagrangian system for an mfdeq Hessian whose A, B and
        curvature are matrices (see `mfdeq.ShiftedInverse`). Any other H needs `preconditioner`.
    certify : bool, optional
        Whether to count the wanted eigenvalues, by one or two further factorizations for an H as
        for sigma. ``report.missed`` is 0 if this proves that none was missed that is beyond the
        last of the values found by more than its error bound.
    preconditioner : LinearOperator, (P, P), optional
        An approximate H^-1, symmetric and positive definite, if there are no sparse matrices. With
        which="SA", the smallest pairs are computed by generalized Davidson. With sigma, the nearest
        ones are computed by Lanczos with iterative solves, for which products with H must be
        accurate. For a Hessian with its prior, use `mfdeq.LowRank` of the Gauss-Newton part; for
        any definite H, `mfdeq.Nystrom`.
    v0 : (P,) or (P, b) array, optional
        The start. Products are computed in blocks of b columns. By default it is random, with the
        same seed in every call.
    block : int, optional
        The number of columns of the random start, 1 by default. Larger blocks take more products,
        but each is cheaper if H multiplies blocks efficiently.
    basis : int, optional
        The largest number of vectors in the basis; by default 3 k, at least 40. A smaller basis
        takes less memory and more products.
    resume : Eigenpairs, optional
        The result of an earlier call, or the `best` of its `ConvergenceError`. The computation
        continues from its basis, for more pairs, a smaller rtol or the other end of the spectrum,
        without repeating its products. H must be the same. It cannot be combined with `sigma`,
        which raises an `ArgumentError`: the stored basis belongs to products with H, and the basis
        of a shifted call is not kept, since another shift could not use it. To continue a long
        shifted computation after an interruption, pass `checkpoint`.
    relaxed : bool, optional
        Whether products with an `mfdeq.ReducedHessian` are only as accurate as needed. As the
        residuals decrease they may be less accurate, and iterative solvers take fewer iterations.
        The last products, for the bounds, are always computed to the solver's tolerance.
    complete : bool, optional
        Whether to search the complement of the pairs found for wanted eigenvalues that are missing,
        such as further copies of repeated ones, until the chance of a miss is below 1e-6; see
        Notes.
    return_eigenvectors : bool, optional
        Whether to return the vectors. Without them ``vectors`` is None, and the result takes little
        memory.
    max_products : int, optional
        The limit on the number of products; by default 10 P, at least 1000.
    progress : bool, optional
        Show a progress bar of the products.
    checkpoint : str or PathLike, optional
        A file to resume from, if it exists, and to write checkpoints to; see Notes.
    checkpoint_every : int, optional
        The number of products between checkpoints; with `sigma`, of products with the inverse.

    Returns
    -------
    Eigenpairs
        ``values`` in ascending order, ``vectors``, ``error_bounds`` and ``report``.

    Raises
    ------
    ConvergenceError
        If fewer than k pairs converge; `best` has the converged ones. If `certify` shows that
        some are missing; `best` has those found.
    ArgumentError
        If k is not in 1 ... P, `which` is unknown, or H is not square; with sigma or certify, if H
        has no entries or is not symmetric.
    SingularStateError
        If sigma is an eigenvalue.
    CheckpointError
        If the file is of another run, or cannot be written.

    Warns
    -----
    CheckpointWarning
        If a checkpoint could not be written; the run continues.

    Notes
    -----
    For symmetric H and ||x|| = 1, an eigenvalue lies within ||H x - mu x|| + delta of mu, where
    delta bounds the error of the product H x. Only `certify` proves that no eigenvalue was missed.

    One vector lies in a space that contains one copy of a repeated eigenvalue at most. The
    complement of the pairs found, and of unwanted Ritz vectors of the same space, is therefore
    searched from a random vector. After m steps with Ritz values θ_j and residual lengths β_j, a
    wanted eigenvalue λ has been missed with a chance of at most sqrt(2 P / π) Π β_j / |λ - θ_j|
    (see `mfdeq.spectrum.miss_chance` and `mfdeq.spectrum.schur_complement`). The search ends when
    this is below 1e-6 for all λ beyond the last wanted value by more than its tolerance, or after
    as many products as the pairs took, with the smallest gap for which it is:
    ``report.miss_chance``, ``.miss_gap`` and ``.extra_products``. If a Ritz value is beyond the
    last wanted value, its pair is computed, too.

    With `preconditioner` and which="SA", the search is for negative eigenvalues of the pencil
    (H - λ M, K^-1) with the preconditioner K and the last wanted value λ, which takes few steps if
    K is good (see `mfdeq.spectrum.pencil_probe`). The chance assumes that K is no worse for the
    missing eigenvectors than for the vectors of the search.

    The allowed error of a relaxed product at a residual r is tol ||H|| / r. The tolerance of the
    inner solves follows from the estimated error of the first product.

    The generalized problem takes one solve with M for each product with H. Products with M are
    computed only for the start and the bounds.

    An interrupted run that is started again with the same file resumes from its last checkpoint
    and, on a CPU with the same number of threads, gives identical results. A run that had ended
    returns its pairs after one product, which must agree with them. At each checkpoint, an mfdeq H
    drops the spaces that its solves recycle, so that later results depend on the file alone; a
    product with an operator of your own must not depend on earlier products. `max_products` and
    `checkpoint_every` may differ when a run is resumed. If all eigenpairs are computed from a dense
    matrix, only the result is written.

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

    The smallest eigenvalues with an approximate inverse:

    >>> near = np.diag(1 / np.diag(H + 0.1))
    >>> smallest = mfdeq.eigsh(H, k=2, which="SA", preconditioner=near)
    >>> smallest.values.round(6).tolist()
    [1.0, 2.0]

    The eigenvalues of a sparse matrix nearest to a shift:

    >>> import scipy.sparse as sp
    >>> nearest = mfdeq.eigsh(sp.diags(np.arange(1.0, 101.0)), k=2, sigma=50.3, certify=True)
    >>> nearest.values.round(6).tolist(), nearest.report.missed
    ([50.0, 51.0], 0)
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
    if certify and isinstance(with_entries := require_entries(hessian), ReducedOperator):
        solver_for(backend).assemble_blocks(with_entries)  # raise errors early
    if sigma is not None and resume is not None:
        raise ArgumentError(
            "resume: expected None with sigma, got pairs: their basis is of products with H, and "
            "not of solves with H - sigma M. Leave out resume, or pass checkpoint= to continue a "
            "computation with sigma after an interruption"
        )
    if preconditioner is not None:
        if (which != "SA" and sigma is None) or resume is not None:
            raise ArgumentError(
                "preconditioner: expected which='SA' or sigma with it, and no resume, got "
                f"which={which!r}" + ("" if resume is None else " and resume")
            )
        preconditioner = as_symmetric(backend, preconditioner, (P, P), "preconditioner")
    file = open_checkpoint(
        checkpoint,
        checkpoint_every,
        "eigenpairs",
        lambda: {
            "H": type(hessian).__name__,
            "P": P,
            "params": digest(hessian.params) if isinstance(hessian, ReducedOperator) else None,
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
            "complete": bool(complete),
        },
        backend,
        hessian.processes,
    )
    # With a shift, the solves have a bar of their own: few products with H are needed.
    products = CountedOperator(hessian, progress and sigma is None, metric, scaled=True)
    saved = EigenCheckpoint(file, products)
    try:
        if (pairs := saved.load_result()) is not None:
            return pairs if return_eigenvectors else without_vectors(pairs)
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
            complete=complete,
            progress=progress,
            checkpoint=saved,
        )
        pairs = _solve(problem)
    except ConvergenceError as error:
        if sigma is None and isinstance(error.best, Eigenpairs):
            restore_scale(error.best, products.exponent)
        raise
    finally:
        products.close()
    restore_scale(pairs, products.exponent)
    if not largest_residual(pairs) <= residual_tolerance(pairs, rtol):
        raise inaccurate_products_error(largest_residual(pairs), rtol, pairs)
    if certify:
        counting = inverse if preconditioner is None else None
        pairs.report.missed = count_missed(hessian, pairs, which, sigma, counting)
        check_none_missed(pairs)
    saved.save_result(pairs)
    return pairs if return_eigenvectors else without_vectors(pairs)


def _solve(problem: EigenProblem) -> Eigenpairs:
    """Solve a problem by the first method that applies, or at last by the dense method."""
    try:
        return next(method for method in METHODS if method.applies(problem)).solve(problem)
    except ConvergenceError:
        if not problem.dense_at_last or problem.H.count < problem.search_products:
            raise
    problem.H.relaxed = False
    return DENSE.solve(problem)
