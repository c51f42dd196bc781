"""Constrained models in all that takes a model: optimization, spectra, branches, studies, files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from support.cupy_problems import assert_cupy_agrees_with_numpy, needs_cupy
from support.dependent_equations import DependentEquations
from support.matrices import to_library
from support.places import Place, assert_agrees_with_numpy
from support.strict_library import strict_library

import mfdeq

TOTALS = np.array([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
THETA = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 1.5])


def rates(h, p):
    first, second = p[0] * h[0] - p[1] * h[1], p[2] * h[2] * h[3] - p[3] * h[4]
    return np.array([first, -first, second, second, -second])


def totals(p):
    return p[4:]


def d_totals(p):
    return np.eye(7)[4:]


def network(model=None):
    """Return A <-> B and C + D <-> E, whose totals are the last parameters."""
    model = mfdeq.from_function(rates, 5, 7, "residual") if model is None else model
    return mfdeq.constrain(model, mfdeq.LinearConstraint(TOTALS, totals, d_totals))


def misfit():
    data = mfdeq.LeastSquares([0, 2], np.array([0.4, 0.9]))
    return data + mfdeq.QuadraticPrior(1e-2, mean=THETA)


def from_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jnp = jax.numpy

    def residual(h, p):
        first, second = p[0] * h[0] - p[1] * h[1], p[2] * h[2] * h[3] - p[3] * h[4]
        return jnp.stack([first, -first, second, second, -second])

    return mfdeq.from_jax(residual, np.zeros(5), THETA, "residual")


def from_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def residual(h, p):
        first, second = p[0] * h[0] - p[1] * h[1], p[2] * h[2] * h[3] - p[3] * h[4]
        return torch.stack([first, -first, second, second, -second])

    state, params = torch.zeros(5, dtype=torch.float64), torch.tensor(THETA)
    return mfdeq.from_torch(residual, state, params, "residual")


def with_a_pattern():
    return mfdeq.from_function(rates, 5, 7, "residual", sparsity="detect")


def by_differences():
    return mfdeq.from_function(lambda h, p: rates(h.real, p.real), 5, 7, "residual")


def mixed():
    return mfdeq.mixed(mfdeq.from_function(rates, 5, 7, "residual"))


@pytest.mark.parametrize("source", [from_jax, from_torch, with_a_pattern, by_differences, mixed])
def test_every_source_of_derivatives_agrees(source):
    expected = mfdeq.solve(network(), THETA, np.ones(5))
    eq = mfdeq.solve(network(source()), THETA, np.ones(5))
    u, v = np.random.default_rng(0).standard_normal((2, 7))
    np.testing.assert_allclose(eq.state, expected.state, rtol=1e-9)
    Z = expected.sensitivity.toarray()
    np.testing.assert_allclose(eq.sensitivity.toarray(), Z, rtol=1e-6, atol=1e-7)
    second = expected.second_order(u, v)
    np.testing.assert_allclose(eq.second_order(u, v), second, rtol=1e-3, atol=1e-4)
    H = eq.hessian(misfit())
    np.testing.assert_allclose(H @ v, expected.hessian(misfit()) @ v, rtol=1e-3, atol=1e-4)


def test_functionals_are_minimized():
    F = mfdeq.ReducedFunctional(network(), misfit())
    v, step = np.random.default_rng(0).standard_normal(7), 1e-6
    slope = (F.gradient(THETA + step * v) - F.gradient(THETA - step * v)) / (2.0 * step)
    np.testing.assert_allclose(F.hessian(THETA) @ v, slope, rtol=1e-6, atol=1e-7)
    value = (F.value(THETA + step * v) - F.value(THETA - step * v)) / (2.0 * step)
    np.testing.assert_allclose(F.gradient(THETA) @ v, value, rtol=1e-6)
    state = F.equilibrium(THETA).state
    np.testing.assert_allclose(
        F.gradient_at(THETA, state), F.gradient(THETA), rtol=1e-9, atol=1e-12
    )
    for method in ("newton-cg", "newton"):
        found = mfdeq.minimize(F, THETA, method=method)
        assert np.linalg.norm(found.gradient) < 1e-5
        state = F.equilibrium(found.params).state
        np.testing.assert_allclose(TOTALS @ state, found.params[4:], rtol=1e-10)


def test_spectra_are_those_of_the_dense_hessian():
    eq = mfdeq.solve(network(with_a_pattern()), THETA, np.ones(5))
    H = eq.hessian(misfit())
    values = np.linalg.eigvalsh(H.toarray())
    np.testing.assert_allclose(mfdeq.eigsh(H, 2).values, values[-2:], rtol=1e-8)
    nearest = np.sort(values[np.argsort(abs(values))[:2]])
    np.testing.assert_allclose(mfdeq.eigsh(H, 2, sigma=0.0).values, nearest, rtol=1e-6)


def test_a_posterior_of_totals_and_rates_is_that_of_dense_algebra():
    eq = mfdeq.solve(network(with_a_pattern()), THETA, np.ones(5))
    data = mfdeq.LeastSquares([0, 2], np.array([0.4, 0.9]), weights=np.array([50.0, 80.0]))
    H, R = eq.hessian(data).gauss_newton, np.linspace(1.0, 2.0, 7)
    posterior = mfdeq.LowRank(mfdeq.eigsh(H, 3, "LM", M=R))
    covariance = np.linalg.inv(H.toarray() + np.diag(R))
    np.testing.assert_allclose(posterior.toarray(), covariance, rtol=1e-6, atol=1e-8)
    Z = eq.sensitivity.toarray()
    np.testing.assert_allclose(Z[4] + Z[3], [0.0] * 6 + [1.0], atol=1e-9)


def test_constrained_models_are_nodes_of_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    model = network(from_jax())
    eq = mfdeq.solve(model, THETA)
    state = mfdeq.to_jax(model)
    theta = jax.numpy.asarray(THETA)
    Z = eq.sensitivity.toarray()
    np.testing.assert_allclose(jax.jacrev(state)(theta), Z, rtol=1e-9, atol=1e-12)
    H = jax.hessian(lambda theta: state(theta)[4])(theta)
    np.testing.assert_allclose(H, eq.component_hessian(4).toarray(), rtol=1e-8, atol=1e-12)


def test_functionals_of_constrained_models_are_summed():
    model, losses = network(), [mfdeq.LeastSquares([k], np.ones(1)) for k in (0, 2)]
    total = mfdeq.SumFunctional([mfdeq.ReducedFunctional(model, loss) for loss in losses])
    eq, v = mfdeq.solve(model, THETA), np.random.default_rng(0).standard_normal(7)
    gradients = [eq.gradient(loss) for loss in losses]
    np.testing.assert_allclose(total.gradient(THETA), sum(gradients), rtol=1e-9, atol=1e-12)
    products = [eq.hessian(loss) @ v for loss in losses]
    np.testing.assert_allclose(total.hessian(THETA) @ v, sum(products), rtol=1e-6, atol=1e-8)


def test_data_are_replaced_and_constraints_kept():
    def exchange(h, p, rate):
        return (rate * p[0] * h[0] - p[1] * h[1]) * np.array([1.0, -1.0])

    model = mfdeq.from_function(exchange, 2, 2, "residual", args=1.0)
    constrained = mfdeq.constrain(model, mfdeq.LinearConstraint(np.ones(2), 6.0))
    for rate, expected in ((1.0, [4.0, 2.0]), (4.0, [2.0, 4.0])):
        eq = mfdeq.solve(constrained.with_args(rate), np.array([1.0, 2.0]))
        np.testing.assert_allclose(eq.state, expected)


def test_samples_are_constrained_each():
    jax = pytest.importorskip("jax", reason="JAX is not installed")

    def exchange(h, p, rate):
        flow = rate * p[0] * h[0] - p[1] * h[1]
        return jax.numpy.stack([flow, -flow])

    rates, theta = np.array([1.0, 4.0, 8.0]), np.array([1.0, 2.0])
    samples = mfdeq.from_jax(exchange, np.zeros(2), theta, "residual", args=rates, batched=True)
    totals = mfdeq.LinearConstraint(np.kron(np.eye(3), np.ones(2)), np.array([3.0, 6.0, 5.0]))
    eq = mfdeq.solve(mfdeq.constrain(samples, totals), theta)
    np.testing.assert_allclose(eq.state, [2.0, 1.0, 2.0, 4.0, 1.0, 4.0])
    Z = eq.sensitivity.toarray()
    np.testing.assert_allclose(Z[::2] + Z[1::2], 0.0, atol=1e-12)


def test_a_branch_keeps_the_constraints():
    branch = mfdeq.follow(network(), THETA, 4, span=(-0.5, 2.0))
    for point in branch.points:
        params = THETA + point.t * np.eye(7)[4]
        np.testing.assert_allclose(TOTALS @ point.state, params[4:], rtol=1e-9)
        assert point.state.shape == (5,)


def test_a_branch_of_a_grid_with_an_angle_reference_reaches_its_fold():
    # Power flows from bus 0 to bus 2 on two lines in parallel: sin of half the angle, t = sqrt(2).
    def flows(angle, power):
        across = angle[[1, 2, 2]] - angle[[0, 1, 0]]
        first, second, direct = np.sin(across)
        both = np.array([-first, first - second, second]) + np.array([-direct, 0.0, direct])
        return both - power * np.array([-1.0, 0.0, 1.0])

    grid = mfdeq.from_function(flows, 3, 3, "residual")
    for reference in ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0]):
        model = mfdeq.constrain(grid, mfdeq.LinearConstraint(np.array(reference)))
        start, along = np.full(3, 0.1), np.ones(3)
        branch = mfdeq.follow(model, start, along, span=(0.0, 3.0))
        # The largest power is that of sin(x / 2) + sin(x).
        x = np.linspace(0.0, np.pi, 100_001)
        largest = (np.sin(x / 2.0) + np.sin(x)).max()
        np.testing.assert_allclose(branch.folds[0].t + 0.1, largest, rtol=1e-8)


class Diffusion(mfdeq.ResidualModel):
    """L (h + theta h²) = 0 with the Laplacian L of a directed graph, which keeps the sum of h."""

    state_size, param_size = 12, 2

    def __init__(self, form, time_sign):
        K = np.random.default_rng(3).random((12, 12))
        np.fill_diagonal(K, 0.0)
        sign = -1.0 if time_sign == 1 else 1.0
        self.L, self.form, self.time_sign = sign * (np.diag(K.sum(axis=0)) - K), form, time_sign

    def residual(self, h, theta):
        return self.L @ (h + theta[0] * h**2)

    def linearize(self, h, theta):
        A = self.L * (1.0 + 2.0 * theta[0] * h)
        B = np.stack([self.L @ h**2, np.zeros(12)], axis=1)
        return mfdeq.Linearization(self.form(A), B, lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.linalg.aslinearoperator])
@pytest.mark.parametrize("time_sign", [None, 1, -1])
def test_stability_leaves_out_the_zeros_of_conserved_quantities(form, time_sign):
    model = Diffusion(form, time_sign)
    total = mfdeq.LinearConstraint(np.ones(12), lambda t: t[1], lambda t: np.array([0.0, 1.0]))
    branch = mfdeq.follow(
        mfdeq.constrain(model, total), np.array([0.3, 1.0]), 1, span=(0.0, 1.0), eigenvalues=3
    )
    point = branch.points[-1]
    A = model.L * (1.0 + 0.6 * point.state)
    values = np.linalg.eigvals(A)
    nearest = values[np.argsort(abs(values))][1:4]
    np.testing.assert_allclose(
        np.sort_complex(point.eigenvalues), np.sort_complex(nearest), atol=1e-10
    )
    assert [point.unstable for point in branch.points] == [0] * len(branch.points)


@pytest.mark.parametrize("method", ["auto", "picard", "anderson", "newton", "transient"])
def test_maps_known_by_products_converge_by_every_method(method):
    P = np.random.default_rng(0).random((12, 12))
    P /= P.sum(axis=0)

    class Chain(mfdeq.FixedPointModel):
        state_size, param_size = 12, 1

        def map(self, h, theta):
            return P @ h

        def linearize(self, h, theta):
            return mfdeq.Linearization(sp.linalg.aslinearoperator(P), np.zeros((12, 1)))

        def initial_state(self, theta):
            return np.arange(1.0, 13.0)

    model = mfdeq.constrain(Chain(), mfdeq.LinearConstraint(np.ones(12), 2.0))
    eq = mfdeq.solve(model, np.zeros(1), method=method)
    np.testing.assert_allclose(P @ eq.state, eq.state, rtol=1e-9)
    np.testing.assert_allclose(eq.state.sum(), 2.0, rtol=1e-12)


def test_single_precision_is_kept():
    eq = mfdeq.solve(network(), THETA.astype(np.float32))
    expected = mfdeq.solve(network(), THETA)
    for found, reference in (
        (eq.state, expected.state),
        (eq.sensitivity.toarray(), expected.sensitivity.toarray()),
        (eq.inverse.toarray(), expected.inverse.toarray()),
        (eq.gradient(misfit()), expected.gradient(misfit())),
        (eq.imbalance, expected.imbalance),
        (eq.multipliers, expected.multipliers),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-5)


def test_models_and_equilibria_are_pickled_and_copied():
    model = network()
    eq = mfdeq.solve(model, THETA)
    expected = eq.sensitivity.toarray()
    for again in (pickle.loads(pickle.dumps(eq)), copy.deepcopy(eq)):
        assert isinstance(again, mfdeq.ConstrainedEquilibrium)
        np.testing.assert_array_equal(again.sensitivity.toarray(), expected)
        np.testing.assert_array_equal(again.imbalance, eq.imbalance)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(mfdeq.solve(loaded, THETA).state, eq.state)


def test_a_study_takes_constrained_models(tmp_path):
    study = mfdeq.Study(tmp_path / "study")
    records = study.map(solve_with_total, [{"total": 1.0}, {"total": 2.0}], workers=0)
    for record in records:
        assert record.status == "done"
        np.testing.assert_allclose(record.outputs["sum"], record.params["total"], rtol=1e-12)


def solve_with_total(total):
    eq = mfdeq.solve(network(), np.r_[THETA[:4], total, THETA[5:]])
    return {"sum": float(eq.state[:2].sum())}


@pytest.mark.parametrize("given", [True, False])
def test_redundant_equations_are_found_where_the_model_has_no_derivative_nearby(given):
    jax_numpy = pytest.importorskip("jax.numpy")

    def exchange(h, theta):
        rate = jax_numpy.sqrt(0.501 - h[0]) - theta[0] * h[1]  # NaN as soon as h[0] is larger
        return jax_numpy.stack([rate, -rate])

    start = np.array([0.5, 0.5])
    model = mfdeq.from_jax(exchange, start, np.ones(1), "residual")
    redundant = np.ones((2, 1)) if given else "detect"
    total = mfdeq.LinearConstraint(np.ones((1, 2)), 1.0)
    eq = mfdeq.solve(mfdeq.constrain(model, total, redundant), np.array([0.25]), start)
    root = -7.0 + np.sqrt(49.0 + 16.0 * 0.501 - 1.0)  # of 0.501 - h = (1 - h)² / 16
    assert eq.state == pytest.approx([root, 1.0 - root], rel=1e-10)


def test_redundant_equations_are_found_once():
    model = network()
    mfdeq.solve(model, THETA)
    found = model.elimination
    eq = mfdeq.solve(model, 2.0 * THETA)
    assert model.elimination is found
    np.testing.assert_allclose(TOTALS @ eq.state, 2.0 * THETA[4:], rtol=1e-12)


def test_bounds_hold_and_the_start_stays_inside():
    eq = mfdeq.solve(network(), THETA, np.full(5, 0.5), lower=0.0, upper=3.0)
    assert bool((eq.state > 0.0).all())


def test_a_large_sparse_matrix_is_decomposed_by_iterations():
    n = 2_000
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, n // 2, (2, 3 * n)), rng.integers(n // 2, n, (2, 3 * n))
    pairs = np.concatenate([left, right], axis=1)
    weights = 1.0 + rng.random(pairs.shape[1])
    W = sp.coo_matrix((weights, pairs), shape=(n, n)).tocsr()
    W = W + W.T + sp.diags([np.ones(n - 1)] * 2, [-1, 1])
    W = W.tolil()
    W[n // 2 - 1, n // 2] = W[n // 2, n // 2 - 1] = 0.0  # two components
    W = W.tocsr()
    A = (sp.diags(np.asarray(W.sum(axis=0)).ravel()) - W).tocsr()

    class Graph(mfdeq.ResidualModel):
        state_size, param_size = n, 2

        def residual(self, h, theta):
            return A @ h

        def linearize(self, h, theta):
            return mfdeq.Linearization(A, np.zeros((n, 2)), lambda lam: mfdeq.Curvature())

    C = np.zeros((2, n))
    C[0, : n // 2] = C[1, n // 2 :] = 1.0
    sums = mfdeq.LinearConstraint(C, lambda t: t, lambda t: np.eye(2))
    model = mfdeq.constrain(Graph(), sums)
    eq = mfdeq.solve(model, np.array([1.0, 3.0]))
    expected = np.r_[np.full(n // 2, 2.0 / n), np.full(n // 2, 6.0 / n)]
    np.testing.assert_allclose(eq.state, expected, rtol=1e-9)
    np.testing.assert_array_equal(eq.redundant_equations.T, C)
    with pytest.raises(mfdeq.SingularStateError, match="2 combinations of equations vanish"):
        mfdeq.solve(mfdeq.constrain(Graph(), mfdeq.LinearConstraint(C[0], 1.0)), np.ones(2))


def test_the_constant_of_a_pressure_is_found_without_a_factorization(monkeypatch):
    monkeypatch.setattr("mfdeq.equilibrium.null_spaces._by_block_iteration", None)
    n = 1_000  # flow along a closed pipe: velocities on faces, pressures in cells
    G = sp.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n))
    A = sp.csr_matrix(sp.bmat([[sp.eye(n - 1), G], [G.T, None]]))
    B = sp.csr_matrix(sp.vstack([-sp.eye(n - 1), sp.csr_matrix((n, n - 1))]))

    class Pipe(mfdeq.ResidualModel):
        state_size, param_size = 2 * n - 1, n - 1

        def residual(self, h, theta):
            return A @ h + B @ theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(A, B, lambda lam: mfdeq.Curvature())

    mean = np.r_[np.zeros(n - 1), np.full(n, 1.0 / n)]
    force = np.random.default_rng(0).standard_normal(n - 1)
    eq = mfdeq.solve(mfdeq.constrain(Pipe(), mfdeq.LinearConstraint(mean)), force)
    pressure = np.r_[0.0, np.cumsum(force)]
    np.testing.assert_allclose(eq.state[n - 1 :], pressure - pressure.mean(), atol=1e-8)
    np.testing.assert_allclose(eq.state[: n - 1], 0.0, atol=1e-10)


def test_constants_of_a_large_network_are_found_without_a_factorization():
    n = 30_000
    ends = np.r_[1.0, np.full(n - 2, 2.0), 1.0]
    wire = sp.diags([-np.ones(n - 1), ends, -np.ones(n - 1)], [-1, 0, 1])
    A = sp.csr_matrix(sp.block_diag([wire, wire]))

    class Wires(mfdeq.ResidualModel):
        state_size, param_size = 2 * n, 2

        def residual(self, h, theta):
            return A @ h

        def linearize(self, h, theta):
            return mfdeq.Linearization(A, np.zeros((2 * n, 2)), lambda lam: mfdeq.Curvature())

    C = np.kron(np.eye(2), np.ones(n) / n)
    means = mfdeq.LinearConstraint(C, lambda t: t, lambda t: np.eye(2))
    eq = mfdeq.solve(mfdeq.constrain(Wires(), means), np.array([1.0, 3.0]))
    np.testing.assert_allclose(eq.state, np.repeat([1.0, 3.0], n), rtol=1e-9)
    np.testing.assert_allclose(eq.sensitivity @ np.ones(2), 1.0, rtol=1e-9)


def test_no_basis_is_detected_in_a_large_matrix_known_by_products():
    n = 2_000

    class Products(mfdeq.FixedPointModel):
        state_size, param_size = n, 1

        def map(self, h, theta):
            return np.roll(h, 1)

        def linearize(self, h, theta):
            roll = sp.linalg.LinearOperator(
                (n, n), matvec=lambda x: np.roll(x, 1), rmatvec=lambda x: np.roll(x, -1)
            )
            return mfdeq.Linearization(roll, np.zeros((n, 1)))

    with pytest.raises(mfdeq.ArgumentError, match="Pass redundant="):
        mfdeq.solve(
            mfdeq.constrain(Products(), mfdeq.LinearConstraint(np.ones(n), 1.0)), np.zeros(1)
        )


# Other array libraries.


class InLibrary(mfdeq.ResidualModel):
    """The equations of `DependentEquations` in the arrays of a library, linear ones."""

    def __init__(self, equations, convert):
        self.state_size, self.param_size, _ = equations.sizes
        P, first = self.param_size, equations.M @ equations.g.linear
        self.A, self.B = convert(first[:, P:]), convert(first[:, :P])
        self.b = convert(equations.M @ equations.g.offset)

    def residual(self, h, theta):
        return self.A @ h + self.B @ theta + self.b

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.A, self.B, lambda lam: mfdeq.Curvature())


def linear_equations(m=2):
    equations = DependentEquations.random(False, m)
    for polynomial in (equations.g, equations.c):
        polynomial.quadratic, polynomial.cubic = (
            0.0 * polynomial.quadratic,
            0.0 * polynomial.cubic,
        )
    return equations


class ChainInLibrary(mfdeq.FixedPointModel):
    """h = P h + B theta with stochastic P and a B that keeps the sum of h."""

    state_size, param_size = 6, 3

    def __init__(self, place):
        P, B = np.random.default_rng(0).random((6, 6)), np.random.default_rng(1).random((6, 3))
        self.P, self.B = place(P / P.sum(axis=0)), place(B - B.mean(axis=0))

    def map(self, h, theta):
        return self.P @ h + self.B @ theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.P, self.B, lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
def test_any_array_library_agrees_with_numpy(device):
    def compute(place):
        ones, params, state = place(np.ones((1, 6))), place([1.0, 2.0, 3.0]), place(np.arange(6.0))
        zero = place([[0.0, 0.0, 0.0]])
        square = mfdeq.Constraint(
            lambda h, t: 0.5 * (ones @ h) ** 2 - t[0],
            lambda h, t: (ones @ h) * ones,
            lambda h, t: zero - place([[1.0, 0.0, 0.0]]),
            lambda h, t, nu: mfdeq.Curvature(state_state=nu * ones.T @ ones),
        )
        model = mfdeq.constrain(ChainInLibrary(place), square)
        eq = mfdeq.solve(model, params, place(np.ones(6)), solver=mfdeq.Neumann())
        loss = mfdeq.LeastSquares(place(np.eye(6)[:3]), place(np.ones(3)))
        return [
            eq.state,
            eq.gradient(loss),
            eq.hessian(loss) @ params,
            eq.sensitivity @ params,
            eq.inverse @ state,
            eq.inverse.H @ state,
            1.0 + eq.imbalance,
            1.0 + eq.multipliers,
        ]

    with strict_library():
        assert_agrees_with_numpy(Place(device), compute)


@needs_cupy
def test_cupy_agrees_with_numpy():
    equations = linear_equations()
    P = equations.theta.size

    def compute(xp):
        c = equations.c
        matrix = mfdeq.LinearConstraint(
            xp.asarray(c.linear[:, P:]), xp.asarray(-c.offset - c.linear[:, :P] @ equations.theta)
        )
        results = []
        for sparse in (False, True):
            model = InLibrary(equations, xp.asarray)
            if sparse:
                A = to_library(sp.csr_matrix((equations.M @ equations.g.linear)[:, P:]), xp)
                model.linearize = lambda h, theta, A=A, model=model: mfdeq.Linearization(
                    A, model.B, lambda lam: mfdeq.Curvature()
                )
            eq = mfdeq.solve(mfdeq.constrain(model, matrix), xp.asarray(equations.theta))
            loss = mfdeq.LeastSquares(xp.arange(3), xp.ones(3))
            results += [
                eq.state,
                eq.gradient(loss),
                eq.hessian(loss) @ xp.asarray(equations.theta),
                eq.inverse @ xp.asarray(equations.state),
                1.0 + eq.imbalance,
            ]
        return results

    assert_cupy_agrees_with_numpy(compute)


def totals_of_exchange():
    """Two species that turn into each other, with a wrong rate that can be mended."""

    class Exchange(mfdeq.ResidualModel):
        state_size, param_size, rate = 2, 2, 2.0

        def residual(self, h, p):
            return (p[0] * h[0] - p[1] * h[1]) * np.array([1.0, -1.0])

        def linearize(self, h, p):
            both = np.array([1.0, -1.0])
            rates = self.rate * np.array([h[0], -h[1]])
            return mfdeq.Linearization(np.outer(both, [p[0], -p[1]]), np.outer(both, rates))

    model = Exchange()
    return model, mfdeq.constrain(model, mfdeq.LinearConstraint(np.ones(2), 8.0))


def test_a_solve_evaluates_a_changed_model_again():
    model, constrained = totals_of_exchange()
    theta = np.array([1.0, 3.0])
    eq = mfdeq.solve(constrained, theta)
    wrong = eq.sensitivity.toarray()
    model.rate = 1.0
    again = mfdeq.solve(constrained, theta, eq.state)
    np.testing.assert_allclose(again.sensitivity.toarray(), wrong / 2.0)


def test_a_gradient_at_a_given_state_needs_no_solve():
    _, constrained = totals_of_exchange()
    loss, theta = mfdeq.LeastSquares([0], np.zeros(1)), np.array([1.0, 3.0])
    eq = mfdeq.solve(constrained, theta)
    F = mfdeq.ReducedFunctional(totals_of_exchange()[1], loss)
    np.testing.assert_allclose(F.gradient_at(theta, eq.state), eq.gradient(loss))


def test_a_changed_function_is_noticed():
    factor = 1.0

    def residual(h, p):
        return factor * (p[0] * h[0] - p[1] * h[1] ** 2) * np.array([1.0, -1.0])

    model = mfdeq.from_function(residual, 2, 2, "residual")
    constrained = mfdeq.constrain(model, mfdeq.LinearConstraint(np.ones(2), 8.0))
    eq = mfdeq.solve(constrained, np.array([1.0, 3.0]), np.array([4.0, 4.0]), rtol=1e-4)
    factor = 2.0
    with pytest.raises(mfdeq.ModelError, match="same point"):
        eq.gradient(mfdeq.LeastSquares([0], np.zeros(1)))
