"""Minimization: every method to the same minimum, what is rejected, bounds, and what it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize as by_scipy
from scipy.sparse.linalg import spsolve
from support.cases import build, close
from support.control_problems import Dtoc5, Hager1
from support.places import Dense, N, P, Place, agrees, without_scipy

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.optimization.minimize import METHODS
from mfdeq.optimization.trust_region import steihaug

RNG = np.random.default_rng(0)


def functional(name, **options):
    case = build(name)
    return mfdeq.ReducedFunctional(case.model, case.loss, case.h0, **options), case


# Every method, to the same minimum.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["diffusion", "bratu_field", "smooth"])
def test_every_method_finds_the_minimum(name, method):
    F, case = functional(name)
    if method == "newton" and name != "diffusion":  # whose matrices are not all sparse
        with pytest.raises(mfdeq.ArgumentError, match="not a sparse matrix"):
            mfdeq.minimize(F, case.params, method)
        return
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
    assert (report.products > 0) == (method != "l-bfgs")  # of newton, for its first shift
    assert (report.factorizations > 0) == (method == "newton")
    values = [step.value for step in report.steps]
    assert values[-1] == found.value < values[0]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("preconditioner", ["precision", "operator"])
@pytest.mark.parametrize("method", ["newton-cg", "line-search", "l-bfgs"])
def test_a_preconditioner_changes_the_way_not_the_end(method, preconditioner):
    F, case = functional("bratu_field")
    start = mfdeq.minimize(F, case.params, gtol=1e-3).params
    H = F.hessian(start).toarray()
    M = mfdeq.Precision(H) if preconditioner == "precision" else np.linalg.inv(H)
    plain, preconditioned = (
        mfdeq.minimize(F, case.params, method, gtol=1e-8, preconditioner=given, max_iterations=400)
        for given in (None, M)
    )
    close(preconditioned.params, plain.params, 1e-5)
    of = "equilibria" if method == "l-bfgs" else "products"
    assert getattr(preconditioned.report, of) < 0.7 * getattr(plain.report, of)


def full_space(residual, derivatives, gradient, hessian, x, steps=12):
    """Newton's method on the Lagrangian of min L(x) subject to c(x) = 0, all unknowns at once."""
    nu = np.zeros(residual(x).shape[0])
    for _ in range(steps):
        C = derivatives(x)
        KKT = sp.bmat([[hessian(x, nu), C.T], [C, None]]).tocsc()
        step = spsolve(KKT, -np.concatenate([gradient(x) + C.T @ nu, residual(x)]))
        x, nu = x + step[: x.shape[0]], nu + step[x.shape[0] :]
    return x


@pytest.mark.parametrize("method", METHODS)
def test_hager1(method):
    """0.88079709548 at N = 1000, to eleven digits."""
    F = mfdeq.ReducedFunctional(Hager1(1000), Hager1.loss(1000))
    found = mfdeq.minimize(F, np.zeros(1000), method, gtol=1e-10)
    assert abs(found.value - 0.88079709548) < 1e-11


@pytest.mark.parametrize("method", METHODS)
def test_dtoc5(method):
    """The optimum of a full-space Newton method, to ten digits."""
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


# Where there is no equilibrium, and where the Hessian bends down.


def towards_the_fold(lam):
    """Bratu's state at lam is what one at a small parameter is asked to become."""
    case = build("bratu_scalar")
    target = mfdeq.solve(case.model, np.array([lam])).state
    return mfdeq.ReducedFunctional(
        case.model, mfdeq.LeastSquares(np.arange(target.shape[0]), target)
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m != "newton"])
def test_a_step_beyond_the_fold_is_rejected(method):
    """The state reacts ever more: from far below, a step of Newton's overshoots the fold."""
    F = towards_the_fold(6.6)
    found = mfdeq.minimize(F, np.array([0.5]), method, gtol=1e-7, radius=RADIUS.get(method))
    assert abs(found.params[0] - 6.6) < 1e-5
    if method != "l-bfgs":
        assert found.report.rejected > 0
        assert "rejected: no equilibrium" in str(found.report) or method == "line-search"


RADIUS = {"newton-cg": 20.0, "gauss-newton": 20.0}


