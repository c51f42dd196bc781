"""A singular A is an error whatever its structure, which names what the equations leave open."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import mfdeq

rng = np.random.default_rng


class Linear(mfdeq.ResidualModel):
    """A h = theta b."""

    param_size = 1

    def __init__(self, A, b):
        self.A, self.b, self.state_size = A, b, A.shape[0]

    def residual(self, h, theta):
        return self.A @ h - theta * self.b

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.A, -self.b[:, None], lambda lam: mfdeq.Curvature())


def differences(n):
    return sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))


def closed_box(n=4):
    """Flow through a porous box without an outlet: u + grad p = 0, div u = f."""
    G = sp.vstack([sp.kron(sp.eye_array(n), differences(n)), sp.kron(differences(n), np.eye(n))])
    sources = np.zeros(n * n)
    sources[0], sources[-1] = 1.0, -1.0
    A = sp.block_array([[sp.eye_array(G.shape[0]), G], [G.T, None]], format="csr")
    return A, np.r_[np.zeros(G.shape[0]), sources], np.arange(G.shape[0], A.shape[0])


def stokes(n=4):
    """Viscous flow in a closed box on a staggered grid, driven by a force."""

    def laplacian(m):
        return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))

    eye = sp.eye_array
    along = sp.kron(eye(n), laplacian(n - 1)) + sp.kron(laplacian(n), eye(n - 1))
    across = sp.kron(eye(n - 1), laplacian(n)) + sp.kron(laplacian(n - 1), eye(n))
    G = sp.vstack([sp.kron(eye(n), differences(n)), sp.kron(differences(n), eye(n))])
    A = sp.block_array([[sp.block_diag([along, across]), G], [G.T, None]], format="csr")
    return A, np.eye(A.shape[0])[1], np.arange(G.shape[0], A.shape[0])


def periodic_advection(n=20):
    A = sp.csr_array(np.eye(n) - np.roll(np.eye(n), 1, axis=0))
    return A, A @ rng(0).random(n), np.arange(n)


def insulated_rod(n=20):
    A = (differences(n).T @ differences(n)).tocsr()
    return A, A @ rng(0).random(n), np.arange(n)


def isolated_bus(n=9):
    A = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A[3, :] = A[:, 3] = 0.0
    return sp.csr_array(A), np.where(np.arange(n) == 3, 0.0, 1.0), np.array([3])


def without_an_equation(n=9):
    A = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A[3, :] = 0.0
    return sp.csr_array(A), A @ rng(0).random(n), np.arange(n)


def without_an_unknown(n=9):
    A = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    A[:, 3] = 0.0
    return sp.csr_array(A), A @ rng(0).random(n), np.array([3])


def reducible_chain(n=5):
    """Two closed classes of a Markov chain, with one normalization for both."""
    P = rng(1).random((2, n, n))
    P = sp.block_diag(P / P.sum(axis=2, keepdims=True)).toarray()
    A = P.T - np.eye(2 * n)
    A[0] = 1.0
    return sp.csr_array(A), np.eye(2 * n)[0], np.arange(2 * n)


def repeated_equation(n=12):
    A = rng(2).standard_normal((n, n))
    A[5] = 2 * A[2] - A[7]
    return sp.csr_array(A), A @ rng(3).standard_normal(n), np.arange(n)


STRUCTURES = {
    "closed box": (closed_box, "free constant"),
    "Stokes": (stokes, "free constant"),
    "periodic advection": (periodic_advection, "free constant"),
    "insulated rod": (insulated_rod, "free constant"),
    "isolated bus": (isolated_bus, "unused unknown"),
    "equation without unknowns": (without_an_equation, "dependent equations"),
    "unknown in no equation": (without_an_unknown, "unused unknown"),
    "reducible chain": (reducible_chain, "dependent equations"),
    "repeated equation": (repeated_equation, "dependent equations"),
}
DIRECT = {
    "auto": "auto",
    "SuperLU": mfdeq.Direct(package="superlu"),
    "multifrontal": mfdeq.Direct(package="multifrontal"),
}
SOLVERS = {
    **DIRECT,
    "gmres": mfdeq.Krylov(),
    "lgmres": mfdeq.Krylov("lgmres", max_iterations=60),
    "ILU": mfdeq.Krylov(preconditioner=mfdeq.ILU()),
    "AMG": mfdeq.Krylov(preconditioner=mfdeq.AMG()),
    "Neumann": mfdeq.Neumann(max_iterations=200),
}
FORMS = {
    "sparse": lambda A: A,
    "dense": lambda A: A.toarray(),
    "products": lambda A: LinearOperator(
        A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=float
    ),
}


def derivative(A, b, solver="auto", h0=None):
    """Solve A h = b and compute a gradient; without an error the test fails."""
    n = A.shape[0]
    eq = mfdeq.solve(Linear(A, b), np.ones(1, b.dtype), h0, solver=solver)
    assert not eq.report.uniqueness.startswith("judged")
    return eq.gradient(mfdeq.LeastSquares(np.arange(n), np.zeros(n, b.dtype)))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_singular_structure_is_the_same_error_from_every_solver(structure, solver):
    build, kind = STRUCTURES[structure]
    A, b, unknowns = build()
    with pytest.raises(mfdeq.SingularStateError) as caught:
        derivative(A, b, SOLVERS[solver])
    error = caught.value
    assert error.kind == kind
    assert error.digits <= 0.0
    np.testing.assert_array_equal(error.unknowns, unknowns)
    np.testing.assert_allclose(A @ error.right, 0.0, atol=1e-12)
    np.testing.assert_allclose(A.T @ error.left, 0.0, atol=1e-12)
    assert "fold" not in str(error)


@pytest.mark.parametrize("form", ["dense", "products"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_singular_structure_is_found_without_a_sparse_matrix(structure, form):
    build, kind = STRUCTURES[structure]
    A, b, unknowns = build()
    with pytest.raises(mfdeq.SingularStateError) as caught:
        derivative(FORMS[form](A), b)
    assert caught.value.kind == kind
    np.testing.assert_array_equal(caught.value.unknowns, unknowns)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_singular_structure_is_found_in_single_precision(structure):
    A, b, _ = STRUCTURES[structure][0]()
    with pytest.raises(mfdeq.SingularStateError) as caught:
        derivative(A.astype(np.float32), b.astype(np.float32))
    assert caught.value.kind == STRUCTURES[structure][1]


@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("span", [3, 8])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_verdict_does_not_depend_on_units(structure, span, solver):
    build, kind = STRUCTURES[structure]
    A, b, unknowns = build()
    rows, columns = 10.0 ** rng(5).uniform(-span, span, (2, A.shape[0]))
    A = (sp.diags_array(rows) @ A @ sp.diags_array(columns)).tocsr()
    with pytest.raises(mfdeq.SingularStateError) as caught:
        derivative(A, rows * b, DIRECT[solver])
    # A constant in one unit is none in mixed ones.
    assert caught.value.kind == ("dependent equations" if kind == "free constant" else kind)
    assert set(caught.value.unknowns) <= set(unknowns)


def pinned(A, b, at=-1):
    """Replace an equation by the value of an unknown."""
    A = A.tolil()
    A[at] = 0.0
    A[at, at] = 1.0
    return A.tocsr(), np.where(np.arange(len(b)) == at % len(b), 0.3, b)


HEALTHY = {
    **{
        name: lambda build=build: pinned(*build()[:2])
        for name, (build, _) in STRUCTURES.items()
        if build in (closed_box, stokes, periodic_advection, insulated_rod)
    },
    "larger Stokes": lambda: pinned(*stokes(9)[:2]),
    "fine rod": lambda: pinned(*insulated_rod(2000)[:2]),
    "nilpotent map": lambda: (sp.csr_array(np.eye(20) - np.eye(20, k=1)), np.ones(20)),
}


@pytest.mark.parametrize("solver", DIRECT)
@pytest.mark.parametrize("span", [0, 3, 8])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_regular_matrix_is_not_condemned_in_any_units(name, span, solver):
    A, b = HEALTHY[name]()
    if solver == "multifrontal" and name.endswith("Stokes"):
        pytest.skip("its fronts are singular")
    rows, columns = 10.0 ** rng(6).uniform(-span, span, (2, A.shape[0]))
    A = (sp.diags_array(rows) @ A @ sp.diags_array(columns)).tocsr()
    n = A.shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = mfdeq.solve(Linear(A, rows * b), np.ones(1), solver=DIRECT[solver])
        assert eq.report.uniqueness == "judged"
        eq.gradient(mfdeq.LeastSquares(np.arange(n), np.zeros(n)))
    assert eq.report.digits_left > 8


def test_null_vectors_that_lie_where_a_has_no_entries_are_found():
    """Perturbations of the entries of a saddle point matrix do not make it less singular."""
    A, b, pressures = closed_box()
    v = np.zeros(A.shape[0])
    v[pressures] = 1.0
    assert v @ abs(A) @ v == 0.0
    for start in (None, np.linalg.lstsq(A.toarray(), b, rcond=None)[0]):
        with pytest.raises(mfdeq.SingularStateError):
            mfdeq.solve(Linear(A, b), np.ones(1), start)


def test_the_error_uses_the_names_of_the_model():
    A, b, _ = isolated_bus()
    model = Linear(A, b)
    model.state_names = [f"voltage at bus {i}" for i in range(9)]
    model.equation_names = [f"power at bus {i}" for i in range(9)]
    with pytest.raises(mfdeq.SingularStateError, match="voltage at bus 3 is in no") as caught:
        mfdeq.solve(model, np.ones(1))
    assert "power at bus 3 contains no unknown" in str(caught.value)
    assert caught.value.report.uniqueness == "no: unused unknown"
    assert not caught.value.report.converged


def test_a_state_of_a_closed_network_does_not_drift_by_another_method():
    """2 A -> B -> 2 A conserves A + 2 B; the second equation is minus half the first one."""

    def rates(h, theta):
        rate = theta[0] * h[0] ** 2 - theta[1] * h[1]
        return np.array([-2 * rate, rate])

    model = mfdeq.from_function(rates, 2, 2, "residual")
    for method in ("auto", "newton", "anderson"):
        with pytest.raises(mfdeq.SingularStateError) as caught:
            mfdeq.solve(model, np.array([2.0, 1.0]), np.array([1.0, 0.5]), method=method)
        assert caught.value.kind == "dependent equations"
        ratio = caught.value.left / caught.value.left[0]
        np.testing.assert_allclose(ratio, [1.0, 2.0], rtol=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_a_state_that_grows_along_a_null_vector_is_no_equilibrium(named, monkeypatch):
    """An insulated plate with a source: beside |A| |h| the residual of a large h is small."""
    n = 12
    side = differences(n).T @ differences(n)
    A = (sp.kron(side, np.eye(n)) + sp.kron(np.eye(n), side)).tocsr()
    if not named:
        monkeypatch.setattr(mfdeq.equilibrium.uniqueness, "find_null_vectors", lambda *args: None)
    model = Linear(FORMS["products"](A), rng(0).standard_normal(n * n))
    h0 = np.full(n * n, 1e13)
    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.solve(model, np.ones(1), h0, solver=mfdeq.Krylov(), method="anderson")
    assert abs(caught.value.right).min() > 0.9 / n
    assert not caught.value.report.converged
    assert (caught.value.kind == "free constant") == named


def test_prices_without_a_numeraire_are_undetermined():
    """Walras' law: the values of the excess demands of an exchange economy sum to zero."""
    endowments = np.array([[1.0, 2.0, 0.5], [0.3, 1.0, 2.0]])
    shares = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])

    class Economy(mfdeq.ResidualModel):
        state_size, param_size = 3, 1

        def initial_state(self, theta):
            return np.array([1.0, 1.2, 0.8])

        def residual(self, p, theta):
            wealth = theta * (endowments @ p)
            return (shares * wealth[:, None] / p).sum(axis=0) - theta * endowments.sum(axis=0)

        def linearize(self, p, theta):
            wealth = theta * (endowments @ p)
            demand = (shares * wealth[:, None]).sum(axis=0)
            J = theta * (shares / p).T @ endowments - np.diag(demand / p**2)
            return mfdeq.Linearization(J, self.residual(p, theta)[:, None] / theta)

    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.solve(Economy(), np.ones(1))
    assert caught.value.kind == "dependent equations"
    assert list(caught.value.unknowns) == [0, 1, 2]


