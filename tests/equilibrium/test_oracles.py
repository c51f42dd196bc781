"""Known solutions are reproduced by the public functions of the library."""

import numpy as np
import pytest
from scipy.optimize import brentq
from support.case_losses import LinearLoss
from support.case_models import Affine, Cosine, SpectralBratu
from support.cases import build, case_of, chandrasekhar, close
from support.closed_forms import bratu_centre, chandrasekhar_closed_form, chebyshev_laplacian

import mfdeq


def component(index, size):
    """Return the loss h[index]."""
    return LinearLoss(c=np.eye(size)[index]).given()


# 1. The scalar equation h = cos h + theta


@pytest.mark.parametrize("method", ["auto", "newton", "anderson", "picard"])
def test_cosine_matches_its_closed_form(method):
    eq = mfdeq.solve(Cosine(), np.zeros(1), method=method)
    one = np.ones(1)
    h = brentq(lambda h: np.cos(h) - h, 0, 1, xtol=1e-15)
    slope = 1 / (1 + np.sin(h))
    bend = -np.cos(h) * slope**3
    assert h == pytest.approx(0.7390851332, abs=1e-10)
    assert slope == pytest.approx(0.5975100, abs=1e-7)
    assert bend == pytest.approx(-0.1576631, abs=1e-7)
    loss = component(0, 1)
    for actual, expected in (
        (eq.state[0], h),
        ((eq.sensitivity @ one)[0], slope),
        ((eq.sensitivity.H @ one)[0], slope),
        (eq.gradient(loss)[0], slope),
        (eq.adjoint(loss)[0], slope),
        (eq.second_order(one, one)[0], bend),
        ((eq.second_order_slice(one) @ one)[0], bend),
        ((eq.component_hessian(0) @ one)[0], bend),
        ((eq.hessian(loss) @ one)[0], bend),
    ):
        assert actual == pytest.approx(expected, rel=1e-9)


# 2. A linear map: its Hessian equals the Gauss-Newton Hessian exactly


def test_affine_map_has_no_dynamics_curvature():
    case = build("affine")
    model: Affine = case.written[0]
    N, P = model.state_size, model.param_size
    eq = case.solve()
    close(eq.sensitivity @ np.eye(P), np.linalg.solve(np.eye(N) - model.M, model.C), 1e-12)
    H = eq.hessian(case.loss)
    for name, term in H.terms.items():
        if name.startswith("dynamics"):
            assert not np.any(term @ np.eye(P)), name
    assert not np.any(H.dynamics @ np.eye(P))
    assert np.array_equal(H @ np.eye(P), H.gauss_newton @ np.eye(P))
    assert not np.any(eq.second_order(case.random(P), case.random(P, seed=1)))
    assert not np.any(eq.component_hessian(2) @ np.eye(P))


# 3. Chandrasekhar's H-equation with the parameters inside the nonlinearity


@pytest.mark.parametrize("n", [8, 40])
@pytest.mark.parametrize("method", ["auto", "newton", "anderson"])
def test_chandrasekhar_matches_its_closed_form(n, method):
    case = case_of(*chandrasekhar(n), name="chandrasekhar")
    w = case.written[0].w
    value, gradient, hessian = chandrasekhar_closed_form(w, case.params)
    eq = case.solve(method=method)
    assert case.loss.value(eq.state, eq.params) == pytest.approx(value, rel=1e-9)
    close(eq.gradient(case.loss), gradient, 1e-9)
    H = eq.hessian(case.loss)
    close(H @ np.eye(n), hessian, 1e-9)
    close(H.H @ np.eye(n), hessian, 1e-9)


@pytest.mark.parametrize("n", [12, pytest.param(2000, marks=pytest.mark.slow)])
def test_chandrasekhar_hessian_has_one_eigenvalue(n):
    """One eigenvalue, |w|^2 (1 - 2a)^(-3/2), and n - 1 zeros."""
    model, loss, psi = chandrasekhar(n)  # not a case: the dense truth would have n^3 entries
    model, loss = model(np, "float64"), loss(np, "float64").given()
    w = model.w
    top = (w @ w) * (1 - 2 * (w @ psi)) ** -1.5
    H = mfdeq.solve(model, psi).hessian(loss)
    leading = mfdeq.eigsh(H, k=1, which="LA")
    assert leading.values[0] == pytest.approx(top, rel=1e-8)
    assert abs(leading.values[0] - top) <= leading.error_bounds[0] + 1e-13 * top
    assert abs(leading.vectors[:, 0] @ w) == pytest.approx(np.linalg.norm(w), rel=1e-8)
    everything = np.sort(mfdeq.eigsh(H, k=12).values)
    assert everything[-1] == pytest.approx(top, rel=1e-8)
    assert np.max(abs(everything[:-1])) <= 1e-9 * top


def test_chandrasekhar_is_accurate_near_its_fold():
    """a = 0.4995: the Hessian is 3e4 times that at a = 0, and still right."""
    model, loss, psi = chandrasekhar(8)
    w = model.keywords["w"]
    case = case_of(model, loss, psi * 0.4995 / (w @ psi), name="chandrasekhar")
    _, gradient, hessian = chandrasekhar_closed_form(w, case.params)
    eq = case.solve(rtol=1e-13)
    close(eq.gradient(case.loss), gradient, 1e-8)
    close(eq.hessian(case.loss) @ np.eye(8), hessian, 1e-7)


# 4. Bratu in one dimension


def bratu(n, lam, centre=None):
    """Return the equilibrium from a start of this height, and the index of the centre."""
    model = SpectralBratu(laplacian=chebyshev_laplacian(n), spread=np.ones((n - 1, 1)))
    x = (1 + np.cos(np.pi * np.arange(1, n) / n)) / 2
    h0 = None if centre is None else 4 * centre * x * (1 - x)
    return mfdeq.solve(model, np.array([lam]), h0), n // 2 - 1