class Wavy(mfdeq.FixedPointModel):
    """h = theta: the loss is any function of theta."""

    def __init__(self, n=3):
        self.state_size = self.param_size = n

    def map(self, h, theta):
        return theta + 0.0 * h

    def linearize(self, h, theta):
        n = self.state_size
        zero, eye = sp.csr_matrix((n, n)), sp.identity(n, format="csr")
        return mfdeq.Linearization(zero, eye, curvature=lambda lam: mfdeq.Curvature())

    def functional(self):
        """sum of cos h + h^2 / 20: concave around zero."""
        loss = mfdeq.Loss(
            lambda h, theta: float(np.sum(np.cos(h) + h**2 / 20)),
            d_state=lambda h, theta: -np.sin(h) + h / 10,
            curvature=lambda h, theta: mfdeq.Curvature(
                state_state=sp.diags(-np.cos(h) + 0.1).tocsr()
            ),
        )
        return mfdeq.ReducedFunctional(self, loss)


class Grown(mfdeq.ResidualModel):
    """h = exp theta, which overflows where theta is large."""

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
    # A full step of Gauss-Newton's is one of 9999; of Newton's one of 999: its Hessian is 0.001.
    F = mfdeq.ReducedFunctional(Grown(), mfdeq.LeastSquares(np.array([0]), np.array([seen])))
    found = mfdeq.minimize(F, np.zeros(1), method, radius=1e4)
    assert found.report.rejected > 0
    np.testing.assert_allclose(found.params, np.log(seen), rtol=1e-6)


def test_the_model_is_gauss_newton_first_and_the_hessian_at_the_end():
    # An amplitude and a rate, to data that they cannot fit: Gauss-Newton alone converges linearly.
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
def test_away_from_a_maximum(method):
    start = np.array([0.1, -0.2, 0.05])
    F = Wavy().functional()
    found = mfdeq.minimize(F, start, method, gtol=1e-8)
    assert found.value < -0.9
    assert found.definite is True
    close(found.smallest.values, [np.min(-np.cos(found.params) + 0.1)], 1e-6)
    if method == "newton-cg":
        assert "along negative curvature" in str(found.report)
    if method == "newton":
        assert "shifted by" in str(found.report)


def test_a_stationary_point_is_not_always_a_minimum():
    """A saddle: where one parameter starts at its maximum, nothing moves it."""
    F = Wavy().functional()
    found = mfdeq.minimize(F, np.array([0.0, 2.0, 2.2]), gtol=1e-8)
    assert found.params[0] == 0.0
    assert found.definite is False
    assert found.smallest.values[0] < -0.8


# Bounds.


