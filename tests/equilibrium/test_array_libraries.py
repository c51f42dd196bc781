"""Equilibria, gradients and Hessians run on any array library and device."""

from __future__ import annotations

import numpy as np
import pytest
from support.places import Dense, N, P, Place, assert_agrees_with_numpy
from support.strict_library import strict_library

import mfdeq

DIRECTIONS = np.random.default_rng(0).standard_normal((P, 2))


@pytest.fixture
def _strict_library():
    with strict_library():
        yield


@pytest.mark.usefixtures("_strict_library")
@pytest.mark.parametrize(
    ("device", "method", "products"),
    [
        ("device1", "newton", False),
        ("device1", "anderson", False),
        ("device1", "picard", False),
        ("device1", "newton", True),
        ("CPU_DEVICE", "newton", False),
        pytest.param("CPU_DEVICE", "anderson", False, marks=pytest.mark.slow),
        pytest.param("CPU_DEVICE", "picard", False, marks=pytest.mark.slow),
        pytest.param("CPU_DEVICE", "newton", True, marks=pytest.mark.slow),
    ],
)
def test_states_gradients_and_hessians_agree_with_numpy(device, method, products):
    place = Place(device)

    def compute(place):
        theta = place([0.1, 0.2, -0.3])
        data = place(np.ones(2)), place(np.array([2.0, 0.5]))
        loss = (
            mfdeq.LeastSquares(place(np.eye(N)[:2] + 0.1), *data)
            + 0.5 * mfdeq.QuadraticPrior(place(np.eye(P) + 1), place(np.ones(P)))
            + mfdeq.Loss(
                lambda h, theta: place.xp.sum(h) * theta[0],
                d_state=lambda h, theta: 0 * h + theta[0],
                d_params=lambda h, theta: place([1.0, 0, 0]) * place.xp.sum(h),
                curvature=lambda h, theta: (
                    lambda u, z: (
                        place([1.0, 0, 0]) * place.xp.sum(z),
                        0 * z + u[0],
                    )
                ),
            )
        )
        model = Dense(place, products)
        eq = mfdeq.solve(model, theta, method=method, solver=mfdeq.Neumann())
        at = mfdeq.equilibrium_at(model, theta, eq.state, solver=mfdeq.Neumann())
        functional = mfdeq.ReducedFunctional(model, loss, solver=mfdeq.Neumann())
        H = eq.hessian(loss)
        block = place(DIRECTIONS)
        return [
            eq.state,
            at.gradient(loss),
            functional.gradient(theta),
            H @ block,
            1 + H.with_error(block)[1],
            H.toarray(),
            *[term @ block for term in H.terms.values()],
            eq.tangent @ block,
            eq.sensitivity.H @ place(np.eye(N)),
            eq.second_order(theta, block[:, 0]),
            eq.second_order_slice(theta) @ block,
            eq.second_order_slice(theta).H @ place(np.eye(N)),
            eq.component_hessian(1) @ block,
            (2 * eq.inverse - eq.state_operator) @ eq.state,
            mfdeq.eigsh(H, 2).values,
            mfdeq.eigsh(H, 3).vectors ** 2,
        ]

    assert_agrees_with_numpy(place, compute)