class Ring(mfdeq.ResidualModel):
    """(|h|² - theta) h = 0, whose equilibria are a circle; off it A is regular."""

    state_size, param_size = 2, 1

    def initial_state(self, theta):
        return np.array([1.0, 0.5])

    def residual(self, h, theta):
        return (h @ h - theta) * h

    def linearize(self, h, theta):
        return mfdeq.Linearization((h @ h - theta) * np.eye(2) + 2 * np.outer(h, h), -h[:, None])


def test_a_curve_of_equilibria_is_no_fold():
    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.solve(Ring(), np.full(1, 2.0))
    assert caught.value.kind == "dependent equations"
    assert "fold" not in str(caught.value)


class Tank(mfdeq.ResidualModel):
    """A stirred tank h = Da (1 - h) exp(B h), with a fold, in two equations."""

    state_size, param_size = 2, 1

    def __init__(self, unit=1.0):
        self.unit = unit

    def residual(self, h, theta):
        h = self.unit * h
        return np.array([h[0] - theta[0] * (1 - h[0]) * np.exp(8 * h[0]), h[1] - h[0]])

    def linearize(self, h, theta):
        h, e = self.unit * h, np.exp(8 * self.unit * h[0])
        slope = 1 + theta[0] * e * (1 - 8 * (1 - h[0]))
        J = self.unit * np.array([[slope, 0.0], [-1.0, 1.0]])
        return mfdeq.Linearization(J, np.array([[-(1 - h[0]) * e], [0.0]]))


