"""Sparsity patterns of the two Jacobians of a function, and their assembly from products.

A Jacobian with a known pattern takes one product for each colour, a group of columns without a
common row [1]_ [2]_. Colouring and detection are implemented in `mfdeq.operators.probing`.

References
----------
.. [1] A. R. Curtis, M. J. D. Powell and J. K. Reid, "On the estimation of sparse Jacobian
   matrices", IMA Journal of Applied Mathematics 13 (1974), 117-119.
.. [2] T. F. Coleman and J. J. Moré, "Estimation of sparse Jacobian matrices and graph coloring
   problems", SIAM Journal on Numerical Analysis 20 (1983), 187-209.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from scipy import sparse

from ..arrays.backend import Array, Backend, array_on_host, host, is_dense, is_sparse
from ..errors import ArgumentError, DerivativeError
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from ..operators.pattern_decoding import decode_pattern
from ..operators.probing import ColouredPattern, detect_pattern, host_pattern

DETECT = "detect"
FIELDS = ("d_state", "d_params")
MIN_DECODED_COLUMNS = 64  # columns from which a pattern is decoded rather than halved
# Accuracy of products from which patterns are decoded; differences with long steps have few digits.
EXACT_RTOL, DIFFERENCES_RTOL = 1e-12, 1e-6
DETECTION_POINTS = 2  # nearby points that are used in detection besides the first point
MAX_SPARSE_DENSITY = 0.25  # share of entries up to which a detected pattern is used
MAX_DENSE_COLUMNS = 5_000  # columns up to which a few are tried before a pattern is detected
MAX_SHARED_ROW_COLUMNS = 512  # columns up to which a matrix with a full row is dense
FULL_ROW_DENSITY = 0.75  # share of entries of a row that is called full
MIN_SPARSE_SIZE = 16  # rows or columns below which colours alone decide whether it is used
MAX_COLOUR_SHARE = 0.5  # of the number of columns, up to which a pattern saves products
MAX_FULL_COLUMNS = 64  # of a dense matrix up to which it has a pattern, where one is asked for


class Sparsity:
    """The patterns of df/dh and df/dtheta, and their use to assemble the two matrices.

    Parameters
    ----------
    patterns : None, "detect" or pair
        None for no patterns, "detect" for patterns detected by products, or a pair of an (N, N) and
        an (N, P) sparse matrix or array, each of which may also be None or "detect".
    state_size, param_size : int
        The number of unknowns N and of parameters P.
    rows : int, optional
        The number of rows, by default N. One row is dense unless a pattern says otherwise.

    Attributes
    ----------
    patterns : tuple of two
        A sparse matrix, "detect" or None for each Jacobian.
    coloured : list of two ColouredPattern or None
        The coloured patterns; None if a pattern is not known.
    """

    def __init__(
        self, patterns: Any, state_size: int, param_size: int, rows: int | None = None
    ) -> None:
        rows = state_size if rows is None else rows
        shapes = (rows, state_size), (rows, param_size)
        pair = (patterns, patterns) if patterns is None or isinstance(patterns, str) else patterns
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise _pattern_error(type(patterns).__name__, shapes)
        pair = [_as_pattern(pattern) for pattern in pair]
        for pattern, shape in zip(pair, shapes, strict=True):
            if is_sparse(pattern):
                if tuple(pattern.shape) != shape:
                    raise _pattern_error(f"a pattern of shape {tuple(pattern.shape)}", shapes)
            elif pattern is not None and not (isinstance(pattern, str) and pattern == DETECT):
                kind = repr(pattern) if isinstance(pattern, str) else type(pattern).__name__
                raise _pattern_error(kind, shapes)
        self.patterns = tuple(pair)
        self.coloured = [ColouredPattern(p) if is_sparse(p) else None for p in pair]
        self.shapes = shapes
        # Whether detection found the Jacobian to be dense, or there is nothing to detect.
        self._dense = [rows == 1 and p is None for p in pair]
        self._full: list[Any] = [None, None]  # the patterns of those that are
        self._joint: tuple[list[Any], ColouredPattern] | None = None  # with what it was made of

    def assemble(
        self,
        which: int,
        jacobian: Operator,
        nearby: Callable[[int], Operator],
        rtol: float,
        noise: Array | None = None,
    ) -> Operator:
        """Return a Jacobian, as a matrix if its pattern is known or detected.

        Parameters
        ----------
        which, jacobian, nearby, rtol, noise
            As in `assemble_with_pattern`.

        Raises
        ------
        DerivativeError
            If a pattern passed by the user lacks entries.
        """
        return self.assemble_with_pattern(which, jacobian, nearby, rtol, noise)[0]

    def assemble_with_pattern(
        self,
        which: int,
        jacobian: Operator,
        nearby: Callable[[int], Operator],
        rtol: float,
        noise: Array | None = None,
    ) -> tuple[Operator, ColouredPattern | None]:
        """Return a Jacobian, as a matrix if its pattern is known or detected, and the pattern.

        Another thread may replace a detected pattern at any time, so this one is returned, too.

        Parameters
        ----------
        which : {0, 1}
            0 for df/dh, 1 for df/dtheta.
        jacobian : Operator
        nearby : callable
            ``nearby(i)`` returns the operator at a nearby point, different for each i.
        rtol : float
            Relative tolerance for the comparison of products with the matrix and the operator.
        noise : (N,) array, optional
            The absolute noise of products.

        Raises
        ------
        DerivativeError
            If a pattern passed by the user lacks entries.
        """
        if self.patterns[which] is None or self._dense[which]:
            return jacobian, None
        coloured = self.coloured[which]
        if coloured is not None:
            matrix = Matrix(jacobian.backend, coloured.matrix_of(jacobian))
            row = _row_that_differs(matrix, jacobian, rtol, noise)
            if row is None:
                return matrix, coloured
            if is_sparse(self.patterns[which]):
                raise DerivativeError(
                    f"the pattern of {FIELDS[which]} lacks entries of row {row}: pass a pattern "
                    "with all entries that can be nonzero, or use sparsity='detect'"
                )
        if coloured is None and (dense := self._dense_matrix(which, jacobian)) is not None:
            return dense, None
        decoded = self._decoded_matrix(which, jacobian, nearby, rtol, noise)
        if decoded is not None:
            return decoded
        # If a detected pattern lacks entries, detect the pattern here and add it to the old one.
        coloured = self._detect(which, jacobian, [nearby(i) for i in range(DETECTION_POINTS)])
        if coloured is None:
            return jacobian, None
        return Matrix(jacobian.backend, coloured.matrix_of(jacobian)), coloured

    def joint_pattern(self) -> ColouredPattern | None:
        """Return the coloured pattern with respect to (theta, h), or None if one is dense."""
        parts = [
            self._pattern(which) if found is None else found.pattern
            for which, found in enumerate(self.coloured)
        ]
        if parts[0] is None or parts[1] is None:
            return None
        before = self._joint  # which another thread may replace
        if before is None or any(x is not y for x, y in zip(before[0], parts, strict=True)):
            before = self._joint = parts, ColouredPattern(sparse.hstack(parts[::-1]))
        return before[1]

    def _pattern(self, which: int) -> Any:
        """Return the full pattern of a small dense Jacobian, or None."""
        shape = self.shapes[which]
        if not self._dense[which] or shape[1] > MAX_FULL_COLUMNS:
            return None
        if self._full[which] is None:
            self._full[which] = sparse.csr_matrix(host.ones(shape))
        return self._full[which]

    def _decoded_matrix(
        self,
        which: int,
        jacobian: Operator,
        nearby: Callable[[int], Operator],
        rtol: float,
        noise: Array | None,
    ) -> tuple[Operator, ColouredPattern] | None:
        """Return the matrix and its pattern if few products show the pattern, or None."""
        if jacobian.shape[1] < MIN_DECODED_COLUMNS:
            return None
        before = self.coloured[which]
        # Entries may be zero by accident at the point itself.
        operator = nearby(0) if before is None else jacobian
        exact = rtol <= 2 * host.finfo("float64").eps ** 0.5
        pattern = decode_pattern(operator, EXACT_RTOL if exact else DIFFERENCES_RTOL)
        if pattern is None:
            return None
        if before is not None:
            pattern = host_pattern(pattern + before.pattern)
        rows, columns = pattern.shape
        if pattern.nnz > MAX_SPARSE_DENSITY * rows * columns:
            return None
        coloured = ColouredPattern(pattern)
        matrix = Matrix(jacobian.backend, coloured.matrix_of(jacobian))
        if _row_that_differs(matrix, jacobian, rtol, noise) is not None:
            return None
        self.coloured[which] = coloured
        return matrix, coloured

    def _dense_matrix(self, which: int, jacobian: Operator) -> Operator | None:
        """Return the matrix if a few of its columns and all together are dense, or None."""
        backend, (m, n) = jacobian.backend, jacobian.shape
        if n > MAX_DENSE_COLUMNS or min(m, n) < MIN_SPARSE_SIZE:
            return None
        sample = host.linspace(0, n - 1, MIN_SPARSE_SIZE).astype(int)
        columns = array_on_host(jacobian._apply(backend.from_host(host.eye(n)[:, sample]))) != 0
        # Columns that share a row take a product each, whatever the pattern.
        one_colour_each = n <= MAX_SHARED_ROW_COLUMNS and _has_full_row(columns)
        if columns.mean() <= MAX_SPARSE_DENSITY and not one_colour_each:
            return None
        array = jacobian._apply(backend.eye(n, n))
        entries = array_on_host(array) != 0
        one_colour_each = one_colour_each and _has_full_row(entries)
        if entries.mean() <= MAX_SPARSE_DENSITY and not one_colour_each:
            return None
        self._dense[which] = True
        return Matrix(backend, array)

    def _detect(
        self, which: int, jacobian: Operator, others: list[Operator]
    ) -> ColouredPattern | None:
        before = self.coloured[which]
        # `detect_pattern` raises ArgumentError if the pattern is not sparse.
        with contextlib.suppress(ArgumentError):
            pattern = detect_pattern(jacobian, *others)
            if before is not None:
                pattern = host_pattern(pattern + before.pattern)
            rows, columns = pattern.shape
            coloured = ColouredPattern(pattern)
            sparse_enough = pattern.nnz <= MAX_SPARSE_DENSITY * rows * columns
            small = min(rows, columns) < MIN_SPARSE_SIZE
            if sparse_enough or (small and coloured.count <= MAX_COLOUR_SHARE * columns):
                self.coloured[which] = coloured
                return coloured
        self.coloured[which], self._dense[which] = None, True
        return None


def _has_full_row(entries: Any) -> bool:
    return bool(entries.mean(axis=1).max() >= FULL_ROW_DENSITY)


def _as_pattern(pattern: Any) -> Any:
    """Return a dense pattern as a sparse matrix, and anything else as it is."""
    if not is_dense(pattern) or pattern.ndim != 2:
        return pattern
    return sparse.csr_matrix(array_on_host(pattern) != 0)


def _row_that_differs(
    matrix: Operator, jacobian: Operator, rtol: float, noise: Array | None
) -> int | None:
    """Return the row in which products with a random vector differ most, or None if they agree.

    Every row is compared on its own, since rows may have different units.
    """
    backend: Backend = jacobian.backend
    xp = backend.xp
    v: Array = backend.random(jacobian.shape[1], seed=13)
    difference = xp.abs(matrix._apply(v) - jacobian._apply(v))
    size = matrix.abs_apply(v)
    allowed = rtol * size + backend.eps * backend.norm(size) + xp.finfo(backend.dtype).tiny
    excess = difference / (allowed if noise is None else allowed + noise)
    worst = int(xp.argmax(excess))
    return worst if float(excess[worst]) > 1.0 else None


def _pattern_error(got: str, shapes: Any) -> ArgumentError:
    return ArgumentError(
        f"sparsity: expected 'detect', None, or a pair of sparse matrices or arrays of shapes "
        f"{shapes[0]} and {shapes[1]}, each of which may be 'detect' or None, got {got}"
    )
