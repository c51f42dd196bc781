"""Derivatives on ranks agree with those on one machine, for Vecs and dense Mats."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import (
    COMM,
    DATA,
    LOSS,
    OBSERVED,
    THETA,
    Cubic,
    L,
    N,
    P,
    Twin,
    V,
    W,
    gathered,
    hessians,
    mat_of,
    on_one_machine,
    on_ranks,
    shell_of,
    vec_of,
)

import mfdeq
import mfdeq.petsc
from mfdeq.petsc.mats import MatOperator, create_dense_mat
from mfdeq.report import LinearCounts

RNG = np.random.default_rng(3)
OPERATORS = {
    "state_operator": lambda eq: eq.state_operator,
    "param_operator": lambda eq: eq.param_operator,
    "inverse": lambda eq: eq.inverse,
    "sensitivity": lambda eq: eq.sensitivity,
    "hessian": lambda eq: eq.hessian(LOSS),
    "gauss_newton": lambda eq: eq.hessian(LOSS).gauss_newton,
    "dynamics": lambda eq: eq.hessian(LOSS).dynamics,
    "a term": lambda eq: eq.hessian(LOSS).terms["dynamics_mixed"],
    "component_hessian": lambda eq: eq.component_hessian(5),
    "second_order_slice": lambda eq: eq.second_order_slice(
        vec_of(THETA) if eq is on_ranks() else THETA
    ),
}


def close(found, expected, rtol=1e-9):
    assert np.linalg.norm(found - expected) <= rtol * max(np.linalg.norm(expected), 1e-300)


def block_of(mat):
    """A dense Mat as a numpy array on every rank."""
    return np.concatenate(COMM.tompi4py().allgather(mat.getDenseArray().copy()))


def block(array):
    """A numpy array that every rank has as a dense Mat."""
    mat = PETSc.Mat().createDense(array.shape, comm=COMM)
    mat.setUp()
    start, stop = mat.getOwnershipRange()
    mat.getDenseArray()[...] = array[start:stop]
    mat.assemble()
    return mat


@pytest.mark.parametrize("name", OPERATORS)
def test_products_agree_for_vectors_and_blocks_on_both_sides(name):
    found, expected = (
        OPERATORS[name](on_ranks()),
        OPERATORS[name](on_one_machine()),
    )
    dense = expected.toarray()
    assert found.getSize() == dense.shape
    x, y = RNG.standard_normal(dense.shape[1]), RNG.standard_normal(dense.shape[0])
    into, back = found.createVecs()[::-1]
    found.mult(vec_of(x), into)
    close(gathered(into), dense @ x)
    found.multTranspose(vec_of(y), back)
    close(gathered(back), dense.T @ y)
    X = RNG.standard_normal((dense.shape[1], 3))
    close(block_of(found.matMult(block(X))), dense @ X)
    Y = RNG.standard_normal((dense.shape[0], 4))
    close(block_of(found.transposeMatMult(block(Y))), dense.T @ Y)


def test_stacked_vectors_hold_parameters_and_then_the_state():
    T, K = on_ranks().tangent, on_ranks().hessian(LOSS).lagrangian
    x = RNG.standard_normal(P)
    u = T.createVecs()[1]
    T.mult(vec_of(x), u)
    # dtheta and dh, one after the other, on every rank.
    stacked = on_ranks().of.backend.device.rows(on_ranks().of.tangent.shape[0])
    assert [part.total for part in stacked.parts] == [P, N]
    found = on_ranks().of.backend.device.gather(u.getArray().copy(), stacked)
    expected = on_one_machine().tangent @ x
    close(found, expected)
    into = u.duplicate()
    K.mult(u, into)
    found = on_ranks().of.backend.device.gather(into.getArray().copy(), stacked)
    close(found, on_one_machine().hessian(LOSS).lagrangian @ expected)


def test_mats_compose_in_petscs_own_algebra():
    H, ref = hessians()
    normal = PETSc.Mat().createNormal(on_ranks().sensitivity)
    x, y = RNG.standard_normal(P), vec_of(THETA)
    normal.mult(vec_of(x), y)
    Z = on_one_machine().sensitivity.toarray()
    close(gathered(y), Z.T @ (Z @ x))
    transposed = PETSc.Mat().createTranspose(H)
    transposed.mult(vec_of(x), y)
    close(gathered(y), ref @ x)


def test_gradients_adjoints_and_second_order_agree():
    eq, ref = on_ranks(), on_one_machine()
    close(gathered(eq.state), ref.state)
    close(gathered(eq.gradient(LOSS)), ref.gradient(LOSS))
    close(gathered(eq.gradient(LOSS, rtol=1e-8)), ref.gradient(LOSS), 1e-8)
    close(gathered(eq.adjoint(LOSS)), ref.adjoint(LOSS))
    for found, expected in zip(eq.loss_gradients(LOSS), ref.loss_gradients(LOSS), strict=True):
        close(gathered(found), expected)
    u, v = RNG.standard_normal((2, P))
    close(gathered(eq.second_order(vec_of(u), vec_of(v))), ref.second_order(u, v))
    close(gathered(eq.total_curvature(vec_of(u), vec_of(v))), ref.total_curvature(u, v))
    w = RNG.standard_normal(N)
    found = vec_of(u)
    eq.component_hessian(vec_of(w)).mult(vec_of(u), found)
    close(gathered(found), ref.component_hessian(w) @ u)


def test_errors_of_products_and_gradients_are_estimated():
    H, ref = hessians()
    v = RNG.standard_normal(P)
    product, error = H.with_error(vec_of(v))
    close(gathered(product), ref @ v)
    assert error.norm() < 1e-6 * product.norm()
    gradient, off = on_ranks().gradient_with_error(LOSS)
    assert (gradient - vec_of(on_one_machine().gradient(LOSS))).norm() <= off.norm() + 1e-12


def test_one_ksp_serves_both_sides():
    solver = mfdeq.petsc.KSP(prefix="sides_", options={"ksp_type": "cg", "pc_type": "jacobi"})
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver)
    close(gathered(eq.gradient(LOSS)), on_one_machine().gradient(LOSS))
    assert eq.report.solver == "KSP cg with jacobi"
    assert eq.of.factor.ksp.getType() == "cg"
    assert eq.report.forward.iterations > 0
    assert eq.report.forward.setups == 1  # that of the first step serves all others
    eq.inverse.mult(eq.state, eq.state.duplicate())
    eq.inverse.multTranspose(eq.state, eq.state.duplicate())
    assert eq.report.linear.setups == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("cg", {}),
        ("cg", {"block": 1}),
        ("minres", {}),
        ("gmres", {}),
        ("gmres", {"block": 1}),
        ("gmres", {"recycle": 5}),
    ],
)
def test_the_library_s_methods_run_on_ranks(method, options):
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=mfdeq.Krylov(method, **options))
    close(gathered(eq.gradient(LOSS)), on_one_machine().gradient(LOSS))
    assert eq.report.solver == f"Krylov {method} with no preconditioner"


def test_block_preconditioners_are_those_of_petsc():
    solver = mfdeq.Krylov(preconditioner=mfdeq.FieldSplit((N // 2, N - N // 2)))
    with pytest.raises(mfdeq.ArgumentError, match=r"KSP\(options={'pc_type': 'fieldsplit'"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver)


def test_options_on_the_command_line_take_precedence():
    PETSc.Options()["first_ksp_type"] = "bcgs"
    solver = mfdeq.petsc.KSP(prefix="first_", options={"ksp_type": "cg"})
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver)
    close(gathered(eq.gradient(LOSS)), on_one_machine().gradient(LOSS))
    assert "bcgs" in eq.report.solver


def test_options_of_one_solver_do_not_reach_the_next():
    for kind in ("bjacobi", "jacobi"):
        solver = mfdeq.petsc.KSP(options={"ksp_type": "cg", "pc_type": kind})
        eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver)
        eq.gradient(LOSS)
        assert eq.report.solver == f"KSP cg with {kind}"
    assert not PETSc.Options("mfdeq_").hasName("pc_type")


def test_factorization_solves_blocks():
    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    solver = mfdeq.petsc.KSP(prefix="direct_", options=options)
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=solver)
    B = RNG.standard_normal((N, 3))
    close(block_of(eq.inverse.matMult(block(B))), on_one_machine().inverse @ B)
    close(block_of(eq.inverse.transposeMatMult(block(B))), on_one_machine().inverse.H @ B)

    uneven = L + sp.diags([np.linspace(0.1, 1.0, N - 1)], [1])
    counts = LinearCounts()
    factor = solver.setup(MatOperator(on_ranks().of.backend, mat_of(uneven)), counts)
    given = mfdeq.petsc.arrays.DistributedArray.from_petsc(block(B))
    close(factor.solve(given).gathered(), np.linalg.solve(uneven.toarray(), B))
    assert counts.iterations == 1
    close(factor.solve_adjoint(given).gathered(), np.linalg.solve(uneven.toarray().T, B))
    assert counts.iterations == (2 if hasattr(PETSc.KSP, "matSolveTranspose") else 4)


@pytest.mark.parametrize("kind", ["lu", "bjacobi"])
def test_preconditioner_serves_the_next_matrix(kind):
    uneven = sp.diags([np.linspace(0.1, 1.0, N - 1)], [1])
    first, second = L + uneven, L + 1.2 * uneven
    backend = on_ranks().of.backend
    A, near = (MatOperator(backend, mat_of(matrix)) for matrix in (first, second))
    options = {"pc_type": kind} | ({"ksp_type": "preonly"} if kind == "lu" else {})
    if COMM.getSize() > 1 and kind == "lu":
        options["pc_factor_mat_solver_type"] = "mumps"
    held = mfdeq.petsc.KSP(prefix="held_", options=options).setup(A)
    counts = LinearCounts()
    aged = held.preconditioned_factor(near, counts, 60)
    b = RNG.standard_normal(N)
    given = mfdeq.petsc.arrays.DistributedArray.from_petsc(vec_of(b))
    for factor, matrix in ((aged, second), (held, first)):
        dense = matrix.toarray()
        close(factor.solve(given).gathered(), np.linalg.solve(dense, b))
        close(factor.solve_adjoint(given).gathered(), np.linalg.solve(dense.T, b))
    assert counts.setups == 0 < counts.iterations
    assert (held.factor_for_equilibrium(near, counts) is None) == (kind == "lu")


@pytest.mark.parametrize("method", ["newton", "snes"])
def test_newton_and_snes_find_the_same_state(method):
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), method=method)
    close(gathered(eq.state), on_one_machine().state)
    assert 2 < eq.report.iterations < 20
    again = mfdeq.petsc.equilibrium_at(Cubic(), vec_of(THETA), eq.state)
    assert again.report.converged


class Map(mfdeq.FixedPointModel):
    """h = 0.2 tanh(V theta + h): a map, its Jacobian a Mat."""

    state_size, param_size = N, P

    def __init__(self):
        self.V = mat_of(V)

    def _inner(self, h, theta):
        inner = h.duplicate()
        self.V.multAdd(theta, h, inner)
        return inner

    def map(self, h, theta):
        out = self._inner(h, theta)
        out.array = 0.2 * np.tanh(out.array_r)
        return out

    def linearize(self, h, theta):
        slope = self._inner(h, theta)
        slope.array = 0.2 / np.cosh(slope.array_r) ** 2
        d_state, d_params = mat_of(np.eye(N)), self.V.copy()
        d_state.diagonalScale(L=slope)
        d_params.diagonalScale(L=slope)
        return mfdeq.Linearization(d_state, d_params)


class TwinMap(mfdeq.FixedPointModel):
    state_size, param_size = N, P

    def map(self, h, theta):
        return 0.2 * np.tanh(V @ theta + h)

    def linearize(self, h, theta):
        slope = 0.2 / np.cosh(V @ theta + h) ** 2
        return mfdeq.Linearization(np.diag(slope), slope[:, None] * V.toarray())


@pytest.mark.parametrize("method", ["auto", "newton", "anderson", "picard", "snes"])
def test_every_method_solves_maps(method):
    eq, ref = mfdeq.petsc.solve(Map(), vec_of(THETA), method=method), mfdeq.solve(TwinMap(), THETA)
    assert method != "auto" or eq.report.method == "newton"
    close(gathered(eq.state), ref.state)
    v = RNG.standard_normal(P)
    found = eq.state.duplicate()
    eq.sensitivity.mult(vec_of(v), found)
    close(gathered(found), ref.sensitivity @ v)


class Shells(Cubic):
    """The same model with Jacobians known by their products only."""

    def linearize(self, h, theta):
        given = super().linearize(h, theta)

        shells = shell_of(given.d_state), shell_of(given.d_params)
        return mfdeq.Linearization(*shells, given.curvature, given.second)


@pytest.mark.parametrize("method", ["newton", "snes"])
def test_shell_mats_give_the_same_derivatives(method):
    solver = mfdeq.petsc.KSP(prefix="shell_", options={"pc_type": "none", "ksp_max_it": 500})
    eq = mfdeq.petsc.solve(Shells(), vec_of(THETA), method=method, solver=solver)
    close(gathered(eq.gradient(LOSS)), on_one_machine().gradient(LOSS))
    H = eq.hessian(LOSS)
    v = RNG.standard_normal(P)
    found = vec_of(v)
    H.mult(vec_of(v), found)
    close(gathered(found), on_one_machine().hessian(LOSS) @ v)


class Backwards:
    """The context of a shell Mat whose transpose is wrong, or missing."""

    def __init__(self, mat, factor):
        self.mat, self.factor = mat, factor
        if factor:
            self.multTranspose = self.transpose

    def mult(self, _, x, y):
        self.mat.mult(x, y)

    def transpose(self, _, x, y):
        self.mat.multTranspose(x, y)
        y.scale(self.factor)


@pytest.mark.parametrize("field", ["d_state", "d_params"])
@pytest.mark.parametrize(("factor", "error"), [(1.5, "DerivativeError"), (0.0, "ModelError")])
def test_wrong_transposes_of_shell_mats_are_refused(field, factor, error):
    class Wrong(Cubic):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            mat = getattr(given, field)
            shell = shell_of(mat, Backwards(mat, factor))
            return dataclasses.replace(given, **{field: shell})

    solver = mfdeq.petsc.KSP(options={"pc_type": "none"})
    with pytest.raises(getattr(mfdeq, error), match=r"transpose|adjoint product is not"):
        mfdeq.petsc.solve(Wrong(), vec_of(THETA), solver=solver)


def test_matrices_with_nan_are_refused():
    class NaN(Cubic):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            given.d_params.scale(float("nan"))
            return given

    with pytest.raises(mfdeq.ModelError, match=r"d_params of NaN\.linearize holds NaN"):
        mfdeq.petsc.solve(NaN(), vec_of(THETA))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pc_type": "none such"}, "none such"),
        ({"pc_type": "lu", "pc_factor_mat_solver_type": "x"}, "x"),
    ],
)
def test_options_that_petsc_refuses_are_argument_errors(options, words):
    with pytest.raises(mfdeq.ArgumentError, match=words):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=mfdeq.petsc.KSP("bad_", options))


def test_arguments_of_wrong_kinds_are_refused():
    for theta in (THETA, None):
        with pytest.raises(mfdeq.ArgumentError, match="expected a PETSc Vec"):
            mfdeq.petsc.solve(Cubic(), theta)
    with pytest.raises(mfdeq.ModelError, match=r"got petsc4py\.PETSc\.Vec and numpy\.ndarray"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), np.zeros(N))
    with pytest.raises(mfdeq.ArgumentError, match=r"expected one of .* 'snes', got 'sness'"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="sness")
    with pytest.raises(mfdeq.ArgumentError, match=r"use mfdeq\.petsc\.KSP"):
        mfdeq.petsc.solve(Cubic(), vec_of(THETA), solver=mfdeq.Direct())
    F = mfdeq.ReducedFunctional(Cubic(), LOSS)
    with pytest.raises(mfdeq.ArgumentError, match="expected a PETSc Vec"):
        mfdeq.petsc.tao(F, THETA)
    H = on_ranks().hessian(LOSS)
    for product in (H.matMult, H.transposeMatMult):
        with pytest.raises(mfdeq.ArgumentError, match="expected a PETSc Mat, got a ndarray"):
            product(np.ones((P, 2)))
    for options in (3, [("pc_type", "lu")], {"-pc_type": "lu"}):
        for use in (
            lambda given: mfdeq.petsc.KSP(options=given),
            lambda given: mfdeq.petsc.eigsh(H, 2, options=given),
            lambda given: mfdeq.petsc.tao(F, vec_of(THETA), options=given),
        ):
            with pytest.raises(mfdeq.ArgumentError, match="a dict of names without the dash"):
                use(options)


def test_state_and_parameters_are_copies():
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA))
    before, gradient = gathered(eq.state), gathered(eq.gradient(LOSS))
    for vec in (eq.state, eq.params):
        vec.set(7.0)
    np.testing.assert_array_equal(gathered(eq.state), before)
    np.testing.assert_array_equal(gathered(eq.params), THETA)
    np.testing.assert_array_equal(gathered(eq.gradient(LOSS)), gradient)


def test_loss_values_agree_at_vecs():
    eq = on_ranks()
    for loss in (LOSS, 2.0 * LOSS - mfdeq.Loss(lambda h, theta: h.dot(h))):
        assert loss.value(eq.state, eq.params) == loss.value(eq.of.state, eq.of.params)
    expected = LOSS.value(on_one_machine().state, THETA)
    assert LOSS.value(eq.state, eq.params) == pytest.approx(expected, rel=1e-9)


def test_minimize_within_bounds_of_vecs_agrees():
    lower, upper = THETA - 0.01, THETA + 0.02
    F = mfdeq.ReducedFunctional(Cubic(), LOSS)
    limits = vec_of(lower), vec_of(upper)
    found = mfdeq.minimize(F, vec_of(THETA), bounds=limits, gtol=1e-6)
    F = mfdeq.ReducedFunctional(Twin(), LOSS)
    expected = mfdeq.minimize(F, THETA, bounds=(list(lower), upper), gtol=1e-6)
    assert np.any(expected.params == lower)
    np.testing.assert_allclose(found.params.gathered(), expected.params, atol=1e-6)


def test_minimize_agrees_where_sizes_are_pairs():
    class Pairs(Cubic):
        def __init__(self):
            super().__init__()
            self.state_size, self.param_size = self.L.getSizes()[0], self.V.getSizes()[1]

    found = mfdeq.minimize(mfdeq.ReducedFunctional(Pairs(), LOSS), vec_of(THETA), gtol=1e-9)
    expected = mfdeq.minimize(mfdeq.ReducedFunctional(Twin(), LOSS), THETA, gtol=1e-9)
    assert found.value == pytest.approx(expected.value, rel=1e-10)


def test_losses_of_vecs_and_mats_agree():
    scaled = 3.0 * (
        mfdeq.Loss(
            lambda h, theta: 0.5 * h.dot(h) + theta.sum(),
            d_state=lambda h, theta: h,
            d_params=lambda h, theta: theta * 0.0 + 1.0,
            curvature=lambda h, theta: mfdeq.Curvature(state_state=mat_of(np.eye(N))),
        )
        + mfdeq.LeastSquares(mat_of(np.eye(N)[OBSERVED]), vec_of(DATA))
        + mfdeq.QuadraticPrior(mat_of(np.eye(P)), vec_of(THETA * 0.5))
    )
    ref = 3.0 * (
        mfdeq.Loss(
            lambda h, theta: 0.5 * (h @ h) + theta.sum(),
            d_state=lambda h, theta: h,
            d_params=lambda h, theta: theta * 0.0 + 1.0,
            curvature=lambda h, theta: mfdeq.Curvature(state_state=np.eye(N)),
        )
        + mfdeq.LeastSquares(OBSERVED, DATA)
        + mfdeq.QuadraticPrior(1.0, THETA * 0.5)
    )
    close(gathered(on_ranks().gradient(scaled)), on_one_machine().gradient(ref))
    v = RNG.standard_normal(P)
    found = vec_of(v)
    on_ranks().hessian(scaled).mult(vec_of(v), found)
    close(gathered(found), on_one_machine().hessian(ref) @ v)


def test_minimize_agrees():
    found = mfdeq.minimize(mfdeq.ReducedFunctional(Cubic(), LOSS), vec_of(THETA), gtol=1e-9)
    expected = mfdeq.minimize(mfdeq.ReducedFunctional(Twin(), LOSS), THETA, gtol=1e-9)
    close(found.params.gathered(), expected.params, 1e-8)
    assert found.value == pytest.approx(expected.value, rel=1e-10)


def test_verify_finds_a_wrong_term():
    class Wrong(Cubic):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            given.d_params.scale(1.001)
            return given

    assert mfdeq.verify(Wrong(), vec_of(THETA)).verdict == "FAIL"


def test_local_sizes_are_those_of_the_model():
    rank, size = COMM.getRank(), COMM.getSize()
    own = N if rank == 0 and size > 1 else (N if size == 1 else 0)

    class First(mfdeq.ResidualModel):
        state_size, param_size = (own, N), 3

        def residual(self, h, theta):
            assert h.getLocalSize() == own
            return h - 1.0

        def linearize(self, h, theta):
            A = PETSc.Mat().createAIJ(((own, N), (own, N)), comm=alone)
            A.setUp()
            A.assemble()
            A.shift(1.0)
            B = PETSc.Mat().createAIJ(((own, N), theta.getSizes()), comm=alone)
            B.setUp()
            B.assemble()
            return mfdeq.Linearization(A, B)

    alone = PETSc.Comm(COMM.tompi4py().Dup())  # has another layout for vectors of these sizes
    eq = mfdeq.petsc.solve(First(), PETSc.Vec().createMPI(3, comm=alone))
    assert eq.state.getLocalSize() == own
    assert eq.state.sum() == pytest.approx(N)


def test_blocks_become_dense_mats():
    ranks = on_ranks().of.backend.device
    X = on_ranks().of.backend.from_host(RNG.standard_normal((N, 2)))
    assert create_dense_mat(X).getSize() == (N, 2)
    close(X.gathered().T @ X.gathered(), X.T @ X)
    assert ranks.rows(N).total == L.shape[0] == W.shape[0]


@pytest.mark.parametrize("entry", [1.0, 1e150, 0.0, np.inf, np.nan])
def test_norms_of_extreme_entries(entry):
    x = on_ranks().of.backend.zeros(N)
    x[N - 1] = x[2] = entry
    found = on_ranks().of.backend.norm(x)
    np.testing.assert_allclose(found, np.hypot(entry, entry), rtol=1e-12)
