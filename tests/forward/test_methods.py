"""Every forward method reaches the equilibrium or fails with a typed error."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit
from support.branch_models import square
from support.cases import CASES, CUPY_CASES, CUPY_SINGLE, SINGLE, build, close, to_numpy
from support.small_maps import Line, Tanh
from support.terminal import Terminal

import mfdeq
from mfdeq.linear import reuse

METHODS = ("auto", "newton", "anderson", "picard")
EPS = float(np.finfo(float).eps)
SOLVERS = (mfdeq.Direct(), mfdeq.Krylov(), "auto")


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [*CASES, *SINGLE, *CUPY_CASES, *CUPY_SINGLE], ids=str)
def test_every_method_and_solver_reaches_the_equilibrium(case, method, solver):
    eq = case.solve(method=method, solver=solver)
    report = eq.report
    assert eq.state.dtype == case.dtype
    rounding = np.finfo(case.dtype).eps * case.truth.condition
    off = abs(to_numpy(eq.state) - case.truth.state)
    assert np.all(off <= (1e-10 + 30 * rounding) * abs(case.truth.state).max())
    assert report.converged
    assert report.residual <= max(1e-10, 20 * np.finfo(case.dtype).eps)
    assert report.correction <= 1e-10 or report.limited_by == "rounding"
    if case.dtype == np.float32:
        assert report.limited_by == "rounding"
    assert report.digits == pytest.approx(-np.log10(max(report.residual, report.correction, EPS)))
    assert f"limited by {report.limited_by}" in report.reason
    assert str(report.iterations) in str(report)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_newton_converges_quadratically(case, monkeypatch):
    monkeypatch.setattr(reuse, "MAX_EXCESS", -1.0)  # a fresh LU at every step
    report = case.solve(method="newton", solver=mfdeq.Direct()).report
    assert report.iterations <= 12
    relative = np.array(report.residuals[: report.iterations + 1]) / report.residuals[0]
    last = relative[relative > 1e-13]
    if len(last) >= 3:
        assert np.log(last[-1]) / np.log(last[-2]) > 1.5


@pytest.mark.usefixtures("reuse_of_small_factors")
@pytest.mark.parametrize("solver", [mfdeq.Krylov(rtol=1e-12), mfdeq.Direct()], ids=str)
def test_a_loose_newton_step_does_not_leak_into_an_adjoint(solver):
    case = build("bratu_field")
    eq = case.solve(method="newton", solver=solver)
    assert eq.report.forward.solves >= 3
    assert eq.report.forward.setups == 1  # the setup of the first step is reused
    assert eq.report.linear.setups == 0
    close(eq.gradient(case.loss), case.truth.gradient, 1e-8)
    assert eq.report.linear.setups == isinstance(solver, mfdeq.Direct)  # not Krylov
    assert eq.report.linear.worst_residual <= 1e-10


def test_inexact_newton_saves_inner_iterations():
    """Forcing terms allow loose solves in the first steps."""
    model = build("bratu_field", dtype="float64").model
    theta = np.full(16, 6.0)
    eq = mfdeq.solve(model, theta, method="newton", solver=mfdeq.Krylov())
    loose = eq.report.forward.iterations / eq.report.forward.solves
    factor = mfdeq.Krylov().setup(eq.state_operator)
    factor.solve(np.random.default_rng(0).standard_normal(16))
    assert loose < factor.counts.iterations


@pytest.mark.parametrize("method", METHODS)
def test_no_equilibrium_is_an_error_with_the_history(method):
    """Neither h = h + 1 nor h = h² + 1 has a real solution."""

    class Never(mfdeq.FixedPointModel):
        state_size = param_size = 1

        def map(self, h, theta):
            return h * h + theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag(2 * h), np.eye(1))

    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)) as caught:
        mfdeq.solve(Never(), np.ones(1), method=method)
    error = caught.value
    assert len(error.report.residuals) >= 1
    assert not error.report.converged
    assert np.all(np.isfinite(error.best))


def test_picard_detects_divergence_and_auto_uses_newton():
    case = build("stiff")
    with pytest.raises(mfdeq.ConvergenceError, match="in 1 iterations"):
        mfdeq.solve(Line(slope=-2.5), np.ones(2), method="picard", max_iterations=1)
    # Damping helps if the iteration oscillates, but not if it expands monotonically.
    close(mfdeq.solve(Line(slope=-3.0), np.ones(2), method="picard").state, np.full(2, 0.25), 1e-9)
    with pytest.raises(mfdeq.ConvergenceError, match="diverged"):
        mfdeq.solve(Line(slope=3.0), np.ones(2), method="picard")
    eq = mfdeq.solve(Line(slope=3.0), np.ones(2))
    close(eq.state, np.full(2, -0.5), 1e-9)
    assert "newton" in eq.report.choices[0]
    close(case.solve(method="auto").state, case.truth.state, 1e-8)


def test_a_step_into_nan_is_shortened():
    class Logarithm(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return np.log(h) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag(1 / h), -np.eye(1))

        def initial_state(self, theta):
            return np.full(1, 20.0)

    with np.errstate(invalid="raise"):
        eq = mfdeq.solve(Logarithm(), np.full(1, -1.0), method="newton")
    close(eq.state, np.exp([-1.0]), 1e-9)


def test_all_methods_agree_on_a_pde():
    n = 60
    laplacian = sp.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n, n)).tocsr() * (n + 1.0) ** 2

    class Bratu(mfdeq.ResidualModel):
        state_size, param_size = n, 1

        def residual(self, h, theta):
            return laplacian @ h + theta * np.exp(h)

        def linearize(self, h, theta):
            e = np.exp(h)
            return mfdeq.Linearization(
                (laplacian + sp.diags(theta * e)).tocsr(), sp.csr_matrix(e[:, None])
            )

    states = [mfdeq.solve(Bratu(), np.ones(1), method=m).state for m in METHODS]
    for state in states:
        close(state, states[0], 1e-8)
    assert abs(states[0].max() - 0.1405) < 1e-3


def test_progress_bar_shows_the_method_and_the_residual(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    build("bratu_field").solve(progress=True)
    assert "newton" in sys.stderr.getvalue()
    assert "worst residual" in sys.stderr.getvalue()


@pytest.mark.parametrize("theta", [0.0, 1e-300])
@pytest.mark.parametrize("method", METHODS)
def test_a_zero_equilibrium_has_exact_derivatives(theta, method):
    eq = mfdeq.solve(Tanh(), np.full(2, theta), method=method)
    close(eq.sensitivity.toarray(), 2 * np.eye(2), 1e-12)
    close(eq.gradient(mfdeq.LeastSquares(np.arange(2), np.ones(2))), [-2.0, -2.0], 1e-12)
    assert eq.report.digits_left > 14


@pytest.mark.parametrize("method", METHODS)
def test_an_overflowing_start_gives_the_solution_or_an_error(method):
    solution = mfdeq.solve(Tanh(), np.ones(2)).state
    try:
        with np.errstate(over="ignore"):
            eq = mfdeq.solve(Tanh(), np.ones(2), np.full(2, 1e200), method=method)
    except mfdeq.ConvergenceError as error:
        assert "overflow" in str(error)  # noqa: PT017
    else:
        close(eq.state, solution, 1e-9)


def test_nan_along_a_newton_step_is_reported():
    class Edge(Tanh):
        def map(self, h, theta):
            return np.where(abs(h) > 0.1, np.nan, 0.5 * np.tanh(h) + theta)

    with pytest.raises(mfdeq.ConvergenceError, match=r"trial steps gave no value in Edge.map"):
        mfdeq.solve(Edge(), np.ones(2), method="newton")


class Aquifer(mfdeq.ResidualModel):
    """Groundwater under flat ground at z = 0 with a closed rim and drains at the surface."""

    n = 12
    state_size = n * n
    param_size = 1

    def __init__(self):
        second = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(self.n, self.n)).tolil()
        second[0, 0] = second[-1, -1] = 1.0
        eye = sp.identity(self.n)
        self.laplacian = (sp.kron(second, eye) + sp.kron(eye, second)).tocsr()

    def residual(self, h, theta):
        drained = 1e-7 * 0.5 * np.logaddexp(0, h / 0.5)
        return np.exp(theta[0]) * (self.laplacian @ h) + drained - 1e-8

    def linearize(self, h, theta):
        drain = 1e-7 * expit(h / 0.5)
        conducted = np.exp(theta[0]) * (self.laplacian @ h)
        return mfdeq.Linearization(
            (np.exp(theta[0]) * self.laplacian + sp.diags(drain)).tocsr(),
            sp.csr_matrix(conducted[:, None]),
            lambda lam: mfdeq.Curvature(
                params_params=np.array([[lam @ conducted]]),
                state_params=np.exp(theta[0]) * (self.laplacian @ lam)[:, None],
                state_state=sp.diags(lam * drain * (1 - drain / 1e-7) / 0.5).tocsr(),
            ),
        )


SOLVERS_ON_WATER = (mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.AMG()), "auto")


@pytest.mark.parametrize("solver", SOLVERS_ON_WATER, ids=str)
def test_a_start_where_A_is_singular_gives_the_solution_or_a_typed_error(solver):
    """A is singular to 1e-59 there, so a step along the constants is arbitrary."""
    theta = np.full(1, np.log(1e-6))
    wet = mfdeq.solve(Aquifer(), theta, solver=solver)
    close(wet.state, np.full(144, 0.5 * np.log(np.expm1(0.2))), 1e-6)  # each cell drains its rain
    try:
        eq = mfdeq.solve(Aquifer(), theta, np.full(144, -60.0), solver=solver)
    except (mfdeq.SingularStateError, mfdeq.ConvergenceError) as error:
        assert np.all(np.isfinite(error.best))  # noqa: PT017
    else:
        close(eq.state, wet.state, 1e-6)


@pytest.mark.parametrize(("rows", "conductivity"), [(50, 1e-4), (50, 1e-5), (50, 1e-6), (60, 1e-4)])
def test_newton_descends_through_nearly_singular_states(rows, conductivity, monkeypatch):
    """In water tables that are dry in places, equations lose their terms and A nearly its rank."""
    pytest.importorskip("matplotlib", reason="the terrain needs the extra plot")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    groundwater = importlib.import_module("groundwater")
    model = groundwater.Groundwater(groundwater.load_terrain(rows))
    theta = np.full(model.param_size, np.log(conductivity))
    report = mfdeq.solve(model, theta, method="newton").report
    assert report.iterations <= 25
    assert report.forward.setups <= 10


@pytest.mark.parametrize("slope", [1e-3, 1e-8, 1e-13])
def test_newton_leaves_a_start_where_A_is_nearly_singular(slope):
    """The first step is 1/slope times as long as the way to the state."""
    model = mfdeq.from_function(lambda h, theta: h**3 + slope * h - theta, 2, 2, "residual")
    eq = mfdeq.solve(model, np.array([1.0, 8.0]), np.zeros(2), method="newton")
    close(eq.state, [1.0, 2.0], 1e-3)


@pytest.mark.parametrize("beyond", [1e-3, 0.02, 1.0])
def test_newton_gives_up_soon_beyond_a_fold(beyond):
    """Steps that are accepted there become ever shorter, and reduce nothing."""
    model, start = square(30), None
    for t in (5.0, 6.5, 6.8):
        start = mfdeq.solve(model, np.array([t]), start).state
    with pytest.raises(mfdeq.ConvergenceError, match="stalled: no decrease") as caught:
        mfdeq.solve(model, np.array([6.807 + beyond]), start, method="newton")
    assert caught.value.report.iterations <= 60


def test_picard_steps_that_are_taken_back_are_shortened():
    """A map of slope -0.9995 contracts, but would take 50,000 steps undamped."""
    model = mfdeq.from_function(lambda h, t: 1.0 + t - 0.9995 * (h - 1.0), 2, 2, "map")
    theta = np.full(2, 1e-3)
    eq = mfdeq.solve(model, theta, np.full(2, 0.999), method="picard")
    np.testing.assert_allclose(eq.state, 1.0 + theta / 1.9995, rtol=1e-9)
    assert eq.report.iterations < 100


@pytest.mark.filterwarnings("ignore::mfdeq.NearSingularWarning")
@pytest.mark.parametrize("start", [1.0, 1e-3, -40.0])
def test_a_fold_at_zero_is_reached(start):
    """Each correction of a double root leaves half of the unknown, and never shows that it is 0."""

    class Fold(mfdeq.ResidualModel):
        state_size, param_size = 2, 1

        def residual(self, h, theta):
            return np.array([h[0] ** 2 - theta[0], h[1] - h[0] - 1.0])

        def linearize(self, h, theta):
            d_state = np.array([[2.0 * h[0], 0.0], [-1.0, 1.0]])
            return mfdeq.Linearization(d_state, np.array([[-1.0], [0.0]]))

    eq = mfdeq.solve(Fold(), np.zeros(1), np.array([start, start]))
    assert eq.state.tolist() == [0.0, 1.0]
    assert eq.report.zero_unknowns == 1
    assert eq.smallest_singular.value == 0.0
    with pytest.raises(mfdeq.SingularStateError, match="fold"):
        eq.gradient(mfdeq.LeastSquares([1], [0.0]))
    near = mfdeq.solve(Fold(), np.array([1e-30]), np.array([start, start]))
    np.testing.assert_allclose(abs(near.state[0]), 1e-15, rtol=1e-9)  # small, but not zero


def test_unknowns_that_converge_to_zero_are_zero():
    """A state of rounding would have a gradient without a digit, and a warning of it."""
    W = 0.4 * np.roll(np.eye(6), 1, axis=1)

    class Layer(mfdeq.FixedPointModel):
        state_size = param_size = 6

        def map(self, h, theta):
            return np.tanh(W @ h + theta)

        def linearize(self, h, theta):
            slope = 1.0 - np.tanh(W @ h + theta) ** 2
            return mfdeq.Linearization(slope[:, None] * W, np.diag(slope))

    for method in ("newton", "anderson"):
        eq = mfdeq.solve(Layer(), np.zeros(6), np.linspace(0.3, 0.8, 6), method=method)
        assert eq.state.tolist() == [0.0] * 6
        assert eq.report.zero_unknowns == 6
        assert not eq.gradient(mfdeq.LeastSquares(np.arange(6), np.zeros(6))).any()
