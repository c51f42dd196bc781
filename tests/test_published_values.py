"""Published values of well-known problems, as the page of the documentation lists them."""

from __future__ import annotations

import csv
import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from support import aiyagari, cereals
from support.published_models import (
    BoundaryLayer,
    LogMembrane,
    Membrane,
    Patterns,
    nine_buses,
    true_coefficients,
)

import mfdeq

PAGE = Path(__file__).parents[1] / "docs" / "published_values.csv"
PATTERNS = {"E1": (1, 3.0), "E2": (2, 2.0), "E3": (3, 3.0)}  # waves and amplitudes of starts
LENGTH = np.array([22.0])


def rows():
    with PAGE.open(encoding="utf-8", newline="") as file:
        return {row["Problem"]: row for row in csv.DictReader(file)}


def wall_shear(beta):
    layer = BoundaryLayer()
    return layer.wall_shear(mfdeq.solve(layer, np.array([beta])))


def pattern(name):
    waves, amplitude = PATTERNS[name]
    model = Patterns()
    start = amplitude * (np.sin(waves * model.x) + 0.3 * np.sin(2 * waves * model.x))
    return mfdeq.solve(model.constrained(waves), LENGTH, np.append(start, 0.0))


def nose():
    model, injections = nine_buses()
    [fold] = mfdeq.follow(model, injections, 1.5 * injections, span=(0.0, 1.5)).folds
    return fold.t


def log_likelihood():
    membrane = Membrane()
    return -mfdeq.ReducedFunctional(membrane, membrane.loss()).value(np.ones(64))


def demand_for_cereals():
    pytest.importorskip("jax", reason="the demand model is a function of JAX")
    if importlib.util.find_spec("pyblp") is None:
        pytest.skip("needs Nevo's data, which pyblp has")
    return cereals.nevo_functional()


def gmm_objective():
    F = demand_for_cereals()
    sizes = np.maximum(abs(cereals.START), 0.1)
    return mfdeq.minimize(F, cereals.START, metric=1.0 / sizes**2).value


@functools.cache
def aiyagari_economy():
    pytest.importorskip("jax", reason="the economy is a function of JAX")
    model = aiyagari.economy()
    return mfdeq.solve(model, aiyagari.PARAMS)


def capital_and_interest():
    capital = aiyagari_economy().state[aiyagari.CAPITAL]
    return capital, aiyagari.prices(capital, aiyagari.PARAMS)[0]


VALUES = {
    "Blasius' boundary layer": lambda: wall_shear(0.0) / math.sqrt(2.0),
    "Falkner–Skan, β = 0": lambda: wall_shear(0.0),
    "Falkner–Skan, β = 1/2": lambda: wall_shear(0.5),
    "Falkner–Skan, β = 1": lambda: wall_shear(1.0),
    "Kuramoto–Sivashinsky, L = 22: E1": lambda: Patterns.energy(pattern("E1")),
    "Kuramoto–Sivashinsky, L = 22: E2": lambda: Patterns.energy(pattern("E2")),
    "Kuramoto–Sivashinsky, L = 22: E3": lambda: Patterns.energy(pattern("E3")),
    "Nine buses": nose,
    "Cereals, 94 markets": gmm_objective,
    "Aiyagari economy": lambda: capital_and_interest()[1],
    "Aiyagari economy, its capital": lambda: capital_and_interest()[0],
    "Membrane": log_likelihood,
}
SLOW = {"Cereals, 94 markets"}
UNITS_OFF = {"Membrane": 1.0}  # units of the last published digit; otherwise a half by rounding


def last_digit(text):
    """Return one unit of the last digit of a number."""
    return 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize(
    "problem",
    [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW else []) for x in VALUES],
)
def test_published_values_are_computed(problem):
    row, value = rows()[problem], VALUES[problem]()
    off = UNITS_OFF.get(problem, 0.5)
    published, computed = row["Published"], row["Computed"]
    assert value == pytest.approx(float(published), rel=0, abs=off * last_digit(published))
    assert value == pytest.approx(float(computed), rel=0, abs=0.6 * last_digit(computed))


def test_the_page_lists_what_is_tested():
    assert list(rows()) == list(VALUES)


def test_derivatives_of_the_boundary_layer_pass_verification():
    loss = mfdeq.LeastSquares([3, 20], np.ones(2))
    assert mfdeq.verify(BoundaryLayer(), np.array([0.5]), loss).verdict == "PASS"


