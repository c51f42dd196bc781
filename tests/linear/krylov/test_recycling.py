"""The space that GMRES keeps from solve to solve: it pays, it is what it says, it gives up."""

from __future__ import annotations

import numpy as np
import pytest
from support.matrices import BASIS, LEFT, RIGHT, N, residuals, symmetric, unit

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.linear.krylov.recycling import TRIAL_SOLVES, Recycled

TINY = np.concatenate([np.logspace(-4, -3, 8), np.linspace(1, 1.5, N - 8)])
ROWS = np.logspace(0, 0.3, N)[:, None]
HARD = {
    "symmetric": symmetric(TINY),
    "nonsymmetric": (LEFT * TINY) @ LEFT.T @ (np.eye(N) + 0.2 * RIGHT),
    "preconditioned": ROWS * symmetric(TINY),
}
M = {"preconditioned": np.diag(1 / ROWS[:, 0])}
ORTHOGONAL = np.eye(N) - 0.7 * LEFT  # no eigenvalue is smaller than the others


def setup(name, **options):
    return mfdeq.Krylov(preconditioner=M.get(name), **options).setup(HARD[name])


def iterations(factor, b, adjoint=False):
    """Of one solve, whose residual is true."""
    A, before = factor.A.array, factor.counts.iterations
    x = factor.solve_adjoint(b) if adjoint else factor.solve(b)
    assert residuals(A.T if adjoint else A, x, b).max(initial=0) <= 1e-10
    return factor.counts.iterations - before


def invariants(factor, adjoint):
    """How far A M Y is from C, relative to it, and C'C from the identity."""
    kept, side = factor.recycled[adjoint], (lambda A: A.T) if adjoint else (lambda A: A)
    A, P = side(factor.A.array), np.eye(N) if factor.M is None else side(factor.M @ np.eye(N))
    k = kept.C.shape[1]
    assert kept.Y.shape == kept.C.shape == (N, kept.size)
    off = np.linalg.norm(A @ (P @ kept.Y) - kept.C) / np.sqrt(k)
    return off, np.linalg.norm(kept.C.T @ kept.C - np.eye(k))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("restart", [25, 60])
@pytest.mark.parametrize("name", HARD)
def test_later_solves_take_less_than_half(name, restart, adjoint):
    factor = setup(name, restart=restart, recycle=10)
    first, *later = [iterations(factor, unit(N, seed=s), adjoint) for s in range(6)]
    assert max(later) < first / 2
    off, skew = invariants(factor, adjoint)
    assert off < 1e-8
    assert skew < 1e-8
    # The other side has a space of its own, which is none yet.
    assert factor.recycled[not adjoint].Y is None
    assert iterations(factor, unit(N), not adjoint) > 2 * max(later)
    assert iterations(factor, unit(N, seed=9), not adjoint) < first / 2


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [
        ("symmetric", False),
        ("symmetric", True),
        ("nonsymmetric", False),
        ("nonsymmetric", True),
        ("preconditioned", False),
        ("preconditioned", True),
    ],
)
def test_the_recycled_space_does_not_wear_out(name, adjoint):
    factor = setup(name, restart=15, recycle=10)
    needed = [iterations(factor, unit(N, seed=s), adjoint) for s in range(12)]
    assert max(needed[1:]) < needed[0] / 2
    off, skew = invariants(factor, adjoint)
    assert off < 1e-9
    assert skew < 1e-13
    # Of all y, those that A M shrinks most, by ||A M y|| / ||y||.
    kept, A = factor.recycled[adjoint], HARD[name].T if adjoint else HARD[name]
    P = M.get(name, np.eye(N))
    shrunk = np.linalg.svd(A @ P @ np.linalg.qr(kept.Y)[0], compute_uv=False)
    assert sum(shrunk) == pytest.approx(kept.shrinkage, rel=1e-6)
    assert shrunk[-8:] == pytest.approx(np.linalg.svd(A @ P, compute_uv=False)[-8:], rel=0.1)


def test_blocks_recycle_as_single_columns_do():
    factor = setup("nonsymmetric", restart=15, recycle=10)
    first, *later = [iterations(factor, unit(N, 2, seed=s)) for s in range(4)]
    assert max(later) < first / 2
    assert max(invariants(factor, False)) < 1e-8
    assert iterations(factor, unit(N, seed=7)) < first / 2


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_space_that_does_not_pay_is_given_up(adjoint):
    factor, plain = (
        mfdeq.Krylov(recycle=recycle, restart=20).setup(ORTHOGONAL) for recycle in (2, 0)
    )
    spaces = []
    for s in range(TRIAL_SOLVES + 3):
        needed = iterations(factor, unit(N, seed=s), adjoint)
        spaces.append(factor.recycled[adjoint].size)
        assert s <= TRIAL_SOLVES or needed == iterations(plain, unit(N, seed=s), adjoint)
    assert spaces == TRIAL_SOLVES * [2] + 3 * [0]
    assert factor.recycled[adjoint].Y is None
    assert factor.recycled[adjoint].C is None
    assert factor.recycled[not adjoint].size == 2


def test_a_space_that_pays_in_one_solve_is_not_given_up():
    """Iterations are counted per digit that was asked for."""
    backend = Backend.of(BASIS)
    for last, size in ((79, 3), (81, 0)):
        space = Recycled(backend, 3)
        space.judge(100, 1e-10)
        for _ in range(TRIAL_SOLVES - 1):
            space.judge(40, 1e-4)
        space.judge(last, 1e-10)
        assert space.size == size


# Solves that say nothing of those to come.


@pytest.mark.parametrize(
    "easy",
    [
        pytest.param(np.zeros(N), id="zero"),
        pytest.param(symmetric(TINY) @ BASIS[:, 50], id="eigenvector"),
        pytest.param(unit(N, 0), id="none"),
    ],
)
def test_an_easy_first_solve_does_not_spoil_recycling(easy):
    factor, control = (setup("symmetric", restart=25, recycle=10) for _ in range(2))
    iterations(factor, easy)
    needed = [[iterations(f, unit(N, seed=s)) for s in range(7)] for f in (factor, control)]
    assert factor.recycled[False].size == 10
    assert max(needed[0][1:]) < needed[1][0] / 2


@pytest.mark.parametrize("k", [1, 2])
def test_a_right_hand_side_within_the_recycled_space_is_solved(k):
    factor = mfdeq.Krylov(recycle=3).setup(np.diag([1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    for b in (np.eye(6)[:, :k], np.eye(6)[:, :k], np.eye(6)[:, 2 : 2 + k], 2 * np.eye(6)[:, :k]):
        assert residuals(factor.A.array, factor.solve(b), b).max() <= 1e-10


@pytest.mark.parametrize("eigenvalues", [np.linspace(1, 4, N), np.linspace(0, 20, N)])
@pytest.mark.parametrize("k", [7, 20])
def test_blocks_that_exhaust_the_whole_space_are_solved(eigenvalues, k):
    """Y and V are dependent then, and A M may be singular on them."""
    A = symmetric(eigenvalues)
    factor = mfdeq.Krylov(recycle=4, restart=30, block=20).setup(A)
    for seed in range(3):
        B = A @ unit(N, k, seed=seed)
        assert residuals(A, factor.solve(B), B).max() <= 1e-10
