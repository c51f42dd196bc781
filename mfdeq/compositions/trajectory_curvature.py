"""The curvature of a trajectory: the Hessian of lam'R with respect to theta and all states.

It is block tridiagonal in the states of neighbouring steps, with a border for theta.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..models.curvature import BlockCurvature, CurvatureOperator
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from .block_bidiagonal import sparse_entries
from .linearized_steps import Held, LinearizedSteps
from .step_curvature import CheckedStepCurvature


class TrajectoryCurvature(CurvatureOperator):
    """The Hessian of lam'R for the residual R of a trajectory, (P+N, P+N).

    Parameters
    ----------
    linearized : LinearizedSteps
    lam : (N,) array
    """

    def __init__(self, linearized: LinearizedSteps, lam: Array) -> None:
        super().__init__(linearized, linearized.param_size, linearized.count * linearized.size)
        self.linearized = linearized
        self.lam = linearized.split(self.backend.copied(lam))
        self._held: Held[CheckedStepCurvature] = Held(linearized.limit)
        self._start: Operator | None = None
        self._start_known = False

    def step(self, k: int) -> CheckedStepCurvature:
        """Return the Hessian of lam_k'R_k with respect to (theta, previous, h)."""
        checked = k in (0, self.linearized.count - 1)  # that the user's Hessian is symmetric
        return self._held.find(
            k, lambda: self.linearized.at(k).curvature(self.lam[k, ...], checked)
        )

    def start(self) -> Operator | None:
        """Return the Hessian that the start contributes, (P, P), or None where it is zero."""
        if not self._start_known:
            steps = self.linearized
            w = steps.at(0).L._apply_adjoint(self.lam[0, ...])
            self._start, self._start_known = steps.steps.start_curvature(w), True
        return self._start

    def _apply(self, x: Array) -> Array:
        steps = self.linearized
        u, z = self.split(x)
        Z = steps.split(z)
        out_u, out = self.backend.zeros(*u.shape), self.backend.zeros(*Z.shape)
        at_start = steps.start_derivative._apply(u)
        for k in range(steps.count):
            parts = self.step(k).apply([u, Z[k - 1, ...] if k else at_start, Z[k, ...]])
            for part, term in enumerate(parts):
                if term is None:
                    continue
                if part == 0:
                    out_u += term
                elif part == 2:
                    out[k, ...] += term
                elif k:
                    out[k - 1, ...] += term
                else:
                    out_u += steps.start_derivative._apply_adjoint(term)
        if (own := self.start()) is not None:
            out_u += own._apply(u)
        return self.backend.xp.concat([out_u, steps.join(out)], axis=0)

    def assembled(self) -> BlockCurvature | None:
        """Return the curvature as sparse blocks, or None if a step's blocks are not known."""
        steps, sparse = self.linearized, self.backend.sparse
        P, N, n = self.param_size, self.state_size, steps.size
        S = sparse_entries(steps.start_derivative)
        pp: Any = sparse.csr_matrix((P, P), dtype=self.dtype)
        sp: list[Any] = [sparse.csr_matrix((n, P), dtype=self.dtype) for _ in range(steps.count)]
        ss: list[list[Any]] = [[None] * steps.count for _ in range(steps.count)]
        for k in range(steps.count):
            ss[k][k] = sparse.csr_matrix((n, n), dtype=self.dtype)
        for k in range(steps.count):
            blocks = self.step(k).blocks
            if blocks is None:
                return None
            for (row, column), block in blocks.items():
                entries = sparse_entries(block)
                if entries is None or (k == 0 and S is None):
                    return None
                if k == 0 and row == 1 and column == 1:
                    pp = pp + S.T @ entries @ S
                elif k == 0 and row == 1:
                    mixed = S.T @ entries
                    pp = pp + mixed + mixed.T
                elif k == 0 and column == 1:
                    sp[0] = sp[0] + entries @ S
                elif row == 0:
                    pp = pp + entries
                elif column == 0:
                    sp[k + row - 2] = sp[k + row - 2] + entries
                elif row == column:
                    at = k + row - 2
                    ss[at][at] = ss[at][at] + entries
                else:
                    ss[k][k - 1], ss[k - 1][k] = entries, entries.T
        if (own := self.start()) is not None:
            entries = sparse_entries(own)
            if entries is None:
                return None
            pp = pp + entries
        matrices = pp, sparse.vstack(sp, format="csr"), sparse.bmat(ss, format="csr")
        blocks_: list[Operator | None] = [
            Matrix(self.backend, matrix.tocsr()) if matrix.nnz else None for matrix in matrices
        ]
        return BlockCurvature(self.backend, P, N, blocks_)
