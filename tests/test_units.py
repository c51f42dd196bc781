"""The same state and gradient in any units of equations and unknowns, or the same error."""

import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import CASES
from support.in_units import in_units, loss_in_units

import mfdeq

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
SPAN = 8  # units from 1e-8 to 1e8
SEEDS = range(3)


class Subject:
    """A model with its parameters, start and loss, to be measured in units."""

    def __init__(self, model, params, start=None, loss=None):
        self.model, self.params, self.start, self.loss_of = model, params, start, loss

    def loss(self, units):
        if self.loss_of is not None:
            return loss_in_units(self.loss_of, units)
        n = len(units)
        return mfdeq.LeastSquares(sp.diags_array(units, format="csr"), np.linspace(0.0, 1.0, n))


def subject_of(case):
    return Subject(case.model, case.params, case.h0, case.written[1])


def outcome(subject, units, rows, known, options):
    """Return the state, gradient and report of a model, or the type of its error."""
    start = None if subject.start is None else subject.start / units
    model = in_units(subject.model, units, rows, known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)
        try:
            eq = mfdeq.solve(model, subject.params, start, **options)
            return units * eq.state, eq.gradient(subject.loss(units)), eq.report
        except mfdeq.MfdeqError as error:
            return type(error)


def check_same(subject, units, rows=None, known=False, **options):
    one = np.ones(subject.model.state_size)
    plain = outcome(subject, one, None if rows is None else one, known, options)
    other = outcome(subject, units, rows, known, options)
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


def check_side(subject, side, seed, **options):
    """Check a residual with random units of its equations, its unknowns or both."""
    n = subject.model.state_size
    rows = random_units(n, seed) if side != "unknowns" else np.ones(n)
    units = random_units(n, seed + 100) if side != "equations" else np.ones(n)
    check_same(subject, units, rows, **options)


MAPS = [case for case in CASES if isinstance(case.model, mfdeq.FixedPointModel)]
RESIDUALS = [case for case in CASES if isinstance(case.model, mfdeq.ResidualModel)]
SIDES = ["equations", "unknowns", "both"]
SOLVERS = [mfdeq.Direct(), mfdeq.Krylov(), "auto"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("case", RESIDUALS, ids=str)
def test_newton_on_a_residual_is_the_same_in_any_units(case, solver, side, seed):
    check_side(subject_of(case), side, seed, solver=solver, method="newton")


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
    check_same(subject_of(case), units, method=method, solver=solver)


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
    check_same(subject_of(case), units, rows, known=True, solver=solver, method="newton")


# The models of the examples.


def diffusion():
    from diffusion import Diffusion

    return Subject(Diffusion(5), 0.5 * np.sin(np.arange(125.0)))


def bratu():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    from bratu import Bratu

    return Subject(Bratu(9), np.array([4.0]))


def groundwater():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    from groundwater import Groundwater, load_terrain

    model = Groundwater(load_terrain(12))
    return Subject(model, np.full(model.param_size, np.log(1e-5)))


def power_grid():
    for package in ("matplotlib", "jax", "pandapower"):
        pytest.importorskip(package, reason="the example needs the extras plot, jax and examples")
    from power_grid import PowerFlow, load_grid

    flow = PowerFlow(load_grid("case14"))
    return Subject(flow.model, flow.params(), flow.flat())


def digits():
    for package in ("matplotlib", "jax", "sklearn"):
        pytest.importorskip(package, reason="the example needs the extras plot, jax and examples")
    from deq_digits import load_digits

    layer, _ = load_digits(6, 8)
    return Subject(layer.model, layer.model.flat_params(layer.weights))


EXAMPLES = {make.__name__: cache(make) for make in (diffusion, bratu, groundwater, power_grid)}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("solver", SOLVERS[:2], ids=str)
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_model_of_an_example_is_the_same_in_any_units(name, solver, side):
    check_side(EXAMPLES[name](), side, 0, solver=solver, method="newton")


@pytest.mark.parametrize("method", ["newton", "anderson", "picard"])
def test_the_implicit_layer_is_the_same_in_any_units(method):
    subject = digits()
    check_same(subject, random_units(subject.model.state_size, 0), method=method)
