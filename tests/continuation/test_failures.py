"""Functions of a model that fail while a branch is followed."""

from __future__ import annotations

import numpy as np
import pytest

import mfdeq


class Curve(mfdeq.ResidualModel):
    """h² = theta + 1, with a hole in the table of one of its functions."""

    state_size = param_size = 1

    def __init__(self, where="residual", error=RuntimeError, hole=(2.0, 3.0)):
        self.where, self.error, self.hole = where, error, hole

    def check(self, where, theta, value):
        if where == self.where and self.hole[0] < theta[0] < self.hole[1]:
            if self.error is not None:
                raise self.error("outside of the table")
            return value * np.nan
        return value

    def residual(self, h, theta):
        return self.check("residual", theta, h**2 - theta - 1.0)

    def linearize(self, h, theta):
        A = self.check("linearize", theta, 2.0 * h)
        return mfdeq.Linearization(A[:, None], -np.eye(1))

    def initial_state(self, theta):
        return np.sqrt(theta + 1.0)


FAILURES = [RuntimeError, KeyError, ZeroDivisionError, mfdeq.DomainError, None]


@pytest.mark.parametrize("where", ["residual", "linearize"])
@pytest.mark.parametrize("error", FAILURES)
def test_a_branch_ends_where_the_model_has_no_value(where, error):
    """Shorter steps approach the hole, and the points so far are kept."""
    with pytest.raises(mfdeq.ConvergenceError, match="could not be followed beyond") as caught:
        mfdeq.follow(Curve(where, error), np.zeros(1), span=(0.0, 4.0))
    branch = caught.value.best
    assert 1.99 < branch.t[-1] <= 2.0
    np.testing.assert_allclose(branch.measured(lambda h: h[0]), np.sqrt(branch.t + 1), rtol=1e-8)


@pytest.mark.parametrize("where", ["residual", "linearize"])
@pytest.mark.parametrize("error", FAILURES)
def test_a_failed_trial_shortens_the_step(where, error):
    """A hole narrower than a step is passed by steps of other lengths."""
    model = Curve(where, error, hole=(0.079, 0.081))
    branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 4.0), step=0.08)
    assert branch.t[-1] == 4.0
    assert branch.failures > 0
    assert ("outside of the table" if error else "NaN") in branch.last_failure
    np.testing.assert_allclose(branch.measured(lambda h: h[0]), np.sqrt(branch.t + 1), rtol=1e-8)


def test_failures_are_saved_with_the_branch(tmp_path):
    model = Curve(hole=(0.079, 0.081))
    branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 4.0), step=0.08)
    branch.save(tmp_path / "branch.npz")
    again = mfdeq.Branch.load(tmp_path / "branch.npz")
    assert (again.failures, again.last_failure) == (branch.failures, branch.last_failure)


@pytest.mark.parametrize("where", ["residual", "linearize"])
@pytest.mark.parametrize("error", [TypeError, NameError, AttributeError, NotImplementedError])
def test_a_mistake_propagates_unchanged(where, error):
    with pytest.raises(error, match="outside of the table") as caught:
        mfdeq.follow(Curve(where, error), np.zeros(1), span=(0.0, 4.0))
    assert type(caught.value) is error
    assert any("mfdeq.follow, after t = " in note for note in caught.value.__notes__)


@pytest.mark.parametrize("error", [RuntimeError, mfdeq.DomainError])
def test_an_exception_at_the_start_propagates(error):
    with pytest.raises(error, match="outside of the table"):
        mfdeq.follow(Curve("residual", error), np.array([2.5]), span=(0.0, 4.0))
