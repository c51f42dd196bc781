"""Matrices of dense blocks on their diagonal."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.linalg
from support.cupy_problems import assert_cupy_agrees_with_numpy, needs_cupy

import mfdeq
from mfdeq.linear import BlockDiagonal, Reused
from mfdeq.report import LinearCounts

RNG = np.random.default_rng(1)
COUNT, SIZE = 4, 3
N = COUNT * SIZE
BLOCKS = np.eye(SIZE) + 0.4 * RNG.standard_normal((COUNT, SIZE, SIZE))
DENSE = scipy.linalg.block_diag(*BLOCKS)
SIDES = [RNG.standard_normal(N), RNG.standard_normal((N, 5)), RNG.standard_normal((N, 1))]


@pytest.mark.parametrize("x", SIDES, ids=["vector", "block", "column"])
def test_products_are_those_of_the_dense_matrix(x):
    A = BlockDiagonal(BLOCKS)
    np.testing.assert_allclose(A @ x, DENSE @ x)
    np.testing.assert_allclose(A.H @ x, DENSE.T @ x)
    np.testing.assert_allclose(A.H.H @ x, DENSE @ x)
    np.testing.assert_allclose(A.abs_apply(x), abs(DENSE) @ abs(x))
    np.testing.assert_allclose(A.H.abs_apply(x), abs(DENSE).T @ abs(x))
    np.testing.assert_allclose(A.toarray(), DENSE)
    np.testing.assert_allclose(A.array.toarray(), DENSE)


def test_algebra_keeps_the_blocks():
    A = BlockDiagonal(BLOCKS)
    for operator, expected in (
        (A.identity_minus(), np.eye(N) - DENSE),
        (A.times(-2.0), -2 * DENSE),
        (-A, -DENSE),
        (A.plus(BlockDiagonal(BLOCKS**2)), DENSE + DENSE**2),
        (A.H, DENSE.T),
    ):
        assert isinstance(operator, BlockDiagonal)
        np.testing.assert_allclose(operator.toarray(), expected)
    np.testing.assert_allclose((2 * A @ A + A).toarray(), 2 * DENSE @ DENSE + DENSE)


@pytest.mark.parametrize(
    "solver",
    [mfdeq.Auto(), mfdeq.Direct(), mfdeq.Krylov("gmres"), Reused(mfdeq.Auto())],
    ids=["auto", "direct", "gmres", "reused"],
)
@pytest.mark.parametrize("b", SIDES, ids=["vector", "block", "column"])
def test_every_solver_inverts_the_blocks(solver, b):
    factor = solver.setup(BlockDiagonal(BLOCKS))
    assert factor.name == "Direct (dense blocks)"
    np.testing.assert_allclose(factor.solve(b), np.linalg.solve(DENSE, b), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        factor.solve_adjoint(b), np.linalg.solve(DENSE.T, b), rtol=1e-10, atol=1e-12
    )
    assert factor.counts.worst_residual < 1e-12


def test_single_precision_is_kept():
    A = BlockDiagonal(BLOCKS.astype(np.float32))
    b = SIDES[0].astype(np.float32)
    x = mfdeq.Direct().setup(A).solve(b)
    assert x.dtype == (A @ b).dtype == np.float32
    np.testing.assert_allclose(x, np.linalg.solve(DENSE, b), rtol=1e-4)


def test_blocks_in_units_of_their_own_are_solved_accurately():
    rows, columns = 10.0 ** RNG.integers(-12, 12, (2, COUNT, SIZE))
    A = BlockDiagonal(rows[:, :, None] * BLOCKS * columns[:, None, :])
    factor, exact = mfdeq.Direct().setup(A), RNG.standard_normal(N)
    b = rows.ravel() * (DENSE @ exact)
    np.testing.assert_allclose(factor.solve(b) * columns.ravel(), exact, rtol=1e-11)
    b = columns.ravel() * (DENSE.T @ exact)
    np.testing.assert_allclose(factor.solve_adjoint(b) * rows.ravel(), exact, rtol=1e-11)


def test_a_small_part_of_a_right_hand_side_is_solved_as_accurately():
    b = np.repeat(10.0 ** -np.arange(0, 4 * COUNT, 4), SIZE)
    x = mfdeq.Direct().setup(BlockDiagonal(BLOCKS)).solve(b)
    np.testing.assert_allclose(x, np.linalg.solve(DENSE, b), rtol=1e-12)


@pytest.mark.parametrize("rounded", [False, True])
def test_singular_blocks_are_named(rounded):
    blocks = BLOCKS.copy()
    blocks[2] = RNG.standard_normal((3, 2)) @ RNG.standard_normal((2, 3)) if rounded else 1.0
    with pytest.raises(mfdeq.SingularStateError, match="block 2 of the state operator") as raised:
        mfdeq.Direct().setup(BlockDiagonal(blocks))
    null = raised.value.right, raised.value.left
    A = scipy.linalg.block_diag(*blocks)
    np.testing.assert_allclose(A @ null[0], 0.0, atol=1e-14)
    np.testing.assert_allclose(A.T @ null[1], 0.0, atol=1e-14)


def test_the_null_vectors_of_singular_blocks_name_their_unknowns():
    blocks = BLOCKS.copy()
    blocks[2] = np.diag([1.0, 0.0, 2.0])
    with pytest.raises(mfdeq.SingularStateError, match="block 2 of the state operator") as raised:
        mfdeq.Direct().setup(BlockDiagonal(blocks))
    error = raised.value
    assert error.unknowns == error.equations == [2 * SIZE + 1]
    np.testing.assert_allclose(abs(error.right), np.eye(N)[2 * SIZE + 1])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (np.zeros((3, 2)), r"got shape \(3, 2\)"),
        (np.zeros((3, 2, 4)), r"got shape \(3, 2, 4\)"),
        ([[[1.0]]], "got list"),
        (np.full((1, 1, 1), np.nan), "NaN or infinity"),
        (np.zeros((2, 1, 1), dtype=complex), "complex"),
    ],
)
def test_wrong_blocks_are_refused(blocks, message):
    with pytest.raises(mfdeq.MfdeqError, match=message):
        BlockDiagonal(blocks)


def test_equal_blocks_share_a_factor_without_an_assembled_matrix(monkeypatch):
    monkeypatch.delattr(BlockDiagonal, "array")  # which assembles it
    reused, counts = Reused(mfdeq.Direct()), LinearCounts()
    for blocks in (BLOCKS, BLOCKS.copy(), BLOCKS + np.eye(BLOCKS.shape[1])):
        reused.setup_for_equilibrium(BlockDiagonal(blocks), counts)
    assert counts.setups == 2


def test_operators_travel():
    A = pickle.loads(pickle.dumps(BlockDiagonal(BLOCKS)))
    np.testing.assert_allclose(A.toarray(), DENSE)


class Groups(mfdeq.ResidualModel):
    """H_i + c_i (H_i H_i' w) = C_i theta in groups of three, by hand, with N = 12 and P = 2."""

    state_size, param_size = N, 2
    mixing = 0.3 * np.random.default_rng(2).standard_normal((COUNT, SIZE, SIZE))
    loads = np.random.default_rng(3).standard_normal((N, 2))

    def __init__(self, sparse=False):
        self.form = (lambda A: scipy.linalg.block_diag(*A)) if sparse else BlockDiagonal

    def residual(self, h, theta):
        H = h.reshape(COUNT, SIZE)
        return (H + np.einsum("kij,kj->ki", self.mixing, H**2)).ravel() - self.loads @ theta

    def linearize(self, h, theta):
        H = h.reshape(COUNT, SIZE)

        def curvature(lam):
            weights = 2 * np.einsum("kij,ki->kj", self.mixing, lam.reshape(COUNT, SIZE))
            return mfdeq.Curvature(state_state=self.form(weights[:, :, None] * np.eye(SIZE)))

        def second(a, b):
            product = (a[1] * b[1]).reshape(COUNT, SIZE)
            return 2 * np.einsum("kij,kj->ki", self.mixing, product).ravel()

        blocks = np.eye(SIZE) + 2 * self.mixing * H[:, None, :]
        return mfdeq.Linearization(self.form(blocks), -self.loads, curvature, second)


def test_models_by_hand_return_blocks():
    theta = np.array([0.3, -0.2])
    loss = mfdeq.LeastSquares(np.arange(N), np.linspace(0.0, 1.0, N))
    eq, dense = (mfdeq.solve(Groups(sparse), theta) for sparse in (False, True))
    np.testing.assert_allclose(eq.state, dense.state, rtol=1e-12)
    np.testing.assert_allclose(eq.gradient(loss), dense.gradient(loss))
    H = eq.hessian(loss)
    np.testing.assert_allclose(H @ np.eye(2), dense.hessian(loss) @ np.eye(2))
    u, v = RNG.standard_normal((2, 2))
    np.testing.assert_allclose(eq.second_order(u, v), dense.second_order(u, v))
    assert eq.report.solver == "Direct (dense blocks)"
    assert mfdeq.verify(Groups(), theta, loss)


def test_the_lagrangian_system_of_blocks_is_assembled_where_it_is_asked_for():
    theta = np.array([0.3, -0.2])
    loss = mfdeq.LeastSquares(np.arange(N), np.linspace(0.0, 1.0, N)) + mfdeq.QuadraticPrior(0.5)
    H = mfdeq.solve(Groups(), theta).hessian(loss)
    b = np.array([1.0, 2.0])
    np.testing.assert_allclose(mfdeq.ShiftedInverse(H) @ b, np.linalg.solve(H.toarray(), b))


@needs_cupy
def test_blocks_on_cupy_agree_with_numpy():
    def compute(xp):
        A, b = BlockDiagonal(xp.asarray(BLOCKS)), xp.asarray(SIDES[1])
        factor = mfdeq.Direct().setup(A)
        return A @ b, A.H @ b[:, 0], factor.solve(b), factor.solve_adjoint(b[:, 1])

    assert_cupy_agrees_with_numpy(compute)
