"""The multigrid cycle and the Krylov methods run on any array library and device.

With dense matrices, on the devices of array_api_strict.
"""

import itertools

import numpy as np
import pytest
from support.places import HOST, Place, assert_agrees_with_numpy

from mfdeq.arrays import kernels
from mfdeq.arrays.backend import Backend
from mfdeq.linear.krylov.block_gmres import block_gmres
from mfdeq.linear.krylov.cg import block_cg, cg
from mfdeq.linear.krylov.columns import all_directions, directions, orthonormal
from mfdeq.linear.krylov.gmres import gmres
from mfdeq.linear.krylov.minres import minres
from mfdeq.linear.krylov.neumann import spectral_radius
from mfdeq.linear.krylov.recycling import Recycled
from mfdeq.linear.preconditioners.cycle import (
    Smoothed,
    collapsed,
    composed_smoother,
    largest_eigenvalue,
    v_cycle,
)

RNG = np.random.default_rng(0)


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


# The multigrid cycle, on dense matrices.

SIZES = (12, 6, 3)
MATRICES = [np.eye(n) * 4 + RNG.standard_normal((n, n)) for n in SIZES]
DOWN = [RNG.random((m, n)) for n, m in itertools.pairwise(SIZES)]
UP = [RNG.random((n, m)) / 3 for n, m in itertools.pairwise(SIZES)]
BLOCK = RNG.standard_normal((SIZES[0], 4))
# As a matrix, which a block diagonal is, and as a vector.
DIAGONALS = [np.diag(1 / np.diag(MATRICES[0])), 1 / np.diag(MATRICES[1])]


def hierarchy(place):
    levels = [
        Smoothed(kernels, place(A), place(P), place(R), place(D), 2.0, degree)
        for A, P, R, D, degree in zip(MATRICES, UP, DOWN, DIAGONALS, (2, 3), strict=False)
    ]
    return levels, place(np.linalg.inv(MATRICES[-1]))


def test_the_smoother_agrees_with_numpy(place):
    def compute(place):
        level, b = hierarchy(place)[0][1], BLOCK[: SIZES[1]]
        return [lv.smooth(place(x)) for lv in (level, level.T) for x in (b, b[:, 0])]

    assert_agrees_with_numpy(place, compute)


def collapsed_hierarchy(place):
    """Smoothing before and after, then only after, by two steps: multiplied out."""
    A, S = [place(A) for A in MATRICES], [place(np.diag(0.5 / np.diag(A))) for A in MATRICES]
    P, R = [place(P) for P in UP], [place(R) for R in DOWN]
    levels = [
        collapsed(A[0], P[0], R[0], S[0], S[0]),
        collapsed(A[1], P[1], R[1], None, composed_smoother(A[1], [S[1], 0.5 * S[1]])),
    ]
    return levels, place(np.linalg.inv(MATRICES[-1]))


@pytest.mark.parametrize("hierarchy", [hierarchy, collapsed_hierarchy])
def test_the_cycle_and_its_transpose_agree_with_numpy(place, hierarchy):
    def compute(place):
        levels, coarse = hierarchy(place)
        transposed = [level.T for level in levels]
        return [
            v_cycle(hierarchy_, inverse, place(x))
            for hierarchy_, inverse in ((levels, coarse), (transposed, coarse.T))
            for x in (BLOCK, BLOCK[:, 0], np.eye(SIZES[0]))
        ]

    assert_agrees_with_numpy(place, compute)
    found = compute(place)
    np.testing.assert_allclose(place.back(found[5]), place.back(found[2]).T, atol=1e-13)


def test_bounds_of_spectra_agree_with_numpy(place):
    def compute(place):
        A = MATRICES[0]
        backend = Backend.of(place(A))
        largest = largest_eigenvalue(backend, place(A), place(np.diag(1 / np.diag(A))))
        return np.array([largest]), np.array([radius(place, 0.5 * np.eye(3) + DOWN[1][:, :3] / 9)])

    expected, found = compute(HOST), compute(place)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def radius(place, A):
    class Bare:
        """spectral_radius needs only this of an operator."""

        backend, shape = Backend.of(place(A)), A.shape

        def _apply(self, x):
            return place(A) @ x

    return spectral_radius(Bare())


def test_a_collapsed_cycle_equals_smoothing_and_correction(place):
    """x <- x + S (b - A x), the coarse correction, the same once more: what is multiplied out."""
    levels, coarse = collapsed_hierarchy(place)
    A, S, inner = MATRICES[0], np.diag(0.5 / np.diag(MATRICES[0])), np.eye(SIZES[1])
    below = place.back(v_cycle(levels[1:], coarse, place(inner)))
    x = S @ BLOCK
    x = x + UP[0] @ (below @ (DOWN[0] @ (BLOCK - A @ x)))
    x = x + S @ (BLOCK - A @ x)
    found = place.back(v_cycle(levels, coarse, place(BLOCK)))
    np.testing.assert_allclose(found, x, rtol=1e-12, atol=1e-13)


# The block Krylov methods.


def krylov(kernel, A, M, right_sides, **options):
    """Solutions of every right-hand side in turn, and the history of residuals of all."""

    def compute(place):
        backend, history, found = Backend.of(place(A)), [], []
        made = {name: make(backend) for name, make in options.items()}
        for B in right_sides:
            solved = kernel(
                backend,
                lambda X: place(A) @ X,
                lambda X: place(M) @ X,
                place(B),
                1e-9,
                200,
                history.append,
                **made,
            )
            assert solved.stopped == ""
            found.append(solved.X)
        return [*found, place(np.array(history[:3]))]

    return compute


