"""Evaluations that fail at trial states, bounds that no iterate crosses, and steps in time."""

import numpy as np
import pytest
from support.refusing import refused

import mfdeq
from mfdeq.forward import METHODS

DAMPED = [method for method in METHODS if method != "transient"]


class Logarithm(mfdeq.ResidualModel):
    """log h = theta, with another behaviour outside its domain."""

    state_size = param_size = 1
    time_sign = -1

    def __init__(self, outside):
        self.outside, self.seen = outside, []

    def residual(self, h, theta):
        self.seen.append(float(h[0]))
        if h[0] <= 0:
            return self.outside()
        return np.log(h) - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.diag(1 / h), -np.eye(1))


def failing(error):
    def fail():
        raise error

    return fail


FAILURES = {
    "domain": (failing(mfdeq.DomainError("negative")), "DomainError: negative"),
    "value": (failing(ValueError("no logarithm")), "ValueError: no logarithm"),
    "runtime": (failing(RuntimeError("solver failed")), "RuntimeError: solver failed"),
    "overflow": (failing(OverflowError("too large")), "OverflowError"),
    "inner": (failing(mfdeq.ConvergenceError("inner solve")), "ConvergenceError: inner solve"),
    "nan": (lambda: np.full(1, np.nan), "NaN or infinity in equation 0"),
}
MISTAKES = [
    TypeError,
    NameError,
    AttributeError,
    ImportError,
    SyntaxError,
    NotImplementedError,
    MemoryError,
    mfdeq.ModelError,
]


@pytest.mark.parametrize("method", ["auto", *DAMPED])
@pytest.mark.parametrize("name", FAILURES)
def test_a_step_out_of_the_domain_is_shortened_and_reported(name, method):
    outside, words = FAILURES[name]
    eq = mfdeq.solve(Logarithm(outside), np.full(1, -1.0), np.full(1, 4.0), method=method)
    assert eq.state[0] == pytest.approx(np.exp(-1.0), rel=1e-9)
    assert eq.report.failures >= 1
    assert words in eq.report.last_failure
    assert words in str(eq.report)


