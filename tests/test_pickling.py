"""Results pickle, are copied, and cross to other processes; they can be used after that."""

import concurrent.futures
import copy
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from support import travelling
from support.cases import close
from support.cupy_problems import bratu, bratu_equilibrium, cupy, needs_cupy
from support.travelling import BY_HAND, LEAST_SQUARES, RESULTS, THETA, Cubic, N, P, used

import mfdeq

PACKAGES = {"from_jax": "jax", "from_torch": "torch"}


@pytest.fixture(scope="module")
def pool():
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # of the other process
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        yield executor


def make(name):
    package = PACKAGES.get(name.rpartition(" ")[2])
    if package:
        pytest.importorskip(package)
    return RESULTS[name][0]()


def speed(name):
    """Results of JAX and PyTorch take seconds each; their models travel with all of them."""
    slow = name.rpartition(" ")[2] in PACKAGES and not name.startswith("model")
    return [pytest.mark.slow] if slow else []


@pytest.mark.parametrize("name", [pytest.param(name, marks=speed(name)) for name in RESULTS])
def test_results_travel(name, pool):
    result = make(name)
    trips = {
        "pickle": lambda: pickle.loads(pickle.dumps(result)),
        "deepcopy": lambda: copy.deepcopy(result),
        "copy": lambda: copy.copy(result),
        "pickle of a copy": lambda: pickle.loads(pickle.dumps(copy.deepcopy(result))),
    }
    found = {trip: used(name, travel()) for trip, travel in trips.items()}
    there, back = pool.submit(travelling.used_and_returned, name, result).result()
    found |= {"another process": there, "there and back": used(name, back)}
    expected = used(name, result)
    for trip, values in found.items():
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9, err_msg=trip)


def test_an_equilibrium_travels_without_its_factor_and_sets_it_up_again():
    eq = mfdeq.solve(Cubic(), THETA, solver=mfdeq.Krylov(preconditioner=mfdeq.ILU()))
    eq.gradient(LEAST_SQUARES)
    again = pickle.loads(pickle.dumps(eq))
    setups, solves = again.report.linear.setups, again.report.linear.adjoint_solves
    assert (setups, solves) == (eq.report.linear.setups, eq.report.linear.adjoint_solves)
    again.gradient(LEAST_SQUARES)
    assert again.report.linear.setups == setups + 1
    assert again.report.linear.adjoint_solves > solves == eq.report.linear.adjoint_solves
    assert again.factor.name == eq.factor.name
    for x in (again.state, again.params):
        assert not x.flags.writeable


@pytest.mark.parametrize("protocol", [4, 5])
def test_models_of_functions_with_many_unknowns_travel(protocol):
    """Large arrays that protocol 4 has unpickled cannot index a sparse matrix of scipy."""
    model = mfdeq.from_function(_chain, 300, 300, "residual", sparsity="detect")
    eq = mfdeq.solve(model, np.ones(300))
    loss = mfdeq.LeastSquares(np.arange(5), np.zeros(5))
    product = eq.hessian(loss) @ np.ones(300)
    for travelled in (eq, mfdeq.solve(pickle.loads(pickle.dumps(model, protocol)), np.ones(300))):
        again = pickle.loads(pickle.dumps(travelled, protocol))
        np.testing.assert_allclose(again.gradient(loss), eq.gradient(loss), rtol=1e-10)
        np.testing.assert_allclose(again.hessian(loss) @ np.ones(300), product, rtol=1e-8)


def _chain(h, theta):
    r = 2.1 * h + 0.1 * h**3 - theta
    r[1:] -= h[:-1]
    r[:-1] -= h[1:]
    return r


def test_a_shallow_copy_of_an_equilibrium_shares_its_factor():
    eq = mfdeq.solve(Cubic(), THETA)
    factor = eq.factor
    assert copy.copy(eq).factor is factor


def test_a_branch_and_a_minimum_have_equal_arrays_after_travel():
    branch = RESULTS["branch"][0]()
    again = pickle.loads(pickle.dumps(branch))
    for point, other in zip(branch.points, again.points, strict=True):
        np.testing.assert_array_equal(point.state, other.state)
    assert again.counts == branch.counts
    assert again.reason == branch.reason