LARGE = np.eye(40) + 0.3 * RNG.standard_normal((40, 40)) / np.sqrt(40)
LARGE[:4] *= 1e-2
DEFINITE = LARGE @ LARGE.T + 0.1 * np.eye(40)
SCALED = np.diag(1 / np.diag(DEFINITE))
RIGHT_SIDES = [RNG.standard_normal((40, k)) / 6 for k in (1, 3, 1)]
RIGHT_SIDES[1][:, 1] = 0
RIGHT_SIDES[1][:, 2] = DEFINITE[:, :5] @ np.ones(5) / 9
CYCLE = {"length": lambda backend: 15}
KRYLOV = {
    "cg": (cg, DEFINITE, {}),
    "block cg": (block_cg, DEFINITE, {}),
    "minres": (minres, DEFINITE - 0.5 * np.eye(40), {}),
    "gmres": (gmres, LARGE, CYCLE),
    "gmres, flexible": (gmres, LARGE, {**CYCLE, "flexible": lambda backend: True}),
    "block gmres": (block_gmres, LARGE, CYCLE),
    "flexible": (block_gmres, LARGE, {**CYCLE, "flexible": lambda backend: True}),
    "recycled": (block_gmres, LARGE, {**CYCLE, "recycled": lambda backend: Recycled(backend, 4)}),
}


@pytest.mark.parametrize("method", KRYLOV)
def test_block_methods_agree_with_numpy(place, method):
    kernel, A, options = KRYLOV[method]
    compute = krylov(kernel, A, SCALED, RIGHT_SIDES, **options)
    for here, there, B in zip(compute(HOST), compute(place), RIGHT_SIDES, strict=False):
        np.testing.assert_allclose(place.back(there), here, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(A @ place.back(there), B, atol=1e-8)
    np.testing.assert_allclose(place.back(compute(place)[-1]), compute(HOST)[-1], rtol=1e-8)


INDEPENDENT = {
    "one": BLOCK[:, :1],
    "four": BLOCK,
    "nearly dependent": BLOCK + 1e5 * BLOCK[:, :1],
    "dependent": BLOCK[:, [0, 1, 2, 3, 0]] * [1, 1, 1, 1, -2],
}


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("function", [directions, orthonormal])
def test_directions_agree_with_numpy(place, function, name):
    """The basis, up to the sign of its vectors, and the block in it."""
    block = INDEPENDENT[name]

    def compute(place):
        return function(Backend.of(place(block)), place(block))

    Q, S = compute(HOST)
    there, small = compute(place)
    np.testing.assert_allclose(abs(place.back(there)), abs(Q), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(abs(small), abs(S), rtol=1e-6, atol=1e-7)
    rank = min(block.shape[1], 4)
    assert Q.shape == (12, rank)
    np.testing.assert_allclose(Q @ S, block, rtol=1e-7, atol=1e-7 * abs(block).max())
    rounding = 1e-13 if function is orthonormal else 1e-4
    np.testing.assert_allclose(Q.T @ Q, np.eye(rank), atol=rounding)


def nearly_dependent(seed, columns, smallest, dtype):
    """A (60, columns) block with singular values from 1 to `smallest`."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, columns)))[0] for n in (60, columns))
    return ((left * np.geomspace(1, smallest, columns)) @ right.T).astype(dtype)


NEARLY_DEPENDENT = pytest.mark.parametrize(
    "smallest",
    [pytest.param(x, marks=pytest.mark.slow) for x in (1e-3, 1e-5, 1e-13)] + [1e-8, 1e-9, 1e-17],
)


@NEARLY_DEPENDENT
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("columns", [2, 3, 8])
def test_bases_of_nearly_dependent_columns_are_orthonormal(place, columns, dtype, smallest):
    """On any processor: rounding decides which directions are kept, but not their angles."""
    eps = float(np.finfo(dtype).eps)
    for seed in range(20):
        W = nearly_dependent(seed, columns, smallest, dtype)
        block = place(W)
        backend = Backend.of(block)
        Q, S = orthonormal(backend, block)
        Q = place.back(Q)
        np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=50 * eps)
        np.testing.assert_allclose(Q @ S, W, atol=4 * columns * eps**0.5)
        Q = place.back(all_directions(backend, block))
        assert Q.shape[1] <= columns
        np.testing.assert_allclose(Q.T @ Q, np.eye(Q.shape[1]), atol=10 * eps**0.5)
        if smallest > 1e4 * eps:
            left = W - Q @ np.linalg.lstsq(Q, W, rcond=None)[0]
            np.testing.assert_allclose(left, 0, atol=500 * eps)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("function", [directions, orthonormal])
def test_rounding_after_orthogonalization_is_no_direction(place, function, columns):
    """1e-16 of the size a column had is rounding, and dropped; 1e-10 is not."""
    B = place(1e-16 * BLOCK[:, :columns])
    backend = Backend.of(B)
    for size, rank in ((1.0, 0), (1e-6, columns)):
        sizes = size * backend.column_norms(place(BLOCK[:, :columns]))
        Q, S = function(backend, B, sizes)
        assert Q.shape == (12, rank)
        assert S.shape == (rank, columns)
    with backend.ignore_overflow():  # as the solvers are
        Q, S = function(backend, 0 * B)
    assert (Q.shape, S.shape) == ((12, 0), (0, columns))
