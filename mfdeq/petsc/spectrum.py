"""Eigenpairs by SLEPc. It finds the vectors; values and bounds are those of `mfdeq.eigsh`."""

from __future__ import annotations

from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, host
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError, ConvergenceError
from ..operators.operator import SelfAdjoint
from ..operators.user_operators import as_operator, backend_of
from ..priors.metric import Euclidean
from ..spectrum.arguments import check_operator, check_which, require_hessian, start_block
from ..spectrum.counted_operator import CountedOperator
from ..spectrum.eigenpairs import (
    ROUNDING_FACTOR,
    Eigenpairs,
    inaccurate_products_error,
    largest_residual,
    pairs_from_vectors,
    residual_tolerance,
)
from ..spectrum.shift_invert import INVERSE_RTOL, apply_inverse, count_missed
from .arrays import Distributed
from .ksp import configured, database, in_words
from .lagrangian import ShiftedInverse, assemble_blocks
from .objects import as_mat
from .ranks import Ranks

ENDS = {"LM": "LARGEST_MAGNITUDE", "LA": "LARGEST_REAL", "SA": "SMALLEST_REAL"}
SHARE = 0.5  # of the residuals allowed, which SLEPc's may reach: its scale is of a step before


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
    """Extreme eigenpairs of a symmetric Mat, or those nearest to a shift, by SLEPc's EPS.

    Parameters
    ----------
    H : Mat or Operator, (P, P)
        Symmetric. For the Hessian of an equilibrium (or its parts) the error of the products is
        estimated and counted; for others only their rounding.
    k : int, optional
        How many, 1 <= k <= P.
    which : {"LM", "LA", "SA", "BE"}, optional
        Largest in magnitude, largest, smallest, or both ends (two searches).
    rtol : float, optional
        Residuals ||H x - mu x|| reach rtol times the largest of the values' magnitudes.
    sigma : float, optional
        The k eigenvalues nearest to sigma, in place of `which`: by a search with
        (H - sigma I)^-1, one factorization of the Lagrangian system. For the Hessian of an
        equilibrium whose A, B and curvature are assembled Mats, or made of such.
    certify : bool, optional
        As in `mfdeq.eigsh`: count the eigenvalues between those found, by one or two further
        factorizations.
    v0 : Vec or (P,) array, optional
        The start; by default random, the same at every call and on any number of ranks.
    prefix : str, optional
        Of SLEPc's options: ``-mfdeq_eps_ncv 60 -mfdeq_eps_max_it 500`` and so on. The KSP of
        the Lagrangian system has ``lagrangian_`` after it: ``-mfdeq_lagrangian_pc_type lu`` (of
        an LU no eigenvalues are counted).
    options : dict, optional
        The same without the prefix, where the command line has none: ``{"eps_ncv": 60}``.
    progress : bool, optional
        Show the products as they are made.

    Returns
    -------
    mfdeq.Eigenpairs
        Its vectors are a distributed (P, k) array, the same on any number of ranks but for
        signs; ``vectors[:, j].vec()`` is a Vec of one. All else is held by every rank.

    Raises
    ------
    ConvergenceError
        With the pairs found as `best`, where fewer than k converged, and SLEPc's reason.
    ArgumentError
        For k outside 1 ... P, an unknown `which`, a matrix that is not square, or sigma where
        something is known by its products only.
    SingularStateError
        If sigma is an eigenvalue.

    Notes
    -----
    Without options it is Krylov-Schur without locking. ``eps_tol`` and ``eps_conv`` are not read:
    `rtol` decides. The bounds are as in `mfdeq.eigsh`, which finds the same by its own Lanczos, on
    any number of ranks, and has further options.
    """
    P = check_operator(H, k)
    check_which(which)
    fraction(rtol, "rtol")
    backend = backend_of(H)
    if not isinstance(backend.device, Ranks):
        raise ArgumentError(
            f"mfdeq.petsc.eigsh takes a Mat or an operator on Vecs, {type(H).__name__} came: "
            "use mfdeq.eigsh"
        )
    hessian = as_operator(backend, H, (P, P), "H")
    start = start_block(backend, v0, P, 1)
    if start.shape[1] > 1:
        raise ArgumentError(f"v0 has {start.shape[1]} columns; SLEPc starts from one vector")
    if certify:
        assemble_blocks(require_hessian(hessian))  # refused before the work
    ends = [(which, k)] if which != "BE" else [("SA", k // 2), ("LA", k - k // 2)]
    products = CountedOperator(hessian, progress, Euclidean(backend))
    inverse = None
    try:
        if sigma is None:
            searches = [
                Search(products, n, end, rtol, start, prefix, options) for end, n in ends if n
            ]
        else:
            inverse = S = ShiftedInverse(
                require_hessian(hessian), sigma, prefix=f"{prefix}lagrangian_"
            )
            solves = CountedOperator(S, False, products.metric)
            searches = [Search(solves, k, "LM", INVERSE_RTOL, start, prefix, options, each=True)]
        vectors = backend.xp.concat([search.vectors for search in searches], axis=1)
        norm, method = max(search.norm for search in searches), searches[0].name
        if sigma is not None:
            vectors, norm = (
                apply_inverse(S, vectors, products.metric),
                products.estimate_norm(start),
            )
            method += " with the Lagrangian system"
        pairs = pairs_from_vectors(products, vectors, norm, method)
    finally:
        products.close()
    if vectors.shape[1] < k:
        raise _fewer(pairs, k, searches)
    if not largest_residual(pairs) <= residual_tolerance(pairs, rtol):
        raise inaccurate_products_error(largest_residual(pairs), rtol, pairs)
    if certify:
        pairs.report.missed = count_missed(require_hessian(hessian), pairs, inverse)
    return pairs


class _Multiplied(SelfAdjoint):
    """What SLEPc is given: its products are counted.

    Attributes
    ----------
    error : Exception or None
        What a product has raised: through SLEPc it would leave its matrices half used.
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


class Search:
    """One run of an EPS.

    Attributes
    ----------
    vectors : (P, j) array
        The j <= k eigenvectors that have converged.
    norm : float
        The largest magnitude of the eigenvalues that were seen.
    name : str
        Of the method.
    reason : str
        Why it stopped.
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
        multiplied = _Multiplied(H)
        eps.setOperators(as_mat(multiplied))
        eps.setProblemType(SLEPc.EPS.ProblemType.HEP)
        eps.setType("krylovschur")
        # What has converged is held against the scale as it is then, and not as it once was.
        eps.setKrylovSchurLocking(False)
        eps.setDimensions(nev=k)
        eps.setWhichEigenpairs(getattr(SLEPc.EPS.Which, ENDS[which]))
        eps.setInitialSpace([start[:, 0].vec()])
        with database(prefix, options):
            configured(eps, prefix)
            eps.setConvergenceTest(SLEPc.EPS.Conv.ABS)
            self._aim(eps, 0.0)
            eps.setMonitor(self._watch)
            eps.setStoppingTest(lambda *state: _stopped(multiplied, *state))
            eps.solve()
        self.name = f"SLEPc's {eps.getType()}"
        self.reason = in_words(SLEPc.EPS, eps.getConvergedReason())
        self.vectors = self._found(eps, start)
        eps.destroy()
        if multiplied.error is not None:
            raise multiplied.error

    def _watch(self, eps: Any, step: int, converged: int, values: Any, errors: Any) -> None:
        sizes = [abs(value) for value in values]
        self.norm = max(self.norm, *sizes)
        self._aim(eps, min(sizes[: self.k]) if self.each else max(sizes[: self.k]))

    def _aim(self, eps: Any, scale: float) -> None:
        """Residuals to rtol of that scale, or what rounding of H lets be reached."""
        tol = SHARE * max(self.rtol * scale, ROUNDING_FACTOR * self.eps * self.norm)
        eps.setTolerances(max(tol, host.finfo("float64").tiny), eps.getTolerances()[1])

    def _found(self, eps: Any, start: Array) -> Array:
        count = min(self.k, eps.getConverged())
        block = start.like(host.empty((start.local.shape[0], count)))
        for j in range(count):
            x = Distributed(host.empty(start.local.shape[0]), start.device, start.rows)
            eps.getEigenvector(j, x.vec())
            block[:, j] = x
        return block


def _stopped(H: _Multiplied, eps: Any, step: int, most: int, converged: int, wanted: int) -> int:
    """SLEPc's own test, and whether a product has failed."""
    from slepc4py import SLEPc

    reasons = SLEPc.EPS.ConvergedReason
    if H.error is not None:
        return reasons.CONVERGED_USER
    if converged >= wanted:
        return reasons.CONVERGED_TOL
    return reasons.DIVERGED_ITS if step >= most else reasons.ITERATING


def _fewer(pairs: Eigenpairs, k: int, searches: list[Search]) -> ConvergenceError:
    """The error for fewer pairs than asked for."""
    pairs.report.converged = False
    reasons = " and ".join(search.reason for search in searches)
    return ConvergenceError(
        f"eigsh: {pairs.vectors.shape[1]} of {k} eigenpairs converged, SLEPc says {reasons}. "
        "Raise eps_max_it, eps_ncv or rtol, or ask for fewer; eigenvalues that crowd at this end "
        "of the spectrum converge slowly",
        best=pairs,
        report=pairs.report,
    )
