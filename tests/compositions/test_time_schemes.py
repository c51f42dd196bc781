"""Steps for dh/dt = g(h, theta, t): their order, and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq

THETA = np.array([1.3, 0.4, -0.6])
MASS = np.array([[2.0, 0.3], [0.1, 1.5]])
SCHEMES = {"implicit_euler": 1, "trapezoidal": 2, "bdf2": 2}


def rate(h, theta, t):
    return np.array(
        [-theta[0] * h[0] ** 2 + theta[1] * np.sin(t), theta[2] * h[0] * h[1] - h[1] + t * theta[1]]
    )


def linearize(h, theta, t, matrix=np.asarray, by_product=False):
    def curvature(lam):
        blocks = (
            np.zeros((3, 3)),
            np.array([[-2 * h[0] * lam[0], 0, h[1] * lam[1]], [0, 0, h[0] * lam[1]]]),
            np.array([[-2 * theta[0] * lam[0], theta[2] * lam[1]], [theta[2] * lam[1], 0.0]]),
        )
        if by_product:
            return lambda u, z: (blocks[1].T @ z, blocks[1] @ u + blocks[2] @ z)
        return mfdeq.Curvature(*map(matrix, blocks))

    def second(a, b):
        found = []
        for lam in np.eye(2):
            K = linearize(h, theta, t, by_product=True).curvature(lam)(*b)
            found.append(a[0] @ K[0] + a[1] @ K[1])
        return np.array(found)

    return mfdeq.Linearization(
        d_state=matrix([[-2 * theta[0] * h[0], 0.0], [theta[2] * h[1], theta[2] * h[0] - 1.0]]),
        d_params=matrix([[-(h[0] ** 2), np.sin(t), 0.0], [0.0, t, h[0] * h[1]]]),
        curvature=curvature,
        second=second,
    )


def sparse_linearize(h, theta, t):
    return linearize(h, theta, t, sp.csr_array)


def by_product(h, theta, t):
    return linearize(h, theta, t, by_product=True)


def trajectory(scheme, count, *, derivatives=linearize, dt=None, **options):
    dt = 1.0 / count if dt is None else dt
    step = getattr(mfdeq, scheme)(rate, derivatives, state_size=2, param_size=3, dt=dt, **options)
    start = mfdeq.Start(
        lambda theta: np.array([1.0, theta[1]]), lambda theta: np.array([[0, 0, 0], [0, 1.0, 0]])
    )
    return mfdeq.trajectory(step, count, start)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_decreases_with_the_order(scheme):
    def end(count):
        eq = mfdeq.solve(trajectory(scheme, count, mass=MASS), THETA)
        return eq.steps[-1, :2]

    fine, errors = end(1280), []
    for count in (40, 80):
        errors.append(np.linalg.norm(end(count) - fine))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(SCHEMES[scheme], abs=0.15)


@pytest.mark.parametrize("derivatives", [linearize, sparse_linearize, by_product])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_derivatives_pass_verification(scheme, derivatives):
    lengths = [0.1, 0.1, 0.05, 0.2]
    mass = sp.csr_array(MASS) if derivatives is sparse_linearize else MASS
    model = trajectory(scheme, 4, derivatives=derivatives, dt=lengths, mass=mass, t0=0.3)
    loss = mfdeq.LeastSquares(observe=[0, 1, model.state_size - 2], data=np.ones(3))
    found = mfdeq.verify(model, THETA, loss)
    assert found, str(found)


def test_the_steps_of_an_autonomous_linear_rate_share_one_factor():
    K = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(30, 30)).tocsr()

    def derivatives(h, theta, t):
        return mfdeq.Linearization(
            d_state=-K, d_params=np.ones((30, 1)), curvature=lambda lam: mfdeq.Curvature()
        )

    for scheme in SCHEMES:
        step = getattr(mfdeq, scheme)(
            lambda h, theta, t: theta[0] - K @ h,
            derivatives,
            state_size=30,
            param_size=1,
            dt=0.1,
        )
        eq = mfdeq.solve(mfdeq.trajectory(step, 12, np.zeros(30)), np.ones(1))
        # BDF2 begins with a step of implicit Euler, whose matrix is another one.
        assert eq.report.forward.setups == (2 if scheme == "bdf2" else 1)


def test_bad_lengths_are_refused():
    with pytest.raises(mfdeq.ArgumentError, match="positive"):
        trajectory("bdf2", 3, dt=[0.1, 0.0, 0.1])
    with pytest.raises(mfdeq.ArgumentError, match=r"got 2 lengths and a step 2"):
        mfdeq.solve(trajectory("trapezoidal", 3, dt=[0.1, 0.1]), THETA)
    with pytest.raises(mfdeq.ArgumentError, match="rate: expected a function"):
        mfdeq.implicit_euler(3.0, linearize, state_size=2, param_size=3, dt=0.1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mass": np.ones(2)}, r"mass: expected .* of shape \(2, 2\), got shape \(2,\)"),
        ({"mass": sp.eye_array(3)}, r"mass: expected .* of shape \(2, 2\), got shape \(3, 3\)"),
        ({"mass": "lumped"}, "mass: expected .*, got str"),
        ({"dt": np.inf}, "dt: expected a finite number, got inf"),
        ({"dt": "short"}, "dt: expected a finite number, got 'short'"),
        ({"dt": np.ones((2, 2))}, "dt: expected a finite number"),
        ({"dt": []}, "dt: expected positive lengths"),
        ({"t0": "noon"}, "t0: expected a finite number"),
    ],
)
def test_lengths_and_masses_are_checked(scheme, options, said):
    """A mass of one axis gave a scheme of other equations, with numbers and without an error."""
    with pytest.raises(mfdeq.ArgumentError, match=said):
        trajectory(scheme, 3, **options)
