"""From a start to the equilibrium: every method, convergence as promised, and the ways to fail."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator
from scipy.special import expit
from support.cases import CASES, CUPY_CASES, CUPY_SINGLE, SINGLE, build, close, to_numpy
from support.terminal import Terminal

import mfdeq
from mfdeq.linear import reuse

METHODS = ("newton", "anderson", "picard", "auto")
SOLVERS = (mfdeq.Direct(), mfdeq.Krylov(), "auto")


def residual(eq):
    model, h, theta = eq.model, eq.state, eq.params
    return h - model.map(h, theta) if hasattr(model, "map") else model.residual(h, theta)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [*CASES, *SINGLE, *CUPY_CASES, *CUPY_SINGLE], ids=str)
def test_every_method_and_solver_reaches_the_equilibrium(case, method, solver):
    eq = case.solve(method=method, solver=solver)
    report = eq.report
    assert eq.state.dtype == case.dtype
    # The state error: 1e-10 of the scale, or rounding, through A⁻¹.
    size = np.linalg.norm(case.truth.A_inverse, 2) * report.target
    assert np.linalg.norm(to_numpy(eq.state) - case.truth.state) <= 2 * size
    assert np.linalg.norm(to_numpy(residual(eq))) <= 2 * report.target
    assert report.converged
    assert report.residual <= report.target
    assert report.target == max((1e-10 if case.dtype == float else 0) * report.scale, report.floor)
    assert report.limited_by == ("rtol" if report.target > report.floor else "floor")
    assert report.limited_by in report.reason or "floor" in report.reason
    assert str(report.iterations) in str(report)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_newton_converges_quadratically(case, monkeypatch):
    monkeypatch.setattr(reuse, "SETUP_ITERATIONS", -1.0)  # a fresh LU at every step
    report = case.solve(method="newton", solver=mfdeq.Direct()).report
    assert report.iterations <= 12
    relative = np.array(report.residuals[: report.iterations + 1]) / report.residuals[0]
    last = relative[relative > 1e-13]
    if len(last) >= 3:
        assert np.log(last[-1]) / np.log(last[-2]) > 1.5


@pytest.mark.parametrize("solver", [mfdeq.Krylov(rtol=1e-12), mfdeq.Direct()], ids=str)
def test_a_loose_newton_step_does_not_leak_into_an_adjoint(solver):
    case = build("bratu_field")
    eq = case.solve(method="newton", solver=solver)
    assert eq.report.forward.solves >= 3
    assert eq.report.forward.setups == 1  # the first step's serves the others
    assert eq.report.linear.setups == 0
    close(eq.gradient(case.loss), case.truth.gradient, 1e-8)
    assert eq.report.linear.setups == isinstance(solver, mfdeq.Direct)  # else nothing to set up
    assert eq.report.linear.worst_residual <= 1e-10


def test_inexact_newton_saves_inner_iterations():
    """With forcing, the first steps are solved loosely."""
    model = build("bratu_field", dtype="float64").model
    theta = np.full(16, 6.0)
    eq = mfdeq.solve(model, theta, method="newton", solver=mfdeq.Krylov())
    loose = eq.report.forward.iterations / eq.report.forward.solves
    eq.inverse @ np.random.default_rng(0).standard_normal(16)
    tight = eq.report.linear.iterations / eq.report.linear.solves
    assert loose < tight


def test_a_warm_start_is_not_asked_for_more_than_a_cold_one():
    """A warm start is not asked for more than a cold one."""
    case = build("bratu_field")
    cold = case.solve()
    warm = mfdeq.solve(case.model, case.params, cold.state + 1e-7)
    assert warm.report.scale == cold.report.scale
    assert warm.report.iterations <= 2
    again = mfdeq.solve(case.model, case.params, cold.state)
    assert again.report.iterations == 0
    assert np.array_equal(again.state, cold.state)


class Line(mfdeq.FixedPointModel):
    """h = a h + theta, with everything that a model may say of itself."""

    state_size = param_size = 2

    def __init__(self, slope=0.5, start=None, scale=None):
        self.slope, self.start, self.scale = slope, start, scale

    def map(self, h, theta):
        return self.slope * h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.slope * np.eye(2), np.eye(2), lambda lam: mfdeq.Curvature())

    def initial_state(self, theta):
        return self.start

    def residual_scale(self, h, theta):
        return self.scale


def test_a_model_may_set_start_and_scale():
    theta = np.array([1.0, -2.0])
    eq = mfdeq.solve(Line(start=2 * theta), theta)
    assert eq.report.iterations == 0
    eq = mfdeq.solve(Line(scale=1e6), theta, method="picard")
    assert eq.report.scale == 1e6
    assert 1e-6 < np.linalg.norm(eq.state - 2 * theta) < 1e-3


def test_rtol_is_reached_and_below_the_floor_an_error():
    theta = np.array([1.0, -2.0])
    for rtol in (1e-2, 1e-6):
        eq = mfdeq.solve(Line(), theta, method="picard", rtol=rtol)
        assert 0.1 * rtol < eq.report.residual / eq.report.scale <= rtol
    for method in METHODS:
        with pytest.raises(mfdeq.ConvergenceError, match="rounding error") as caught:
            mfdeq.solve(Line(), theta, method=method, rtol=1e-17)
        close(caught.value.best, 2 * theta, 1e-14)
    with pytest.raises(mfdeq.ConvergenceError, match="floor"):
        mfdeq.solve(Line(), theta.astype("float32"), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_no_equilibrium_is_an_error_with_the_history(method):
    """h = h + 1, and h = h² + 1."""

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
    # Damping rescues what oscillates; nothing rescues a monotone expansion.
    close(mfdeq.solve(Line(slope=-3.0), np.ones(2), method="picard").state, np.full(2, 0.25), 1e-9)
    with pytest.raises(mfdeq.ConvergenceError, match="diverged"):
        mfdeq.solve(Line(slope=3.0), np.ones(2), method="picard")
    eq = mfdeq.solve(Line(slope=3.0), np.ones(2))
    close(eq.state, np.full(2, -0.5), 1e-9)
    assert "newton" in eq.report.choices[0]
    close(case.solve(method="auto").state, case.truth.state, 1e-8)


class Products(Line):
    """A map that gives products of its Jacobian only."""

    def linearize(self, h, theta):
        J = LinearOperator(
            (2, 2), matvec=lambda x: self.slope * x, rmatvec=lambda y: self.slope * y, dtype=float
        )
        return mfdeq.Linearization(J, np.eye(2))


def test_auto_reports_its_choice_and_what_failed():
    eq = mfdeq.solve(Products(), np.ones(2))
    assert eq.report.method == "anderson"
    assert "only products" in eq.report.choices[0]

    class Awkward(Products):
        """A cubic far from contracting, for which products are all that is given."""

        def map(self, h, theta):
            return h - 50 * (h + h**3 - theta)

        def linearize(self, h, theta):
            d = 1 - 50 * (1 + 3 * h**2)
            J = LinearOperator((2, 2), matvec=lambda x: d * x, rmatvec=lambda y: d * y, dtype=float)
            return mfdeq.Linearization(J, 50 * np.eye(2))

    eq = mfdeq.solve(Awkward(), np.array([30.0, -4.0]))
    close(eq.state + eq.state**3, np.array([30.0, -4.0]), 1e-8)
    if eq.report.method == "newton":
        assert any("anderson failed" in choice for choice in eq.report.choices)


def test_auto_names_every_method_that_failed():
    class None_(Products):
        """h = h + theta has no solution."""

        def map(self, h, theta):
            return h + theta

    with pytest.raises(mfdeq.ConvergenceError, match="anderson") as caught:
        mfdeq.solve(None_(slope=1.0), np.ones(2))
    assert "Then newton was tried" in caught.value.__notes__[0]


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


@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov()], ids=str)
def test_derivatives_at_a_double_root_raise_however_small_the_residual(solver):
    """h² = 0: ||R|| is 1e-10 where the state is off by 1e-5 and A has no digits."""

    class Double(mfdeq.ResidualModel):
        state_size = param_size = 2

        def residual(self, h, theta):
            return (h - 1) ** 2 - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag(2 * (h - 1)), -np.eye(2))

        def initial_state(self, theta):
            return np.full(2, 3.0)

    fine = mfdeq.solve(Double(), np.full(2, 1e-4), solver=solver)
    close(fine.sensitivity @ np.ones(2), np.full(2, 50.0), 1e-4)
    at_fold = mfdeq.solve(Double(), np.zeros(2), solver=solver)
    with pytest.raises(mfdeq.SingularStateError, match="fold") as caught:
        at_fold.sensitivity @ np.ones(2)
    assert caught.value.digits < 6


def test_equilibrium_at_checks_the_residual():
    case = build("bratu_field")
    eq = case.solve()
    at = mfdeq.equilibrium_at(case.model, case.params, eq.state)
    close(at.gradient(case.loss), eq.gradient(case.loss), 1e-10)
    assert at.report.iterations == 0
    with pytest.raises(mfdeq.ConvergenceError, match="not an equilibrium") as caught:
        mfdeq.equilibrium_at(case.model, case.params, eq.state * 1.001)
    assert caught.value.report.residual > caught.value.report.target


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
    assert "||R||" in sys.stderr.getvalue()


def test_the_model_is_linearized_once():
    case = build("bratu_field")
    calls = []
    model = type(case.model)
    counting = type(
        "Counting",
        (model,),
        {"linearize": lambda self, h, t: calls.append(1) or model.linearize(self, h, t)},
    )
    counting_model = object.__new__(counting)
    counting_model.__dict__.update(case.model.__dict__)
    eq = mfdeq.equilibrium_at(counting_model, case.params, case.solve().state)
    H = eq.hessian(case.loss)
    for _ in range(3):
        H @ np.ones((16, 2))
    eq.gradient(case.loss)
    eq.component_hessian(0) @ np.ones(16)
    assert len(calls) == 1
    assert eq.report.linear.setups == 1


class Tanh(mfdeq.FixedPointModel):
    """h = tanh(h)/2 + theta, without second derivatives."""

    state_size = param_size = 2

    def map(self, h, theta):
        return 0.5 * np.tanh(h) + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.diag(0.5 / np.cosh(h) ** 2), np.eye(2))


@pytest.mark.parametrize("theta", [0.0, 1e-300])
@pytest.mark.parametrize("method", METHODS)
def test_a_zero_equilibrium_has_exact_derivatives(theta, method):
    eq = mfdeq.solve(Tanh(), np.full(2, theta), method=method)
    close(eq.sensitivity.toarray(), 2 * np.eye(2), 1e-12)
    close(eq.gradient(mfdeq.LeastSquares(np.arange(2), np.ones(2))), [-2.0, -2.0], 1e-12)
    assert eq.report.digits_left > 14


@pytest.mark.parametrize("method", METHODS)
def test_an_overflowing_start_is_not_converged(method):
    with np.errstate(over="ignore"), pytest.raises(mfdeq.ConvergenceError):
        mfdeq.solve(Tanh(), np.ones(2), np.full(2, 1e200), method=method)


def test_state_and_params_are_read_only():
    eq = mfdeq.solve(Tanh(), np.ones(2))
    for array in (eq.state, eq.params):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0
    assert "Tanh" in repr(eq)


def test_an_exception_in_a_user_function_notes_where():
    class Broken(Tanh):
        def map(self, h, theta):
            return np.eye(3) @ h

    with pytest.raises(ValueError, match="matmul") as caught:
        mfdeq.solve(Broken(), np.ones(2))
    assert "Broken.map" in caught.value.__notes__[0]


def test_nan_along_a_newton_step_is_reported():
    class Edge(Tanh):
        def map(self, h, theta):
            return np.where(abs(h) > 0.1, np.nan, 0.5 * np.tanh(h) + theta)

    with pytest.raises(mfdeq.ConvergenceError, match=r"trial steps gave NaN in Edge.map"):
        mfdeq.solve(Edge(), np.ones(2), method="newton")


class Aquifer(mfdeq.ResidualModel):
    """Water under flat ground at z = 0, closed at the rim: only drains at the surface hold it."""

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
    """A is singular there to 1e-59: a step is anything along the constants."""
    theta = np.full(1, np.log(1e-6))
    wet = mfdeq.solve(Aquifer(), theta, solver=solver)
    close(wet.state, np.full(144, 0.5 * np.log(np.expm1(0.2))), 1e-6)  # each cell drains its rain
    try:
        eq = mfdeq.solve(Aquifer(), theta, np.full(144, -60.0), solver=solver)
    except (mfdeq.SingularStateError, mfdeq.ConvergenceError) as error:
        assert np.all(np.isfinite(error.best))  # noqa: PT017
    else:
        close(eq.state, wet.state, 1e-6)
