"""`mfdeq.minimize`: minima by every method, rejected steps, failures and arguments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize as by_scipy
from scipy.sparse.linalg import spsolve
from support.cases import build, close
from support.control_problems import Dtoc5, Hager1
from support.functionals import IdentityModel, wavy_functional
from support.places import Dense, N, P, Place, assert_agrees_with_numpy
from support.strict_library import strict_library

import mfdeq
from mfdeq.optimization.methods import METHODS

WITHOUT_MATRICES = [name for name, entry in METHODS.items() if not entry.needs_matrices]


def functional(name, **options):
    case = build(name)
    return mfdeq.ReducedFunctional(case.model, case.loss, case.h0, **options), case


# Every method finds the same minimum.


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("diffusion", "newton"),
        *itertools.product(["diffusion", "bratu_field", "smooth"], WITHOUT_MATRICES),
    ],
)
def test_every_method_finds_the_minimum(name, method):
    F, case = functional(name)
    found = mfdeq.minimize(F, case.params, method, gtol=1e-8, max_iterations=400)
    assert found.converged
    exact = by_scipy(F.value, case.params, jac=F.gradient, hessp=F.hessp, method="trust-ncg",
                     options={"gtol": 1e-10})  # fmt: skip
    close(found.params, exact.x, 1e-5)
    assert found.value <= exact.fun + 1e-12 * abs(exact.fun)
    close(found.gradient, found.equilibrium.gradient(case.loss), 1e-6)
    assert np.linalg.norm(found.gradient) <= 1e-8 * found.report.steps[0].gradient_norm
    report = found.report
    assert report.equilibria >= len(report.steps)
    assert (report.products > 0) == (method != "l-bfgs")  # newton: for its first shift
    assert (report.factorizations > 0) == (method == "newton")
    values = [step.value for step in report.steps]
    assert values[-1] == found.value < values[0]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))


class FirstDerivatives(mfdeq.FixedPointModel):
    """A map with its first derivatives alone."""

    def __init__(self, model):
        self.model, self.map = model, model.map
        self.state_size, self.param_size = model.state_size, model.param_size

    def linearize(self, h, theta):
        given = self.model.linearize(h, theta)
        return mfdeq.Linearization(given.d_state, given.d_params)


def test_gauss_newton_needs_no_curvature_of_the_model():
    F, case = functional("smooth")
    only_first = mfdeq.ReducedFunctional(FirstDerivatives(case.model), case.loss, case.h0)
    found = mfdeq.minimize(only_first, case.params, "gauss-newton", gtol=1e-8)
    expected = mfdeq.minimize(F, case.params, "gauss-newton", gtol=1e-8)
    assert found.converged
    close(found.params, expected.params, 1e-9)
    assert found.report.products == expected.report.products
    total = mfdeq.minimize(only_first + 0.5 * only_first, case.params, "gauss-newton", gtol=1e-8)
    close(total.params, expected.params, 1e-6)
    for method in ("newton-cg", "line-search"):
        with pytest.raises(mfdeq.ModelError, match="returned no curvature"):
            mfdeq.minimize(only_first, case.params, method)


class CountingCurvatures(FirstDerivatives):
    """A map that counts how often its curvature is evaluated."""

    evaluated = 0

    def linearize(self, h, theta):
        given = self.model.linearize(h, theta)

        def curvature(lam):
            self.evaluated += 1
            return given.curvature(lam)

        return mfdeq.Linearization(given.d_state, given.d_params, curvature)


@pytest.mark.parametrize("count", [1, 2])
def test_gauss_newton_evaluates_no_curvature_of_the_model(count):
    case = build("smooth")
    model = CountingCurvatures(case.model)
    F = mfdeq.ReducedFunctional(model, case.loss, case.h0)
    F = F if count == 1 else F + 0.5 * F
    assert mfdeq.minimize(F, case.params, "gauss-newton", gtol=1e-8).converged
    assert model.evaluated == 0
    F.hessian(case.params)  # reports what is wrong with it at once
    assert model.evaluated > 0


def test_newton_refuses_derivatives_that_are_not_matrices():
    F, case = functional("bratu_field")
    with pytest.raises(mfdeq.ArgumentError, match="not a sparse matrix"):
        mfdeq.minimize(F, case.params, "newton")


def test_newton_takes_small_dense_matrices():
    F, case = functional("smooth")
    found = mfdeq.minimize(F, case.params, "newton", gtol=1e-8)
    close(found.params, mfdeq.minimize(F, case.params, gtol=1e-8).params, 1e-5)


@pytest.mark.parametrize("preconditioner", ["precision", "operator"])
@pytest.mark.parametrize("method", ["newton-cg", "line-search", "l-bfgs"])
def test_a_preconditioner_saves_work_and_keeps_the_minimum(method, preconditioner):
    F, case = functional("bratu_field")
    start = mfdeq.minimize(F, case.params, gtol=1e-3).params
    H = F.hessian(start).toarray()
    M = mfdeq.Precision(H) if preconditioner == "precision" else np.linalg.inv(H)
    plain, preconditioned = (
        mfdeq.minimize(
            F,
            case.params,
            method,
            gtol=1e-8,
            metric=1.0,
            preconditioner=given,
            max_iterations=400,
        )
        for given in (None, M)
    )
    close(preconditioned.params, plain.params, 1e-5)
    of = "equilibria" if method == "l-bfgs" else "products"
    assert getattr(preconditioned.report, of) < 0.7 * getattr(plain.report, of)


def full_space(residual, derivatives, gradient, hessian, x, steps=12):
    """Minimize L(x) subject to c(x) = 0 by Newton's method for all unknowns at once."""
    nu = np.zeros(residual(x).shape[0])
    for _ in range(steps):
        C = derivatives(x)
        KKT = sp.bmat([[hessian(x, nu), C.T], [C, None]]).tocsc()
        step = spsolve(KKT, -np.concatenate([gradient(x) + C.T @ nu, residual(x)]))
        x, nu = x + step[: x.shape[0]], nu + step[x.shape[0] :]
    return x


