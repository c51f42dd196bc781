"""The derivatives of a trajectory with respect to its states and to the parameters, as operators.

A is block lower bidiagonal, with the matrices D_k of the steps on its diagonal and the derivatives
L_k with respect to the states before below it. Products go through the steps one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, is_dense
from ..operators.operator import Operator
from ..report import LinearCounts
from .linearized_steps import FactorsOfSteps, LinearizedSteps
from .substitution import SubstitutionFactor


class BlockBidiagonal(Operator):
    """The state operator A of a trajectory, (N, N), with N = count * n.

    Parameters
    ----------
    linearized : LinearizedSteps
    """

    advice_for_entries = "return sparse or dense matrices as d_state and d_previous of the steps"

    def __init__(self, linearized: LinearizedSteps) -> None:
        size = linearized.count * linearized.size
        super().__init__(linearized, (size, size))
        self.linearized = linearized

    def blocks(self, k: int) -> tuple[Operator, Operator | None]:
        """Return the blocks of row k on the diagonal and to its left, (n, n); None for k = 0."""
        step = self.linearized.at(k)
        return step.D, step.L if k else None

    def _apply(self, x: Array) -> Array:
        return self._product(x, lambda operator, x: operator._apply(x))

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|."""
        return self._product(x, lambda operator, x: operator.abs_apply(x))

    def _product(self, x: Array, apply: Callable[[Operator, Array], Array]) -> Array:
        steps = self.linearized
        X, out = steps.split(x), self.backend.zeros(*steps.split(x).shape)
        for k in range(steps.count):
            step = steps.at(k)
            y = apply(step.D, X[k, ...])
            out[k, ...] = y + apply(step.L, X[k - 1, ...]) if k else y
        return steps.join(out)

    def _apply_adjoint(self, y: Array) -> Array:
        steps = self.linearized
        Y, out = steps.split(y), self.backend.zeros(*steps.split(y).shape)
        for k in reversed(range(steps.count)):
            step = steps.at(k)
            out[k, ...] += step.D._apply_adjoint(Y[k, ...])
            if k:
                out[k - 1, ...] = step.L._apply_adjoint(Y[k, ...])
        return steps.join(out)

    def factor_of_parts(self, solver: Any, counts: LinearCounts) -> SubstitutionFactor:
        """Return the substitution with a factor of the matrix of each step."""
        steps = self.linearized
        own = solver.for_solves(steps.count)
        return SubstitutionFactor(self, FactorsOfSteps(own, counts, steps.limit), counts)

    def assembled_entries(self) -> Any:
        """Return the sparse matrix of all blocks, or None if a block is known by products only."""
        steps, rows = self.linearized, []
        for k in range(steps.count):
            D, L = (sparse_entries(x) for x in (steps.at(k).D, steps.at(k).L))
            if D is None or L is None:
                return None
            row: list[Any] = [None] * steps.count
            row[k] = D
            if k:
                row[k - 1] = L
            rows.append(row)
        return self.backend.sparse.bmat(rows, format="csr")


class StackedParams(Operator):
    """A multiple of the derivative of a trajectory's residual with respect to theta, (N, P).

    The first step has the part by the start as well.

    Parameters
    ----------
    linearized : LinearizedSteps
    sign : float, optional
    """

    def __init__(self, linearized: LinearizedSteps, sign: float = 1.0) -> None:
        super().__init__(linearized, (linearized.count * linearized.size, linearized.param_size))
        self.linearized, self.sign = linearized, sign

    def __neg__(self) -> Operator:
        return StackedParams(self.linearized, -self.sign)

    def times(self, factor: float) -> Operator:
        """Return a multiple."""
        return StackedParams(self.linearized, factor * self.sign)

    def _apply(self, x: Array) -> Array:
        steps = self.linearized
        out = self.backend.zeros(steps.count, steps.size, *x.shape[1:])
        last, product, x = None, None, self.sign * x
        for k in range(steps.count):
            step = steps.at(k)
            if step.B is not last:
                last, product = step.B, step.B._apply(x)
            out[k, ...] = product
            if k == 0:
                out[0, ...] += step.L._apply(steps.start_derivative._apply(x))
        return steps.join(out)

    def _apply_adjoint(self, y: Array) -> Array:
        steps = self.linearized
        Y = steps.split(y)
        out = self.backend.zeros(steps.param_size, *y.shape[1:])
        last: Operator | None = None
        waiting: Any = None  # the sum of what the same B is to be multiplied by
        for k in reversed(range(steps.count)):
            step = steps.at(k)
            if step.B is last:
                waiting = waiting + Y[k, ...]
            else:
                if last is not None:
                    out += last._apply_adjoint(waiting)
                last, waiting = step.B, Y[k, ...]
            if k == 0:
                at_start = step.L._apply_adjoint(Y[0, ...])
                out += steps.start_derivative._apply_adjoint(at_start)
        assert last is not None
        return self.sign * (out + last._apply_adjoint(waiting))

    def assembled_entries(self) -> Any:
        """Return the sparse matrix of all blocks, or None if a block is known by products only."""
        steps, rows = self.linearized, []
        start = sparse_entries(steps.start_derivative)
        for k in range(steps.count):
            B, L = (sparse_entries(x) for x in (steps.at(k).B, steps.at(k).L))
            if B is None or (k == 0 and (L is None or start is None)):
                return None
            rows.append([B if k else B + L @ start])
        return self.sign * self.backend.sparse.bmat(rows, format="csr")


def sparse_entries(operator: Operator) -> Any:
    """Return the entries of an operator as a sparse matrix, or None if they are not known."""
    array = operator.assembled_entries()
    if array is None:
        return None
    return operator.backend.sparse.csr_matrix(array) if is_dense(array) else array
