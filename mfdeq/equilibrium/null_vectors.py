"""Null vectors of a singular A and of its adjoint, in a scaling that units do not change.

Whether A is singular must depend neither on the units of equations and unknowns nor on where A has
entries. Both null vectors of a saddle point matrix may lie where A has none, so that perturbations
|dA| <= eps |A| entry by entry leave it singular, and the entrywise condition number is one. It is
the residual of a null vector that decides here, |A v| beside |A| |v|, after scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..errors import ConvergenceError, SingularStateError
from ..linear import Direct, Factor
from ..linear.equilibration import equilibrate, is_balanced
from ..linear.scaling import Scaling
from ..locks import cached_property
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator

MAX_DENSE_SIZE = 300  # unknowns up to which all singular values are computed at every failure
MAX_DECOMPOSED_SIZE = 1_000  # the same where a failure is likely to come from a singular A
MAX_FACTORIZED_SIZE = 20_000  # unknowns up to which A is factorized for its null vectors
PERTURBATION_ROUNDINGS = 8.0  # of the diagonal that makes a pivot other than zero
INVERSE_ITERATIONS = 3
MAX_CANCELLATION_ROUNDINGS = 1e4  # |A v| beside |A| |v| of a null vector, in rounding units
MAX_BORDERED_ERROR = 1e-6  # of a solve with A bordered by its null vectors
MAX_LOST_ROUNDINGS = 100.0  # a product or a direction of this size, in rounding units, is rounding
MAX_ROUNDING_SHARE = 1e-6  # of the largest entry of a null vector, of entries that may be rounding
GAP = 10.0  # ratio to the least singular value up to which others are zero as well
# Steps of the residual method, where A is not factorized. Each keeps two vectors.
MIN_SEARCH_STEPS, MAX_SEARCH_STEPS, MAX_SEARCH_ENTRIES = 30, 300, 6_000_000


def scaling_of(A: Operator) -> Scaling:
    """Return the scaling that makes rows and columns of A similar in size; empty ones stay."""
    if A.array is None:
        return Scaling.from_scales(A)
    array = _without_empty_lines(A)
    if A.shape[0] > MAX_FACTORIZED_SIZE:
        return Scaling.by_sums(array)  # for a few products
    return Scaling() if is_balanced(array) else Scaling(*equilibrate(array))


def _without_empty_lines(A: Operator) -> Any:
    """Return the matrix with a one on the diagonal of every row and column that is empty."""
    xp, magnitude = A.backend.xp, abs(A.array)
    ones = xp.ones(A.shape[0], dtype=A.backend.dtype, device=A.backend.device)
    empty = ((magnitude @ ones) == 0) | ((magnitude.T @ ones) == 0)
    if not bool(xp.any(empty)):
        return A.array
    return _add_diagonal(A.backend, A.array, xp.where(empty, ones, xp.zeros_like(ones)))


def _add_diagonal(backend: Backend, array: Any, diagonal: Array) -> Any:
    if is_dense(array):
        return array + backend.xp.diag(diagonal)
    return (array + backend.sparse.diags(diagonal, format="csr")).tocsr()


@dataclass(frozen=True)
class NullVectors:
    """Unit vectors v and u with A v = 0 and A' u = 0 to rounding, in the scaling of A.

    Attributes
    ----------
    A : Operator, (N, N)
        Before scaling.
    scaling : Scaling
    right, left : (N,) array
        v and u, of diag(rows) A diag(columns). If there are several, a random combination of them.
    """

    A: Operator
    scaling: Scaling
    right: Array
    left: Array

    @cached_property
    def unscaled(self) -> tuple[Array, Array]:
        """The null vectors of A and of its adjoint, of unit length."""
        norm = self.A.backend.norm
        right = self.scaling.multiply_columns(self.right)
        left = self.scaling.multiply_rows(self.left)
        return right / norm(right), left / norm(left)

    @cached_property
    def cancellation(self) -> float:
        """The larger of |A v| / |A| |v| and |A' u| / |A|' |u|; zero in empty columns and rows."""
        v, u = self.unscaled
        return max(
            null_residual(self.A, v, self.scaling), null_residual(self.A, u, self.scaling, True)
        )


def cancellation(A: Operator, x: Array, scaling: Scaling, adjoint: bool = False) -> float:
    """Return |A x| beside |A| |x|, or the same of the adjoint, with rows in units of `scaling`."""
    norm = A.backend.norm
    scaled = scaling.multiply_columns if adjoint else scaling.multiply_rows
    operator: Any = A.H if adjoint else A  # type: ignore[attr-defined]
    product = norm(scaled(operator._apply(x)))
    terms = norm(scaled(operator.abs_apply(x)))
    if terms == 0.0:
        return 0.0
    return product / terms if math.isfinite(product) else math.inf


def null_residual(A: Operator, x: Array, scaling: Scaling, adjoint: bool = False) -> float:
    """Return the `cancellation` of a vector that may be null, with or without its small entries.

    One in an empty column has no terms but those of the rounding errors in its other entries.
    """
    xp = A.backend.xp
    size = xp.abs((scaling.divide_rows if adjoint else scaling.divide_columns)(x))
    large = xp.where(size > MAX_ROUNDING_SHARE * xp.max(size), x, 0.0 * x)
    return min(cancellation(A, y, scaling, adjoint) for y in (x, large))


def find_null_vectors(
    A: Operator, factor: Factor | None = None, accuracy: float = 0.0
) -> NullVectors | None:
    """Find the null vectors of A and of its adjoint, or None if A is regular or that is not known.

    Parameters
    ----------
    A : Operator, (N, N)
    factor : Factor, optional
        A factor of a matrix near A, for an A that is too large to factorize here.
    accuracy : float, optional
        Relative accuracy of the entries of A, if it is worse than rounding.

    Notes
    -----
    A small A is decomposed by singular values. The matrix of a larger one, with a diagonal of the
    size of rounding added so that no pivot is zero, is factorized for inverse iteration. Without a
    matrix the factor takes its place. If that is none of A, minimal residual steps for a random
    right-hand side leave the part of it that lies along u; the same with the adjoint leaves v.
    """
    n = A.shape[0]
    gathers = A.array is None and MAX_DECOMPOSED_SIZE < n <= MAX_FACTORIZED_SIZE
    if gathers and (entries := A.gathered_entries()) is not None:
        return _of_gathered_entries(A, entries, accuracy)
    scaling = scaling_of(A)
    limit = max(MAX_CANCELLATION_ROUNDINGS * A.backend.eps, 10.0 * accuracy)
    direct = factor is not None and not factor.iterative
    found: NullVectors | None = None
    try:
        if n <= MAX_DECOMPOSED_SIZE:
            found = _by_singular_values(A, scaling, limit)
        elif A.array is not None and (direct or n <= MAX_FACTORIZED_SIZE):
            found = _by_inverse_iteration(A, scaling)
        elif factor is not None:
            found = _by_inverse_iteration(A, scaling, factor)
            if not (direct or found.cancellation <= limit):
                limit = max(limit, A.backend.eps**0.4)
                found = _by_residuals(A, scaling, factor)
    except (
        ConvergenceError,
        SingularStateError,
        ArithmeticError,
        MemoryError,
        host.linalg.LinAlgError,
    ):
        return None
    return found if found is not None and found.cancellation <= limit else None


def _of_gathered_entries(A: Operator, entries: Any, accuracy: float) -> NullVectors | None:
    """Find the null vectors of a matrix of several processes on the first one."""
    backend, n = A.backend, A.shape[0]

    def find() -> tuple[Any, ...] | None:
        found = find_null_vectors(Matrix(Backend.of(host.zeros(0)), entries), None, accuracy)
        if found is None:
            return None
        return found.scaling.rows, found.scaling.columns, found.right, found.left

    found = backend.on_first_rank(find)
    if found is None:
        return None
    rows, columns, right, left = (None if x is None else backend.from_host(x, n) for x in found)
    return NullVectors(A, Scaling(rows, columns), right, left)


def _by_singular_values(A: Operator, scaling: Scaling, limit: float) -> NullVectors:
    backend, n = A.backend, A.shape[0]
    left, sigma, right = host.linalg.svd(scaled_on_host(A, scaling))
    # Products with A round, so that several zero singular values differ.
    null = sigma <= max(GAP * sigma[-1], 0.1 * limit * sigma[0])
    dtype = array_on_host(backend.zeros(0)).dtype
    weights = 1.0 + host.random.default_rng(7).random(int(null.sum()))

    def combined(vectors: Any) -> Array:
        x = weights @ vectors[null]
        return backend.from_host((x / host.linalg.norm(x)).astype(dtype), n)

    return NullVectors(A, scaling, combined(right), combined(left.T))


def _by_inverse_iteration(
    A: Operator, scaling: Scaling, factor: Factor | None = None
) -> NullVectors:
    """Iterate with a factorization of the perturbed scaled A, or with a given factor of A."""
    if factor is None:
        factor = Direct().setup(Matrix(A.backend, perturbed(A, scaling)))
    norm, apply = A.backend.norm, _application(factor)
    u = A.backend.random(A.shape[0], seed=13)
    for _ in range(INVERSE_ITERATIONS):
        v = apply(u, False)
        v = v / norm(v)
        u = apply(v, True)
        u = u / norm(u)
    return NullVectors(A, scaling, v, u)


def perturbed(A: Operator, scaling: Scaling) -> Any:
    """Return the scaled matrix with a random diagonal of the size of rounding added."""
    backend, scaled = A.backend, scaling.apply(A.array)
    size = PERTURBATION_ROUNDINGS * backend.eps
    diagonal = size * (1.0 + backend.xp.abs(backend.random(A.shape[0], seed=17)))
    largest = float(backend.xp.max(abs(scaled) @ backend.xp.ones_like(diagonal)))
    return _add_diagonal(backend, scaled, diagonal * (largest if largest > 0.0 else 1.0))


def bordered_solve(A: Operator, null: NullVectors) -> Callable[[Array], Array] | None:
    """Return x(b) with (R A C) x + u y = b and v'x = 0, for null vectors v and u.

    None if A has no entries and is large, or has more null vectors.
    """
    backend, n, scaling = A.backend, A.shape[0], null.scaling
    u, v = null.left, null.right
    try:
        if n <= MAX_DENSE_SIZE:
            u, v = array_on_host(u), array_on_host(v)
            matrix = host.block([[scaled_on_host(A, scaling), u[:, None]], [v, 0.0]])
            if host.linalg.cond(matrix) * backend.eps > MAX_BORDERED_ERROR:
                return None
            inverse = host.linalg.inv(matrix)[:n, :n]
            return lambda b: backend.from_host((inverse @ array_on_host(b)).astype(u.dtype), n)
        if A.array is None or is_dense(A.array):
            return None
        matrix = backend.sparse.bmat([[perturbed(A, scaling), u[:, None]], [v[None, :], None]])
        factor = Direct().setup(Matrix(backend, matrix.tocsr()))
        zero = backend.zeros(1)
        return lambda b: factor._attempt(backend.xp.concat([b, zero]), 0.1, False)[:n]
    except (SingularStateError, ArithmeticError, MemoryError, host.linalg.LinAlgError):
        return None


def scaled_on_host(A: Operator, scaling: Scaling) -> Any:
    """Return the scaled matrix, dense, in float64 on the host."""
    n = A.shape[0]
    dense = array_on_host(A._apply(A.backend.eye(n, n))).astype("float64")
    rows, columns = (
        host.ones(n) if x is None else array_on_host(x).astype("float64")
        for x in (scaling.rows, scaling.columns)
    )
    return rows[:, None] * dense * columns


def _by_residuals(A: Operator, scaling: Scaling, factor: Factor) -> NullVectors | None:
    steps = max(MIN_SEARCH_STEPS, min(MAX_SEARCH_STEPS, MAX_SEARCH_ENTRIES // A.shape[0]))
    left = minimal_residual(A, scaling, factor, steps).residual
    right = minimal_residual(A, scaling, factor, steps, adjoint=True).residual
    return NullVectors(A, scaling, right, left)


@dataclass(frozen=True)
class MinimalResidual:
    """The residual of steps for a random right-hand side of unit length.

    Attributes
    ----------
    residual : (N,) array
        Of unit length, in the scaling of A.
    size : float
        Its norm, before that.
    growth : float
        The norm of the approximate solution.
    stagnated : bool
        Whether the last step did not reduce the norm by a tenth.
    """

    residual: Array
    size: float
    growth: float
    stagnated: bool


def minimal_residual(
    A: Operator,
    scaling: Scaling,
    factor: Factor,
    steps: int,
    rtol: float = 0.0,
    adjoint: bool = False,
) -> MinimalResidual:
    """Reduce the residual of a random right-hand side by GCR, preconditioned by a factor.

    Each step is one application of the preconditioner and one product with A. If A is singular,
    the part of the right-hand side along the null vector of the adjoint remains.

    References
    ----------
    S. C. Eisenstat, H. C. Elman and M. H. Schultz, Variational iterative methods for nonsymmetric
    systems of linear equations, SIAM J. Numer. Anal. 20 (1983).
    """
    backend: Backend = A.backend
    norm, vecdot = backend.norm, backend.xp.vecdot
    sides = (scaling.divide_rows, scaling.divide_columns, scaling.multiply_rows)
    if adjoint:
        sides = (scaling.divide_columns, scaling.divide_rows, scaling.multiply_columns)
    to_equations, to_unknowns, from_equations = sides
    operator: Any = A.H if adjoint else A  # type: ignore[attr-defined]
    apply = _application(factor)
    r = backend.random(A.shape[0], seed=19)
    r = r / norm(r)
    x = 0.0 * r
    directions: list[tuple[Array, Array]] = []  # z and A z
    size, stagnated = 1.0, False
    largest, rounding = 0.0, MAX_LOST_ROUNDINGS * backend.eps
    for _ in range(steps):
        z = apply(to_equations(r), adjoint)
        if not bool(backend.xp.all(backend.xp.isfinite(z))):
            stagnated = True
            break
        z, q = to_unknowns(z), from_equations(operator._apply(z))
        whole = norm(q)
        rate = whole / max(norm(z), backend.smallest_normal)
        largest = max(largest, rate)
        if not rate > rounding * largest:  # z is a null vector, and q is rounding
            stagnated = True
            break
        for _ in range(2):
            for other, image in directions:
                along = float(vecdot(image, q))
                z, q = z - along * other, q - along * image
        length = norm(q)
        if not length > rounding * whole or not math.isfinite(length):
            stagnated = True
            break
        z, q = z / length, q / length
        along = float(vecdot(q, r))
        x, r = x + along * z, r - along * q
        directions.append((z, q))
        before, size = size, norm(r)
        stagnated = size > 0.9 * before
        if size <= rtol:
            break
    return MinimalResidual(r / size if size > 0.0 else r, size, norm(x), stagnated)


def has_preconditioner(factor: Factor) -> bool:
    """Return whether one application of a factor is less than a solve to some accuracy."""
    factor = factor.working
    if not factor.iterative:
        return True
    own = type(factor)._approximate is not Factor._approximate
    return own and getattr(factor, "M", factor) is not None


def _application(factor: Factor) -> Callable[[Array, bool], Array]:
    """Return one application of the preconditioner; the identity where there is none."""
    if has_preconditioner(factor):
        return factor.working._approximate
    return lambda r, adjoint: r
