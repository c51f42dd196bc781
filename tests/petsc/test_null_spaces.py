"""A null space that a user's Mat carries is honoured by every solve, on any number of ranks."""

import numpy as np
import pytest
import scipy.linalg

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import COMM, LinearOnVecs, gathered, mat_of, shell_mat, vec_of
from support.singular_systems import stokes

import mfdeq
import mfdeq.petsc

N, P, EDGES = 12, 3, 20


class Network(mfdeq.ResidualModel):
    """Flows R = M' k(theta) (Dh + (Dh)³) between nodes, which leave the null space of D open."""

    state_size, param_size = N, P

    def __init__(self, symmetric=True, components=1):
        rng = np.random.default_rng([symmetric, components])
        size = N // components
        self.D = np.zeros((EDGES, N))
        for e in range(EDGES):
            i, j = rng.choice(size, 2, replace=False) if e >= N else (e % size, (e + 1) % size)
            part = size * (e % N // size)
            self.D[e, [part + i, part + j]] += 1.0, -1.0
        units = np.ones(N) if symmetric else 1.0 + rng.random(N)
        self.M = self.D if symmetric else self.D * units
        self.K = 1.0 + rng.random((EDGES, P))
        # Linear combinations of the null vectors, as a user may set them.
        self.right = scipy.linalg.null_space(self.D)
        self.left = scipy.linalg.null_space(self.M)
        self.load = self.M.T @ rng.standard_normal(EDGES)

    def residual(self, h, theta):
        e = self.D @ h
        return self.M.T @ (self.K @ theta * (e + e**3)) - self.load

    def linearize(self, h, theta):
        D, M, K, e = self.D, self.M, self.K, self.D @ h
        k, slope = K @ theta, 1.0 + 3.0 * e**2

        def curvature(lam):
            along = M @ lam
            return mfdeq.Curvature(
                None,
                D.T @ ((along * slope)[:, None] * K),
                D.T @ ((along * k * 6.0 * e)[:, None] * D),
            )

        def second(a, b):
            (u, x), (v, y) = a, b
            Dx, Dy = D @ x, D @ y
            mixed = (K @ u) * Dy + (K @ v) * Dx
            return M.T @ (slope * mixed + k * 6.0 * e * Dx * Dy)

        A = M.T @ ((k * slope)[:, None] * D)
        return mfdeq.Linearization(A, M.T @ ((e + e**3)[:, None] * K), curvature, second)


def null_space(basis):
    """Return PETSc's null space of a basis; a single constant is that of PETSc."""
    if basis.shape[1] == 1 and np.ptp(basis) < 1e-12:
        return PETSc.NullSpace().create(constant=True, comm=COMM)
    return PETSc.NullSpace().create(vectors=[vec_of(x) for x in basis.T], comm=COMM)


class OnVecs(mfdeq.ResidualModel):
    """A network on Vecs and Mats, whose d_state carries its null spaces."""

    state_size, param_size = N, P

    def __init__(self, network, form=mat_of, right=None, left=None, load=None, d_params=None):
        self.network, self.form = network, form
        self.right, self.left, self.load, self.d_params = right, left, load, d_params

    def residual(self, h, theta):
        return vec_of(self.network.residual(gathered(h), gathered(theta)) - (self.load or 0.0))

    def linearize(self, h, theta):
        whole = self.network.linearize(gathered(h), gathered(theta))
        self.A = A = self.form(whole.d_state)
        if self.right is not None:
            A.setNullSpace(null_space(self.right))
        if self.left is not None:
            A.setTransposeNullSpace(null_space(self.left))

        def curvature(lam):
            K = whole.curvature(gathered(lam))
            return mfdeq.Curvature(None, mat_of(K.state_params), mat_of(K.state_state))

        def second(a, b):
            return vec_of(whole.second(*(tuple(map(gathered, x)) for x in (a, b))))

        d_params = whole.d_params if self.d_params is None else self.d_params
        return mfdeq.Linearization(A, mat_of(d_params), curvature, second)


THETA, START = np.array([1.0, 0.5, 2.0]), np.random.default_rng(1).standard_normal(N)
LOSS = mfdeq.LeastSquares(np.arange(0, N, 2), np.ones(6)) + mfdeq.QuadraticPrior(0.1, np.zeros(P))


def on_one_machine(network):
    """Return the equilibrium with the constants of the start, by constraints."""
    C = network.right.T
    constraint = mfdeq.LinearConstraint(C, C @ START)
    model = mfdeq.constrain(network, constraint, network.left)
    return mfdeq.solve(model, THETA, START)


def dense(operator):
    return operator.toarray().gathered()


def assert_agree(eq, network):
    expected = on_one_machine(network)

    def agree(found, reference, rtol=1e-7):
        np.testing.assert_allclose(found, reference, rtol=0, atol=rtol * abs(reference).max())

    agree(gathered(eq.state), expected.state)
    agree(dense(eq.of.inverse), expected.inverse.toarray())
    agree(dense(eq.of.sensitivity), expected.sensitivity.toarray())
    agree(dense(eq.of.sensitivity.H), expected.sensitivity.toarray().T)
    agree(gathered(eq.gradient(LOSS)), expected.gradient(LOSS))
    agree(dense(eq.of.hessian(LOSS)), expected.hessian(LOSS).toarray())
    u, v = np.random.default_rng(2).standard_normal((2, P))
    second = expected.second_order(u, v)
    agree(gathered(eq.second_order(vec_of(u), vec_of(v))), second)


def nest(array):
    return PETSc.Mat().createNest([[mat_of(array)]], comm=COMM)


CASES = [(True, 1, mat_of), (False, 2, mat_of), (False, 1, shell_mat), (True, 2, nest)]


@pytest.mark.parametrize(("symmetric", "components", "form"), CASES)
def test_derivatives_are_those_of_the_state_with_the_constants_of_the_start(
    symmetric, components, form
):
    network = Network(symmetric, components)
    model = OnVecs(network, form, network.right, network.left)
    eq = mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START))
    assert_agree(eq, network)
    assert eq.state_operator.getType() == model.A.getType()
    A = dense(eq.of.state_operator)
    assert abs(A @ network.right).max() < 1e-12 * abs(A).max()