FOLD = (1 - 0.5**0.5) / 2  # of h: h (1 - h) = 1 / 8
FOLD_PARAMETER = FOLD / ((1 - FOLD) * np.exp(8 * FOLD))


@pytest.mark.parametrize("unit", [1.0, 1e6])
@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov()], ids=str)
def test_at_a_fold_solve_warns_and_every_derivative_raises(solver, unit):
    model, loss = Tank(unit), mfdeq.LeastSquares(np.arange(2), np.zeros(2))
    theta, state = np.array([FOLD_PARAMETER]), np.full(2, FOLD / unit)
    if isinstance(solver, mfdeq.Direct):
        with pytest.warns(mfdeq.NearSingularWarning, match="at a fold"):
            eq = mfdeq.solve(model, theta, state, solver=solver)
    else:
        eq = mfdeq.solve(model, theta, state, solver=solver)
        assert eq.report.uniqueness.startswith("not judged")
    found = eq.smallest_singular
    assert found.value < 1e-6 * unit
    np.testing.assert_allclose(abs(found.right), np.full(2, 0.5**0.5), rtol=1e-6)
    uses = (
        lambda: eq.gradient(loss),
        lambda: eq.sensitivity @ np.ones(1),
        lambda: eq.inverse @ np.ones(2),
        lambda: eq.gradient(loss),
    )
    for use in uses:
        with pytest.raises(mfdeq.SingularStateError, match="at a fold") as caught:
            use()
        assert caught.value.kind == "fold"
        assert list(caught.value.unknowns) == [0, 1]
        assert caught.value.best is eq.state
        assert caught.value.report is eq.report


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("method", ["newton", "auto"])
def test_at_a_fold_of_a_map_a_residual_of_zero_is_no_accuracy(method, unit):
    """h = h - (h - 1)^2: the residual is evaluated as zero at a distance of 1e-8 from the fold."""

    def f(h, theta):
        return h - (unit * h - 1.0) ** 2 / unit + theta

    model = mfdeq.from_function(f, 1, 1, "map")
    with pytest.warns(mfdeq.NearSingularWarning, match="fold"):
        eq = mfdeq.solve(model, np.zeros(1), np.array([3.0]) / unit, method=method)
    assert unit * eq.state[0] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(mfdeq.SingularStateError, match="fold"):
        eq.gradient(mfdeq.LeastSquares([0], np.zeros(1)))