@pytest.mark.parametrize("method", ["newton-cg", "gauss-newton"])
@pytest.mark.parametrize("name", ["diffusion", "bratu_field"])
def test_bounds(name, method):
    """As scipy's L-BFGS-B finds them; the gradient points outwards at the bounds that hold."""
    F, case = functional(name)
    free = mfdeq.minimize(F, case.params, gtol=1e-6).params
    lower = free + 0.3 * np.sign(RNG.standard_normal(free.shape)) - 0.1
    upper = lower + 0.35
    found = mfdeq.minimize(F, case.params, method, bounds=(lower, upper), gtol=1e-7)
    exact = by_scipy(
        F.value, np.clip(case.params, lower, upper), jac=F.gradient, method="L-BFGS-B",
        bounds=list(zip(lower, upper, strict=True)), options={"ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    assert np.all((found.params >= lower) & (found.params <= upper))
    assert found.value <= exact.fun * (1 + 1e-9)
    close(found.params, exact.x, 1e-4)
    at_lower, at_upper = found.params == lower, found.params == upper
    assert at_lower.sum() + at_upper.sum() > 0
    size = found.report.steps[0].gradient_norm
    assert np.all(found.gradient[at_lower] > -1e-6 * size)
    assert np.all(found.gradient[at_upper] < 1e-6 * size)
    assert np.all(abs(found.gradient[~(at_lower | at_upper)]) < 1e-6 * size)


def test_one_sided_bounds_and_numbers():
    F, case = functional("diffusion")
    for bounds in ((None, 0.8), (0.9, None), (0.9, np.inf), (-np.inf, 0.8)):
        low, high = -np.inf if bounds[0] is None else bounds[0], bounds[1] or np.inf
        found = mfdeq.minimize(F, case.params, bounds=bounds, gtol=1e-6)
        assert np.all((found.params >= low) & (found.params <= high))
        assert np.any((found.params == low) | (found.params == high))


# The path of conjugate gradients.


@pytest.mark.parametrize("preconditioned", [False, True])
def test_steps_of_a_trust_region(preconditioned):
    """Of a quadratic model: its decrease, its length in the region's norm, and the whole step."""
    n = 12
    C = RNG.standard_normal((n, n))
    H, g = C @ C.T + np.eye(n), RNG.standard_normal(n)
    W = RNG.standard_normal((n, n))
    M = W @ W.T + np.eye(n) if preconditioned else np.eye(n)

    def path(H, radius, rtol=1e-10, most=100):
        return steihaug(
            Backend.of(g), lambda v: H @ v, lambda r: M @ r, g, radius, rtol, most
        )  # fmt: skip

    def length(p):
        return np.sqrt(p @ np.linalg.solve(M, p))

    whole = path(H, np.inf)
    close(whole.step, -np.linalg.solve(H, g), 1e-6)
    assert whole.how == "inside"
    for radius in (0.01, 0.5 * length(whole.step)):
        found = path(H, radius)
        assert abs(length(found.step) - radius) < 1e-9 * radius
        assert abs(found.length - radius) < 1e-12
        assert found.how == "to the boundary"
        p = found.step
        assert abs(found.decrease + g @ p + 0.5 * p @ H @ p) < 1e-10
        best = -radius * (M @ g) / np.sqrt(g @ M @ g)  # along steepest descent
        assert found.decrease >= -(g @ best + 0.5 * best @ H @ best) - 1e-12
    down = path(-H, 0.3)
    assert down.how == "along negative curvature"
    assert abs(length(down.step) - 0.3) < 1e-9
    assert down.decrease > 0
    stopped = path(H, np.inf, most=2)
    assert (stopped.products, stopped.how) == (2, "ran out of products")
    first = path(H, None, most=1)
    cauchy = (g @ M @ g) / (M @ g @ H @ M @ g)
    assert abs(first.radius - 10 * cauchy * np.sqrt(g @ M @ g)) < 1e-9 * first.radius


# Elsewhere, and what goes wrong.


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("method", ["newton-cg", "gauss-newton", "line-search", "l-bfgs"])
def test_on_other_arrays(device, method):
    def compute(place):
        loss = mfdeq.LeastSquares(
            place(np.eye(N)[:2] + 0.1), place(np.ones(2)), place(np.array([2.0, 0.5]))
        ) + 0.5 * mfdeq.QuadraticPrior(place(np.eye(P) + 1), place(np.ones(P)))
        F = mfdeq.ReducedFunctional(Dense(place), loss, solver=mfdeq.Neumann())
        bounds = (place(np.array([-9.0, 0.7, -9.0])), 0.9) if method in ("newton-cg",) else None
        found = mfdeq.minimize(F, place([0.1, 0.2, -0.3]), method, bounds=bounds, gtol=1e-9)
        return [found.params, found.gradient + 1]

    with without_scipy():
        agrees(Place(device), compute)


def test_what_was_found_is_not_lost():
    F, case = functional("bratu_field")
    with pytest.raises(mfdeq.ConvergenceError, match="2 iterations were not enough") as caught:
        mfdeq.minimize(F, case.params, "l-bfgs", max_iterations=2)
    best = caught.value.best
    assert not best.converged
    assert best.value < F.value(case.params)
    assert caught.value.report is best.report
    assert len(best.report.steps) == 3
    seen = []
    with pytest.raises(mfdeq.ConvergenceError, match="the callback said so"):
        mfdeq.minimize(
            F, case.params, callback=lambda theta, step: seen.append(step) or len(seen) > 1
        )
    assert len(seen) == 2
    assert seen[0].how == "start"


def test_no_equilibrium_at_the_start():
    F = towards_the_fold(6.0)
    with pytest.raises(
        mfdeq.ConvergenceError, match=r"at theta0.*newton.*ReducedFunctional"
    ) as told:
        mfdeq.minimize(F, np.array([20.0]))
    assert told.value.best is None


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_without_a_minimum(method):
    # A thousandth of curvature along the first parameter, none along the others.
    loss = mfdeq.Loss(
        lambda h, theta: float(0.0005 * h[0] ** 2 - h[1:].sum()),
        d_state=lambda h, theta: np.array([0.001 * h[0], -1.0, -1.0]),
        curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.diags([1e-3, 0.0, 0.0]).tocsr()),
    )
    with pytest.raises(mfdeq.ConvergenceError, match=r"falls without end|not enough|no step"):
        mfdeq.minimize(mfdeq.ReducedFunctional(Wavy(), loss), np.ones(3), method)


def test_a_loss_that_falls_without_end_is_told():
    loss = mfdeq.Loss(lambda h, theta: -float(h.sum()), d_state=lambda h, theta: -np.ones(3))
    with pytest.raises(
        mfdeq.ConvergenceError, match=r"falls without end.*bounds or a prior"
    ) as told:
        mfdeq.minimize(mfdeq.ReducedFunctional(Wavy(), loss), np.ones(3), "newton-cg")
    assert told.value.best.value < -1e15


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_no_number(method):
    def functional(value):
        loss = mfdeq.Loss(
            value,
            d_state=lambda h, theta: h,
            curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.identity(3).tocsr()),
        )
        return mfdeq.ReducedFunctional(Wavy(), loss)

    with pytest.raises(mfdeq.ModelError, match="NaN or infinity"):
        mfdeq.minimize(functional(lambda h, theta: np.nan), np.ones(3), method)
    # Nor is a step taken to where it is none.
    F = functional(lambda h, theta: 0.5 * float(h @ h) if abs(h[0]) > 0.5 else np.nan)
    with pytest.raises(mfdeq.ConvergenceError) as told:
        mfdeq.minimize(F, np.ones(3), method, max_iterations=20)
    assert np.isfinite(told.value.best.value)