def test_a_null_space_of_one_side_is_that_of_a_symmetric_mat():
    network = Network()
    for sides in ({"right": network.right}, {"left": network.left}):
        eq = mfdeq.petsc.solve(OnVecs(network, **sides), vec_of(THETA), vec_of(START))
        assert_agree(eq, network)


OPTIONS = {
    "default": {},
    "cg": {"ksp_type": "cg", "pc_type": "jacobi"},
}


@pytest.mark.parametrize(
    ("options", "symmetric"), [("default", True), ("cg", True), ("default", False)]
)
def test_snes_keeps_the_null_space(options, symmetric):
    network, solver = Network(symmetric), mfdeq.petsc.KSP(options=OPTIONS[options])
    model = OnVecs(network, mat_of, network.right, network.left)
    eq = mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START), method="snes", solver=solver)
    assert_agree(eq, network)


def test_snes_solves_with_constraints():
    network = Network(False)
    rows = [vec_of(x) for x in network.right.T]
    constraint = mfdeq.LinearConstraint(rows, network.right.T @ START)
    basis = [vec_of(x) for x in network.left.T]
    model = mfdeq.constrain(OnVecs(network), constraint, basis)
    eq = mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START), method="snes")
    assert_agree(eq, network)


def test_constraints_take_the_null_spaces_that_a_mat_carries():
    network = Network(False, 2)
    rows = [vec_of(x) for x in network.right.T]
    constraint = mfdeq.LinearConstraint(rows, network.right.T @ START)
    model = OnVecs(network, mat_of, network.right, network.left)
    eq = mfdeq.petsc.solve(mfdeq.constrain(model, constraint), vec_of(THETA), vec_of(START))
    assert_agree(eq, network)
    assert eq.imbalance.shape == (2,)


FIELD_SPLIT = {
    "ksp_type": "fgmres",
    "pc_type": "fieldsplit",
    "pc_fieldsplit_type": "schur",
    "pc_fieldsplit_schur_fact_type": "full",
    "pc_fieldsplit_schur_precondition": "self",
    "fieldsplit_0_ksp_type": "cg",
    "fieldsplit_0_ksp_rtol": 1e-10,
    "fieldsplit_0_pc_type": "jacobi",
    "fieldsplit_1_ksp_type": "gmres",
    "fieldsplit_1_ksp_rtol": 1e-8,
    "fieldsplit_1_pc_type": "none",
}


