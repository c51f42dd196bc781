"""Models with constraints on any number of ranks, compared with the dense bordered system."""

import re

import numpy as np
import pytest

pytest.importorskip("petsc4py")

import scipy.sparse as sp
from petsc4py import PETSc
from support.dependent_equations import DependentEquations, random_loss
from support.petsc_problems import COMM, LinearOnVecs, gathered, mat_of, shell_mat, vec_of

import mfdeq
import mfdeq.petsc
from mfdeq.models.elimination import Projection
from mfdeq.models.linear_constraints import Constraints


def dense_mat(array):
    mat = PETSc.Mat().createDense(array.shape, comm=COMM)
    mat.setUp()
    mat.getDenseArray()[...] = array[slice(*mat.getOwnershipRange())]
    mat.assemble()
    return mat


FORMS = {"aij": mat_of, "dense": dense_mat, "shell": shell_mat}


class OnVecs:
    """The equations of `DependentEquations` on Vecs and Mats, and their constraint."""

    def __init__(self, equations, form):
        self.equations, self.form = equations, FORMS[form]

    def model(self):
        written, form = self.equations.model(), self.form

        class Twin(type(written).__bases__[0]):
            state_size, param_size = written.state_size, written.param_size

            def evaluate(self, h, theta):
                return vec_of(written.evaluate(gathered(h), gathered(theta)))

            map = residual = evaluate

            def linearize(self, h, theta):
                whole = written.linearize(gathered(h), gathered(theta))

                def curvature(lam):
                    K = whole.curvature(gathered(lam))
                    blocks = K.params_params, K.state_params, K.state_state
                    return mfdeq.Curvature(*map(mat_of, blocks))

                def second(a, b):
                    return vec_of(whole.second(*(tuple(map(gathered, x)) for x in (a, b))))

                return mfdeq.Linearization(
                    form(whole.d_state), mat_of(whole.d_params), curvature, second
                )

        return Twin()

    def constraint(self):
        parts, P = self.equations.c, self.equations.theta.size

        def at(h, theta):
            return np.r_[gathered(theta), gathered(h)]

        def curvature(h, theta, nu):
            assert isinstance(nu, np.ndarray)
            K = np.einsum("k,kab->ab", nu, parts.second(at(h, theta)))
            return mfdeq.Curvature(*map(mat_of, (K[:P, :P], K[P:, :P], K[P:, P:])))

        return mfdeq.Constraint(
            lambda h, theta: parts(at(h, theta)),
            lambda h, theta: mat_of(parts.first(at(h, theta))[:, P:]),
            lambda h, theta: [vec_of(row) for row in parts.first(at(h, theta))[:, :P]],
            curvature,
        )


def by_hand(equations, form, redundant="detect"):
    given = OnVecs(equations, form)
    return mfdeq.constrain(given.model(), given.constraint(), redundant)


def distributed(equations, form, redundant="detect"):
    equations.form = {"aij": "sparse", "dense": "dense"}[form]
    return mfdeq.petsc.distributed(equations.constrained(redundant))


def loss_on_vecs(sizes, at):
    """Return the random loss on Vecs, with its gradient and Hessian at a point."""
    N, P = sizes
    loss, (gradient, K) = random_loss(N, P, at)

    def whole(h, theta):
        return gathered(h), gathered(theta)

    def slopes(h, theta):
        d_params, d_state = loss.gradients(*whole(h, theta))
        return vec_of(d_params), vec_of(d_state)

    made = mfdeq.Loss(
        lambda h, theta: loss.value(*whole(h, theta)),
        lambda h, theta: slopes(h, theta)[1],
        lambda h, theta: slopes(h, theta)[0],
        lambda h, theta: mfdeq.Curvature(*map(mat_of, (K[:P, :P], K[P:, :P], K[P:, P:]))),
    )
    return made, (gradient, K)


def dense(operator):
    return operator.toarray().gathered()


