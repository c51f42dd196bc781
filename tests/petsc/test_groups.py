"""Sums of functionals whose experiments are held by groups of ranks, beside one process."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.experiments import P, Rootless, matrices, source

import mfdeq
import mfdeq.petsc

RANKS = PETSc.COMM_WORLD.getSize()
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 0.3]
THETA = np.array([0.3, -0.2, 0.1])
PRIOR = mfdeq.QuadraticPrior(0.5)
COUNTS = sorted({1, min(2, RANKS), RANKS})


def experiments():
    """Five experiments of two sizes with three matrices, with their dense truth."""
    D, other = matrices(9, 1), matrices(7, 2)
    return [source(d, i, THETA) for i, d in enumerate((D, other, D, other, D))]


def build(count, distributed=True, **options):
    """Return the sum over groups, and the experiments with their truth."""
    known, groups = experiments(), mfdeq.petsc.Groups(PETSc.COMM_WORLD, count)

    def experiment(i):
        F = known[i].functional
        if not distributed:
            return F
        model = mfdeq.petsc.distributed(F.model, groups.comm)
        return mfdeq.ReducedFunctional(model, model.loss(F.loss))

    F = groups.sum(experiment, 5, WEIGHTS, prior=PRIOR, distributed=distributed, **options)
    return F, [e.truth for e in known]


def total(name, truths):
    return sum(w * getattr(truth, name) for w, truth in zip(WEIGHTS, truths, strict=True))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("distributed", [True, False])
def test_results_are_the_dense_sums(count, distributed):
    F, truths = build(count, distributed)
    values = [truth.loss.value for truth in truths]
    np.testing.assert_allclose(F.values(THETA), values, rtol=1e-9)
    prior = 0.25 * float(THETA @ THETA)
    np.testing.assert_allclose(F.value(THETA), np.dot(WEIGHTS, values) + prior, rtol=1e-9)
    gradient = total("gradient", truths) + 0.5 * THETA
    np.testing.assert_allclose(F.gradient(THETA), gradient, rtol=1e-8)
    dense, H = total("H", truths) + 0.5 * np.eye(P), F.hessian(THETA)
    scale = np.abs(dense).max()
    np.testing.assert_allclose(H @ np.eye(P), dense, atol=1e-8 * scale)
    product, error = H.with_error(np.ones(P))
    assert np.all(np.abs(product - dense.sum(axis=1)) <= error + 1e-12 * scale)
    both = H.gauss_newton @ np.eye(P) + H.dynamics @ np.eye(P)
    np.testing.assert_allclose(both, dense, atol=1e-8 * scale)
    assert F.solves == 5
    assert F.sizes == (41, P)


def test_a_minimum_is_that_of_one_process():
    F, _ = build(COUNTS[-1])
    one = mfdeq.SumFunctional([e.functional for e in experiments()], WEIGHTS, prior=PRIOR)
    found, expected = (mfdeq.minimize(functional, THETA) for functional in (F, one))
    assert found.converged
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)


def test_an_error_in_one_group_is_raised_on_all_ranks_and_names_the_experiment():
    groups = mfdeq.petsc.Groups(PETSc.COMM_WORLD, COUNTS[-1])
    known = experiments()

    def experiment(i):
        if i == 4:
            model, loss = Rootless(), mfdeq.LeastSquares([0], [1.0])
        else:
            model, loss = known[i].functional.model, known[i].functional.loss
        model = mfdeq.petsc.distributed(model, groups.comm)
        return mfdeq.ReducedFunctional(model, model.loss(loss))

    F = groups.sum(experiment, 5, names=["a", "b", "c", "d", "no root"])
    with pytest.raises(mfdeq.ConvergenceError, match=r"experiment 4 \(no root\)"):
        F.value(THETA)
    with pytest.raises(mfdeq.ConvergenceError, match="experiment 4"):
        F.gradient(THETA)
    tolerant = groups.sum(experiment, 5, on_failure="inf")
    assert tolerant.value(THETA) == np.inf
    assert list(np.isfinite(tolerant.values(THETA))) == [True, True, True, True, False]


def test_an_experiment_that_cannot_be_made_is_an_error_on_all_ranks():
    groups = mfdeq.petsc.Groups(PETSc.COMM_WORLD, COUNTS[-1])

    def experiment(i):
        if i == 3:
            raise ValueError("no such source")
        return experiments()[i].functional

    with pytest.raises(ValueError, match="no such source"):
        groups.sum(experiment, 5, distributed=False)


def test_different_parameters_on_the_ranks_are_refused():
    F, _ = build(COUNTS[-1])
    if RANKS > 1:
        with pytest.raises(mfdeq.ArgumentError, match="same numbers on every rank"):
            F.value(THETA + PETSc.COMM_WORLD.getRank())
    np.testing.assert_allclose(F.gradient(THETA), build(1)[0].gradient(THETA), rtol=1e-7)


def test_odd_numbers_and_uses_are_refused():
    with pytest.raises(mfdeq.ArgumentError, match="at most"):
        mfdeq.petsc.Groups(PETSc.COMM_WORLD, RANKS + 1)
    groups = mfdeq.petsc.Groups(PETSc.COMM_WORLD, RANKS)
    with pytest.raises(mfdeq.ArgumentError, match="expected 5 numbers"):
        groups.sum(lambda i: None, 5, [1.0])
    F, _ = build(1)
    with pytest.raises(mfdeq.ArgumentError, match=r"one Groups\.sum"):
        F + F
    with pytest.raises(mfdeq.ArgumentError, match=r"one Groups\.sum"):
        F.sample(0, 2)
