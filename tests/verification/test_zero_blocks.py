"""Blocks of the curvature that are zero, or too small for differences to show."""

import numpy as np
import pytest

import mfdeq
from mfdeq.verification.taylor_remainders import FAIL, PASS

THETA = np.array([1.3, 0.7e-3, 0.4e-3])
LOSS = mfdeq.LeastSquares(np.arange(2), np.zeros(2))


class Coupled(mfdeq.ResidualModel):
    """Two cubic equations and two explicit ones, in parameters of very different sizes.

    `bend` adds second derivatives in the parameters, which are zero without it.
    """

    state_size, param_size = 4, 3

    def __init__(self, bend=0.0, missing=False, unit=1.0):
        self.bend, self.missing, self.unit = bend, missing, unit

    def residual(self, h, theta):
        x, y = h[:2], h[2:]
        known = 1e3 * theta[1:] + self.bend * (1e3 * theta[1:]) ** 2
        explicit = y - known - 0.2 * x[::-1] ** 2
        return np.concatenate([x**3 + theta[0] * x - y, self.unit * explicit])

    def initial_state(self, theta):
        return np.ones(4)

    def linearize(self, h, theta):
        x, known = h[:2], 1e3 * theta[1:]
        d_state, d_params = np.eye(4), np.zeros((4, 3))
        d_state[:2, :2], d_state[:2, 2:] = np.diag(3 * x**2 + theta[0]), -np.eye(2)
        d_state[2:, :2] = -0.4 * np.diag(x[::-1])[:, ::-1]
        d_state[2:] *= self.unit
        d_params[:2, 0] = x
        d_params[2:, 1:] = -self.unit * np.diag(1e3 + 2e3 * self.bend * known)
        curvature = self.curvature(h) if self.missing else None
        return mfdeq.Linearization(d_state, d_params, curvature)

    def curvature(self, h):
        """The blocks by hand, without that of the parameters."""

        def blocks(lam):
            state_params = np.zeros((4, 3))
            state_params[[0, 1], 0] = lam[:2]
            bends = 6 * lam[:2] * h[:2] - 0.4 * self.unit * lam[:1:-1]
            return mfdeq.Curvature(
                state_params=state_params, state_state=np.diag([*bends, 0.0, 0.0])
            )

        return blocks


def verdicts(model, seed):
    return {check.name: check.verdict for check in mfdeq.verify(model, THETA, LOSS, seed=seed)}


@pytest.mark.parametrize(("seed", "unit"), [(0, 1.0), (1, 1.0), (0, 1e-8)])
def test_a_zero_block_of_differences_does_not_fail(seed, unit):
    found = verdicts(mfdeq.mixed(Coupled(unit=unit)), seed)
    assert FAIL not in found.values()
    assert found["curvature.params_params: symmetry"] == PASS
    assert found["curvature.params_params"] == PASS


@pytest.mark.parametrize("bend", [1e-2])
def test_a_block_of_differences_that_is_not_zero_does_not_fail(bend):
    assert FAIL not in verdicts(mfdeq.mixed(Coupled(bend)), 0).values()


@pytest.mark.parametrize(("bend", "unit"), [(1.0, 1e8), (1e-2, 1e-8), (1e-4, 1.0)])
@pytest.mark.parametrize("combine", [lambda model: model, mfdeq.mixed], ids=["by hand", "mixed"])
def test_a_missing_block_fails(combine, bend, unit):
    """In the mixed model f'' comes from differences, and only the curvature is by hand."""
    found = verdicts(combine(Coupled(bend, missing=True, unit=unit)), 0)
    assert found["curvature.params_params"] == FAIL


@pytest.mark.parametrize("combine", [lambda model: model, mfdeq.mixed], ids=["by hand", "mixed"])
def test_a_missing_block_that_is_zero_passes(combine):
    found = verdicts(combine(Coupled(missing=True)), 0)
    assert FAIL not in found.values()
    assert found["curvature.params_params"] == PASS