def check_every_operator(equations, eq):
    N, P, m = equations.sizes
    loss, at_point = loss_on_vecs((N, P), np.r_[equations.theta, equations.state])
    truth = equations.truth(at_point)

    def agree(found, expected, rtol=1e-7):
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * abs(expected).max())

    of = eq.of
    agree(gathered(eq.state), equations.state)
    agree(dense(of.state_operator), truth.A)
    agree(dense(of.param_operator), truth.B)
    agree(dense(of.inverse), truth.inverse)
    agree(dense(of.inverse.H), truth.inverse.T)
    agree(dense(of.sensitivity), truth.Z)
    agree(dense(of.sensitivity.H), truth.Z.T)
    agree(gathered(eq.gradient(loss)), truth.gradient)
    H = of.hessian(loss)
    agree(dense(H), truth.hessian)
    agree(dense(H.gauss_newton), truth.gauss_newton)
    u, v = np.random.default_rng(1).standard_normal((2, P))
    agree(gathered(eq.second_order(vec_of(u), vec_of(v))), truth.second @ v @ u)
    agree(gathered(eq.total_curvature(vec_of(u), vec_of(v))), truth.f2 @ v @ u)
    agree(dense(of.component_hessian(N - 1)), truth.second[N - 1])
    assert isinstance(eq.imbalance, np.ndarray)
    assert eq.imbalance.shape == eq.multipliers.shape == (m,)
    assert max(abs(eq.imbalance).max(), abs(eq.multipliers).max()) < 1e-9


# P = 1 and P = m are those of a total that is a parameter: replicated and distributed arrays have
# the same number of rows.
CASES = [
    *((is_map, m, P, "aij") for is_map in (False, True) for m, P in ((1, 1), (2, 2), (5, 4))),
    *((False, 2, 4, form) for form in ("dense", "shell")),
]


@pytest.mark.parametrize(("is_map", "m", "P", "form"), CASES)
def test_every_operator_is_that_of_the_dense_bordered_system(is_map, m, P, form):
    equations = DependentEquations.random(is_map, m, P=P)
    start = vec_of(1.01 * equations.state)
    eq = mfdeq.petsc.solve(by_hand(equations, form), vec_of(equations.theta), start)
    check_every_operator(equations, eq)


@pytest.mark.parametrize(("form", "redundant"), [("aij", "given"), ("dense", "detected")])
def test_models_of_numpy_are_distributed_with_their_constraints(form, redundant):
    equations = DependentEquations.random(False, 2)
    basis = "detect" if redundant == "detected" else equations.W
    model = distributed(equations, form, basis)
    start = model.state(1.01 * equations.state)
    eq = mfdeq.petsc.solve(model, model.params(equations.theta), start)
    check_every_operator(equations, eq)


def test_the_sum_of_the_equations_of_a_large_mat_is_tried():
    n = 1_500
    ends = np.r_[1.0, np.full(n - 2, 2.0), 1.0]
    A = mat_of(sp.diags([-np.ones(n - 1), ends, -np.ones(n - 1)], [-1, 0, 1]))
    B = mat_of(sp.csr_matrix(([-1.0, 1.0], ([0, n - 1], [0, 0])), (n, 1)))

    class Wire(mfdeq.ResidualModel):
        state_size, param_size = n, 1

        def residual(self, h, theta):
            r, forced = h.duplicate(), h.duplicate()
            A.mult(h, r)
            B.mult(theta, forced)
            return r + forced

        def linearize(self, h, theta):
            return mfdeq.Linearization(A, B, lambda lam: mfdeq.Curvature())

    model = mfdeq.constrain(Wire(), mfdeq.LinearConstraint(vec_of(np.ones(n))))
    solver = mfdeq.petsc.KSP(options={"ksp_type": "cg", "pc_type": "gamg"})
    eq = mfdeq.petsc.solve(model, vec_of(np.ones(1)), solver=solver)
    np.testing.assert_allclose(gathered(eq.state), (n - 1) / 2 - np.arange(n), atol=1e-6)


class Pipes(LinearOnVecs):
    """Flow between 1,200 nodes of two networks, with an equation in units of its own at each."""

    state_size, param_size = 1_200, 1

    def __init__(self, form):
        rng, half = np.random.default_rng(5), self.state_size // 2
        ends = np.concatenate([rng.permutation(half) for _ in range(6)]).reshape(2, -1)
        ends = np.hstack([ends, ends + half])
        edges = np.arange(ends.shape[1])
        D = sum(
            sp.csr_matrix((sign, (edges, end)), (edges.size, self.state_size))
            for sign, end in zip((edges**0.0, -(edges**0.0)), ends, strict=True)
        )
        self.units = np.exp(rng.standard_normal(self.state_size))
        self.matrix = sp.csr_matrix(sp.diags(self.units) @ D.T @ D)
        self.labels = np.repeat(np.eye(2), half, axis=0)
        load = self.units * (D.T @ rng.standard_normal(edges.size))
        self.load = load[:, None]
        self.A, self.B = form(self.matrix), mat_of(-self.load)


