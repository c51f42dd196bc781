"""A singular A is the same error on any number of ranks."""

import re

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

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