@pytest.mark.parametrize("method", ["auto", "newton"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_at_a_trial_state_propagates(mistake, method):
    model = Logarithm(failing(mistake("oops")))
    with pytest.raises(mistake, match="oops") as caught:
        mfdeq.solve(model, np.full(1, -1.0), np.full(1, 4.0), method=method)
    assert caught.type is mistake
    assert str(caught.value) == "oops"
    assert "Logarithm.residual" in str(caught.value.__notes__)


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_an_exception_at_the_start_propagates(method):
    with pytest.raises(ValueError, match="no logarithm") as caught:
        mfdeq.solve(Logarithm(FAILURES["value"][0]), np.ones(1), -np.ones(1), method=method)
    assert "Logarithm.residual" in str(caught.value.__notes__)


def test_a_failure_of_the_linearization_at_an_iterate_shortens_the_step():
    class Narrow(Logarithm):
        def linearize(self, h, theta):
            if h[0] < 0.05:
                raise mfdeq.DomainError("no derivatives here")
            return super().linearize(h, theta)

    eq = mfdeq.solve(Narrow(FAILURES["value"][0]), np.full(1, -1.0), np.full(1, 2.7))
    assert eq.state[0] == pytest.approx(np.exp(-1.0), rel=1e-9)
    with pytest.raises(mfdeq.DomainError, match="no derivatives"):
        mfdeq.solve(Narrow(FAILURES["value"][0]), np.full(1, -1.0), np.full(1, 0.01))


def test_an_error_says_how_often_the_model_had_no_value():
    def hopeless(h, t):
        if np.real(h[0]) != 1.0:
            raise ValueError("defined at one only")
        return h + 1.0

    class Hopeless(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return hopeless(h, theta)

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.eye(1), np.eye(1))

    said = "no value at", "defined at one only"
    helpful = "lower= and upper= to mfdeq.solve", "state_scale", "time_sign .*transient"
    for method in ("newton", "picard", "anderson"):
        with refused(mfdeq.ConvergenceError, *said, *helpful):
            mfdeq.solve(Hopeless(), np.ones(1), np.ones(1), method=method)
    Hopeless.time_sign = -1
    with refused(mfdeq.ConvergenceError, *said, "state_scale", "transient") as caught:
        mfdeq.solve(Hopeless(), np.ones(1), np.ones(1), method="newton", lower=0.0)
    assert "lower=" not in str(caught.value)
    assert "time_sign" not in str(caught.value)


# Bounds.


@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_no_iterate_crosses_a_bound(method):
    model = Logarithm(failing(AssertionError("crossed")))
    for lower in (0.0, np.zeros(1)):
        eq = mfdeq.solve(model, np.full(1, -1.0), np.full(1, 4.0), method=method, lower=lower)
        assert eq.state[0] == pytest.approx(np.exp(-1.0), rel=1e-9)
        assert eq.report.failures == 0
    assert min(model.seen) > 0


def test_an_upper_bound_is_not_crossed_and_others_move_on():
    seen = []

    class Two(mfdeq.ResidualModel):
        state_size = param_size = 2

        def residual(self, h, theta):
            seen.append(h.copy())
            return np.array([np.arctanh(h[0]) - theta[0], h[1] ** 3 - theta[1]])

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag([1 / (1 - h[0] ** 2), 3 * h[1] ** 2]), -np.eye(2))

    upper = np.array([1.0, np.inf])
    eq = mfdeq.solve(Two(), np.array([3.0, 8.0]), np.array([0.0, 1.0]), lower=-1.0, upper=upper)
    np.testing.assert_allclose(eq.state, [np.tanh(3.0), 2.0], rtol=1e-9)
    assert max(h[0] for h in seen) < 1.0


def test_bad_bounds_are_refused():
    model = Logarithm(FAILURES["value"][0])
    with refused(mfdeq.ArgumentError, "within lower and upper", "unknown 0 = 4"):
        mfdeq.solve(model, np.ones(1), np.full(1, 4.0), upper=3.0)
    with refused(mfdeq.ArgumentError, "lower", r"expected an array of shape \(1,\)"):
        mfdeq.solve(model, np.ones(1), np.ones(1), lower=np.zeros(2))
    with refused(mfdeq.ArgumentError, "lower = 3 and upper = 2 for unknown 0"):
        mfdeq.solve(model, np.ones(1), np.ones(1), lower=3.0, upper=2.0)
    with refused(mfdeq.ArgumentError, "upper: expected numbers, got NaN"):
        mfdeq.solve(model, np.ones(1), np.ones(1), upper=np.nan)


class Shifted(mfdeq.ResidualModel):
    """h + theta = 0 in each unknown."""

    state_size = param_size = 2
    state_names = ("pressure", "flow")

    def residual(self, h, theta):
        return h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.eye(2), np.eye(2))


@pytest.mark.parametrize("start", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("method", ["newton", "picard", "anderson"])
def test_an_unknown_that_its_bound_stops_is_named(method, start):
    theta, h0 = np.array([-1.0, 1.0]), np.array([1.0, start])
    words = "flow lies at its lower bound 0", "loosen lower"
    with refused(mfdeq.ConvergenceError, *words) as caught:
        mfdeq.solve(Shifted(), theta, h0, method=method, lower=0.0)
    assert "pressure lies" not in str(caught.value)
    with refused(mfdeq.ConvergenceError, "flow lies at its upper bound 0", "loosen upper"):
        mfdeq.solve(Shifted(), -theta, -h0, method=method, upper=0.0)


def test_a_bound_that_is_not_in_the_way_is_not_named():
    model = mfdeq.from_function(lambda h, theta: h**2 + theta, 1, 1, "residual")
    with refused(mfdeq.ConvergenceError) as caught:
        mfdeq.solve(model, np.ones(1), np.full(1, 0.9), method="newton", lower=-1e6, upper=1e6)
    assert "bound" not in str(caught.value)


# Pseudo-transient continuation.


class Cubic(mfdeq.ResidualModel):
    """h³ - 3 h + 4 in each unknown, whose residual has a minimum at h = 1; its zero is below -2."""

    state_size = param_size = 3
    root = -2.195823345445647

    def __init__(self, sign=1.0, time_sign=None):
        self.sign, self.time_sign = sign, time_sign

    def residual(self, h, theta):
        return self.sign * (h**3 - 3 * h + theta)

    def linearize(self, h, theta):
        d = self.sign * np.diag(3 * h**2 - 3)
        return mfdeq.Linearization(d, self.sign * np.eye(3))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ["transient", "auto"])