def totals_of(pipes):
    return mfdeq.LinearConstraint([vec_of(row) for row in pipes.labels.T])


def test_combinations_of_the_equations_of_a_large_mat_are_detected():
    pipes = Pipes(mat_of)
    model = mfdeq.constrain(pipes, totals_of(pipes))
    eq = mfdeq.petsc.solve(model, vec_of(np.ones(1)))
    state, W = gathered(eq.state), model.elimination.basis
    np.testing.assert_allclose(pipes.matrix @ state, pipes.load[:, 0], atol=1e-8)
    np.testing.assert_allclose(pipes.labels.T @ state, 0.0, atol=1e-8)
    expected = pipes.labels / pipes.units[:, None]
    np.testing.assert_allclose(W, expected / expected.max(axis=0), atol=1e-9)


def test_what_to_pass_is_said_for_a_large_mat_without_entries():
    pipes = Pipes(shell_mat)
    with pytest.raises(mfdeq.ArgumentError, match=r"list with a Vec .* setTransposeNullSpace"):
        mfdeq.petsc.solve(mfdeq.constrain(pipes, totals_of(pipes)), vec_of(np.ones(1)))


def broken_row():
    """Return a row with NaN on the last rank only."""
    row = np.ones(5)
    row[-1] = np.nan
    return vec_of(row)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (lambda: [vec_of(row) for row in TOTALS[:2]], "3 combinations of equations vanish"),
        (lambda: [vec_of(np.ones(7))] * 3, r"3 Vecs of 5 entries, got shapes \(7,\)"),
        (lambda: [vec_of(np.ones(5)), broken_row(), vec_of(np.ones(5))], "NaN or infinity"),
        (lambda: mat_of(np.ones((3, 7))), r"a Mat of size \(3, 5\)"),
        (lambda: np.ones((3, 4)), r"\(3, 5\), got \(3, 4\)"),
        (lambda: [vec_of(row) for row in TOTALS[[0, 1, 1]]], "repeat each other"),
    ],
)
def test_rows_that_do_not_fit_are_refused_on_all_ranks(rows, words):
    model = mfdeq.petsc.distributed(Reactions())
    constraint = mfdeq.LinearConstraint(rows(), 1.0)
    with pytest.raises((mfdeq.ArgumentError, mfdeq.ModelError, mfdeq.SingularStateError)) as caught:
        mfdeq.petsc.solve(mfdeq.constrain(model, constraint), model.params(RATES))
    assert re.search(words, str(caught.value)), str(caught.value)


def without_the_curvature_of_constraints(monkeypatch):
    monkeypatch.setattr(Constraints, "curvature", lambda *arguments: None)


def without_the_parameters_of_constraints(monkeypatch):
    monkeypatch.setattr(Constraints, "d_params", lambda *arguments: None)


def without_the_row_of_multipliers(monkeypatch):
    original = Projection.insert_adjoint
    monkeypatch.setattr(Projection, "insert_adjoint", lambda *arguments: 0.0 * original(*arguments))


MUTATIONS = [
    without_the_curvature_of_constraints,
    without_the_parameters_of_constraints,
    without_the_row_of_multipliers,
]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")
def test_mutations_fail_the_dense_truth_and_verify(mutation, monkeypatch):
    equations = DependentEquations.random(False, 2)
    model, theta = by_hand(equations, "aij"), vec_of(equations.theta)
    loss, _ = loss_on_vecs(equations.sizes[:2], np.r_[equations.theta, equations.state])
    start = vec_of(1.01 * equations.state)
    mfdeq.petsc.solve(model, theta, start)
    assert mfdeq.verify(model, theta, loss, start).verdict == "PASS"
    mutation(monkeypatch)
    with pytest.raises((AssertionError, mfdeq.MfdeqError)):
        check_every_operator(equations, mfdeq.petsc.solve(model, theta, start))
    try:
        verdict = mfdeq.verify(model, theta, loss, start).verdict
    except mfdeq.MfdeqError:
        verdict = "FAIL"
    assert verdict == "FAIL"


