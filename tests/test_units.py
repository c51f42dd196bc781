"""The same state and gradient in any units of equations and unknowns, or the same error."""

import warnings

import numpy as np
import pytest
from support.cases import CASES
from support.in_units import in_units, loss_in_units

import mfdeq

SPAN = 8  # units from 1e-8 to 1e8
SEEDS = range(3)


def outcome(model, case, units, **options):
    """Return the state, gradient and report of a model, or the type of its error."""
    start = None if case.h0 is None else case.h0 / units
    loss = loss_in_units(case.written[1], units)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)
        try:
            eq = mfdeq.solve(model, case.params, start, **options)
            return units * eq.state, eq.gradient(loss), eq.report
        except (mfdeq.ConvergenceError, mfdeq.SingularStateError) as error:
            return type(error)


def check_same(case, units, rows=None, known=False, **options):
    one = np.ones(case.model.state_size)
    unit_rows = None if rows is None else np.ones(case.model.state_size)
    plain = outcome(in_units(case.model, one, unit_rows, known), case, one, **options)
    other = outcome(in_units(case.model, units, rows, known), case, units, **options)
    if isinstance(plain, type):
        assert other is plain
        return
    assert not isinstance(other, type), other
    (state, gradient, report), (same, too, then) = plain, other
    size = np.maximum(abs(state), 1e-9 * abs(state).max())
    assert np.max(abs(same - state) / size) <= 1e-7
    assert np.linalg.norm(too - gradient) <= 1e-5 * np.linalg.norm(gradient)
    assert abs(then.iterations - report.iterations) <= 2


def random_units(size, seed):
    return 10.0 ** np.random.default_rng(seed).uniform(-SPAN, SPAN, size)


MAPS = [case for case in CASES if isinstance(case.model, mfdeq.FixedPointModel)]
RESIDUALS = [case for case in CASES if isinstance(case.model, mfdeq.ResidualModel)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", ["equations", "unknowns", "both"])
@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov(), "auto"], ids=str)
@pytest.mark.parametrize("case", RESIDUALS, ids=str)
def test_newton_on_a_residual_is_the_same_in_any_units(case, solver, side, seed):
    n = case.model.state_size
    rows = random_units(n, seed) if side != "unknowns" else np.ones(n)
    units = random_units(n, seed + 100) if side != "equations" else np.ones(n)
    check_same(case, units, rows, solver=solver, method="newton")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("method", "solver"),
    [
        ("newton", mfdeq.Direct()),
        ("newton", mfdeq.Krylov()),
        ("newton", mfdeq.Neumann()),
        ("anderson", "auto"),
        ("anderson", mfdeq.Neumann()),
        ("picard", "auto"),
        ("picard", mfdeq.Neumann()),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", MAPS, ids=str)
def test_a_map_is_the_same_in_any_units(case, method, solver, seed):
    units = random_units(case.model.state_size, seed)
    check_same(case, units, method=method, solver=solver)


ITERATIVE = [
    mfdeq.Krylov(preconditioner=mfdeq.AMG()),
    mfdeq.Krylov(preconditioner=mfdeq.ILU()),
    mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
    mfdeq.Krylov("cg"),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
@pytest.mark.parametrize("case", RESIDUALS, ids=str)
def test_iterative_solvers_are_the_same_where_the_sizes_are_given(case, solver, seed):
    n = case.model.state_size
    units = random_units(n, seed)
    rows = 1.0 / units if solver.method == "cg" else random_units(n, seed + 100)
    check_same(case, units, rows, known=True, solver=solver, method="newton")
