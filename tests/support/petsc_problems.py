"""A small model with second derivatives on PETSc's Vecs and Mats, and its twin in scipy.

L h + h³ + h∘(V θ) - W (θ + θ²/4) = 1, the observations of every third state, and a prior.
"""

import functools

import numpy as np
import scipy.sparse as sp
from petsc4py import PETSc

import mfdeq
import mfdeq.petsc

COMM = PETSc.COMM_WORLD
N, P = 80, 50
RNG = np.random.default_rng(0)
L = sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(N, N)).tocsr()
# A parameter acts on the states nearby, so that the graph has small separators.
NEARBY = sp.csr_matrix(abs(np.arange(N)[:, None] / N - np.arange(P) / P) < 0.03)
V, W = (scale * NEARBY.multiply(RNG.standard_normal((N, P))).tocsr() for scale in (0.2, 1.0))
THETA = 0.5 * RNG.standard_normal(P)
OBSERVED = np.arange(0, N, 3)
DATA = RNG.standard_normal(OBSERVED.shape[0])


def mat_of(matrix):
    """Convert a scipy matrix to an AIJ Mat in PETSc's default layout."""
    matrix = sp.csr_matrix(matrix)
    mat = PETSc.Mat().createAIJ(matrix.shape, comm=COMM)
    mat.setUp()
    mine = matrix[slice(*mat.getOwnershipRange())]
    mat.setPreallocationCSR((mine.indptr, mine.indices, mine.data))
    mat.assemble()
    return mat


class Products:
    """The context of a Mat that is known by its products only: those of another Mat."""

    def __init__(self, of):
        self.of = of

    def mult(self, mat, x, y):
        self.of.mult(x, y)

    def multTranspose(self, mat, x, y):
        self.of.multTranspose(x, y)


def shell_of(mat, context=None):
    """Return a Mat that is known by its products only, by default those of a Mat."""
    shell = PETSc.Mat().createPython(mat.getSizes(), context or Products(mat), comm=COMM)
    shell.setUp()
    return shell


def shell_mat(array):
    """Return the Mat of an array, known by its products only."""
    return shell_of(mat_of(array))


class LinearOnVecs(mfdeq.ResidualModel):
    """A h + B theta = 0 with constant Mats."""

    A = B = None

    def residual(self, h, theta):
        r, forced = h.duplicate(), h.duplicate()
        self.A.mult(h, r)
        self.B.mult(theta, forced)
        return r + forced

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.A, self.B, lambda lam: mfdeq.Curvature())


def vec_of(array):
    """Convert a numpy array, which every rank has, to a Vec."""
    vec = PETSc.Vec().createMPI(array.shape[0], comm=COMM)
    vec.array[:] = array[slice(*vec.getOwnershipRange())]
    return vec


def gathered(vec):
    """Return a Vec as a numpy array on every rank."""
    return mfdeq.petsc.arrays.DistributedArray.from_petsc(vec).gathered()


def diagonal_of(vec):
    """Return the diagonal Mat of a Vec."""
    start, stop = vec.getOwnershipRange()
    rows = np.arange(stop - start + 1, dtype=PETSc.IntType)
    size = (vec.getSizes(), vec.getSizes())
    return PETSc.Mat().createAIJ(
        size, csr=(rows, rows[:-1] + rows.dtype.type(start), vec.array_r), comm=COMM
    )


class Cubic(mfdeq.ResidualModel):
    """The model on Vecs and Mats."""

    state_size, param_size = N, P

    def __init__(self):
        self.L, self.V, self.W = mat_of(L), mat_of(V), mat_of(W)

    def residual(self, h, theta):
        r, coupled, forced = (h.duplicate() for _ in range(3))
        self.L.mult(h, r)
        self.V.mult(theta, coupled)
        self.W.mult(theta + 0.25 * theta * theta, forced)
        r.array += h.array_r**3 + h.array_r * coupled.array_r - forced.array_r - 1.0
        return r

    def linearize(self, h, theta):
        d_state, d_params, by_theta = self.L.copy(), self.W.copy(), self.V.copy()
        diagonal, slope = h.duplicate(), theta.duplicate()
        self.V.mult(theta, diagonal)
        diagonal.array += 3.0 * h.array_r**2
        d_state.setDiagonal(diagonal, PETSc.InsertMode.ADD_VALUES)
        slope.array = 1.0 + 0.5 * theta.array_r
        d_params.diagonalScale(R=slope)
        by_theta.diagonalScale(L=h)
        by_theta.axpy(-1.0, d_params)

        def curvature(lam):
            pp, state_params = theta.duplicate(), self.V.copy()
            self.W.multTranspose(lam, pp)
            pp.scale(-0.5)
            state_params.diagonalScale(L=lam)
            return mfdeq.Curvature(diagonal_of(pp), state_params, diagonal_of(6.0 * h * lam))

        def second(a, b):
            (u, z), (v, y) = a, b
            found, Vu, Vv = (h.duplicate() for _ in range(3))
            self.W.mult(-0.5 * u * v, found)
            self.V.mult(u, Vu)
            self.V.mult(v, Vv)
            found.array += 6.0 * h.array_r * z.array_r * y.array_r
            found.array += Vu.array_r * y.array_r + Vv.array_r * z.array_r
            return found

        return mfdeq.Linearization(d_state, by_theta, curvature, second)


class Twin(mfdeq.ResidualModel):
    """The same model on numpy arrays and scipy matrices."""

    state_size, param_size = N, P

    def residual(self, h, theta):
        return L @ h + h**3 + h * (V @ theta) - W @ (theta + 0.25 * theta**2) - 1.0

    def linearize(self, h, theta):
        def curvature(lam):
            return mfdeq.Curvature(
                sp.diags(-0.5 * (W.T @ lam)).tocsr(),
                (sp.diags(lam) @ V).tocsr(),
                sp.diags(6.0 * h * lam).tocsr(),
            )

        def second(a, b):
            (u, z), (v, y) = a, b
            return 6.0 * h * z * y + (V @ u) * y + (V @ v) * z - 0.5 * (W @ (u * v))

        return mfdeq.Linearization(
            (L + sp.diags(3.0 * h**2 + V @ theta)).tocsr(),
            (sp.diags(h) @ V - W @ sp.diags(1.0 + 0.5 * theta)).tocsr(),
            curvature,
            second,
        )


# Every rank holds the data, so one loss serves both models.
LOSS = mfdeq.LeastSquares(OBSERVED, DATA, 4.0) + mfdeq.QuadraticPrior(0.1)


@functools.cache
def on_ranks():
    """Return the equilibrium on all ranks, an `mfdeq.petsc.Equilibrium`."""
    solver = mfdeq.petsc.KSP(rtol=1e-13)
    return mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver, rtol=1e-13)


@functools.cache
def on_one_machine():
    """Return the equilibrium of the twin, computed by every rank."""
    return mfdeq.solve(Twin(), THETA, rtol=1e-13)


@functools.cache
def hessians():
    """Return the Hessian of the loss as a Mat, and that of the twin."""
    return on_ranks().hessian(LOSS), on_one_machine().hessian(LOSS)
