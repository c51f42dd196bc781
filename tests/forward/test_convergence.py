"""Convergence is judged for every equation and unknown, in no units, down to measured rounding."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
from support.bifurcation_models import laplacian
from support.cases import build, close
from support.small_maps import Line

import mfdeq
from mfdeq.forward.noise import measure_noise
from mfdeq.linear.reuse import Reused
from mfdeq.models.problem import Problem

METHODS = ("newton", "anderson", "picard")


def plain(function, size, kind="residual"):
    return mfdeq.from_function(function, size, size, kind)


def test_a_warm_start_has_the_tolerance_of_a_cold_one():
    case = build("bratu_field")
    cold = case.solve()
    warm = mfdeq.solve(case.model, case.params, cold.state + 1e-7)
    assert warm.report.iterations <= 2
    close(warm.state, cold.state, 1e-12)
    again = mfdeq.solve(case.model, case.params, cold.state)
    assert again.report.iterations == 0
    close(again.state, cold.state, 1e-14)


def test_a_model_may_set_its_start_and_the_sizes_that_count_as_one():
    theta = np.array([1.0, -2.0])
    eq = mfdeq.solve(Line(start=2 * theta), theta)
    assert eq.report.iterations == 0
    model = Line(scale=np.full(2, 1e6))
    model.state_scale = lambda theta: 1e6
    eq = mfdeq.solve(model, theta, method="picard", max_iterations=15)
    assert eq.report.correction <= 1e-10
    with pytest.raises(mfdeq.ConvergenceError, match="in 15 iterations"):
        mfdeq.solve(Line(), theta, method="picard", max_iterations=15)


@pytest.mark.parametrize(
    ("dtype", "target"), [("float32", "rounding"), ("float64", "rtol = 1e-10")]
)
def test_messages_name_the_target_in_words(dtype, target):
    theta = np.array([1.0, -2.0], dtype)
    with pytest.raises(mfdeq.ConvergenceError, match=f"where the target is {target} ") as caught:
        mfdeq.solve(Line(), theta, method="picard", max_iterations=1)
    assert "rtol 0" not in str(caught.value)


def test_rtol_is_reached_or_an_error_names_the_digits_that_rounding_leaves():
    theta = np.array([1.0, -2.0])
    iterations = []
    for rtol in (1e-2, 1e-6, 1e-10):
        report = mfdeq.solve(Line(), theta, method="picard", rtol=rtol).report
        assert report.correction <= rtol
        iterations.append(report.iterations)
    assert iterations[0] < iterations[1]
    for method in ("auto", *METHODS):
        with pytest.raises(mfdeq.ConvergenceError, match=r"rounding error .* digits") as caught:
            mfdeq.solve(Line(), theta, method=method, rtol=1e-17)
        close(caught.value.best, 2 * theta, 1e-14)
    with pytest.raises(mfdeq.ConvergenceError, match="rounding"):
        mfdeq.solve(Line(), theta.astype("float32"), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_unknown_beside_a_large_one_is_solved_for(method):
    def pressure_and_trace(h, t):
        return np.array([0.5 * h[0] + 5e4 * t[0], 0.5 * np.tanh(h[1]) + 1e-9 * t[1]])

    model = plain(pressure_and_trace, 2, "map")
    eq = mfdeq.solve(model, np.array([1.0, 3.0]), np.array([1e5, 1e-9]), method=method)
    np.testing.assert_allclose(eq.state, [1e5, 6e-9], rtol=1e-9)


def test_an_error_names_the_worst_equation_by_the_users_name():
    model = plain(lambda h, t: np.array([h[0] - 1.0, np.exp(h[1]) - t[1]]), 2)
    model.equation_names, model.state_names = ("mass", "energy"), ("density", "temperature")
    theta = np.array([1.0, 1.5])
    with pytest.raises(mfdeq.ConvergenceError, match="the terms of energy"):
        mfdeq.solve(model, theta, np.zeros(2), method="newton", max_iterations=1)
    with pytest.raises(mfdeq.ConvergenceError, match="the terms of energy"):
        mfdeq.equilibrium_at(model, theta, np.array([1.0, 1.0]))
    report = mfdeq.solve(model, theta).report
    assert report.worst_equation in model.equation_names
    assert report.worst_unknown in model.state_names


@pytest.mark.parametrize("method", METHODS)
def test_unknowns_that_converge_to_zero_are_counted(method):
    J = 0.4 * np.array([[1.0, 0.5], [0.3, 0.8]])
    model = plain(lambda h, t: t[0] * (J @ h), 2, "map")
    eq = mfdeq.solve(model, np.ones(2), np.full(2, 0.5), method=method)
    assert abs(eq.state).max() < 1e-9
    assert eq.report.iterations < 80
    assert eq.report.zero_unknowns == 2 or abs(eq.state).max() < 1e-100
    assert np.isfinite(eq.report.digits)


@pytest.mark.parametrize("start", [1e-9, 1.0, 3.0, 1e3])
@pytest.mark.parametrize(("k", "trace"), [(1e10, 1e-14), (1e12, 1e-16), (1e6, 1e-12)])
def test_a_trace_far_below_its_start_is_not_taken_for_zero(k, trace, start):
    def mass_and_trace(h, t):
        return np.array([h[0] - t[0], k * h[1] ** 2 + h[1] - t[1] * h[0]])

    truth = 2.0 * trace / (1.0 + np.sqrt(1.0 + 4.0 * k * trace))
    eq = mfdeq.solve(plain(mass_and_trace, 2), np.array([1.0, trace]), np.array([1.0, start]))
    assert eq.state[1] == pytest.approx(truth, rel=1e-9)
    assert eq.report.zero_unknowns == 0


def test_a_state_that_is_small_beside_its_start_is_no_fold():
    model = plain(lambda h, t: np.array([h[0] - t[0], h[1] ** 2 - 1e-24 * t[1] * h[0]]), 2)
    eq = mfdeq.solve(model, np.ones(2), np.ones(2))
    np.testing.assert_allclose(eq.state, [1.0, 1e-12], rtol=1e-9)


def test_a_component_that_vanishes_to_rounding_is_accepted():
    """The middle of an antisymmetric solution is rounding only."""
    n = 41
    A = sp.diags_array([-np.ones(n - 1), 2.1 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    A, b = A.tocsr(), np.sin(2 * np.pi * np.linspace(0, 1, n + 2))[1:-1] ** 3
    model = mfdeq.from_function(
        lambda h, t: A @ h + 0.1 * h**3 - t[0] * b, n, 1, "residual", sparsity=(A, None)
    )
    eq = mfdeq.solve(model, np.ones(1))
    assert abs(eq.state[n // 2]) < 1e-14
    assert eq.report.digits > 9


class CancellingBar(mfdeq.ResidualModel):
    """A bar whose displacement is added to its position, which rounds."""

    n = 40
    state_size, param_size = n, 1

    def __init__(self):
        self.X = np.linspace(0, 1, self.n + 2)
        self.dX = np.diff(self.X)
        self.load = self.dX[0] * np.sin(3 * self.X[1:-1])

    def stretch(self, h):
        return np.diff(self.X + np.r_[0.0, h, 0.0]) / self.dX

    def residual(self, h, theta):
        F = self.stretch(h)
        return -np.diff(F - 1 / F) - theta[0] * self.load

    def linearize(self, h, theta):
        k = (1 + 1 / self.stretch(h) ** 2) / self.dX
        A = sp.diags_array([-k[1:-1], k[1:] + k[:-1], -k[1:-1]], offsets=[-1, 0, 1])
        return mfdeq.Linearization(A.tocsr(), sp.csr_array(-self.load[:, None]))


@pytest.mark.parametrize("load", [1e-3, 1e-6, 1e-9])
def test_a_state_at_measured_rounding_has_the_digits_that_are_reported(load):
    model = CancellingBar()
    eq = mfdeq.solve(model, np.array([load]))
    assert eq.report.iterations <= 10
    k = 2 * np.ones(model.n) / model.dX[0]
    K = sp.diags_array([-k[1:], 2 * k, -k[1:]], offsets=[-1, 0, 1], format="csc")
    linear = sla.spsolve(K, load * model.load)
    off = abs(eq.state - linear).max() / abs(linear).max()
    assert off <= 10 * load + 2 * 10**-eq.report.digits
    if load < 1e-4:
        assert eq.report.limited_by == "rounding"
        with pytest.raises(mfdeq.ConvergenceError, match=r"cannot reach rtol .* digits of unknown"):
            mfdeq.solve(model, np.array([load]), rtol=1e-13)


def test_a_load_of_zero_gives_exact_zeros():
    eq = mfdeq.solve(CancellingBar(), np.zeros(1))
    assert abs(eq.state).max() < 1e-15
    assert eq.report.converged


def test_a_jump_is_not_taken_for_rounding():
    """h + sign(h) = 0.5 has no solution; near zero R jumps by two."""

    class Jump(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return h + np.sign(h) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.eye(1), -np.eye(1))

    for method in ("auto", *METHODS):
        with pytest.raises(mfdeq.ConvergenceError):
            mfdeq.solve(Jump(), np.full(1, 0.5), np.full(1, 3.0), method=method)


def test_a_wrong_derivative_is_not_taken_for_rounding():
    class Wrong(mfdeq.ResidualModel):
        state_size = param_size = 2

        def residual(self, h, theta):
            return np.array([[1.0, 3.0], [-3.0, 1.0]]) @ h - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.array([[1.0, 3.0], [3.0, 1.0]]), -np.eye(2))

    with pytest.raises(mfdeq.ConvergenceError, match="check the derivatives"):
        mfdeq.solve(Wrong(), np.ones(2), method="newton")


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e3])
def test_measured_noise_is_that_of_the_function(size):
    rng = np.random.default_rng(0)
    noisy = np.array([1e-9, 1e-3, 0.0])

    def residual(h, t):
        return np.exp(h / size) + noisy * rng.standard_normal(3)

    problem = Problem(plain(residual, 3), np.ones(3))
    h = np.full(3, size)
    measured = np.array(
        [measure_noise(problem, h, problem.residual(h), 1e-4 * h) for _ in range(40)]
    )
    mean = np.sqrt((measured**2).mean(axis=0))
    np.testing.assert_allclose(mean[:2], noisy[:2], rtol=0.5)
    assert mean[2] < 1e-14  # the curvature of exp is no noise


def test_a_scale_of_zero_asks_for_rounding_from_a_start_of_zeros():
    """No residual is small beside the terms of a state of zeros, and none is better."""

    class Exponential(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return h - 0.1 * np.exp(h) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization((1 - 0.1 * np.exp(h))[:, None], -np.eye(1))

        def residual_scale(self, h, theta):
            return 0.0

    eq = mfdeq.solve(Exponential(), np.ones(1))
    assert abs(eq.state - 0.1 * np.exp(eq.state) - 1.0) < 1e-15
    assert eq.report.converged


def test_an_rtol_below_rounding_says_how_many_digits_of_what():
    model = mfdeq.from_function(lambda h, theta: h - theta, 1, 1, "residual")
    with pytest.raises(mfdeq.ConvergenceError, match=r"leaves 15.7 digits of every unknown;"):
        mfdeq.solve(model, np.ones(1), rtol=1e-30)


class Contraction(mfdeq.FixedPointModel):
    """h <- rate h + theta."""

    state_size = param_size = 1

    def __init__(self, rate):
        self.rate = rate

    def map(self, h, theta):
        return self.rate * h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.full((1, 1), self.rate), np.eye(1))


def test_a_slow_contraction_has_not_stalled():
    """A step reduces the residual by half a percent."""
    theta = np.ones(1)
    eq = mfdeq.solve(Contraction(0.995), theta, theta, method="picard", max_iterations=10_000)
    assert eq.state[0] == pytest.approx(200.0, rel=1e-8)


def test_an_iteration_of_tiny_progress_has_stalled():
    """A hundred steps reduce the residual by a twentieth."""
    theta, start = np.ones(1), np.array([1e4])
    with pytest.raises(mfdeq.ConvergenceError, match="stalled") as error:
        mfdeq.solve(Contraction(0.9995), theta, start, method="picard", max_iterations=10_000)
    assert error.value.report.iterations <= 200


def test_steps_of_anderson_take_the_factor_of_their_own_matrix():
    """Hundreds of applications are worth a factorization, also if an earlier one is at hand."""
    n = 50
    K = sp.kron(laplacian(n), sp.identity(n)) + sp.kron(sp.identity(n), laplacian(n))

    class Cubic(mfdeq.ResidualModel):
        state_size, param_size = n * n, 1

        def residual(self, h, theta):
            return K @ h + h**3 - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization((K + sp.diags(3.0 * h**2)).tocsr(), -np.ones((n * n, 1)))

    solver, start = Reused(mfdeq.Direct(package="superlu")), np.full(n * n, 1.2)
    solver.setup((K + 0.1 * sp.identity(n * n)).tocsr())
    eq = mfdeq.solve(Cubic(), np.array([2.0]), start, method="anderson", solver=solver)
    assert eq.report.forward.setups > 0


@pytest.mark.parametrize(("dtype", "load"), [(np.float64, 1e-11), (np.float32, 1e-2)])
def test_loads_near_the_rounding_of_positions_do_not_iterate_on_noise(dtype, load):
    """The bound on the effect of rounding leaves no digit, of which there are two or three."""
    n = 60
    X = np.linspace(0.0, 1.0, n + 2).astype(dtype)
    lengths = np.diff(X)
    force = (lengths[0] * np.sin(3.0 * X[1:-1])).astype(dtype)

    class Bar(mfdeq.ResidualModel):
        state_size, param_size = n, 1

        def stretch(self, h):
            return np.diff(X + np.pad(h, 1)) / lengths

        def residual(self, h, theta):
            stretch = self.stretch(h)
            return -np.diff(stretch - 1 / stretch) - theta * force

        def linearize(self, h, theta):
            k = (1 + 1 / self.stretch(h) ** 2) / lengths
            A = np.diag(k[1:] + k[:-1]) - np.diag(k[1:-1], 1) - np.diag(k[1:-1], -1)
            return mfdeq.Linearization(A, -force[:, None])

    eq = mfdeq.solve(Bar(), np.array([load], dtype))
    stiffness = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    small = np.linalg.solve(2.0 / lengths[0].astype(float) * stiffness, load * force.astype(float))
    np.testing.assert_allclose(eq.state, small, rtol=0.05)
    assert eq.report.limited_by == "rounding"
    assert eq.report.iterations < 30