@pytest.mark.parametrize("method", METHODS)
def test_hager1_reaches_its_published_optimum(method):
    """The optimum is 0.88079709548 at N = 1000, to eleven digits."""
    F = mfdeq.ReducedFunctional(Hager1(1000), Hager1.loss(1000))
    found = mfdeq.minimize(F, np.zeros(1000), method, gtol=1e-10)
    assert abs(found.value - 0.88079709548) < 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_dtoc5_reaches_the_optimum_of_a_full_space_method(method):
    """Compare with a full-space Newton method, to ten digits."""
    n = 1000
    F = mfdeq.ReducedFunctional(Dtoc5(n), Dtoc5.loss(n))
    found = mfdeq.minimize(F, np.ones(n - 1), method, gtol=1e-9)

    def parts(x):
        return x[: n - 1], np.concatenate([[1.0], x[n - 1 :]])  # controls, y_1 ... y_N

    def residual(x):
        u, y = parts(x)
        return y[1:] - y[:-1] - (y[:-1] ** 2 - u) / n

    def derivatives(x):
        _, y = parts(x)
        in_state = sp.diags([np.ones(n - 1), -(1 + 2 * y[1:-1] / n)], [0, -1])
        return sp.hstack([sp.identity(n - 1) / n, in_state]).tocsr()

    def gradient(x):
        u, y = parts(x)
        return np.concatenate([2 * u / n, 2 * y[1:-1] / n, [0.0]])

    def hessian(x, nu):
        state = np.concatenate([2 / n - 2 * nu[1:] / n, [0.0]])
        return sp.diags(np.concatenate([np.full(n - 1, 2 / n), state]))

    x = full_space(residual, derivatives, gradient, hessian, np.ones(2 * n - 2))
    u, y = parts(x)
    exact = ((u**2).sum() + (y[:-1] ** 2).sum()) / n
    assert np.linalg.norm(residual(x)) < 1e-12
    assert abs(found.value - exact) < 1e-10 * exact
    close(found.params, u, 1e-5)


# Points without an equilibrium, and indefinite Hessians.


def towards_the_fold(lam):
    """Return the misfit to Bratu's state at lam."""
    case = build("bratu_scalar")
    target = mfdeq.solve(case.model, np.array([lam])).state
    loss = mfdeq.LeastSquares(np.arange(target.shape[0]), target)
    # Beyond the fold every method of the solve runs out of its iterations.
    return mfdeq.ReducedFunctional(case.model, loss, max_iterations=20)


FIRST_RADIUS = {"newton-cg": 20.0, "gauss-newton": 20.0}


@pytest.mark.parametrize("method", WITHOUT_MATRICES)
def test_a_step_beyond_the_fold_is_rejected(method):
    """The sensitivity grows towards the fold, so a Newton step from far below overshoots it."""
    F = towards_the_fold(6.6)
    found = mfdeq.minimize(F, np.array([0.5]), method, gtol=1e-7, radius=FIRST_RADIUS.get(method))
    assert abs(found.params[0] - 6.6) < 1e-5
    if method != "l-bfgs":
        assert found.report.rejected > 0
        assert "rejected: no equilibrium" in str(found.report) or method == "line-search"