WRONG = {
    "a method": ({"method": "bfgs"}, "newton-cg"),
    "bounds of L-BFGS": ({"method": "l-bfgs", "bounds": (0, 1)}, "bounds are for"),
    "crossed bounds": ({"bounds": (1.0, 0.0)}, "above its upper"),
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
def test_bad_arguments(what):
    F, case = functional("diffusion")
    options, said = WRONG[what]
    with pytest.raises((mfdeq.ArgumentError, mfdeq.ModelError), match=said):
        mfdeq.minimize(F, case.params, **options)


def test_bad_functionals_and_starts():
    F, case = functional("diffusion")
    with pytest.raises(mfdeq.ArgumentError, match="ReducedFunctional"):
        mfdeq.minimize(F.value, case.params)
    with pytest.raises(mfdeq.ModelError, match="theta0"):
        mfdeq.minimize(F, np.ones(3))


def test_a_gradient_that_fails_loses_nothing(monkeypatch):
    """Where A is singular at a point whose state was found: the point before is the best."""
    F, case = functional("bratu_field")
    true, calls = type(F).gradient, []

    def failing(self, theta):
        calls.append(theta)
        if len(calls) == 3:
            raise mfdeq.SingularStateError("no digits left")
        return true(self, theta)

    monkeypatch.setattr(type(F), "gradient", failing)
    with pytest.raises(
        mfdeq.ConvergenceError, match="SingularStateError: no digits left"
    ) as caught:
        mfdeq.minimize(F, case.params)
    best = caught.value.best
    assert len(best.report.steps) == 2
    np.testing.assert_array_equal(best.params, calls[1])
    np.testing.assert_array_equal(best.equilibrium.params, calls[1])
    assert isinstance(caught.value.__cause__, mfdeq.SingularStateError)


def test_the_accuracy_of_the_functional_is_that_of_the_gradients():
    F, case = functional("diffusion", accuracy=1e-3)
    found = mfdeq.minimize(F, case.params, gtol=1e-2)
    assert 0 < found.equilibrium.report.gradient_error <= 1e-3
