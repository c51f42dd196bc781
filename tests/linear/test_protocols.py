"""Solvers and preconditioners of one's own, derived from the base classes and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_toy import THETA, Toy, toy_loss
from support.matrices import diffusion, operator

import mfdeq
from mfdeq.linear import (
    Factor,
    Preconditioner,
    PreconditionerOperator,
    Reused,
    Solver,
    operator_of,
)
from mfdeq.report import LinearCounts


class DenseSolver(Solver):
    """LAPACK, with none of the optional parts of the protocol."""

    def setup(self, A, counts=None):
        return DenseFactor(A, None, counts)


class DenseFactor(Factor):
    name = "dense"

    def _attempt(self, b, rtol, adjoint):
        A = self.A.toarray()
        return np.linalg.solve(A.T if adjoint else A, b)


class WrongFactor(DenseFactor):
    def _attempt(self, b, rtol, adjoint):
        return 1.1 * super()._attempt(b, rtol, not adjoint)


class WrongSolver(Solver):
    def setup(self, A, counts=None):
        return WrongFactor(A, None, counts)


def test_a_solver_needs_only_a_setup_and_an_attempt():
    eq = mfdeq.solve(Toy(), THETA, solver=DenseSolver())
    reference = mfdeq.solve(Toy(), THETA, solver=mfdeq.Direct())
    np.testing.assert_allclose(eq.gradient(toy_loss()), reference.gradient(toy_loss()), rtol=1e-9)
    assert eq.report.solver == "dense"
    assert eq.report.linear.worst_residual <= 1e-10


def test_a_solver_without_a_setup_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Solver()
    with pytest.raises(TypeError, match="abstract"):
        Preconditioner()


def test_a_wrong_solve_is_an_error():
    A = operator(diffusion(5, wind=0.7))
    with pytest.raises(mfdeq.ConvergenceError, match="dense: the solve stopped"):
        WrongSolver().setup(A).solve(np.ones(25))


def test_a_factor_that_reuses_nothing_is_set_up_for_every_matrix():
    counts, solver = LinearCounts(), Reused(DenseSolver())
    for shift in range(3):
        A = diffusion(5) + shift * sp.identity(25)
        x = solver.setup(A.tocsr(), counts).solve(np.ones(25))
        np.testing.assert_allclose(A @ x, 1.0)
    assert counts.setups == 3


@dataclass(frozen=True)
class DiagonalInverse(Preconditioner):
    """Jacobi that can be refreshed, and notes the widths of the blocks that it is applied to."""

    columns_per_space: int = 3
    never_symmetric: bool = False

    def setup(self, A):
        return DiagonalInverseOperator(A)


class DiagonalInverseOperator(PreconditionerOperator):
    def __init__(self, A):
        super().__init__(A, A.shape)
        self.widths = set()
        self.refresh(A)

    def refresh(self, A):
        self.diagonal = A.array.diagonal()[:, None].copy()
        return True

    @property
    def nbytes(self):
        return self.diagonal.nbytes

    def _apply(self, x):
        self.widths.add(x.shape[1])
        return x / self.diagonal

    def _apply_adjoint(self, y):
        return self._apply(y)


def test_a_preconditioner_says_how_many_columns_share_a_space_and_its_bytes():
    factor = mfdeq.Krylov(preconditioner=DiagonalInverse()).setup(operator(diffusion(6)))
    X = factor.solve(np.random.default_rng(0).standard_normal((36, 7)))
    assert X.shape == (36, 7)
    assert max(factor.M.widths) == 3
    assert factor.nbytes == factor.counts.bytes == 36 * 8
    assert factor.name == "Krylov gmres with DiagonalInverse"


def test_a_preconditioner_that_is_never_symmetric_is_refused_by_cg():
    with pytest.raises(mfdeq.ArgumentError, match="'cg' needs a symmetric preconditioner"):
        mfdeq.Krylov("cg", preconditioner=DiagonalInverse(never_symmetric=True))


def test_a_preconditioner_that_has_aged_is_refreshed():
    counts = LinearCounts()
    solver = Reused(mfdeq.Krylov("cg", preconditioner=DiagonalInverse()))
    b = np.random.default_rng(0).standard_normal(400)
    for k in range(6):
        scales = np.geomspace(1, 10.0**k, 400)
        A = (sp.diags(scales) @ diffusion(20) @ sp.diags(scales)).tocsr()
        x = solver.setup(operator(A), counts).solve(b)
        assert np.linalg.norm(A @ x - b) <= 1.1e-10 * np.linalg.norm(b)
    assert counts.refreshes >= 1
    assert counts.setups < 6


def test_recycled_vectors_of_a_preconditioner_are_dropped_when_it_is_refreshed():
    A = operator(sp.diags([-1.2, 2.01, -0.8], [-1, 0, 1], shape=(60, 60)).tocsr())
    other = operator((sp.diags(np.linspace(1, 3, 60)) @ A.array).tocsr())
    factor = mfdeq.Krylov(preconditioner=DiagonalInverse(), recycle=10).setup(A)
    B = np.random.default_rng(0).standard_normal((60, 4))
    for column in range(2):
        factor.solve(B[:, column])
    factor.refactorize(other, LinearCounts())
    for column in range(4):
        x = factor.solve(B[:, column])
        assert np.linalg.norm(A @ x - B[:, column]) <= 1.1e-10 * np.linalg.norm(B[:, column])
    assert factor.counts.refinements == 0


class Flexible(DiagonalInverseOperator):
    flexible = True


def test_recycling_with_a_flexible_preconditioner_is_refused():
    A = operator(diffusion(5))
    for M, advice in ((Flexible(A), "use another preconditioner"), (mfdeq.AMG(), "use mfdeq.AMG")):
        with pytest.raises(mfdeq.ArgumentError, match=f"linear to rounding: {advice}"):
            mfdeq.Krylov(preconditioner=M, recycle=3).setup(A)


@pytest.mark.parametrize(
    "description",
    [
        mfdeq.AMG(),
        mfdeq.AMG("ruge_stuben"),
        mfdeq.ILU(),
        mfdeq.Jacobi(),
        mfdeq.Approximate(mfdeq.ILU(), matrix=diffusion(6)),
    ],
    ids=str,
)
def test_a_preconditioner_is_set_up_for_a_matrix_and_passed_on_by_its_name(description):
    matrix = diffusion(6)
    by_operator = mfdeq.Krylov(preconditioner=description.setup(matrix)).setup(matrix)
    name = mfdeq.Krylov(preconditioner=description).setup(matrix).name
    assert by_operator.name == name.replace("Approximate (ILU)", "ILU")
    np.testing.assert_allclose(matrix @ by_operator.solve(np.ones(36)), 1.0, rtol=1e-8)


def test_an_operator_of_one_s_own_is_named_by_its_class_or_description():
    M = DiagonalInverseOperator(operator(diffusion(6)))
    for name in ("DiagonalInverseOperator", "diagonal"):
        assert mfdeq.Krylov(preconditioner=M).setup(M.backend.eye(36, 36)).name.endswith(name)
        M.description = "diagonal"


class Misplaced(PreconditionerOperator):
    def __init__(self, size, A):
        super().__init__(A, (size, size))


def test_an_operator_whose_first_argument_has_no_backend_is_an_error():
    with pytest.raises(TypeError, match="Misplaced: expected an operator or a Backend as the fir"):
        Misplaced(25, operator_of(diffusion(5)))


def test_a_preconditioner_for_another_matrix_is_any_solver_or_preconditioner():
    matrix = diffusion(6, wind=0.3)
    for by in (DenseSolver(), DiagonalInverse()):
        M = mfdeq.Approximate(by, matrix=matrix)
        x = mfdeq.Krylov(preconditioner=M).setup(operator(matrix)).solve(np.ones(36))
        np.testing.assert_allclose(matrix @ x, 1.0, rtol=1e-8)
    with pytest.raises(
        mfdeq.ArgumentError, match=r"by of mfdeq.Approximate: expected .* got a ndarray of"
    ):
        mfdeq.Approximate(np.eye(36), matrix=matrix)
