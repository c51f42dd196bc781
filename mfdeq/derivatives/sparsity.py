"""Sparsity patterns of the two Jacobians of a function: given, detected, and assembled by colours.

A Jacobian with a known pattern takes one product for each colour, that is each group of columns
without a row in common [1]_ [2]_. The colouring and the detection themselves are in
`mfdeq.operators.probing`.

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

from ..arrays.backend import Array, Backend, is_sparse
from ..errors import ArgumentError, DerivativeError
from ..operators.operator import Matrix, Operator
from ..operators.probing import ColouredPattern, detect_pattern, host_pattern

DETECT = "detect"
FIELDS = ("d_state", "d_params")
DETECTION_POINTS = 2  # nearby points at which a pattern is looked for, besides the first one
MAX_SPARSE_DENSITY = 0.25  # the share of entries up to which a detected pattern is used
MIN_SPARSE_SIZE = 16  # rows or columns below which a detected pattern is used at any density


class Sparsity:
    """The patterns of df/dh and df/dtheta, and how they are used to assemble the two.

    Parameters
    ----------
    patterns : None, "detect" or pair
        None for no pattern, "detect" for patterns that are found by products, or an (N, N) and an
        (N, P) sparse matrix, each of which may also be None or "detect".
    state_size, param_size : int
        N and P.

    Attributes
    ----------
    patterns : tuple of two
        For each Jacobian a sparse matrix, "detect" or None.
    coloured : list of two ColouredPattern or None
        The coloured patterns, as far as they are known.
    """

    def __init__(self, patterns: Any, state_size: int, param_size: int) -> None:
        shapes = (state_size, state_size), (state_size, param_size)
        pair = (patterns, patterns) if patterns is None or isinstance(patterns, str) else patterns
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise _wrong_patterns(type(patterns).__name__, shapes)
        for pattern, shape in zip(pair, shapes, strict=True):
            if is_sparse(pattern):
                if tuple(pattern.shape) != shape:
                    raise _wrong_patterns(f"a pattern of shape {tuple(pattern.shape)}", shapes)
            elif pattern is not None and not (isinstance(pattern, str) and pattern == DETECT):
                kind = repr(pattern) if isinstance(pattern, str) else type(pattern).__name__
                raise _wrong_patterns(kind, shapes)
        self.patterns = tuple(pair)
        self.coloured = [ColouredPattern(p) if is_sparse(p) else None for p in pair]
        self._dense = [False, False]  # what detection has found to be dense

    def assemble(
        self,
        jacobians: list[Operator],
        nearby: Callable[[int], list[Operator]],
        rtol: float,
    ) -> list[Operator]:
        """Return the two Jacobians, as matrices if their patterns are known or found to be sparse.

        Parameters
        ----------
        jacobians : list of two Operators
            df/dh and df/dtheta by their products.
        nearby : callable
            ``nearby(i)`` returns the same two at another point for each i, for the detection.
        rtol : float
            How well a product with the matrix and one of the operator must agree.

        Raises
        ------
        DerivativeError
            If a pattern that the user gave misses entries.
        """
        return [self._assemble(which, jacobians[which], nearby, rtol) for which in range(2)]

    def joint(self) -> ColouredPattern | None:
        """Return the coloured pattern with respect to (theta, h), or None if one is dense."""
        state, params = self.coloured
        if state is None or params is None:
            return None
        return ColouredPattern(sparse.hstack([params.pattern, state.pattern]))

    def _assemble(
        self, which: int, jacobian: Operator, nearby: Callable[[int], list[Operator]], rtol: float
    ) -> Operator:
        if self.patterns[which] is None or self._dense[which]:
            return jacobian
        coloured = self.coloured[which]
        if coloured is not None:
            matrix = Matrix(jacobian.backend, coloured.matrix_of(jacobian))
            row = _row_that_differs(matrix, jacobian, rtol)
            if row is None:
                return matrix
            if is_sparse(self.patterns[which]):
                raise DerivativeError(
                    f"the pattern of {FIELDS[which]} misses entries of row {row}: pass the "
                    "pattern of all entries that the derivative can have, or sparsity='detect' to "
                    "have them found"
                )
        # A detected pattern that no longer holds is detected again, and what was found is added.
        self._detect(which, jacobian, [nearby(i)[which] for i in range(DETECTION_POINTS)])
        coloured = self.coloured[which]
        if coloured is None:
            return jacobian
        return Matrix(jacobian.backend, coloured.matrix_of(jacobian))

    def _detect(self, which: int, jacobian: Operator, others: list[Operator]) -> None:
        before = self.coloured[which]
        # An ArgumentError says that there are too many entries for a sparse pattern.
        with contextlib.suppress(ArgumentError):
            pattern = detect_pattern(jacobian, *others)
            if before is not None:
                pattern = host_pattern(pattern + before.pattern)
            rows, columns = pattern.shape
            if (
                pattern.nnz <= MAX_SPARSE_DENSITY * rows * columns
                or min(rows, columns) < MIN_SPARSE_SIZE
            ):
                self.coloured[which] = ColouredPattern(pattern)
                return
        self.coloured[which], self._dense[which] = None, True


def _row_that_differs(matrix: Operator, jacobian: Operator, rtol: float) -> int | None:
    """Return the row in which products with a random vector differ most, or None if they agree."""
    backend: Backend = jacobian.backend
    v: Array = backend.random(jacobian.shape[1], seed=13)
    difference = backend.xp.abs(matrix._apply(v) - jacobian._apply(v))
    worst = int(backend.xp.argmax(difference))
    allowed = rtol * backend.norm(matrix.abs_apply(v)) + backend.xp.finfo(backend.dtype).tiny
    return worst if float(difference[worst]) > allowed else None


def _wrong_patterns(got: str, shapes: Any) -> ArgumentError:
    return ArgumentError(
        f"sparsity: expected 'detect', None, or a pair of sparse matrices of shapes {shapes[0]} "
        f"and {shapes[1]}, each of which may be 'detect' or None, got {got}"
    )