def test_a_bifurcation_is_not_called_a_plain_fold():
    """At h = theta = 0 the branches h = 0 and h² = theta of theta h = h³ cross."""

    class Pitchfork(mfdeq.ResidualModel):
        state_size, param_size = 2, 1

        def residual(self, h, theta):
            return np.array([theta[0] * h[0] - h[0] ** 3, h[1] - h[0] - 1.0])

        def linearize(self, h, theta):
            J = np.array([[theta[0] - 3 * h[0] ** 2, 0.0], [-1.0, 1.0]])
            return mfdeq.Linearization(J, np.array([[h[0]], [0.0]]))

    with pytest.warns(mfdeq.NearSingularWarning, match="bifurcation"):
        mfdeq.solve(Pitchfork(), np.zeros(1), np.array([0.0, 1.0]))


def test_a_singular_start_is_not_blamed_on_the_model():
    """At h = 0 the equation h² = theta has no slope, but elsewhere it has."""
    model = mfdeq.from_function(lambda h, theta: h**2 - theta, 2, 2, "residual")
    start = r"at the start h = 0 \(no h0 was given\)"
    with pytest.raises(mfdeq.SingularStateError, match=start) as caught:
        mfdeq.solve(model, np.ones(2), method="newton")
    assert caught.value.kind == ""
    assert list(caught.value.unknowns) == [0, 1]
    assert "Pass an h0, or an initial_state" in str(caught.value)
    with pytest.raises(mfdeq.SingularStateError, match="at the start h0, though not"):
        mfdeq.solve(model, np.ones(2), np.zeros(2), method="newton")