@pytest.mark.parametrize(
    ("n", "lam", "start", "value", "slope"),
    [
        (24, 1.0, None, 0.140539214400, 0.1592028062),
        (40, 3.5, None, None, 3.5748595798),
        (64, 1.0, 4.1, 4.091467246189, None),
    ],
    ids=["lower", "near the fold", "upper"],
)
def test_bratu_matches_its_closed_form(n, lam, start, value, slope):
    eq, centre = bratu(n, lam, start)
    u, du, d2u = bratu_centre(lam, upper=start is not None)
    one = np.ones(1)
    loss = component(centre, n - 1)
    # Compare with published values, then with the closed form, to the accuracy of the solves.
    if value is not None:
        assert eq.state[centre] == pytest.approx(value, rel=1e-10)
    if slope is not None:
        assert eq.gradient(loss)[0] == pytest.approx(slope, rel=1e-9)
    assert eq.state[centre] == pytest.approx(u, rel=1e-10)
    assert eq.gradient(loss)[0] == pytest.approx(du, rel=1e-9)
    assert (eq.sensitivity @ one)[centre] == pytest.approx(du, rel=1e-9)
    assert (eq.hessian(loss) @ one)[0] == pytest.approx(d2u, rel=1e-8)
    assert (eq.component_hessian(centre) @ one)[0] == pytest.approx(d2u, rel=1e-8)
    assert eq.second_order(one, one)[centre] == pytest.approx(d2u, rel=1e-8)


def test_bratu_has_no_solution_above_its_fold():
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        bratu(24, 3.6)


class BratuOverHeight(mfdeq.ResidualModel):
    """State (u, lam), parameter the centre value: u'' + lam exp(u) = 0, u(1/2) = theta.

    Regular at the fold, which is where dlam/dtheta vanishes.
    """

    param_size = 1

    def __init__(self, n):
        self.laplacian, self.centre, self.state_size = chebyshev_laplacian(n), n // 2 - 1, n

    def residual(self, h, theta):
        u, lam = h[:-1], h[-1]
        return np.r_[self.laplacian @ u - lam * np.exp(u), u[self.centre] - theta]

    def linearize(self, h, theta):
        u, lam = h[:-1], h[-1]
        heat = np.exp(u)
        d_state = np.zeros((h.size, h.size))
        d_state[:-1, :-1] = self.laplacian - np.diag(lam * heat)
        d_state[:-1, -1] = -heat
        d_state[-1, self.centre] = 1
        d_params = np.zeros((h.size, 1))
        d_params[-1] = -1

        def curvature(weights):
            hessian = np.diag(np.r_[-weights[:-1] * lam * heat, 0.0])
            hessian[:-1, -1] = hessian[-1, :-1] = -weights[:-1] * heat
            return mfdeq.Curvature(state_state=hessian)

        return mfdeq.Linearization(d_state=d_state, d_params=d_params, curvature=curvature)


def test_newton_on_the_slope_finds_the_fold_of_bratu():
    """Newton's method for dlam/dtheta = 0 uses the first and second derivative of the library."""
    n = 32
    model, one, height = BratuOverHeight(n), np.ones(1), 1.0
    h0 = np.r_[np.zeros(n - 1), 3.0]
    for _ in range(8):
        eq = mfdeq.solve(model, np.array([height]), h0)
        slope = (eq.sensitivity @ one)[-1]
        height -= slope / (eq.component_hessian(n - 1) @ one)[0]
        h0 = eq.state
    assert abs(slope) <= 1e-10
    assert eq.state[-1] == pytest.approx(3.51383071912516, rel=1e-12)


# 6. Taylor remainders

SIZES = 0.1 * 0.5 ** np.arange(5)


def slopes(remainders):
    """Return the orders at which remainders fall over SIZES."""
    norms = np.array([np.linalg.norm(r) for r in remainders])
    return np.log2(norms[:-1] / norms[1:])


@pytest.mark.parametrize(
    "name",
    ["cosine", "smooth", "stiff", "chandrasekhar", "diffusion", "bratu_spectral", "bratu_field"],
)
def test_taylor_remainders_fall_at_their_orders(name):
    case = build(name)
    loss, theta = case.loss, case.params
    v = case.random(theta.size, seed=7)
    v /= np.linalg.norm(v)
    eq = case.solve()
    Zv, Hv, h2 = eq.sensitivity @ v, eq.hessian(loss) @ v, eq.second_order(v, v)
    g, value = eq.gradient(loss), loss.value(eq.state, theta)
    moved = [mfdeq.solve(case.model, theta + e * v, eq.state) for e in SIZES]
    values = [loss.value(there.state, there.params) for there in moved]
    orders = {
        "L, g": (2, [L - value - e * g @ v for L, e in zip(values, SIZES, strict=True)]),
        "L, g, H": (
            3,
            [L - value - e * g @ v - e**2 * v @ Hv / 2 for L, e in zip(values, SIZES, strict=True)],
        ),
        "g, H": (2, [x.gradient(loss) - g - e * Hv for x, e in zip(moved, SIZES, strict=True)]),
        "h, Z": (2, [x.state - eq.state - e * Zv for x, e in zip(moved, SIZES, strict=True)]),
        "h, Z, h''": (
            3,
            [
                x.state - eq.state - e * Zv - e**2 * h2 / 2
                for x, e in zip(moved, SIZES, strict=True)
            ],
        ),
    }
    for what, (order, remainders) in orders.items():
        # At the last pair the leading term dominates, and rounding is still negligible.
        assert slopes(remainders)[-1] == pytest.approx(order, abs=0.1), what
