"""Sums of functionals on the workers of executors: threads, processes and dask."""

from __future__ import annotations

import os
import pickle
import signal
from concurrent import futures
from multiprocessing import get_context

import numpy as np
import pytest
from support.cases import close
from support.experiments import Lookup, P, Rootless, matrices, source

import mfdeq

WEIGHTS = [1.0, 2.0, 0.5, 1.0, 0.3]
PRIOR = mfdeq.QuadraticPrior(0.5)
EYE = np.eye(P)


def start_processes():
    return futures.ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def processes():
    with start_processes() as pool:
        yield pool


@pytest.fixture(params=["threads", "processes", "dask"])
def executor(request):
    if request.param == "threads":
        with futures.ThreadPoolExecutor(2) as pool:
            yield pool
    elif request.param == "processes":
        yield request.getfixturevalue("processes")
    else:
        distributed = pytest.importorskip("distributed")
        with distributed.Client(n_workers=1, processes=False, dashboard_address=None) as client:
            yield client.get_executor()


def build(**options):
    """Return a sum of five experiments with three matrices, their dense sum, and theta."""
    theta = np.array([0.3, -0.2, 0.1])
    D, other = matrices(9, 1), matrices(7, 2)
    experiments = [source(d, i, theta) for i, d in enumerate((D, other, D, other, D))]
    F = mfdeq.SumFunctional([e.functional for e in experiments], WEIGHTS, prior=PRIOR, **options)
    H = 0.5 * EYE + sum(w * e.truth.H for w, e in zip(WEIGHTS, experiments, strict=True))
    g = 0.5 * theta + sum(w * e.truth.gradient for w, e in zip(WEIGHTS, experiments, strict=True))
    return F, theta, [e.truth.loss.value for e in experiments], g, H


def test_results_are_those_of_one_thread(executor):
    F, theta, values, gradient, dense = build(executor=executor)
    close(F.values(theta), values, 1e-10)
    close(F.gradient(theta), gradient, 1e-10)
    H = F.hessian(theta)
    close(H @ EYE, dense, 1e-10)
    close(F.hessp(theta, EYE[1]), dense[1], 1e-10)
    close((H.gauss_newton @ EYE) + (H.dynamics @ EYE), dense, 1e-10)
    product, error = H.with_error(EYE)
    close(product, dense, 1e-10)
    assert np.abs(error).max() <= 1e-10
    close(H.apply_inexact(EYE[0], 1e-4), dense[0], 1e-10)
    close(H.to_accuracy(1e-6) @ EYE, dense, 1e-10)
    assert not H.iterative
    assert F.solves == 5
    close(mfdeq.eigsh(H, k=P).values, np.linalg.eigvalsh(dense), 1e-8)


def test_minimizations_take_the_same_steps(executor, tmp_path):
    F, theta, *_ = build(executor=executor)
    found = mfdeq.minimize(F, theta, gtol=1e-8, checkpoint=tmp_path / "run")
    expected = mfdeq.minimize(build()[0], theta, gtol=1e-8)
    close(found.params, expected.params, 1e-9)
    assert found.report.equilibria >= expected.report.equilibria
    assert found.definite
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.params, found.params)
    assert mfdeq.minimize(F, theta, gtol=1e-8, checkpoint=tmp_path / "run").value == found.value


def test_a_hessian_stays_valid_at_later_points(processes):
    F, theta, _, _, dense = build(executor=processes)
    H = F.hessian(theta)
    F.value(theta + 0.1)
    close(H @ EYE, dense, 1e-10)


def test_shares_stay_with_their_workers(processes):
    F, theta, *_ = build(executor=processes)
    H = F.hessian(theta)
    H @ EYE
    solves = F.solves
    for _ in range(10):
        H @ EYE
    F.gradient(theta)
    assert F.solves == solves == 5
    with pytest.raises(mfdeq.ArgumentError, match="ThreadPoolExecutor"):
        mfdeq.eigsh(H, k=1, sigma=0.4)


def test_a_failing_experiment_is_named_by_its_index_in_the_sum(executor):
    theta = np.zeros(P)
    D, loss = matrices(6, 1), mfdeq.LeastSquares([0], [0.0])
    good = [source(D, i, theta).functional for i in range(3)]
    bad = mfdeq.ReducedFunctional(Rootless(), loss)
    names = ["a", "b", "c", "d"]
    F = mfdeq.SumFunctional([*good, bad], executor=executor, names=names)
    for function in (F.value, F.gradient):
        with pytest.raises(mfdeq.MfdeqError, match=r"experiment 3 \(d\)"):
            function(theta)
    F = mfdeq.SumFunctional([*good, bad], executor=executor, on_failure="inf")
    assert np.isinf(F.values(theta)).tolist() == [False, False, False, True]
    assert F.value(theta) == np.inf


def test_a_killed_worker_loses_nothing_and_its_experiments_are_named():
    with start_processes() as pool:
        F, theta, values, gradient, dense = build(executor=pool)
        F.value(theta + 0.1)
        os.kill(next(iter(pool._processes)), signal.SIGKILL)
        with pytest.warns(mfdeq.WorkerWarning, match="experiments 0 to 1, 2 to 4 .*this process"):
            close(F.values(theta), values, 1e-10)
        close(F.gradient(theta), gradient, 1e-10)
        close(F.hessian(theta) @ EYE, dense, 1e-10)


def test_an_executor_that_was_shut_down_loses_nothing():
    with start_processes() as pool:
        F, theta, values, *_ = build(executor=pool)
        F.value(theta + 0.1)
    with pytest.warns(mfdeq.WorkerWarning, match="shutdown"):
        close(F.values(theta), values, 1e-10)


def test_parameters_of_another_number_are_refused_between_right_ones(executor):
    F, right = build(executor=executor)[0], np.full(P, 0.2)
    expected = F.value(right)
    for wrong in (np.full(1, 0.2), np.full(P + 1, 0.2)):
        with pytest.raises(mfdeq.ModelError, match=r"expected an array of shape \(3,\)"):
            F.value(wrong)
        assert F.value(right) == pytest.approx(expected, rel=1e-12)


def test_an_error_that_cannot_be_pickled_is_raised_with_its_message(processes):
    good = source(matrices(6, 1), 1, np.zeros(P)).functional
    bad = mfdeq.ReducedFunctional(Lookup(), mfdeq.LeastSquares([0], [0.0]))
    F = mfdeq.SumFunctional([good, bad], executor=processes)
    with pytest.raises(RuntimeError, match="TableError: steam has no entry 3"):
        F.value(np.zeros(P))


def test_what_cannot_be_sent_is_named(processes):
    theta = np.zeros(P)
    good = source(matrices(6, 1), 1, theta).functional
    model = mfdeq.from_function(lambda h, p: h - p, P, P, "residual")
    local = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares([0], [0.0]))
    F = mfdeq.SumFunctional([good, good, local], executor=processes)
    with pytest.raises(mfdeq.ArgumentError, match="experiment 2 cannot be sent"):
        F.value(theta)
