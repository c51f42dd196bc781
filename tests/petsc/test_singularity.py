"""A singular A is the same error on any number of ranks."""

import re

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from support.petsc_problems import gathered, mat_of, vec_of

import mfdeq
from mfdeq import petsc

SOLVERS = {
    "default": {},
    "lu": {"ksp_type": "preonly", "pc_type": "lu"},
    "no preconditioner": {"pc_type": "none"},
}


class Box(mfdeq.ResidualModel):
    """Flow through a porous medium without an outlet; the pressure is known up to a constant."""

    param_size = 1

    def __init__(self, n):
        one = sp.eye_array(n)
        d = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
        G = sp.vstack([sp.kron(one, d), sp.kron(d, one)])
        self.pressures = np.arange(G.shape[0], G.shape[0] + n * n)
        self.A = sp.block_array([[sp.eye_array(G.shape[0]), G], [G.T, None]], format="csr")
        self.state_size = self.A.shape[0]
        self.b = np.zeros(self.state_size)
        self.b[self.pressures[[0, -1]]] = 1.0, -1.0

    def residual(self, h, theta):
        return self.A @ h - theta * self.b

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.A, -self.b[:, None], lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n", [4, 14])
def test_a_free_pressure_is_found_on_any_number_of_ranks(n, solver):
    box = Box(n)
    model = petsc.distributed(box)
    loss = model.loss(mfdeq.LeastSquares(np.arange(box.state_size), np.zeros(box.state_size)))
    theta, ksp = model.params(np.ones(1)), petsc.KSP(options=SOLVERS[solver])

    def gradient():
        return petsc.solve(model, theta, solver=ksp).gradient(loss)

    with pytest.raises(mfdeq.SingularStateError) as caught:
        gradient()
    error = caught.value
    assert error.kind == "free constant"
    np.testing.assert_array_equal(error.unknowns, box.pressures)
    [line] = re.findall(r"mfdeq\.constrain\(.*", str(error))
    names = {"mfdeq": mfdeq, "np": np, "model": model, "error": error, "total": 0.0}
    # PETSc's LU and ILU find a zero pivot in saddle points, regular ones included.
    plain = petsc.KSP(options=SOLVERS["no preconditioner"])
    eq = petsc.solve(eval(line, names), theta, solver=plain)
    assert abs(model.gathered_state(eq.state)[box.pressures].sum()) < 1e-8


class Stored(mfdeq.ResidualModel):
    """A h = theta A x for a Mat that stores no zeros, not even on its diagonal."""

    param_size = 1

    def __init__(self, A):
        self.A, self.state_size = mat_of(A), A.shape[0]
        self.solution = vec_of(np.arange(1.0, 1.0 + self.state_size))
        self.load = self.solution.duplicate()
        self.A.mult(self.solution, self.load)

    def residual(self, h, theta):
        r = h.duplicate()
        self.A.mult(h, r)
        r.axpy(-theta.sum(), self.load)
        return r

    def linearize(self, h, theta):
        column = sp.csr_matrix(-gathered(self.load)[:, None])
        return mfdeq.Linearization(self.A, mat_of(column), lambda lam: mfdeq.Curvature())


def tridiagonal(n):
    ones = np.ones(n)
    return sp.diags_array([-ones, 2.0 * ones, -ones], offsets=[-1, 0, 1], shape=(n, n)).tolil()


def without_equation(n):
    A = tridiagonal(n)
    A[3, :] = 0.0
    return A.tocsr()


def without_unknown(n):
    A = tridiagonal(n)
    A[:, 3] = 0.0
    return A.tocsr()


def exchanged(n):
    return sp.kron(sp.eye_array(n // 2), sp.csr_array([[0.0, 1.0], [1.0, 0.0]])).tocsr()


FACTORIZATIONS = {
    "default": {},
    "lu": {"ksp_type": "preonly", "pc_type": "lu"},
    "gmres with lu": {"pc_type": "lu"},
    "block ILU": {"pc_type": "bjacobi", "sub_pc_type": "ilu"},
    "block ICC": {"pc_type": "bjacobi", "sub_pc_type": "icc"},
}
SINGULAR = {
    "empty row": (without_equation, "dependent equations", "equation 3 contains no unknown"),
    "empty column": (without_unknown, "unused unknown", "unknown 3 is in no equation"),
}
WAYS = {
    "solve": lambda model, ksp: petsc.solve(
        model, vec_of(np.ones(1)), model.solution.duplicate(), solver=ksp
    ),
    "equilibrium_at": lambda model, ksp: petsc.equilibrium_at(
        model, vec_of(np.ones(1)), model.solution, solver=ksp
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", FACTORIZATIONS)
@pytest.mark.parametrize("n", [8, 1100])  # more unknowns than all singular values are computed of
@pytest.mark.parametrize("matrix", SINGULAR)
def test_a_factorization_that_fails_says_what_is_singular(matrix, n, solver, way):
    make, kind, words = SINGULAR[matrix]
    model, ksp = Stored(make(n)), petsc.KSP(options=FACTORIZATIONS[solver])
    loss = mfdeq.LeastSquares(np.arange(n), np.zeros(n))
    with pytest.raises(mfdeq.SingularStateError, match=words) as caught:
        WAYS[way](model, ksp).gradient(loss)
    assert caught.value.kind == kind


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [8, 1100])
def test_a_regular_matrix_with_a_zero_pivot_is_not_called_singular(n, way):
    model = Stored(exchanged(n))
    with pytest.raises(mfdeq.ConvergenceError, match=r"need not be singular.*exchange rows"):
        WAYS[way](model, petsc.KSP()).of.factor  # noqa: B018
    eq = WAYS[way](model, petsc.KSP(options={"pc_type": "none"}))
    difference = eq.state.duplicate()
    model.A.mult(eq.state, difference)
    difference.axpy(-1.0, model.load)
    assert difference.norm() < 1e-7 * model.load.norm()