def test_steps_in_time_pass_a_minimum_of_the_residual(method, sign):
    start, theta = np.array([2.0, 1.0, 0.5]), np.full(3, 4.0)
    model = Cubic(sign, time_sign=int(-sign))
    eq = mfdeq.solve(model, theta, start, method=method)
    np.testing.assert_allclose(eq.state, np.full(3, Cubic.root), rtol=1e-9)
    assert eq.report.method == "transient"
    for name in DAMPED:
        with pytest.raises(mfdeq.MfdeqError):
            mfdeq.solve(Cubic(sign), theta, start, method=name)


def test_steps_in_time_do_not_depend_on_units():
    rng = np.random.default_rng(0)
    rows, units = 10.0 ** rng.uniform(-8, 8, (2, 3))

    class InUnits(Cubic):
        def residual(self, h, theta):
            return rows * super().residual(units * h, theta)

        def linearize(self, h, theta):
            given = super().linearize(units * h, theta)
            return mfdeq.Linearization(
                rows[:, None] * given.d_state * units, rows[:, None] * given.d_params
            )

    start, theta = np.array([2.0, 1.0, 0.5]), np.full(3, 4.0)
    plain = mfdeq.solve(Cubic(time_sign=-1), theta, start, method="transient")
    other = mfdeq.solve(InUnits(time_sign=-1), theta, start / units, method="transient")
    np.testing.assert_allclose(units * other.state, plain.state, rtol=1e-9)
    assert abs(other.report.iterations - plain.report.iterations) <= 2


@pytest.mark.parametrize("start", [-3.0, 0.0, 2.0, 50.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_steps_in_time_do_not_jump_to_and_fro_over_a_front(start, sign):
    """A force that is almost the same on both sides, where a linearized step overshoots."""

    class Front(mfdeq.ResidualModel):
        state_size = param_size = 1
        time_sign = -sign

        def residual(self, h, theta):
            return sign * (np.arctan(50.0 * (h - theta)) + 1e-3 * (h - theta))

        def linearize(self, h, theta):
            slope = sign * (50.0 / (1.0 + (50.0 * (h - theta)) ** 2) + 1e-3)
            return mfdeq.Linearization(np.diag(slope), -np.diag(slope))

    eq = mfdeq.solve(Front(), np.ones(1), np.array([start]), method="transient")
    np.testing.assert_allclose(eq.state, 1.0, rtol=1e-9)
    assert eq.report.iterations < 100


def test_a_residual_without_a_time_sign_has_no_steps_in_time():
    with refused(mfdeq.ArgumentError, "time_sign", r"\+1 or -1"):
        mfdeq.solve(Cubic(), np.full(3, 4.0), np.full(3, 2.0), method="transient")


def test_a_map_follows_its_own_dynamics():
    class Slow(mfdeq.FixedPointModel):
        state_size = param_size = 2

        def map(self, h, theta):
            return np.tanh(3.0 * h) + theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(3.0 * np.diag(1 / np.cosh(3.0 * h) ** 2), np.eye(2))

    eq = mfdeq.solve(Slow(), np.array([-0.7, -0.7]), np.array([0.6, 2.0]), method="transient")
    np.testing.assert_allclose(eq.state, np.tanh(3.0 * eq.state) - 0.7, rtol=1e-12)
    assert np.all(abs(3.0 / np.cosh(3.0 * eq.state) ** 2) < 1.0)  # stable in time
