"""Null spaces of a singular A and of its adjoint, with bases that can be read.

`null_vectors` finds one pair of null vectors. Here all of them are found, and combined such that
each belongs to one connected component of A where possible, with few entries, which are small
integers where they can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.linalg

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.sparse import sparse_on_host
from ..errors import ConvergenceError, SingularStateError
from ..linear import Direct
from ..linear.components import components_of
from ..linear.null_space import are_null
from ..linear.scaling import Scaling
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from .null_vectors import (
    INVERSE_ITERATIONS,
    MAX_CANCELLATION_ROUNDINGS,
    MAX_DECOMPOSED_SIZE,
    MAX_FACTORIZED_SIZE,
    cancellation,
    perturbed,
    scaled_on_host,
    scaling_of,
)

MAX_ACCURACY = 1e-3  # of the entries of A, above which nothing can be said
MIN_GAP = 10.0  # ratio of singular values that separates the null space from the rest
ZERO_SHARE = 0.1  # of the limit of cancellation, below which a singular value is zero
EXTRA_COLUMNS = 3  # of the block beside those expected
MAX_COMPONENTS = 20  # on each of which a constant is tried
RANK_RTOL = 1e-6  # of singular values of parts of orthonormal vectors
SMALL_ENTRY = 1e-8  # relative to the largest, below which an entry is rounding
LARGEST_DENOMINATOR = 12  # of fractions that are taken for exact
FRACTION_RTOL = 1e-7
MAX_DEFECT_GROWTH = 4.0  # by taking entries for fractions


@dataclass(frozen=True)
class NullSpaces:
    """Bases of the null spaces of A and of its adjoint.

    Attributes
    ----------
    right, left : (N, k) arrays, on the host
        `right` has no columns where it is not known.
    rows, columns : (N,) arrays, on the host
        The scaling in which rows and columns of A are of similar size.
    row_labels, column_labels : (N,) arrays of int
        The connected component of each equation and unknown.
    """

    right: Any
    left: Any
    rows: Any
    columns: Any
    row_labels: Any
    column_labels: Any

    @property
    def dimension(self) -> int:
        """The number of null vectors."""
        return self.left.shape[1]


def find_null_spaces(
    A: Operator, expected: int, accuracy: float = 0.0, factorize: bool = True
) -> NullSpaces | None:
    """Find the null spaces of A and of its adjoint; None if A is too large, or too inaccurate.

    Those that the user has declared are taken as they are.

    Parameters
    ----------
    A : Operator, (N, N)
    expected : int
        The dimension that is preferred where singular values leave a choice.
    accuracy : float, optional
        Relative accuracy of the entries of A, if it is worse than rounding.
    factorize : bool, optional
        Whether a matrix that is too large for singular values may be factorized.

    Notes
    -----
    A small A is decomposed by singular values. Of a larger one, constants on connected components
    are tried; otherwise the matrix is perturbed by rounding and factorized for block inverse
    iteration. That of several processes is gathered on the first one.
    """
    if A.declared_null_spaces is not None:
        return A.declared_null_spaces
    if accuracy > MAX_ACCURACY:
        return None
    n = A.shape[0]
    gathers = A.array is None and MAX_DECOMPOSED_SIZE < n <= MAX_FACTORIZED_SIZE
    if gathers and (entries := A.gathered_entries()) is not None:
        matrix = Matrix(Backend.of(host.zeros(0)), entries)
        return A.backend.on_first_rank(
            lambda: find_null_spaces(matrix, expected, accuracy, factorize)
        )
    if n > MAX_DECOMPOSED_SIZE and (constant := _constants(A, expected)) is not None:
        return constant
    scaling = scaling_of(A)
    zero = ZERO_SHARE * max(MAX_CANCELLATION_ROUNDINGS * A.backend.eps, 10.0 * accuracy)
    try:
        if n <= MAX_DECOMPOSED_SIZE:
            dense = scaled_on_host(A, scaling)
            left, sigma, right = host.linalg.svd(dense)
            left, right, sigma = left[:, ::-1], right[::-1].T, sigma[::-1]
            largest = float(sigma[-1])
        elif A.array is not None and n <= MAX_FACTORIZED_SIZE and factorize:
            left, right, sigma, largest = _by_block_iteration(A, scaling, expected + EXTRA_COLUMNS)
        else:
            return None
    except (ConvergenceError, SingularStateError, ArithmeticError, host.linalg.LinAlgError):
        return None
    count = _dimension(sigma, largest, zero, expected)
    pattern = abs(sparse_on_host(A.array if A.array is not None else scaled_on_host(A, scaling)))
    if A.array is None and pattern.nnz:  # products round
        pattern.data[pattern.data <= A.backend.eps * pattern.data.max()] = 0.0
    pattern.eliminate_zeros()
    row_labels, column_labels = _components(pattern)
    rows, columns = (
        host.ones(n) if x is None else array_on_host(x).astype("float64")
        for x in (scaling.rows, scaling.columns)
    )

    def defect(adjoint: bool) -> Callable[[Any], float]:
        return lambda x: cancellation(A, A.backend.from_host(x, n), scaling, adjoint)

    return NullSpaces(
        readable_basis(right[:, :count], columns, column_labels, defect(False)),
        readable_basis(left[:, :count], rows, row_labels, defect(True)),
        *(rows, columns, row_labels, column_labels),
    )


def null_defects(A: Operator, W: Array) -> list[float]:
    """Return |A'w| / |A|'|w| of each column w; zero if it is rounding in each equation."""
    if are_null(A.H, W):  # type: ignore[attr-defined]
        return [0.0] * W.shape[1]
    scaling = scaling_of(A)
    return [cancellation(A, W[:, k], scaling, True) for k in range(W.shape[1])]


def _constants(A: Operator, expected: int) -> NullSpaces | None:
    """Return constants on the components, if as many of them as expected are left null vectors.

    They are those of networks in which what leaves one node enters another. In saddle points they
    are constants of the pressures alone, whose diagonal is zero. If constants are no right null
    vectors, these remain unknown.
    """
    if A.array is None and not A.has_single_entries:
        return None
    backend, n = A.backend, A.shape[0]
    row_labels = column_labels = host.zeros(n, dtype=int)
    without_diagonal = host.zeros(n, dtype=bool)
    if A.array is not None:  # otherwise the entries are those of another library
        matrix = sparse_on_host(A.array)
        row_labels, column_labels = _components(matrix)
        without_diagonal = matrix.diagonal() == 0.0
    labels = host.unique(row_labels)
    if labels.size > MAX_COMPONENTS:
        return None
    transposed: Operator = A.H  # type: ignore[attr-defined]

    def constant(members: Any, adjoint: bool) -> Any:
        for some in (members, members & without_diagonal):
            x = backend.from_host(some[:, None].astype("float64"), n)
            if some.any() and are_null(transposed if adjoint else A, x):
                return some.astype("float64")
        return None

    found = {label: constant(row_labels == label, True) for label in labels}
    found = {label: members for label, members in found.items() if members is not None}
    if len(found) != expected:
        return None
    rights = [constant(column_labels == label, False) for label in found]
    rows, columns = _inverse_roots_of_sums(A), _inverse_roots_of_sums(transposed)
    left = host.stack(list(found.values()), axis=1)
    known = all(members is not None for members in rights)
    right = host.stack(rights, axis=1) if known else host.zeros((n, 0))
    return NullSpaces(right, left, rows, columns, row_labels, column_labels)


def _dimension(sigma: Any, largest: float, zero: float, expected: int) -> int:
    """Return how many of the ascending singular values are zero."""
    clear = sigma <= zero * largest
    if 0 < expected < sigma.size and clear[expected - 1]:
        following = max(float(sigma[expected - 1]), 1e-2 * zero * largest)
        if sigma[expected] > MIN_GAP * following:
            return expected
    return int(clear.sum())


def _by_block_iteration(A: Operator, scaling: Scaling, k: int) -> tuple[Any, Any, Any, float]:
    """Return approximate singular vectors and values, the least first, and the norm of A."""
    backend, n = A.backend, A.shape[0]
    k = min(k, n)
    matrix = perturbed(A, scaling)
    factor = Direct().setup(Matrix(backend, matrix))
    scaled = sparse_on_host(scaling.apply(A.array)).astype("float64")

    def solve(x: Any, adjoint: bool) -> Any:
        y = array_on_host(factor._attempt(backend.asarray(backend.from_host(x)), 0.1, adjoint))
        return host.linalg.qr(y.astype("float64"))[0].astype(x.dtype)

    dtype = array_on_host(backend.zeros(0)).dtype
    left = host.random.default_rng(13).standard_normal((n, k)).astype(dtype)
    for _ in range(INVERSE_ITERATIONS + 1):
        right = solve(left, False)
        left = solve(right, True)
    inner = left.T.astype("float64") @ (scaled @ right.astype("float64"))
    u, sigma, v = host.linalg.svd(inner)
    right, left = right @ v.T, left @ u
    # What is left of A along each of them, which the small matrix does not show.
    images = host.linalg.norm(scaled @ right, axis=0), host.linalg.norm(scaled.T @ left, axis=0)
    sigma = host.maximum(sigma, host.maximum(*images))
    order = host.argsort(sigma, kind="stable")
    norm = float(host.sqrt(abs(scaled).sum(axis=0).max() * abs(scaled).sum(axis=1).max()))
    return left[:, order], right[:, order], sigma[order], norm


def _components(matrix: Any) -> tuple[Any, Any]:
    """Return the number of the connected component of each row and of each column."""
    found = components_of(matrix)
    if found is None:
        return (host.zeros(matrix.shape[0], dtype=int),) * 2
    return found.rows.labels, found.columns.labels


def _inverse_roots_of_sums(A: Operator) -> Any:
    """Return one over the square roots of the sums of |A| along rows: a scaling, by one product.

    Equations of which the sum vanishes have the same units, so that no better one is needed.
    """
    sums = array_on_host(A.abs_apply(A.backend.zeros(A.shape[1]) + 1.0)).astype("float64")
    return 1.0 / host.sqrt(host.where(sums > 0.0, sums, 1.0))


def readable_basis(vectors: Any, scale: Any, labels: Any, defect: Callable[[Any], float]) -> Any:
    """Return a basis of the same space with few entries, each vector in one component.

    Parameters
    ----------
    vectors : (N, k) array
        Orthonormal.
    scale : (N,) array
        The basis is that of ``scale * vectors``.
    labels : (N,) array of int
        The component of each row.
    defect : callable
        ``defect(x)`` returns how far x is from a null vector, relative to its terms.

    Returns
    -------
    (N, k) array
        The largest entry of each column is 1, and entries are fractions where they are close to
        those of small integers. No entry is negative where another column helps. The columns are
        ordered by their first entry.
    """
    k, found = vectors.shape[1], []
    if k == 0:
        return vectors
    size = abs(vectors).max(axis=1)
    for label in dict.fromkeys(labels[size > SMALL_ENTRY]):
        inside = host.flatnonzero(labels == label)
        part = vectors[inside]
        u, sigma, _ = host.linalg.svd(part, full_matrices=False)
        rank = int((sigma > RANK_RTOL).sum())
        for column in _echelon(u[:, :rank]).T:
            x = host.zeros(vectors.shape[0])
            x[inside] = column
            found.append(x)
    if len(found) != k:  # not separated to rounding
        found = list(_echelon(vectors).T)
    basis = host.stack(_nonnegative([_clean(x, scale, defect) for x in found]), axis=1)
    first = [int(host.flatnonzero(x)[0]) for x in basis.T]
    return basis[:, host.argsort(first, kind="stable")]


def _nonnegative(columns: list[Any]) -> list[Any]:
    """Add other columns to those with negative entries, where none is left in the sum."""
    found = list(columns)
    for k, x in enumerate(columns):
        negative = x < 0.0
        if not negative.any():
            continue
        for y in (y for j, y in enumerate(found) if j != k):
            if (y >= 0.0).all() and (y[negative] > 0.0).all():
                total = x + (-x[negative] / y[negative]).max() * y
                found[k] = total / total.max()
                break
    return found


def _echelon(vectors: Any) -> Any:
    """Return the combinations of vectors with the identity in the rows of pivots."""
    _, _, pivots = scipy.linalg.qr(vectors.T, mode="economic", pivoting=True)
    return host.linalg.solve(vectors[pivots[: vectors.shape[1]]].T, vectors.T).T


def _clean(x: Any, scale: Any, defect: Callable[[Any], float]) -> Any:
    """Return a vector in its own units, without rounding in small entries and in fractions."""
    x = host.where(abs(x) > SMALL_ENTRY * abs(x).max(), x, 0.0) * scale
    x = x / x[host.argmax(abs(x))]
    for q in range(1, LARGEST_DENOMINATOR + 1):
        integers = host.round(q * x)
        if (abs(q * x - integers) <= FRACTION_RTOL * abs(q * x)).all():
            exact = integers / q
            return exact if defect(exact) <= MAX_DEFECT_GROWTH * defect(x) else x
    return x


def pivotal_rows(basis: Any, rows: Any) -> list[int]:
    """Return one equation for each redundant combination, with a large part in it.

    Parameters
    ----------
    basis : (N, m) array
    rows : (N,) array
        The scaling of the equations.
    """
    weighted = (basis / rows[:, None]).T
    weighted = weighted / host.linalg.norm(weighted, axis=1)[:, None]
    _, _, pivots = scipy.linalg.qr(weighted, mode="economic", pivoting=True)
    return [int(i) for i in pivots[: basis.shape[1]]]