class Exponential(mfdeq.ResidualModel):
    """h = exp theta, which overflows for large theta."""

    state_size = param_size = 1

    def residual(self, h, theta):
        return h - np.exp(theta)

    def linearize(self, h, theta):
        grown = np.exp(theta)[:, None]
        return mfdeq.Linearization(
            np.eye(1),
            -grown,
            curvature=lambda lam: mfdeq.Curvature(params_params=-lam[0] * grown),
        )


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("method", "seen"), [("newton-cg", 1e4), ("line-search", 1.999)])
def test_a_step_to_where_the_residual_overflows_is_rejected(method, seen):
    # A full Gauss-Newton step is 9999, and a full Newton step, whose Hessian is 0.001, is 999.
    F = mfdeq.ReducedFunctional(Exponential(), mfdeq.LeastSquares(np.array([0]), np.array([seen])))
    found = mfdeq.minimize(F, np.zeros(1), method, radius=1e4)
    assert found.report.rejected > 0
    np.testing.assert_allclose(found.params, np.log(seen), rtol=1e-6)


def test_the_model_changes_from_gauss_newton_to_the_hessian():
    # An amplitude and a rate do not fit the data, so Gauss-Newton alone converges linearly.
    class Decay(mfdeq.ResidualModel):
        state_size, param_size = 4, 2
        t = np.arange(4.0)

        def residual(self, h, theta):
            return h - theta[0] * np.exp(-theta[1] * self.t)

        def linearize(self, h, theta):
            a, e = theta[0], np.exp(-theta[1] * self.t)
            mixed = self.t * e
            return mfdeq.Linearization(
                np.eye(4),
                -np.stack([e, -a * mixed], axis=1),
                curvature=lambda lam: mfdeq.Curvature(
                    params_params=-np.array(
                        [[0.0, -lam @ mixed], [-lam @ mixed, a * (lam @ (self.t * mixed))]]
                    )
                ),
            )

    loss = mfdeq.LeastSquares(np.arange(4), np.array([3.0, 0.2, 2.0, -0.5]))
    found = {
        method: mfdeq.minimize(
            mfdeq.ReducedFunctional(Decay(), loss), np.array([1.0, 0.1]), method, gtol=1e-8
        )
        for method in ("newton-cg", "gauss-newton")
    }
    newton, gauss = (found[method].report.steps[1:] for method in ("newton-cg", "gauss-newton"))
    assert "Gauss-Newton" in newton[0].how
    assert "Gauss-Newton" not in newton[-1].how
    assert all("Gauss-Newton" in step.how for step in gauss)
    assert newton[-1].gradient_norm < 1e-3 * newton[-2].gradient_norm
    assert len(newton) < len(gauss) / 2
    close(found["newton-cg"].params, found["gauss-newton"].params, 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_a_maximum(method):
    start = np.array([0.1, -0.2, 0.05])
    F = wavy_functional()
    found = mfdeq.minimize(F, start, method, gtol=1e-8)
    assert found.value < -0.9
    assert found.definite is True
    close(found.smallest.values, [np.min(-np.cos(found.params) + 0.1)], 1e-6)
    if method == "newton-cg":
        assert "along negative curvature" in str(found.report)
    if method == "newton":
        assert "shifted by" in str(found.report)


def test_a_saddle_is_reported_as_no_minimum():
    """A parameter that starts at its maximum does not move, which leads to a saddle."""
    F = wavy_functional()
    found = mfdeq.minimize(F, np.array([0.0, 2.0, 2.2]), gtol=1e-8)
    assert found.params[0] == 0.0
    assert found.definite is False
    assert found.smallest.values[0] < -0.8


# Other array libraries, and failures.


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("method", ["newton-cg", "gauss-newton", "line-search", "l-bfgs"])
def test_strict_arrays_agree_with_numpy(device, method):
    def compute(place):
        loss = mfdeq.LeastSquares(
            place(np.eye(N)[:2] + 0.1), place(np.ones(2)), place(np.array([2.0, 0.5]))
        ) + 0.5 * mfdeq.QuadraticPrior(place(np.eye(P) + 1), place(np.ones(P)))
        F = mfdeq.ReducedFunctional(Dense(place), loss, solver=mfdeq.Neumann())
        bounds = (place(np.array([-9.0, 0.7, -9.0])), 0.9) if method == "newton-cg" else None
        gtol = 1e-3 if method == "gauss-newton" else 1e-9  # it converges linearly here
        found = mfdeq.minimize(F, place([0.1, 0.2, -0.3]), method, bounds=bounds, gtol=gtol)
        return [found.params, found.gradient + 1]

    with strict_library():
        assert_agrees_with_numpy(Place(device), compute)


def test_errors_contain_the_best_point():
    F, case = functional("bratu_field")
    with pytest.raises(mfdeq.ConvergenceError, match="max_iterations = 2 was reached") as caught:
        mfdeq.minimize(F, case.params, "l-bfgs", max_iterations=2)
    best = caught.value.best
    assert not best.converged
    assert best.value < F.value(case.params)
    assert caught.value.report is best.report
    assert len(best.report.steps) == 3
    seen = []
    with pytest.raises(mfdeq.ConvergenceError, match="the callback returned True"):
        mfdeq.minimize(
            F, case.params, callback=lambda theta, step: seen.append(step) or len(seen) > 1
        )
    assert len(seen) == 2
    assert seen[0].how == "start"


def test_no_equilibrium_at_the_start_is_an_error_without_a_point():
    F = towards_the_fold(6.0)
    with pytest.raises(
        mfdeq.ConvergenceError, match=r"at theta0.*newton.*ReducedFunctional"
    ) as caught:
        mfdeq.minimize(F, np.array([20.0]))
    assert caught.value.best is None


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_without_a_minimum_is_an_error(method):
    # A thousandth of curvature along the first parameter, none along the others.
    loss = mfdeq.Loss(
        lambda h, theta: float(0.0005 * h[0] ** 2 - h[1:].sum()),
        d_state=lambda h, theta: np.array([0.001 * h[0], -1.0, -1.0]),
        curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.diags([1e-3, 0.0, 0.0]).tocsr()),
    )
    F = mfdeq.ReducedFunctional(IdentityModel(), loss)
    with pytest.raises(
        mfdeq.ConvergenceError, match=r"decreases without bound|was reached|no step"
    ):
        mfdeq.minimize(F, np.ones(3), method, max_iterations=30)