class Stokes(LinearOnVecs):
    """Flow through 6 x 6 cells, with a nested Mat whose null space is a constant pressure."""

    def __init__(self):
        A, mass = stokes(6)
        self.state_size, self.param_size, k = A.shape[0], 1, A.shape[0] - mass.shape[0]
        blocks = [[mat_of(A[:k, :k]), mat_of(A[:k, k:])], [mat_of(A[k:, :k]), None]]
        self.A = PETSc.Mat().createNest(blocks, comm=COMM)
        self.A.setUp()
        self.A.assemble()
        constant = self.A.createVecRight()
        pressure = constant.getSubVector(self.A.getNestISs()[1][1])
        pressure.set(1.0)
        constant.restoreSubVector(self.A.getNestISs()[1][1], pressure)
        constant.normalize()
        space = PETSc.NullSpace().create(vectors=[constant], comm=COMM)
        self.A.setNullSpace(space)
        self.A.setTransposeNullSpace(space)
        self.load = constant.duplicate()
        self.A.mult(vec_of(np.random.default_rng(0).standard_normal(A.shape[0])), self.load)
        self.B = mat_of(-gathered(self.load)[:, None])


def test_field_split_solves_with_a_nested_mat_whose_pressure_is_free():
    model = Stokes()
    n = model.state_size
    eq = mfdeq.petsc.solve(model, vec_of(np.ones(1)), solver=mfdeq.petsc.KSP(options=FIELD_SPLIT))
    assert eq.of.factor.name == "KSP fgmres with fieldsplit"
    A = dense(eq.of.state_operator)
    exact = np.linalg.pinv(A, rcond=1e-12) @ gathered(model.load)
    np.testing.assert_allclose(gathered(eq.state), exact, atol=1e-8 * abs(exact).max())
    loss = mfdeq.LeastSquares(np.arange(0, n, 3), np.ones(len(range(0, n, 3))))
    gradient = exact[::3] @ (exact[::3] - 1.0)
    np.testing.assert_allclose(gathered(eq.gradient(loss)), gradient, rtol=1e-7)


@pytest.mark.parametrize("method", ["auto", "snes"])
def test_loads_that_do_not_balance_are_refused(method):
    network = Network()
    model = OnVecs(network, right=network.right, load=0.25)
    with pytest.raises(mfdeq.ConvergenceError, match=r"not consistent: equation 0, .* sum to zero"):
        mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START), method=method)
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START), method=method)
    np.testing.assert_allclose(caught.value.imbalance, -0.25 * N)


def test_parameters_that_do_not_balance_are_refused():
    network = Network()
    model = OnVecs(network, right=network.right, d_params=np.ones((N, P)))
    with pytest.raises(mfdeq.ModelError, match="keeps the equations consistent"):
        mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START)).gradient(LOSS)


def test_wrong_null_spaces_are_refused():
    skew, symmetric = Network(False), Network()
    other = np.random.default_rng(0).standard_normal((N, 1))
    for model, words in (
        (OnVecs(symmetric, right=other, left=symmetric.left), "vectors in setNullSpace"),
        (OnVecs(skew, right=skew.right), "with setTransposeNullSpace beside setNullSpace"),
        (OnVecs(skew, left=skew.left), "with setNullSpace beside setTransposeNullSpace"),
        (OnVecs(skew, right=skew.right, left=np.eye(N)[:, :2]), "as many null vectors"),
    ):
        with pytest.raises(mfdeq.ModelError, match=words):
            mfdeq.petsc.solve(model, vec_of(THETA), vec_of(START))


def test_functionals_and_verify_take_null_spaces():
    network = Network()
    model = OnVecs(network, right=network.right)
    assert mfdeq.verify(model, vec_of(THETA), LOSS, vec_of(START)).verdict == "PASS"
    functional = mfdeq.ReducedFunctional(model, LOSS, h0=vec_of(START))
    found = mfdeq.minimize(functional, vec_of(THETA), gtol=1e-8)
    state = functional.equilibrium(found.params).state
    total = network.right.T @ (state.gathered() - START)
    assert abs(total).max() < 1e-8


def test_stability_leaves_out_the_null_space():
    network = Network(False)
    branch = mfdeq.follow(
        OnVecs(network, mat_of, network.right, network.left),
        *(vec_of(THETA), vec_of(np.ones(P))),
        start=vec_of(START),
        span=(0.0, 0.1),
        eigenvalues=N,
    )
    point = branch.points[-1]
    A = network.linearize(point.state.gathered(), THETA + point.t).d_state
    values = np.sort(np.linalg.eigvals(A).real)
    found = np.sort(point.eigenvalues.real)
    np.testing.assert_allclose(found[:-1], values[1:], atol=1e-8 * values[-1])
