"""Time steps from a plain function alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.step_models import COUNT, PARAMS, SIZE, START, THETA, reaction_trajectory, residual

import mfdeq

LOSS = mfdeq.LeastSquares(observe=np.array([1, 4, 5, 11]), data=np.array([0.3, -0.2, 1.0, 0.4]))
DENSE = tuple(sp.csr_matrix(np.ones((SIZE, size))) for size in (SIZE, SIZE, PARAMS))


def step(h, previous, theta, k):
    return residual(np, h, previous, theta, k)


def not_analytic(h, previous, theta, k):
    """The same for real numbers only."""
    return residual(np, *(np.real(x) for x in (h, previous, theta)), k)


@pytest.mark.parametrize(
    ("f", "options", "rtol"),
    [
        (step, {}, 1e-8),
        (step, {"sparsity": DENSE}, 1e-8),
        (step, {"sparsity": tuple(pattern.toarray() for pattern in DENSE)}, 1e-8),
        (step, {"sparsity": "detect", "scale": (1.0, np.ones(PARAMS))}, 1e-8),
        (not_analytic, {}, 1e-5),
    ],
    ids=["complex step", "patterns", "dense patterns", "scale", "differences"],
)
def test_all_derivatives_match_those_by_hand(f, options, rtol):
    made = mfdeq.step_from_function(f, SIZE, PARAMS, **options)
    eq = mfdeq.solve(mfdeq.trajectory(made, COUNT, START), THETA)
    by_hand = mfdeq.solve(reaction_trajectory(), THETA)
    np.testing.assert_allclose(eq.state, by_hand.state, rtol=1e-9)
    np.testing.assert_allclose(eq.gradient(LOSS), by_hand.gradient(LOSS), rtol=rtol)
    V = np.random.default_rng(0).standard_normal((PARAMS, 2))
    for name in ("gauss_newton", "dynamics"):
        products = [getattr(found.hessian(LOSS), name) @ V for found in (eq, by_hand)]
        scale = np.abs(products[1]).max()
        np.testing.assert_allclose(*products, atol=100 * rtol * scale)


def test_verification_passes():
    made = mfdeq.step_from_function(step, SIZE, PARAMS)
    found = mfdeq.verify(mfdeq.trajectory(made, COUNT, START), THETA, LOSS)
    assert not [check for check in found if check.verdict == "FAIL"], found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"f": 3}, "expected a function"),
        ({"sparsity": DENSE[:2]}, "three patterns"),
        ({"sparsity": (DENSE[0], DENSE[2], DENSE[2])}, "three patterns.*of shapes"),
        ({"scale": 2.0}, "expected a pair"),
        ({"scale": (1.0, np.ones(SIZE))}, rf"scale of the parameters.*\({PARAMS},\)"),
        ({"scale": (1.0, None)}, "scale of the parameters.*expected a number"),
        ({"args": 1}, "args of mfdeq.step_from_function"),
        ({"batched": True}, "batched of mfdeq.step_from_function"),
        ({"state_size": 0}, "state_size"),
    ],
)
def test_odd_arguments_are_refused(change, message):
    arguments = {"f": step, "state_size": SIZE, "param_size": PARAMS, **change}
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.step_from_function(**arguments)


def test_a_wrong_shape_is_named():
    made = mfdeq.step_from_function(lambda h, previous, theta, k: h[:1], 2, 1)
    with pytest.raises(mfdeq.ModelError, match="shape"):
        mfdeq.solve(mfdeq.trajectory(made, 2, np.ones(2)), np.ones(1))
