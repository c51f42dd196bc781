"""Constraints and redundant equations that do not fit: typed errors that say what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from support.refusing import refused, table

import mfdeq
from mfdeq import ArgumentError, DerivativeError, ModelError, SingularStateError

# A <-> B and C + D <-> E: the parameters are four rates and the totals of AB, CE and DE.
TOTALS = np.array([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
THETA = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 1.5])


def rates(h, p):
    first, second = p[0] * h[0] - p[1] * h[1], p[2] * h[2] * h[3] - p[3] * h[4]
    return np.array([first, -first, second, second, -second])


NETWORK = mfdeq.from_function(
    rates, 5, 7, "residual", state_names=list("ABCDE"), equation_names=[f"d{x}" for x in "ABCDE"]
)


def solve(constraints, *arguments, model=NETWORK, theta=THETA, **options):
    return mfdeq.solve(mfdeq.constrain(model, constraints, *arguments), theta, **options)


def linear(matrix=TOTALS, *arguments):
    return mfdeq.LinearConstraint(matrix, *(arguments or (1.0,)))


def nonlinear(**changes):
    given = {"value": lambda h, p: TOTALS @ h - p[4:], "d_state": lambda h, p: TOTALS}
    d_params = {"d_params": lambda h, p: -np.eye(7)[4:]}
    return mfdeq.Constraint(**{**given, **d_params, **changes})


def gradient(constraints):
    return solve(constraints).gradient(mfdeq.LeastSquares([0], np.zeros(1)))


def hessian(constraints):
    eq = solve(constraints, h0=np.ones(5))
    return eq.hessian(mfdeq.LeastSquares([0], np.zeros(1))) @ THETA


CALLS = table(
    ("no model", lambda: mfdeq.constrain(rates, linear()), ArgumentError, ["got a function"]),
    ("no constraint", lambda: solve(None), ArgumentError, ["mfdeq.Constraint", "NoneType"]),
    ("empty list", lambda: solve([]), ArgumentError, ["at least one"]),
    (
        "twice",
        lambda: mfdeq.constrain(mfdeq.constrain(NETWORK, linear()), linear()),
        ArgumentError,
        ["all constraints together"],
    ),
    ("a word", lambda: solve(linear(), "find"), ArgumentError, ["detect", "find"]),
    ("basis of a wrong size", lambda: solve(linear(), np.ones((4, 3))), ArgumentError, ["(5, m)"]),
    ("too few columns", lambda: solve(linear(), np.ones(5)), ArgumentError, ["each of the 3"]),
    ("NaN in the basis", lambda: solve(linear(), np.full(5, np.nan)), ArgumentError, ["NaN"]),
    ("zero column", lambda: solve(linear(), np.zeros(5)), ArgumentError, ["column 0 is zero"]),
    (
        "dependent columns",
        lambda: solve(linear(), np.ones((5, 3))),
        ArgumentError,
        ["3 columns depend on each other"],
    ),
    ("no basis", lambda: solve(linear(), np.eye(5)[:, :3]), ArgumentError, ["W'A = 0", "detect"]),
    (
        "not quite a basis",
        lambda: solve(linear(), TOTALS.T + 0.1 * np.eye(5, 3)),
        ArgumentError,
        ["column 0 with W'A of", "detect"],
    ),
    ("rtol", lambda: mfdeq.constrain(NETWORK, linear(), imbalance_rtol=2.0), ArgumentError, ["2"]),
    ("matrix of a wrong size", lambda: solve(linear(np.ones((3, 4)))), ModelError, ["(3, 5)"]),
    ("no matrix", lambda: linear(1.0), ModelError, ["matrix of the LinearConstraint", "float"]),
    ("totals of a wrong size", lambda: linear(TOTALS, np.ones(2)), ModelError, ["(3,)", "(2,)"]),
    (
        "total of a wrong size",
        lambda: solve(linear(TOTALS, lambda p: p[:2], lambda p: np.eye(7)[:2])),
        ModelError,
        ["total of the LinearConstraint", "(3,)"],
    ),
    ("no function", lambda: linear(TOTALS, 1.0, 2.0), ModelError, ["d_total", "float"]),
    (
        "no derivative of the total",
        lambda: gradient(linear(TOTALS, lambda p: p[4:])),
        DerivativeError,
        ["pass d_total="],
    ),
    (
        "no curvature of the total",
        lambda: hessian(linear(TOTALS, lambda p: p[4:] ** 2, lambda p: np.diag(2.0 * p)[4:])),
        DerivativeError,
        ["curvature=lambda theta, nu"],
    ),
    ("no functions", lambda: mfdeq.Constraint(None, None), ModelError, ["value of the Constraint"]),
    ("no value", lambda: solve(nonlinear(value=lambda h, p: None)), ModelError, ["value"]),
    (
        "NaN",
        lambda: solve(nonlinear(value=lambda h, p: np.full(3, np.nan))),
        ModelError,
        ["value of the Constraint", "NaN"],
    ),
    (
        "d_state of a wrong shape",
        lambda: solve(nonlinear(d_state=lambda h, p: TOTALS.T)),
        ModelError,
        ["d_state of the Constraint", "(3, 5)", "(5, 3)"],
    ),
    (
        "d_params of a wrong shape",
        lambda: gradient(nonlinear(d_params=lambda h, p: np.eye(3))),
        ModelError,
        ["d_params of the Constraint", "(3, 7)"],
    ),
    (
        "no d_params",
        lambda: gradient(nonlinear(d_params=None)),
        DerivativeError,
        ["pass d_params="],
    ),
    (
        "no curvature",
        lambda: hessian(
            nonlinear(
                value=lambda h, p: (TOTALS @ h) ** 2 - p[4:] ** 2,
                d_state=lambda h, p: 2.0 * (TOTALS @ h)[:, None] * TOTALS,
                d_params=lambda h, p: np.diag(-2.0 * p)[4:],
            )
        ),
        DerivativeError,
        ["curvature of the Constraint is missing"],
    ),
    (
        "asymmetric curvature",
        lambda: hessian(
            nonlinear(curvature=lambda h, p, nu: mfdeq.Curvature(state_state=np.tri(5)))
        ),
        DerivativeError,
        ["curvature of the Constraint"],
    ),
    (
        "a constraint too many",
        lambda: solve(linear(np.vstack([TOTALS, np.eye(5)[:1]]))),
        ArgumentError,
        ["expected as many", "3 ", "got 4"],
    ),
    (
        "equations that are independent",
        lambda: mfdeq.solve(
            mfdeq.constrain(
                mfdeq.from_function(lambda h, p: h - p, 2, 2, "residual"), linear(np.ones(2))
            ),
            np.ones(2),
        ),
        ArgumentError,
        ["A is regular"],
    ),
    (
        "constraints that contradict each other",
        lambda: solve(linear(TOTALS[[0, 1, 1]] * [[1.0], [1.0], [2.0]], np.array([1.0, 1.0, 5.0]))),
        ArgumentError,
        ["constraint 1 and constraint 2 contradict"],
    ),
    (
        "a constraint twice",
        lambda: solve(linear(TOTALS[[0, 1, 1]], 1.0)),
        ArgumentError,
        ["constraint 1 and constraint 2 repeat"],
    ),
    (
        "a constraint without unknowns",
        lambda: solve(linear(TOTALS * [[1.0], [0.0], [1.0]])),
        ArgumentError,
        ["constraint 1, whose derivative"],
    ),
    (
        "constraints that fix too little",
        lambda: solve(linear(np.vstack([TOTALS[:2], np.eye(5)[:1]])), h0=np.ones(5)),
        ArgumentError,
        ["do not fix C, D and E"],
    ),
    (
        "constraints on the wrong component",
        lambda: solve(linear(TOTALS[:1]), h0=np.ones(5)),
        SingularStateError,
        [
            "3 combinations of equations vanish",
            r"dA and dB sum to zero",
            "there is 1 constraint",
            r"C, D and E \(2 constraints\)",
        ],
    ),
)


@pytest.mark.parametrize(("call", "kind", "words"), CALLS)
def test_what_does_not_fit_is_refused(call, kind, words):
    words = [word.replace("(5, m)", r"\(5, m\)") for word in words]
    with refused(kind, *words):
        call()


def test_constrained_models_are_not_mixed():
    with pytest.raises(mfdeq.ArgumentError, match=r"mfdeq\.constrain\(mfdeq\.mixed\("):
        mfdeq.mixed(mfdeq.constrain(NETWORK, linear()))


def test_a_missing_total_is_named_by_its_component():
    with refused(SingularStateError, "is not fixed: A and B$") as caught:
        solve(linear(TOTALS[1:]), h0=np.ones(5))
    assert caught.value.unknowns == [0, 1, 2, 3, 4]
    assert caught.value.left.shape == (5, 3)


def test_redundant_equations_are_named():
    eq = solve(linear(TOTALS))
    assert eq.report.choices[0] == (
        "redundant: dA and dB sum to zero; dC and dE sum to zero; dD and dE sum to zero"
    )
    np.testing.assert_array_equal(eq.redundant_equations.T, TOTALS)


DIFFERENCES = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])


def beam(h, load):
    return DIFFERENCES @ h - load


def one_reaction(h, p):
    rate = p[0] * h[0] - p[1] * h[1]
    return np.array([rate, -rate, h[2] - p[2]])


def dimer(h, p):
    rate = p[0] * h[0] ** 2 - p[1] * h[1]
    return np.array([2.0 * rate, -rate, h[2] - p[2]])


@pytest.mark.parametrize(
    ("equations", "params"),
    [
        (beam, np.array([1.0, 0.0, -1.0])),
        (one_reaction, np.array([1.0, 2.0, 3.0])),
        (dimer, np.array([1.0, 2.0, 3.0])),
    ],
)
def test_the_error_of_a_singular_model_has_the_line_that_makes_it_regular(equations, params):
    model = mfdeq.from_function(equations, 3, 3, "residual", initial_state=1.0)
    with pytest.raises(SingularStateError) as caught:
        mfdeq.solve(model, params)
    line = str(caught.value).rpartition(": ")[2]
    assert line.startswith("mfdeq.constrain(model, mfdeq.LinearConstraint(")
    names = {"mfdeq": mfdeq, "np": np, "model": model, "error": caught.value, "total": 2.0}
    eq = mfdeq.solve(eval(line, names), params)
    assert abs(equations(eq.state, params)).max() < 1e-9


def test_the_error_of_a_singular_model_names_every_combination():
    with pytest.raises(SingularStateError) as caught:
        mfdeq.solve(NETWORK, THETA, np.ones(5))
    words = "dA and dB sum to zero; dC and dE sum to zero; dD and dE sum to zero"
    assert str(caught.value).endswith(f"combination of equations that vanishes: {words}")


def dissociation(h, p):
    rates = p[0] * h[0] - p[1] * h[1] * h[2], p[2] * h[3] - p[3] * h[4]
    return np.array([-rates[0], rates[0], rates[0], -rates[1], rates[1]])


@pytest.mark.parametrize("size", [5, 15])
def test_the_error_of_several_totals_has_the_line_that_makes_the_model_regular(size):
    def equations(h, p):
        return np.concatenate([dissociation(h[k : k + 5], p) for k in range(0, size, 5)])

    model = mfdeq.from_function(equations, size, 4, "residual", initial_state=1.0)
    params = np.array([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(SingularStateError) as caught:
        mfdeq.solve(model, params)
    words = str(caught.value).partition(" does that")[0]
    line = words[words.index("mfdeq.constrain(") :]
    given = {"mfdeq": mfdeq, "np": np, "model": model, "error": caught.value, "totals": 2.0}
    eq = mfdeq.solve(eval(line, given), params)
    assert abs(equations(eq.state, params)).max() < 1e-9
    assert caught.value.left.shape == caught.value.right.shape == (size, 3 * size // 5)


def test_weights_other_than_one_are_named():
    # Two molecules of A make one of B.
    def residual(h, p):
        rate = p[0] * h[0] ** 2 - p[1] * h[1]
        return np.array([2.0 * rate, -rate])

    model = mfdeq.constrain(
        mfdeq.from_function(residual, 2, 2, "residual", initial_state=1.0),
        mfdeq.LinearConstraint(np.array([1.0, 2.0]), 3.0),
    )
    eq = mfdeq.solve(model, np.ones(2))
    np.testing.assert_allclose(eq.state, 1.0)
    assert eq.report.choices[0] == "redundant: 0.5 equation 0 + equation 1 is zero"


def test_a_start_is_projected_onto_linear_constraints():
    starts = []

    def residual(h, p):
        starts.append(np.real(h))
        return rates(h, p)

    model = mfdeq.from_function(residual, 5, 7, "residual", initial_state=1.0)
    totals = linear(TOTALS, lambda p: p[4:], lambda p: np.eye(7)[4:])
    eq = mfdeq.solve(mfdeq.constrain(model, totals), THETA)
    np.testing.assert_allclose(TOTALS @ starts[0], THETA[4:], rtol=1e-12)
    np.testing.assert_allclose(TOTALS @ eq.state, THETA[4:], rtol=1e-12)
    starts.clear()
    # Small unknowns change by no more than their own size.
    h0 = np.array([1e6, 1e-6, 1.0, 1.0, 1.0])
    mfdeq.solve(mfdeq.constrain(model, totals), THETA, h0)
    assert abs(starts[0][1]) < 2e-6


def test_an_equilibrium_at_a_known_state_must_satisfy_the_constraints():
    totals = linear(TOTALS, lambda p: p[4:], lambda p: np.eye(7)[4:])
    model = mfdeq.constrain(NETWORK, totals)
    eq = mfdeq.solve(model, THETA)
    again = mfdeq.equilibrium_at(model, THETA, eq.state)
    np.testing.assert_array_equal(again.state, eq.state)
    assert isinstance(again, mfdeq.ConstrainedEquilibrium)
    with refused(mfdeq.ConvergenceError, "not an equilibrium"):
        mfdeq.equilibrium_at(model, THETA, 2.0 * eq.state)


def test_several_constraints_of_both_kinds_are_stacked():
    first = mfdeq.LinearConstraint(TOTALS[:2], lambda p: p[4:6], lambda p: np.eye(7)[4:6])
    last = mfdeq.Constraint(
        lambda h, p: (h[3] + h[4]) ** 2 - p[6] ** 2,
        lambda h, p: 2.0 * (h[3] + h[4]) * TOTALS[2],
        lambda h, p: -2.0 * p[6] * np.eye(7)[6],
        lambda h, p, nu: mfdeq.Curvature(
            params_params=-2.0 * nu[0] * np.diag(np.eye(7)[6]),
            state_state=2.0 * nu[0] * np.outer(TOTALS[2], TOTALS[2]),
        ),
    )
    model = mfdeq.constrain(NETWORK, [first, last])
    eq = mfdeq.solve(model, THETA, np.ones(5))
    totals = linear(TOTALS, lambda p: p[4:], lambda p: np.eye(7)[4:])
    other = mfdeq.solve(mfdeq.constrain(NETWORK, totals), THETA)
    np.testing.assert_allclose(eq.state, other.state, rtol=1e-12)
    u, v = np.random.default_rng(0).standard_normal((2, 7))
    np.testing.assert_allclose(eq.second_order(u, v), other.second_order(u, v), rtol=1e-6)
    assert mfdeq.verify(model, THETA, h0=np.ones(5)).verdict == "PASS"


def test_a_matrix_may_be_sparse_or_an_operator():
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import aslinearoperator

    expected = solve(linear(TOTALS, THETA[4:])).state
    for form in (csr_matrix, aslinearoperator, list):
        found = solve(linear(form(TOTALS), THETA[4:])).state
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_verify_says_why_parameters_nearby_have_no_equilibrium():
    D = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    beam = mfdeq.from_function(lambda h, load: D @ h - load, 3, 3, "residual")
    model = mfdeq.constrain(beam, mfdeq.LinearConstraint(np.full(3, 1 / 3)))
    found = mfdeq.verify(model, np.array([1.0, 0.0, -1.0]))
    assert found.verdict == "INCONCLUSIVE"
    assert re.search("points nearby have no value: ConvergenceError: .*not consistent", str(found))


def by_complex_step(square):
    def residual(h, theta):
        return np.stack([h[0] + h[1] - theta[0], square * (h[0] - h[1]) ** 2])

    return mfdeq.from_function(residual, 2, 1, "residual")


def by_differences(square):
    def residual(h, theta):  # of real numbers only
        return np.array([h[0] + h[1] - theta[0], square * np.hypot(h[0] - h[1], 0.0) ** 2])

    return mfdeq.from_function(residual, 2, 1, "residual")


def by_jax(square):
    jnp = pytest.importorskip("jax.numpy")

    def residual(h, theta):
        return jnp.stack([h[0] + h[1] - theta[0], square * (h[0] - h[1]) ** 2])

    return mfdeq.from_jax(residual, np.zeros(2), np.zeros(1), "residual")


class ByHand(mfdeq.ResidualModel):
    state_size, param_size = 2, 1

    def __init__(self, square):
        self.square = square

    def residual(self, h, theta):
        return np.array([h[0] + h[1] - theta[0], self.square * (h[0] - h[1]) ** 2])

    def linearize(self, h, theta):
        slope = 2.0 * self.square * (h[0] - h[1])
        A = sp.csr_matrix([[1.0, 1.0], [slope, -slope]])
        return mfdeq.Linearization(A, np.array([[-1.0], [0.0]]))


# Differences of a derivative that is zero have no digits.
NO_DIGITS = pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")


@pytest.mark.parametrize(
    "source",
    [by_complex_step, pytest.param(by_differences, marks=NO_DIGITS), by_jax, ByHand],
)
def test_a_basis_of_rows_that_vanish_at_the_state_alone_is_refused(source):
    def solve(square):
        constraint = mfdeq.LinearConstraint(np.array([1.0, -1.0]))
        model = mfdeq.constrain(source(square), constraint, redundant=np.array([0.0, 1.0]))
        return mfdeq.solve(model, np.ones(1))

    with pytest.raises(ArgumentError, match=r"W'A = 0, got a column 0 .* at a state nearby"):
        solve(1.0)
    np.testing.assert_allclose(solve(0.0).state, [0.5, 0.5])  # redundant everywhere


def test_a_basis_is_refused_where_the_derivative_is_zero():
    model = mfdeq.constrain(
        mfdeq.from_function(lambda h, theta: (h - theta) ** 2, 2, 2, "residual"),
        mfdeq.LinearConstraint(np.eye(2), lambda theta: theta, lambda theta: np.eye(2)),
        redundant=np.eye(2),
    )
    with pytest.raises(ArgumentError, match=r"redundant: .* at a state nearby"):
        mfdeq.solve(model, np.ones(2))