def test_functions_that_cannot_be_pickled_are_named():
    def local(h, theta):
        return h - theta

    for f, name in ((local, "local"), (lambda h, theta: h - theta, "lambda")):
        eq = mfdeq.solve(mfdeq.from_function(f, 2, 2, "residual"), np.ones(2))
        with pytest.raises((pickle.PicklingError, AttributeError), match=name):
            pickle.dumps(eq)
        np.testing.assert_allclose(copy.deepcopy(eq).sensitivity @ np.ones(2), 1.0)


@pytest.mark.parametrize("travel", [pickle.dumps, copy.deepcopy])
def test_factors_and_operators_that_hold_them_say_what_to_pickle(travel):
    eq = mfdeq.solve(Cubic(), THETA)
    H = eq.hessian(LEAST_SQUARES)
    for x in (eq.factor, eq.inverse, eq.sensitivity, H.gauss_newton, eq.component_hessian(0)):
        with pytest.raises(TypeError, match="pickle the equilibrium"):
            travel(x)


def test_errors_cross_processes_with_their_best_results(pool):
    with pytest.raises(mfdeq.ConvergenceError) as got:
        pool.submit(travelling.fail, THETA).result()
    assert got.value.best.shape == (N,)
    assert not got.value.report.converged
    with pytest.raises(mfdeq.SingularStateError) as got:
        pool.submit(travelling.fail_singular, THETA).result()
    assert got.value.digits == 0.0


def test_a_copy_has_its_own_report_and_locks():
    eq = mfdeq.solve(Cubic(), THETA)
    again = copy.deepcopy(eq)
    again.gradient(BY_HAND)
    assert eq.report.linear.adjoint_solves == 0 < again.report.linear.adjoint_solves
    assert pickle.loads(pickle.dumps(again)).report.linear == again.report.linear


def test_a_resumed_search_continues_after_travel():
    few = mfdeq.eigsh(travelling._tridiagonal(), k=3)
    again = pickle.loads(pickle.dumps(few))
    more = mfdeq.eigsh(travelling._tridiagonal(), k=6, resume=again)
    fresh = mfdeq.eigsh(travelling._tridiagonal(), k=6)
    np.testing.assert_allclose(more.values, fresh.values, rtol=1e-6)
    assert more.report.products < again.report.products + fresh.report.products


def test_hessians_are_equal_in_another_process(pool):
    H = mfdeq.solve(Cubic(), THETA).hessian(LEAST_SQUARES)
    V = np.eye(P)
    np.testing.assert_allclose(pool.submit(H.dot, V).result(), H @ V, rtol=1e-10)


def test_plots_take_results_after_travel():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    import mfdeq.plot

    draw = {
        "pairs": mfdeq.plot.spectrum,
        "density": mfdeq.plot.density,
        "minimum": mfdeq.plot.convergence,
        "branch": lambda branch, ax: mfdeq.plot.branch(branch, np.max, ax),
    }
    for name, plot in draw.items():
        result, drawn = RESULTS[name][0](), []
        for x in (result, pickle.loads(pickle.dumps(result))):
            ax = pyplot.figure().subplots()
            plot(x, ax=ax)
            drawn.append([line.get_xydata() for line in ax.get_lines()])
        pyplot.close("all")
        for before, after in zip(*drawn, strict=True):
            np.testing.assert_array_equal(before, after, err_msg=name)


@needs_cupy
def test_results_travel_in_arrays_of_cupy():
    eq, loss = bratu_equilibrium(cupy), bratu(cupy).loss
    H = eq.hessian(loss)
    pairs = mfdeq.eigsh(H, k=3)
    for travel in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        other = travel(pairs)
        for array in (other.values, other.vectors, other.error_bounds):
            assert type(array) is cupy.ndarray
        close(other.values, pairs.values.get(), 0.0)
        close(mfdeq.eigsh(H, k=4, resume=other).values[-3:], pairs.values.get(), 1e-6)
        backend = travel(eq.backend)
        assert backend == eq.backend
        small = mfdeq.from_function(travelling.shifted, 3, 3, "residual")
        solved = mfdeq.solve(small, cupy.asarray([2.0, 10.0, 30.0]))
        misfit = mfdeq.LeastSquares(cupy.arange(3), cupy.zeros(3))
        again, same_misfit = travel((solved, misfit))
        assert type(again.state) is cupy.ndarray
        close(again.gradient(same_misfit), solved.gradient(misfit).get(), 1e-9)
    matrix = pickle.loads(pickle.dumps(eq.state_operator))
    close(matrix @ eq.state, (eq.state_operator @ eq.state).get(), 0.0)
