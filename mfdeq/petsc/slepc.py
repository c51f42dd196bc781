"""Eigenpairs by SLEPc: it finds the vectors, and `mfdeq.eigsh` has the same values and bounds."""

from __future__ import annotations

import contextlib
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, host
from ..arrays.memory import translate_memory_errors
from ..equilibrium.lagrangian_system import require_entries
from ..equilibrium.reduced_curvature import ReducedCurvature
from ..errors import ArgumentError, ConvergenceError
from ..operators.operator import SelfAdjoint
from ..operators.user_operators import as_operator, backend_of
from ..priors.metric import Euclidean
from ..spectrum.arguments import check_operator, check_which, start_block
from ..spectrum.counted_operator import CountedOperator
from ..spectrum.eigenpairs import (
    ROUNDING_FACTOR,
    Eigenpairs,
    inaccurate_products_error,
    largest_residual,
    pairs_from_vectors,
    residual_tolerance,
)
from ..spectrum.inertia_counts import check_none_missed, count_missed
from ..spectrum.shift_invert import INVERSE_RTOL, apply_inverse
from .agreement import on_all_ranks
from .arrays import DistributedArray
from .errors import reason_name
from .lagrangian import ShiftedInverse, assemble_blocks
from .options import set_from_options, temporary_options, warn_of_unused_options
from .ranks import Ranks
from .shell_mats import as_mat

# What SLEPc calls the ends of the spectrum.
WHICH_OF_SLEPC = {"LM": "LARGEST_MAGNITUDE", "LA": "LARGEST_REAL", "SA": "SMALLEST_REAL"}
# SLEPc's residuals must reach this fraction of the tolerance, which it knows from the step before.
RESIDUAL_FRACTION = 0.5


