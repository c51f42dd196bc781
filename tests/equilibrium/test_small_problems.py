"""The overhead of a small problem, in calls and evaluations rather than in time.

In a solve, a gradient and one Hessian product of ten unknowns, with all default checks, mfdeq makes
about 2,620 calls by hand, 4,120 from JAX and 6,480 from a plain function. Those that numpy and JAX
make themselves change with their versions.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from benchmarks.small import Network, by_mfdeq, by_scipy, calls, models

import mfdeq

N = 10
MAX_CALLS = {"hand": 2_700, "JAX": 4_250, "plain": 6_650}


@pytest.mark.parametrize("source", MAX_CALLS)
def test_a_small_problem_takes_few_calls(source):
    if source == "JAX" and find_spec("jax") is None:
        pytest.skip("needs jax")
    problem = Network(N)
    run = by_mfdeq(problem, models(problem)[source])
    for found, expected in zip(run(), by_scipy(problem)(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    run()  # what is looked up once has been
    assert calls(run, str(Path(mfdeq.__file__).parent)) <= MAX_CALLS[source]


def test_the_map_is_evaluated_once_for_each_state():
    problem, states = Network(N), []

    class Recorded(mfdeq.FixedPointModel):
        state_size = param_size = N

        def map(self, h, theta):
            states.append(h.copy())
            return problem.map(h, theta)

        def linearize(self, h, theta):
            return problem.linearize(h, theta)

    eq = mfdeq.solve(Recorded(), problem.theta)
    loss = mfdeq.LeastSquares(np.arange(N), np.zeros(N))
    eq.gradient(loss)
    eq.hessian(loss) @ problem.v
    # The start, the iterates, chord steps, and a state at a distance for the digits left.
    assert len(states) <= eq.report.iterations + 5
    assert len(np.unique(states, axis=0)) == len(states)


def test_evaluations_of_a_plain_function_are_proportional_to_its_columns():
    problem, count = Network(N), 0

    def f(h, theta):
        nonlocal count
        count += 1
        return problem.map(h, theta)

    by_mfdeq(problem, mfdeq.from_function(f, N, N, "map"))()  # detects that the matrices are dense
    count = 0
    model = mfdeq.from_function(f, N, N, "map")
    by_mfdeq(problem, model)()
    first, count = count, 0
    by_mfdeq(problem, model)()
    # Of the columns: six matrices of the state, two of the parameters, and four halves of two
    # products with all columns. The rest are states, and checks of the complex step.
    assert count <= 8 * N + 4 * 2 * N + 60
    assert first <= count + 16 * N


def test_a_product_before_the_table_of_second_derivatives_is_that_after_it():
    problem = Network(N)
    model = mfdeq.from_function(problem.map, N, N, "map")
    at = model.linearize(np.linspace(-0.5, 0.5, N), problem.theta)
    lam, v = np.cos(np.arange(N)), (problem.v, np.sin(np.arange(N)))
    expected = problem.linearize(np.linspace(-0.5, 0.5, N), problem.theta).curvature(lam).apply(*v)
    for _ in range(2 * 2 * N):  # twice what the table costs
        for found, exact in zip(at.curvature(lam).apply(*v), expected, strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9)
        if at.curvature(lam).apply is None:
            break
    K = at.curvature(lam)
    assert K.apply is None  # blocks of the table
    product = K.params_params @ v[0] + K.state_params.T @ v[1]
    np.testing.assert_allclose(product, expected[0], rtol=1e-8, atol=1e-9)