def test_a_loss_that_falls_without_end_advises_bounds_or_a_prior():
    loss = mfdeq.Loss(lambda h, theta: -float(h.sum()), d_state=lambda h, theta: -np.ones(3))
    with pytest.raises(
        mfdeq.ConvergenceError, match=r"decreases without bound.*bounds or a prior"
    ) as caught:
        mfdeq.minimize(mfdeq.ReducedFunctional(IdentityModel(), loss), np.ones(3), "newton-cg")
    assert caught.value.best.value < -1e15


@pytest.mark.parametrize("method", METHODS)
def test_no_step_leads_to_a_loss_that_is_not_finite(method):
    def functional(value):
        loss = mfdeq.Loss(
            value,
            d_state=lambda h, theta: h,
            curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.identity(3).tocsr()),
        )
        return mfdeq.ReducedFunctional(IdentityModel(), loss)

    with pytest.raises(mfdeq.ModelError, match="NaN or infinity"):
        mfdeq.minimize(functional(lambda h, theta: np.nan), np.ones(3), method)
    # A step to a point without a finite loss is not taken, either.
    F = functional(lambda h, theta: 0.5 * float(h @ h) if abs(h[0]) > 0.5 else np.nan)
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        mfdeq.minimize(F, np.ones(3), method, max_iterations=20)
    assert np.isfinite(caught.value.best.value)


WRONG = {
    "a method": ({"method": "bfgs"}, "newton-cg"),
    "bounds of L-BFGS": (
        {"method": "l-bfgs", "bounds": (0, 1)},
        "bounds: expected None or one of the methods newton-cg",
    ),
    "crossed bounds": ({"bounds": (1.0, 0.0)}, "above the upper"),
    "NaN": ({"bounds": (np.full(6, np.nan), None)}, "NaN"),
    "one bound": ({"bounds": 3.0}, "a pair"),
    "three bounds": ({"bounds": (1, 2, 3)}, "a pair"),
    "a bound's shape": ({"bounds": (np.zeros(2), None)}, r"shape \(2,\)"),
    "a radius": ({"radius": 0.0}, "positive"),
    "gtol": ({"gtol": 2.0}, "between 0 and 1"),
    "iterations": ({"max_iterations": 0}, "positive integer"),
    "a preconditioner": ({"preconditioner": np.eye(3)}, "shape"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_arguments_are_named(what):
    F, case = functional("diffusion")
    options, said = WRONG[what]
    with pytest.raises((mfdeq.ArgumentError, mfdeq.ModelError), match=said):
        mfdeq.minimize(F, case.params, **options)


def test_a_functional_and_a_start_of_its_size_are_required():
    F, case = functional("diffusion")
    with pytest.raises(mfdeq.ArgumentError, match="functional: expected an mfdeq"):
        mfdeq.minimize(F.value, case.params)
    with pytest.raises(mfdeq.ModelError, match="theta0"):
        mfdeq.minimize(F, np.ones(3))


def test_gradients_have_the_accuracy_of_the_functional():
    F, case = functional("diffusion", accuracy=1e-3)
    found = mfdeq.minimize(F, case.params, gtol=1e-2)
    assert 0 < found.equilibrium.report.gradient_error <= 1e-3