TOTALS = np.array([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
RATES = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 1.5])


class Reactions(mfdeq.ResidualModel):
    """A <-> B and C + D <-> E, whose totals are the last parameters."""

    state_size, param_size = 5, 7
    S = np.array([[1.0, -1, 0, 0, 0], [0, 0, 1, 1, -1]]).T

    def residual(self, h, p):
        return self.S @ [p[0] * h[0] - p[1] * h[1], p[2] * h[2] * h[3] - p[3] * h[4]]

    def linearize(self, h, p):
        by_state = np.array([[p[0], -p[1], 0, 0, 0], [0, 0, p[2] * h[3], p[2] * h[2], -p[3]]])
        by_params = np.zeros((2, 7))
        by_params[0, :2], by_params[1, 2:4] = (h[0], -h[1]), (h[2] * h[3], -h[4])

        def curvature(lam):
            first, second = self.S.T @ lam
            mixed, states = np.zeros((5, 7)), np.zeros((5, 5))
            mixed[0, 0], mixed[1, 1] = first, -first
            mixed[2, 2], mixed[3, 2], mixed[4, 3] = second * h[3], second * h[2], -second
            states[2, 3] = states[3, 2] = second * p[2]
            return mfdeq.Curvature(state_params=mixed, state_state=states)

        return mfdeq.Linearization(
            sp.csr_matrix(self.S @ by_state), sp.csr_matrix(self.S @ by_params), curvature
        )


def network():
    totals = mfdeq.LinearConstraint(TOTALS, lambda p: p[4:], lambda p: np.eye(7)[4:])
    return mfdeq.constrain(Reactions(), totals)


def test_functionals_spectra_and_branches_agree_with_one_machine():
    loss = mfdeq.LeastSquares([0, 2], np.array([0.4, 0.9])) + mfdeq.QuadraticPrior(1e-2, RATES)
    numpy_model, model = network(), mfdeq.petsc.distributed(network())
    theta = model.params(RATES)
    expected = mfdeq.minimize(mfdeq.ReducedFunctional(numpy_model, loss), RATES, gtol=1e-9)
    F = mfdeq.ReducedFunctional(model, model.loss(loss))
    found = mfdeq.minimize(F, theta, gtol=1e-9)
    np.testing.assert_allclose(found.params.gathered(), expected.params, rtol=1e-6)
    H = mfdeq.solve(numpy_model, RATES).hessian(loss)
    pairs = mfdeq.eigsh(mfdeq.petsc.solve(model, theta).of.hessian(model.loss(loss)), 2)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(H.toarray())[-2:], rtol=1e-6)
    along = model.params(np.eye(7)[4])
    branch = mfdeq.follow(model, theta, along, span=(0.0, 2.0), eigenvalues=5)
    reference = mfdeq.follow(numpy_model, RATES, np.eye(7)[4], span=(0.0, 2.0), eigenvalues=5)
    ends = branch.points[-1], reference.points[-1]
    np.testing.assert_allclose(ends[0].state.gathered(), ends[1].state, rtol=1e-7)
    assert ends[0].unstable == ends[1].unstable


def squared_difference(h, theta):
    """Return residuals of which the second has no derivative where the unknowns are equal."""
    sum_, difference = h[0] + h[1] - theta[0], h[0] - h[1]
    return sum_ * np.array([1.0, 0.0]) + difference**2 * np.array([0.0, 1.0])


def test_a_basis_of_rows_that_vanish_at_the_state_alone_is_refused_on_all_ranks():
    model = mfdeq.petsc.distributed(
        mfdeq.constrain(
            mfdeq.from_function(squared_difference, 2, 1, "residual"),
            mfdeq.LinearConstraint(np.array([1.0, -1.0])),
            redundant=np.array([0.0, 1.0]),
        )
    )
    with pytest.raises(mfdeq.ArgumentError, match=r"redundant: .* at a state nearby"):
        mfdeq.petsc.solve(model, vec_of(np.ones(1)))
