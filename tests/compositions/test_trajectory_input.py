"""What trajectories refuse, and steps that are hard to solve."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.step_models import (
    COUNT,
    PARAMS,
    SIZE,
    START,
    THETA,
    Heat,
    Reaction,
    reaction_trajectory,
)

import mfdeq


class Changed(Reaction):
    """The step with something changed in its linearization."""

    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def linearize(self, h, previous, theta, k):
        found = super().linearize(h, previous, theta, k)
        fields = {name: getattr(found, name) for name in vars(found)} | self.changes
        return mfdeq.StepLinearization(**fields)


def solved(step, start=START, count=COUNT):
    return mfdeq.solve(mfdeq.trajectory(step, count, start), THETA)


def test_the_arguments_of_trajectory_are_checked():
    with pytest.raises(mfdeq.ArgumentError, match=r"expected an mfdeq.StepModel, got a Reaction: "):
        mfdeq.trajectory(Reaction, 4, START)
    with pytest.raises(mfdeq.ArgumentError, match="got a dict"):
        mfdeq.trajectory({}, 4, START)
    with pytest.raises(mfdeq.ArgumentError, match="steps of mfdeq"):
        mfdeq.trajectory(Reaction(), 0, START)
    with pytest.raises(mfdeq.ArgumentError, match="checkpoints of"):
        mfdeq.trajectory(Reaction(), 4, START, checkpoints=-1)
    with pytest.raises(mfdeq.ArgumentError, match=r"\(3,\), that of a state of Reaction, got"):
        mfdeq.trajectory(Reaction(), 4, np.ones(2))
    with pytest.raises(mfdeq.ArgumentError, match=r"pass mfdeq.Start\(value, d_params\)"):
        mfdeq.trajectory(Reaction(), 4, lambda theta: theta[:3])


def test_an_error_of_one_step_names_it():
    class Ending(Reaction):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def residual(self, h, previous, theta, k):
            value = super().residual(h, previous, theta, k)
            return value[:-1] if (self.what, k) == ("residual", 2) else value

        def linearize(self, h, previous, theta, k):
            found = super().linearize(h, previous, theta, k)
            if (self.what, k) != ("linearize", 2):
                return found
            return mfdeq.StepLinearization(found.d_state, np.eye(2), found.d_params)

    for what in ("residual", "linearize"):
        with pytest.raises(mfdeq.ModelError, match=rf"Ending.{what} in step 2: expected an array"):
            solved(Ending(what))


def test_a_start_of_a_wrong_shape_is_refused():
    with pytest.raises(mfdeq.ModelError, match=r"value of the start of Reaction"):
        solved(Reaction(), mfdeq.Start(lambda theta: theta[:2], START.d_params))
    eq = solved(Reaction(), mfdeq.Start(START.value, lambda theta: np.eye(SIZE)))
    with pytest.raises(mfdeq.ModelError, match="d_params of the start of Reaction: expected"):
        eq.sensitivity @ np.ones(PARAMS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_state", np.eye(2)),
        ("d_previous", np.ones((SIZE, PARAMS))),
        ("d_params", np.eye(SIZE)),
    ],
)
def test_derivatives_of_a_wrong_shape_are_refused(field, value):
    with pytest.raises(mfdeq.ModelError, match=f"{field} of Changed.linearize in step 0: expected"):
        solved(Changed(**{field: value}))


def test_residuals_of_different_sizes_are_refused():
    class Growing(Reaction):
        def residual(self, h, previous, theta, k):
            return np.append(super().residual(h, previous, theta, k), k * [0.0])

    with pytest.raises(
        mfdeq.ModelError, match=r"Growing.residual in step 1: expected .*\(3,\), got .*\(4,\)"
    ):
        solved(Growing())


def test_missing_second_derivatives_name_the_field():
    eq = solved(Changed(curvature=None))
    loss = mfdeq.LeastSquares(observe=[0], data=np.ones(1))
    eq.gradient(loss)
    H = eq.hessian(loss)
    with pytest.raises(mfdeq.ModelError, match="curvature"):
        H @ np.ones(PARAMS)
    with pytest.raises(mfdeq.ModelError, match="second"):
        solved(Changed(second=None)).second_order(np.ones(PARAMS), np.ones(PARAMS))
    bent = mfdeq.Start(START.value, START.d_params, START.curvature)
    with pytest.raises(mfdeq.ModelError, match="has a curvature, but no second"):
        solved(Reaction(), bent).second_order(np.ones(PARAMS), np.ones(PARAMS))


def test_curvatures_of_a_wrong_kind_are_refused():
    loss = mfdeq.LeastSquares(observe=[0], data=np.ones(1))
    skew = np.triu(np.ones((SIZE, SIZE)))
    cases = {
        "expected an mfdeq.StepCurvature": lambda lam: np.eye(SIZE),
        "not symmetric": lambda lam: mfdeq.StepCurvature(state_state=skew),
        "expected it to return three arrays": lambda lam: lambda u, q, z: (u, z),
        "expected an array of shape": lambda lam: mfdeq.StepCurvature(previous_params=np.eye(SIZE)),
    }
    for message, curvature in cases.items():
        with pytest.raises((mfdeq.ModelError, mfdeq.DerivativeError), match=message):
            solved(Changed(curvature=curvature)).hessian(loss) @ np.ones(PARAMS)
    with pytest.raises(mfdeq.ModelError, match="either blocks or apply"):
        mfdeq.StepCurvature(state_state=np.eye(2), apply=lambda u, q, z: (u, q, z))


def test_parameters_of_another_size_are_refused():
    with pytest.raises(mfdeq.ModelError, match=r"params: expected .*\(5,\), got shape \(4,\)"):
        mfdeq.solve(reaction_trajectory(), THETA[:4])


# Steps that are hard to solve.


class Stiff(mfdeq.StepModel):
    """R = h + 10 arctan(40 h) − previous − theta: whole Newton steps diverge."""

    state_size = param_size = 1

    def residual(self, h, previous, theta, k):
        return h + 10.0 * np.arctan(40.0 * h) - previous - theta * (-1.0) ** k

    def linearize(self, h, previous, theta, k):
        return mfdeq.StepLinearization(
            d_state=np.diag(1.0 + 400.0 / (1.0 + 1600.0 * h**2)),
            d_previous=-np.eye(1),
            d_params=-np.eye(1) * (-1.0) ** k,
        )


def test_a_step_that_needs_a_line_search_gets_one():
    eq = mfdeq.solve(mfdeq.trajectory(Stiff(), 6, np.zeros(1)), np.array([25.0]))
    h = eq.steps
    previous = np.concatenate([np.zeros((1, 1)), h[:-1]])
    signs = (-1.0) ** np.arange(6)[:, None]
    np.testing.assert_allclose(h + 10 * np.arctan(40 * h), previous + 25.0 * signs, rtol=1e-9)
    assert mfdeq.verify(eq.model, eq.params, mfdeq.LeastSquares(observe=[5], data=np.zeros(1)))


class Root(mfdeq.StepModel):
    """R = h² − theta + k: from some step on there is no real root."""

    state_size = param_size = 1

    def residual(self, h, previous, theta, k):
        return h**2 - theta + k

    def linearize(self, h, previous, theta, k):
        return mfdeq.StepLinearization(np.diag(2.0 * h), np.zeros((1, 1)), -np.eye(1))


def test_a_step_without_a_solution_is_named():
    model = mfdeq.trajectory(Root(), 5, np.ones(1))
    with pytest.raises(
        (mfdeq.ConvergenceError, mfdeq.SingularStateError), match=r"step 3 of 5: "
    ) as failure:
        mfdeq.solve(model, np.array([2.5]))
    assert failure.value.best.shape == (5,)
    np.testing.assert_allclose(failure.value.best[:3], np.sqrt([2.5, 1.5, 0.5]), rtol=1e-9)
    assert not failure.value.report.converged
    assert "step 3 of 5" in failure.value.report.reason


def test_functions_that_fail_at_trial_states_shorten_the_step():
    class Logarithm(Stiff):
        def residual(self, h, previous, theta, k):
            if h[0] <= 0.0:
                raise mfdeq.DomainError("negative")
            return np.log(h) - 0.1 * previous - theta

        def linearize(self, h, previous, theta, k):
            return mfdeq.StepLinearization(np.diag(1.0 / h), -0.1 * np.eye(1), -np.eye(1))

    eq = mfdeq.solve(mfdeq.trajectory(Logarithm(), 3, 8.0 * np.ones(1)), np.array([-2.0]))
    h = np.concatenate([[8.0], eq.state])
    np.testing.assert_allclose(np.log(h[1:]), 0.1 * h[:-1] - 2.0, rtol=1e-9)


def test_a_mistake_in_a_step_propagates():
    class Mistake(Stiff):
        def residual(self, h, previous, theta, k):
            return h - undefined  # noqa: F821

    with pytest.raises(NameError, match="undefined"):
        mfdeq.solve(mfdeq.trajectory(Mistake(), 3, np.ones(1)), np.ones(1))


def test_a_singular_matrix_of_a_step_is_an_error():
    class Flat(Stiff):
        def residual(self, h, previous, theta, k):
            return 0.0 * h + previous - theta

        def linearize(self, h, previous, theta, k):
            return mfdeq.StepLinearization(np.zeros((1, 1)), np.eye(1), -np.eye(1))

    with pytest.raises(
        (mfdeq.SingularStateError, mfdeq.ConvergenceError), match="unknown 0 of step 2"
    ):
        mfdeq.solve(mfdeq.trajectory(Flat(), 3, np.ones(1)), np.array([3.0]))


def test_unstable_steps_have_a_large_estimated_error():
    """Errors grow by e⁴⁰ along the steps, which the default estimate has to see."""
    step = mfdeq.implicit_euler(
        lambda h, theta, t: theta[0] * np.array([h[1], h[0]]) - 0.01 * h**3,
        lambda h, theta, t: mfdeq.Linearization(
            d_state=theta[0] * np.array([[0.0, 1.0], [1.0, 0.0]]) - np.diag(0.03 * h**2),
            d_params=np.array([[h[1]], [h[0]]]),
        ),
        state_size=2,
        param_size=1,
        dt=0.1,
    )
    start = np.array([1e-9, -1e-9])  # along the direction that decays
    model = mfdeq.trajectory(step, 400, start)
    eq = mfdeq.solve(model, np.array([1.0]))
    loss = mfdeq.LeastSquares(observe=[798], data=np.ones(1))
    assert eq._growth is None
    with pytest.warns(mfdeq.AccuracyWarning):
        eq.gradient(loss)
    assert eq._growth > 1e10


def test_bounds_hold_for_every_step():
    model = mfdeq.trajectory(Stiff(), 3, np.ones(1))
    free = mfdeq.solve(model, np.array([1.0]))
    eq = mfdeq.solve(model, np.array([1.0]), lower=-2.0, upper=2.0)
    np.testing.assert_allclose(eq.state, free.state, rtol=1e-9)


def test_names_say_the_step():
    class Named(Reaction):
        state_names = ("a", "b", "c")

    problem = mfdeq.solve(mfdeq.trajectory(Named(), COUNT, START), THETA).problem
    assert problem.unknown_name(4) == "b of step 1"
    assert problem.equation_name(11) == "equation 2 of step 3"


def test_scales_of_a_step_are_those_of_every_step():
    class Scaled(Reaction):
        def state_scale(self, theta):
            return np.array([1.0, 2.0, 3.0])

        def residual_scale(self, theta):
            return 2.0

    eq = mfdeq.solve(mfdeq.trajectory(Scaled(), COUNT, START), THETA)
    reference = mfdeq.solve(reaction_trajectory(), THETA)
    np.testing.assert_allclose(eq.state, reference.state, rtol=1e-9)
    np.testing.assert_array_equal(eq.problem.state_scale()[:6], [1, 2, 3, 1, 2, 3])


def test_a_start_near_the_solution_takes_fewer_evaluations():
    cold = mfdeq.solve(reaction_trajectory(), THETA)
    warm = mfdeq.solve(reaction_trajectory(), THETA, cold.state)
    assert warm.report.evaluations < cold.report.evaluations
    np.testing.assert_allclose(warm.state, cold.state, rtol=1e-10)


def test_equilibria_travel_without_their_factors():
    eq = mfdeq.solve(mfdeq.trajectory(Reaction(), COUNT, np.ones(SIZE)), THETA)
    loss = mfdeq.LeastSquares(observe=[3], data=np.ones(1))
    gradient = eq.gradient(loss)
    for other in (pickle.loads(pickle.dumps(eq)), copy.deepcopy(eq)):
        np.testing.assert_array_equal(other.steps, eq.steps)
        np.testing.assert_allclose(other.gradient(loss), gradient, rtol=1e-12)


def test_equilibrium_at_accepts_the_states_of_all_steps():
    eq = mfdeq.solve(reaction_trajectory(), THETA)
    again = mfdeq.equilibrium_at(reaction_trajectory(), THETA, eq.state)
    loss = mfdeq.LeastSquares(observe=[3, 10], data=np.ones(2))
    np.testing.assert_allclose(again.gradient(loss), eq.gradient(loss), rtol=1e-10)
    with pytest.raises(mfdeq.ConvergenceError, match="is not an equilibrium"):
        mfdeq.equilibrium_at(reaction_trajectory(), THETA, eq.state + 0.1)


def test_a_matrix_that_is_changed_in_place_is_seen():
    class Reusing(Heat):
        def linearize(self, h, previous, theta, k):
            found = super().linearize(h, previous, theta, k)
            if not hasattr(self, "buffer"):
                self.buffer = found.d_state
            self.buffer.data[:] = found.d_state.data
            return mfdeq.StepLinearization(
                self.buffer, found.d_previous, found.d_params, found.curvature
            )

    lengths = [0.05, 0.1, 0.05, 0.2]
    theta = np.concatenate([[0.7, 0.3], np.zeros(4)])
    start = np.sin(np.arange(30.0))
    eqs = [
        mfdeq.solve(mfdeq.trajectory(kind(30, lengths), 4, start), theta)
        for kind in (Heat, Reusing)
    ]
    loss = mfdeq.LeastSquares(observe=[100], data=np.ones(1))
    np.testing.assert_array_equal(eqs[0].gradient(loss), eqs[1].gradient(loss))


class Epidemic(mfdeq.StepModel):
    """Susceptible, infected and removed shares; one step may repeat an equation."""

    state_size, param_size, state_names = 3, 2, ("s", "i", "r")

    def __init__(self, repeats_in=None):
        self.repeats_in = repeats_in

    def residual(self, h, previous, theta, k):
        caught, healed = theta[0] * h[0] * h[1], theta[1] * h[1]
        R = h - previous - 0.1 * np.array([-caught, caught - healed, healed])
        if k == self.repeats_in:
            R[2] = R[0]
        return R

    def linearize(self, h, previous, theta, k):
        b, c = theta
        J = np.array([[-b * h[1], -b * h[0], 0.0], [b * h[1], b * h[0] - c, 0.0], [0.0, c, 0.0]])
        f_theta = np.array([[-h[0] * h[1], 0.0], [h[0] * h[1], -h[1]], [0.0, h[1]]])
        D, L, B = np.eye(3) - 0.1 * J, -np.eye(3), -0.1 * f_theta
        if k == self.repeats_in:
            D[2], L[2], B[2] = D[0], L[0], B[0]
        return mfdeq.StepLinearization(D, L, B)


class Decay(mfdeq.StepModel):
    """Steps that share one matrix."""

    state_size, param_size = 2, 1
    D = np.array([[1.1, -0.1], [0.0, 1.2]])

    def residual(self, h, previous, theta, k):
        return self.D @ h - theta[0] * previous

    def linearize(self, h, previous, theta, k):
        return mfdeq.StepLinearization(self.D, -theta[0] * np.eye(2), -previous[:, None])


@pytest.mark.parametrize("checkpoints", [None, 1, 4])
@pytest.mark.parametrize("k", [7, 19])
def test_a_singular_step_that_another_factor_solved_is_named_at_a_derivative(k, checkpoints):
    model = mfdeq.trajectory(Epidemic(k), 20, np.array([0.9, 0.1, 0.0]), checkpoints)
    eq = mfdeq.solve(model, np.array([2.0, 0.5]))
    assert eq.report.uniqueness.startswith("not judged: 1")
    with pytest.raises(mfdeq.SingularStateError, match=f"r of step {k}") as caught:
        eq.gradient(mfdeq.LeastSquares(np.arange(58, 60), np.zeros(2)))
    error = caught.value
    assert list(error.unknowns) == list(range(3 * k + 2, 60, 3))  # the later steps keep r
    assert list(error.equations) == [3 * k, 3 * k + 2]
    A = eq.state_operator
    np.testing.assert_allclose(A @ error.right, np.zeros(60), atol=1e-12)
    np.testing.assert_allclose(A.H @ error.left, np.zeros(60), atol=1e-12)
    assert error.best is not None


def test_a_trajectory_is_judged_where_each_step_has_its_own_factor_or_all_share_one():
    model = mfdeq.trajectory(Epidemic(), 20, np.array([0.9, 0.1, 0.0]))
    eq = mfdeq.solve(model, np.array([2.0, 0.5]))
    assert eq.report.uniqueness.startswith("not judged")
    eq.gradient(mfdeq.LeastSquares(np.arange(3), np.zeros(3)))
    assert eq.report.uniqueness == "judged"
    alone = mfdeq.trajectory(Epidemic(), 1, np.array([0.9, 0.1, 0.0]))
    assert mfdeq.solve(alone, np.array([2.0, 0.5])).report.uniqueness == "judged"
    shared = mfdeq.solve(mfdeq.trajectory(Decay(), 20, np.ones(2)), np.ones(1))
    assert shared.report.uniqueness.startswith("not judged: 19 of the 20 steps")
    shared.gradient(mfdeq.LeastSquares([0], np.zeros(1)))
    assert shared.report.uniqueness == "judged"
    assert shared.report.forward.setups == 1
    assert shared.report.linear.setups == 0


def test_a_solve_linearizes_no_step_that_another_factor_solves():
    class Counted(Decay):
        linearizations = 0

        def linearize(self, *arguments):
            self.linearizations += 1
            return super().linearize(*arguments)

    mfdeq.solve(mfdeq.trajectory(model := Counted(), 50, np.ones(2)), np.ones(1))
    assert model.linearizations < 5


class Switched(Decay):
    """Steps that share one matrix, except for one of them."""

    def __init__(self, k, difference):
        self.k, self.changed = k, self.D + difference * np.eye(2)

    def matrix(self, k):
        return self.changed if k == self.k else self.D

    def residual(self, h, previous, theta, k):
        return self.matrix(k) @ h - theta[0] * previous

    def linearize(self, h, previous, theta, k):
        found = super().linearize(h, previous, theta, k)
        return mfdeq.StepLinearization(self.matrix(k), found.d_previous, found.d_params)


@pytest.mark.parametrize("checkpoints", [None, 2])
@pytest.mark.parametrize("k", [0, 3, 4, 19])
def test_one_other_matrix_among_the_steps_is_judged_by_itself(k, checkpoints):
    """A small difference leaves its step to the factor of the others."""
    model = mfdeq.trajectory(Switched(k, 1e-3), 20, np.ones(2), checkpoints)
    eq = mfdeq.solve(model, np.ones(1))
    assert eq.report.uniqueness.startswith("not judged: 19 of the 20 steps")
    eq.gradient(mfdeq.LeastSquares([0], np.zeros(1)))
    expected = "judged" if checkpoints is None else "judged in "
    assert eq.report.uniqueness.startswith(expected)
    assert np.isfinite(eq.report.smallest_singular)