@on_all_ranks
@translate_memory_errors
def eigsh(
    H: Any,
    k: int = 6,
    which: str = "LM",
    rtol: float = 1e-6,
    *,
    sigma: float | None = None,
    certify: bool = False,
    v0: Any = None,
    prefix: str = "mfdeq_",
    options: dict[str, Any] | None = None,
    progress: bool = False,
) -> Eigenpairs:
    """Find extreme eigenpairs of a symmetric Mat, or those nearest to a shift, by SLEPc's EPS.

    Parameters
    ----------
    H : Mat or Operator, (P, P)
        Symmetric. The error bounds include the estimated error of the products for the Hessian of
        an equilibrium (or its parts), and only their rounding for other matrices.
    k : int, optional
        Number of eigenpairs, 1 <= k <= P. By default 6.
    which : {"LM", "LA", "SA", "BE"}, optional
        Largest in magnitude (by default), largest, smallest, or both ends (by two searches).
    rtol : float, optional
        Residuals ||H x - mu x|| reach rtol times the largest magnitude of the values.
    sigma : float, optional
        Find eigenvalues near sigma by a search with (H - sigma I)^-1, where `which` refers to
        1 / (mu - sigma): the nearest ones by default. This takes one factorization, of H - sigma I
        for an assembled Mat, or of the Lagrangian system for the Hessian of an equilibrium whose A,
        B and curvature are assembled Mats, or sums and products of such.
    certify : bool, optional
        Count the wanted eigenvalues by one or two further factorizations, as `mfdeq.eigsh` does.
        By default False.
    v0 : Vec or (P,) array, optional
        The start vector. By default random, the same at every call and on any number of ranks.
    prefix : str, optional
        Prefix of SLEPc's options: ``-mfdeq_eps_ncv 60 -mfdeq_eps_max_it 500`` and so on. The KSP
        of the Lagrangian system reads those with ``lagrangian_`` appended to it,
        ``-mfdeq_lagrangian_pc_type lu`` (an LU shows no inertia, so nothing can be counted).
    options : dict, optional
        Options without the prefix, ``{"eps_ncv": 60}``. Those on the command line take precedence.
    progress : bool, optional
        Show a progress bar of the products.

    Returns
    -------
    mfdeq.Eigenpairs
        Its vectors are a distributed (P, k) array, the same on any number of ranks up to signs;
        ``vectors[:, j].vec()`` is one of them as a Vec. Everything else is on every rank.

    Raises
    ------
    ConvergenceError
        If fewer than k pairs converged: with those as `best`, and SLEPc's reason. If `certify`
        shows that some are missing.
    ArgumentError
        If k is outside 1 ... P, `which` is unknown, the matrix is not square, or with sigma or
        certify a part of the Lagrangian system is known by its products only.
    SingularStateError
        If sigma is an eigenvalue.

    Notes
    -----
    Without options the method is Krylov-Schur without locking. The options ``eps_tol`` and
    ``eps_conv`` are not read, since `rtol` decides. `mfdeq.eigsh` finds the same pairs with the
    same bounds by its own Lanczos method, on any number of ranks, and has further options.

    References
    ----------
    V. Hernandez, J. E. Roman and V. Vidal, SLEPc: a scalable and flexible toolkit for the solution
    of eigenvalue problems, ACM Transactions on Mathematical Software 31 (2005).

    Examples
    --------
    >>> import mfdeq.petsc
    >>> from petsc4py import PETSc
    >>> diagonal = PETSc.Vec().createMPI(50)
    >>> diagonal.setValues(range(50), range(50), PETSc.InsertMode.INSERT_VALUES)
    >>> diagonal.assemble()
    >>> H = PETSc.Mat().createAIJ((50, 50), nnz=1)
    >>> H.setDiagonal(diagonal)
    >>> H.assemble()
    >>> mfdeq.petsc.eigsh(H, 3, "LA").values.round(4)
    array([47., 48., 49.])
    """
    P = check_operator(H, k)
    check_which(which)
    fraction(rtol, "rtol")
    backend = backend_of(H)
    if not isinstance(backend.device, Ranks):
        raise ArgumentError(
            f"H: expected a PETSc Mat or an operator on Vecs, got a {type(H).__name__}; for others "
            "use mfdeq.eigsh"
        )
    hessian = as_operator(backend, H, (P, P), "H")
    start = start_block(backend, v0, P, 1)
    if start.shape[1] > 1:
        raise ArgumentError(
            f"v0: expected one vector, from which SLEPc starts, got {start.shape[1]} columns"
        )
    if certify and isinstance(with_entries := require_entries(hessian), ReducedCurvature):
        assemble_blocks(with_entries)  # refuses what has no entries before the search
    ends = [(which, k)] if which != "BE" else [("SA", k // 2), ("LA", k - k // 2)]
    inverse = None
    with contextlib.ExitStack() as bars:
        # With a shift, the solves have a bar of their own: few products with H are needed.
        products = CountedOperator(hessian, progress and sigma is None, Euclidean(backend))
        bars.callback(products.close)
        if sigma is None:
            searches = [
                EPSSearch(products, n, end, rtol, start, prefix, options) for end, n in ends if n
            ]
        else:
            inverse = S = ShiftedInverse(hessian, sigma, prefix=f"{prefix}lagrangian_")
            solves = CountedOperator(S, progress, products.metric, unit="solves")
            bars.callback(solves.close)
            searches = [
                EPSSearch(solves, n, end, INVERSE_RTOL, start, prefix, options, each=True)
                for end, n in ends
                if n
            ]
        vectors = backend.xp.concat([search.vectors for search in searches], axis=1)
        norm, method = max(search.norm for search in searches), searches[0].name
        if sigma is not None:
            vectors = apply_inverse(S, vectors, products.metric)
            norm = products.estimate_norm(start)
            of_hessian = isinstance(hessian, ReducedCurvature)
            method += f" with {'the Lagrangian system' if of_hessian else 'a factorization'}"
        pairs = pairs_from_vectors(products, vectors, norm, method)
    if vectors.shape[1] < k:
        raise _too_few_pairs(pairs, k, searches)
    if not largest_residual(pairs) <= residual_tolerance(pairs, rtol):
        raise inaccurate_products_error(largest_residual(pairs), rtol, pairs)
    if certify:
        pairs.report.missed = count_missed(hessian, pairs, which, sigma, inverse)
        check_none_missed(pairs)
    return pairs


class _GuardedProducts(SelfAdjoint):
    """The counted products that SLEPc calls; an exception in one of them is raised afterwards.

    Attributes
    ----------
    error : Exception or None
        What a product has raised. An exception that passes through SLEPc would leave its objects
        in an unfinished state, so it is raised after SLEPc has returned.
    """

    def __init__(self, product: CountedOperator) -> None:
        super().__init__(product, product.H.shape)
        self.product = product
        self.error: Exception | None = None

    def _apply(self, x: Array) -> Array:
        if self.error is None:
            try:
                return self.product(x) if x.ndim == 2 else self.product(x[:, None])[:, 0]
            except Exception as error:
                self.error = error
        return 0.0 * x


class EPSSearch:
    """One run of SLEPc's EPS.

    Parameters
    ----------
    H : CountedOperator
    k : int
        Number of eigenvectors to find.
    which : {"LM", "LA", "SA"}
    rtol : float
        Relative residual.
    start : (P, 1) array
    prefix, options
        As in `eigsh`.
    each : bool, optional
        Whether rtol is relative to each of the k values, not to the largest of them.

    Attributes
    ----------
    vectors : (P, j) array
        The j <= k eigenvectors that have converged.
    norm : float
        The largest magnitude of the eigenvalue estimates.
    name : str
        The name of the method.
    reason : str
        Why it stopped, by PETSc's name.
    """

    def __init__(
        self,
        H: CountedOperator,
        k: int,
        which: str,
        rtol: float,
        start: Array,
        prefix: str,
        options: dict[str, Any] | None,
        each: bool = False,
    ) -> None:
        from slepc4py import SLEPc

        self.k, self.rtol, self.each, self.eps = k, rtol, each, H.backend.eps
        self.norm = H.estimate_norm(start)
        eps = SLEPc.EPS().create(comm=H.backend.device.comm)
        eps.setOptionsPrefix(prefix)
        products = _GuardedProducts(H)
        eps.setOperators(as_mat(products))
        eps.setProblemType(SLEPc.EPS.ProblemType.HEP)
        eps.setType("krylovschur")
        # Without locking, converged vectors are tested again when the tolerance tightens.
        eps.setKrylovSchurLocking(False)
        eps.setDimensions(nev=k)
        eps.setWhichEigenpairs(getattr(SLEPc.EPS.Which, WHICH_OF_SLEPC[which]))
        eps.setInitialSpace([start[:, 0].vec()])
        with temporary_options(prefix, options):
            set_from_options(eps, prefix)
            eps.setConvergenceTest(SLEPc.EPS.Conv.ABS)
            self._set_tolerance(eps, 0.0)
            eps.setMonitor(self._monitor)
            eps.setStoppingTest(lambda *state: _stopping_test(products, *state))
            eps.solve()
            warn_of_unused_options(H.backend.device, prefix, options, ("eps_", "st_"))
        self.name = f"SLEPc's {eps.getType()}"
        self.reason = reason_name(SLEPc.EPS, eps.getConvergedReason())
        self.vectors = self._eigenvectors(eps, start)
        eps.destroy()
        if products.error is not None:
            raise products.error

    def _monitor(self, eps: Any, step: int, converged: int, values: Any, errors: Any) -> None:
        sizes = [abs(value) for value in values]
        self.norm = max(self.norm, *sizes)
        self._set_tolerance(eps, min(sizes[: self.k]) if self.each else max(sizes[: self.k]))

    def _set_tolerance(self, eps: Any, scale: float) -> None:
        """Ask for residuals of rtol times that scale, or of the rounding of H if that is larger."""
        tol = RESIDUAL_FRACTION * max(self.rtol * scale, ROUNDING_FACTOR * self.eps * self.norm)
        eps.setTolerances(max(tol, host.finfo("float64").tiny), eps.getTolerances()[1])

    def _eigenvectors(self, eps: Any, start: Array) -> Array:
        count = min(self.k, eps.getConverged())
        block = start.like(host.empty((start.local.shape[0], count)))
        for j in range(count):
            x = DistributedArray(host.empty(start.local.shape[0]), start.device, start.rows)
            eps.getEigenvector(j, x.vec())
            block[:, j] = x
        return block


def _stopping_test(
    H: _GuardedProducts, eps: Any, step: int, max_steps: int, converged: int, wanted: int
) -> int:
    """Stop as SLEPc does by default, and after a product has failed."""
    from slepc4py import SLEPc

    reasons = SLEPc.EPS.ConvergedReason
    if H.error is not None:
        return reasons.CONVERGED_USER
    if converged >= wanted:
        return reasons.CONVERGED_TOL
    return reasons.DIVERGED_ITS if step >= max_steps else reasons.ITERATING


def _too_few_pairs(pairs: Eigenpairs, k: int, searches: list[EPSSearch]) -> ConvergenceError:
    """Return the error for fewer converged pairs than asked for."""
    pairs.report.converged = False
    reasons = " and ".join(search.reason for search in searches)
    return ConvergenceError(
        f"eigsh: {pairs.vectors.shape[1]} of {k} eigenpairs converged; SLEPc stopped with "
        f"{reasons}. Raise eps_max_it, eps_ncv or rtol, or ask for fewer pairs: eigenvalues that "
        "are clustered at this end of the spectrum converge slowly",
        best=pairs,
        report=pairs.report,
    )