def gas_network(initial_state=None):
    """Pressures at two nodes and flows in three pipes, from a source at 60 bar."""

    def residual(h, theta):
        p, q = np.r_[60e5, h[:2]], h[2:]
        balances = [q[0] - q[2] - theta[0], q[1] + q[2] - theta[1]]
        pipes = p[[0, 0, 1]] ** 2 - p[[1, 2, 2]] ** 2 - 1e9 * q * np.abs(q)
        return np.r_[balances, pipes]

    return mfdeq.from_function(residual, 5, 2, "residual", initial_state=initial_state)


def test_pressures_whose_squares_are_invisible_at_zero_are_not_called_unused():
    """At h = 0 all derivatives of p² vanish, and at small p they are lost beside 60 bar squared."""
    demands = np.array([10.0, 8.0])
    start = np.array([55e5, 55e5, 5.0, 5.0, 5.0])
    assert mfdeq.solve(gas_network(start), demands).report.converged
    functional = mfdeq.ReducedFunctional(
        gas_network(), mfdeq.LeastSquares(np.arange(2), np.full(2, 56e5))
    )
    message = "at the start h = 0 .*though not at others, unknown 0 and unknown 1 are undetermined"
    bends = pytest.warns(mfdeq.AccuracyWarning, match="all of its derivatives are zero")
    with bends, pytest.raises(mfdeq.SingularStateError, match=message):
        mfdeq.solve(gas_network(), demands)
    place = "theta0, projected onto the bounds, the start .*at the start h = 0"
    with pytest.warns(mfdeq.AccuracyWarning), pytest.raises(mfdeq.ConvergenceError, match=place):
        mfdeq.minimize(functional, demands, bounds=(9.0, None))


