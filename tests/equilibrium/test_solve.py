"""`mfdeq.solve` and `equilibrium_at`: the choice of method, checks, and caching."""

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from benchmarks.systems import convection_in_volume
from scipy.sparse.linalg import LinearOperator
from support.cases import build, close
from support.small_maps import Products, Tanh

import mfdeq
from mfdeq.arrays import jit
from mfdeq.linear.direct import pardiso


def test_auto_reports_its_choice_and_failed_methods():
    eq = mfdeq.solve(Products(), np.ones(2))
    assert eq.report.method == "anderson"
    assert "by its products only" in eq.report.choices[0]

    class Awkward(Products):
        """A cubic map that is far from contracting, with products only."""

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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("h0", [2, 2.0, np.float64(2.0), np.array(2.0)], ids=repr)
def test_a_number_is_the_start_of_every_unknown(h0, dtype):
    model = mfdeq.from_function(lambda h, theta: h**2 - theta[0], 3, 1, "residual")
    theta = np.array([4.0], dtype)
    eq = mfdeq.solve(model, theta, h0)
    assert eq.report.iterations == 0
    np.testing.assert_array_equal(eq.state, np.full(3, 2.0, dtype))
    loss = mfdeq.LeastSquares(np.arange(3), np.zeros(3))
    assert mfdeq.ReducedFunctional(model, loss, h0=h0).value(theta) == 6.0
    with pytest.raises(mfdeq.ModelError, match="h0 holds NaN"):
        mfdeq.solve(model, theta, h0=np.nan)


def test_the_report_counts_a_solve_for_every_newton_step():
    model = mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, "residual")
    report = mfdeq.solve(model, np.array([1.0, 2.0, 3.0])).report
    steps = report.iterations
    assert report.forward.solves == report.forward.columns >= steps > 1
    assert f"{report.forward.solves} solves" in str(report)


def test_auto_names_every_method_that_failed():
    class None_(Products):
        """h = h² / 2 + theta has no solution."""

        def map(self, h, theta):
            return h**2 / 2 + theta

        def linearize(self, h, theta):
            J = LinearOperator((2, 2), matvec=lambda x: h * x, rmatvec=lambda y: h * y, dtype=float)
            return mfdeq.Linearization(J, np.eye(2))

    with pytest.raises(mfdeq.ConvergenceError, match="anderson") as caught:
        mfdeq.solve(None_(), np.ones(2))
    assert "Then newton was tried" in caught.value.__notes__[0]


@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov()], ids=str)
def test_derivatives_at_a_double_root_raise_for_any_residual(solver):
    """For h² = 0, ||R|| is 1e-10 although the state is off by 1e-5 and A has no digits."""

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
    with pytest.warns(mfdeq.NearSingularWarning, match="fold"):
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
    assert caught.value.report.residuals[-1] > 1e-6
    assert "equation" in str(caught.value)


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
    assert eq.report.forward.setups + eq.report.linear.setups == 1


def test_state_and_params_are_read_only():
    eq = mfdeq.solve(Tanh(), np.ones(2))
    for array in (eq.state, eq.params):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0
    assert "Tanh" in repr(eq)


def test_an_exception_in_a_user_function_has_a_note_with_its_name():
    class Broken(Tanh):
        def map(self, h, theta):
            return np.eye(3) @ h

    with pytest.raises(ValueError, match="matmul") as caught:
        mfdeq.solve(Broken(), np.ones(2))
    assert "Broken.map" in caught.value.__notes__[0]


class WindyVolume(mfdeq.ResidualModel):
    """Linear, and large enough for "auto" to begin with an iteration."""

    A = convection_in_volume(20).A
    state_size = param_size = 8000

    def residual(self, h, theta):
        return self.A @ h - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            self.A, -sp.eye_array(8000, format="csr"), lambda adjoint: mfdeq.Curvature()
        )


def test_the_report_names_the_solver_that_auto_has_changed_to(monkeypatch):
    # It would not begin with an iteration.
    monkeypatch.setattr(pardiso, "has_pardiso", lambda: False)
    monkeypatch.setattr(jit, "is_available", lambda: False)
    eq = mfdeq.solve(WindyVolume(), np.ones(8000))
    eq.gradient(mfdeq.LeastSquares(np.arange(9), np.zeros(9)))
    Z = eq.sensitivity @ np.random.default_rng(0).standard_normal((8000, 200))
    assert np.all(np.isfinite(Z))
    assert "Direct" in eq.report.solver
    for name in ("Krylov", "Direct"):
        assert any(choice.startswith(f"solver: {name}") for choice in eq.report.choices)
    assert eq.report.linear.setups + eq.report.forward.setups == 2


def test_auto_expects_the_solves_that_a_state_takes_unless_the_user_says_how_many():
    model = Diffusion(20, 3)
    for solver, expected in (("auto", "for 3 solves"), (mfdeq.Auto(solves=1), "for 1 solve:")):
        eq = mfdeq.solve(model, model.lognormal(), solver=solver)
        first = next(choice for choice in eq.report.choices if choice.startswith("solver"))
        assert expected in first
    with_hint = mfdeq.Auto(solves=5)
    assert with_hint.for_solves(500) is with_hint
    assert mfdeq.Auto().for_solves(3).for_solves(500).solves == 500