def test_derivatives_of_the_load_flow_pass_verification():
    model, injections = nine_buses()
    assert mfdeq.verify(model, injections).verdict == "PASS"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Membrane, LogMembrane])
def test_derivatives_of_the_membrane_pass_verification(kind):
    membrane = kind()
    params = 1.5 + 0.3 * np.random.default_rng(0).standard_normal(64)
    assert mfdeq.verify(membrane, params, membrane.loss()).verdict == "PASS"


@pytest.mark.slow
def test_the_laplace_approximation_of_the_membrane_has_the_true_coefficients():
    posterior = LogMembrane().posterior()
    found = mfdeq.minimize(posterior, np.zeros(64))
    assert found.definite
    H = posterior.hessian(found.params) @ np.eye(64)
    deviations = np.sqrt(np.linalg.inv(H).diagonal())
    assert 0.3 < deviations.min() < deviations.max() < 1.8
    assert np.all(abs(np.log(true_coefficients()) - found.params) < 0.6 * deviations)


@pytest.mark.slow
def test_derivatives_of_the_demand_for_cereals_pass_verification():
    F = demand_for_cereals()
    state = F.equilibrium(cereals.START).state
    assert mfdeq.verify(F.model, cereals.START, F.loss, h0=state).verdict == "PASS"


@pytest.mark.slow
def test_derivatives_of_the_aiyagari_economy_pass_verification():
    eq = aiyagari_economy()
    loss = mfdeq.LeastSquares([aiyagari.CAPITAL], np.array([5.0]))
    assert mfdeq.verify(eq.model, aiyagari.PARAMS, loss, h0=eq.state).verdict == "PASS"


def test_capital_of_the_aiyagari_economy_has_the_derivatives_of_its_difference_quotients():
    eq = aiyagari_economy()
    observed = np.eye(eq.state.size)[aiyagari.CAPITAL]
    gradient = eq.sensitivity.H @ observed
    for k, size in enumerate(aiyagari.PARAMS):
        step = 1e-5 * size * np.eye(aiyagari.PARAMS.size)[k]
        after, before = (
            mfdeq.solve(eq.model, aiyagari.PARAMS + x, eq.state).state[aiyagari.CAPITAL]
            for x in (step, -step)
        )
        assert gradient[k] == pytest.approx((after - before) / (2.0 * step[k]), rel=1e-6)


def test_households_of_the_aiyagari_economy_are_a_distribution():
    eq = aiyagari_economy()
    masses = eq.state[aiyagari.SIZE : aiyagari.CAPITAL].reshape(2, -1)
    assert masses.min() > -1e-15
    assert masses.sum(axis=1) == pytest.approx([0.5, 0.5], rel=1e-10)
    assert abs(eq.imbalance[0]) < 1e-12


@pytest.mark.parametrize("name", PATTERNS)
def test_derivatives_of_the_patterns_pass_verification(name):
    """Those of the model: unknowns that symmetry makes zero leave few digits of their own."""
    eq = pattern(name)
    found = mfdeq.verify(Patterns().constrained(PATTERNS[name][0]), LENGTH, h0=eq.state)
    checks = [x for x in found.checks if x.name.startswith(("d_state", "d_params", "curvature"))]
    assert len(checks) > 8
    assert [x.name for x in checks if x.verdict != "PASS"] == []


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_neither_travel_nor_drift(name):
    eq = pattern(name)
    assert abs(eq.state[-1]) < 1e-9
    assert abs(eq.state[:-1].mean()) < 1e-13
    assert np.all(abs(eq.imbalance) < 1e-10)


def test_energies_of_patterns_have_the_derivative_of_their_difference_quotient():
    model = Patterns()
    state = pattern("E2").state

    def energy(length):
        return Patterns.energy(mfdeq.solve(model.constrained(2), np.array([length]), state))

    loss = mfdeq.LeastSquares(np.arange(model.points), np.zeros(model.points), 1.0 / model.points)
    F = mfdeq.ReducedFunctional(model.constrained(2), loss, state)
    step = 1e-3
    quotient = (energy(22.0 + step) - energy(22.0 - step)) / (2.0 * step)
    assert F.gradient(LENGTH)[0] == pytest.approx(quotient, rel=1e-6)