def test_an_unused_unknown_is_found_at_a_start_of_zeros():
    model = mfdeq.from_function(
        lambda h, theta: np.array([h[0] ** 2 - theta[0], h[0] - theta[0]]), 2, 1, "residual"
    )
    with pytest.raises(mfdeq.SingularStateError, match="unknown 1 is in no equation"):
        mfdeq.solve(model, np.ones(1))


@pytest.mark.parametrize("method", ["auto", "newton"])
def test_a_singular_iterate_on_the_way_is_named_and_no_fold(method):
    """Newton's method for h² = -1 leads from h = 1 to h = 0, where the slope is zero."""
    model = mfdeq.from_function(
        lambda h, theta: h**2 + theta,
        1,
        1,
        "residual",
        state_names=["pressure"],
        equation_names=["balance"],
    )
    with pytest.raises(mfdeq.SingularStateError, match="at this iterate") as caught:
        mfdeq.solve(model, np.ones(1), np.ones(1), method=method)
    message = str(caught.value)
    assert "pressure is undetermined (balance contains no unknown)" in message
    assert "no solution for these parameters" in message
    assert "fold" not in message
    assert caught.value.unknowns == [0]


def test_the_judgement_takes_at_most_five_applications_of_the_preconditioner():
    n = 40
    grid = differences(n + 1)
    line = (grid @ grid.T).tocsr()
    A = (sp.kron(line, sp.eye_array(n)) + sp.kron(sp.eye_array(n), line)).tocsr()
    M, applied = sp.diags_array(1 / A.diagonal()), []

    def count(x):
        applied.append(1)
        return M @ x

    preconditioner = LinearOperator(A.shape, matvec=count, rmatvec=count, dtype=float)
    solver = mfdeq.Krylov("cg", preconditioner=preconditioner)
    model = Linear(A, np.ones(n * n))
    eq = mfdeq.solve(model, np.ones(1), solver=solver)
    used = len(applied)
    again = mfdeq.equilibrium_at(model, np.ones(1), eq.state, solver=eq.solver)
    applied.clear()
    mfdeq.equilibrium.uniqueness.judge_uniqueness(again)
    assert 1 <= len(applied) <= 5 < used
    assert "5 applications" in again.report.uniqueness


def test_where_nothing_was_factorized_the_report_says_that_uniqueness_was_not_judged():
    J = rng(4).standard_normal((400, 400)) / 21

    class Contraction(mfdeq.FixedPointModel):
        state_size = param_size = 400

        def map(self, h, theta):
            return np.tanh(J @ h) + theta

        def linearize(self, h, theta):
            d = (1 - np.tanh(J @ h) ** 2)[:, None] * J
            return mfdeq.Linearization(FORMS["products"](d), np.eye(400))

    eq = mfdeq.solve(Contraction(), np.ones(400), solver=mfdeq.Krylov())
    assert "not judged" in eq.report.uniqueness
    assert "eq.smallest_singular or the first derivative will judge it" in eq.report.uniqueness
    assert eq.report.uniqueness in str(eq.report)
    eq.gradient(mfdeq.LeastSquares(np.arange(400), np.zeros(400)))
    assert eq.report.uniqueness == "judged"


def test_the_remedy_of_dependent_equations_is_separate_from_their_contradiction():
    rates = rng(0).uniform(0.1, 1.0, (5, 5))
    rates -= np.diag(rates.sum(axis=0))
    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.solve(Linear(rates, np.zeros(5)), np.ones(1), np.ones(5))
    contradiction, remedy = str(caught.value).split(" there is no solution. ")
    assert "mfdeq.constrain" not in contradiction
    assert "replace one of them" in remedy
    assert "mfdeq.constrain(model" in remedy
