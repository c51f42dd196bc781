"""Sums of functionals whose experiments are held by groups of ranks, beside one process."""

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.experiments import P, Rootless, matrices, source
from support.petsc_problems import LinearOnVecs, mat_of

import mfdeq
import mfdeq.petsc
from mfdeq.arrays.backend import Backend
from mfdeq.files import checkpoints

MPI_COMM = PETSc.COMM_WORLD.tompi4py()
RANK = MPI_COMM.Get_rank()
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
    if PETSc.COMM_WORLD.getRank() == 0:  # not a collective call
        assert F.name.startswith(f"5 experiments in {count} groups: ")


def test_a_minimum_is_that_of_one_process():
    F, _ = build(COUNTS[-1])
    one = mfdeq.SumFunctional([e.functional for e in experiments()], WEIGHTS, prior=PRIOR)
    found, expected = (mfdeq.minimize(functional, THETA) for functional in (F, one))
    assert found.converged
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)


def test_a_sum_on_all_ranks_has_the_minimum_of_one_process():
    models = [mfdeq.petsc.distributed(e.functional.model) for e in experiments()]
    losses = [e.functional.loss for e in experiments()]
    losses[0] = losses[0] + PRIOR
    on_vecs = [m.loss(loss) for m, loss in zip(models, losses, strict=True)]
    F = mfdeq.SumFunctional(list(map(mfdeq.ReducedFunctional, models, on_vecs)), WEIGHTS)
    one = mfdeq.SumFunctional([e.functional for e in experiments()], WEIGHTS, prior=PRIOR)
    found, expected = mfdeq.minimize(F, models[0].params(THETA)), mfdeq.minimize(one, THETA)
    np.testing.assert_allclose(found.params.gathered(), expected.params, rtol=1e-6)


def test_a_functional_that_is_twice_in_a_sum_counts_twice():
    """Its A is the same object, so that both share a factor, on whatever ranks."""
    known = [e.functional for e in experiments()[:2]]
    models = [mfdeq.petsc.distributed(F.model) for F in known]
    first, second = (
        mfdeq.ReducedFunctional(model, model.loss(F.loss))
        for F, model in zip(known, models, strict=True)
    )
    theta = models[0].params(THETA)
    F, one = first + 2.0 * second + 3.0 * first, known[0] + 2.0 * known[1] + 3.0 * known[0]
    assert F.value(theta) == pytest.approx(one.value(THETA), rel=1e-9)
    H, dense = F.hessian(theta), one.hessian(THETA) @ np.eye(P)
    for V in (np.arange(1.0, 1.0 + P), np.arange(2.0 * P).reshape(P, 2)):
        product = models[0].gathered_params(H @ models[0].params(V))
        np.testing.assert_allclose(product, dense @ V, atol=1e-7 * abs(dense @ V).max())


def test_a_prior_of_numpy_is_distributed_with_the_models_of_a_sum():
    R = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    prior = mfdeq.QuadraticPrior(R, THETA / 2) + 0.5 * mfdeq.QuadraticPrior(sp.csr_matrix(R))
    products = scipy.sparse.linalg.aslinearoperator(np.eye(P))
    prior = prior + mfdeq.QuadraticPrior(products) + PRIOR
    known = [e.functional for e in experiments()]
    models = [mfdeq.petsc.distributed(F.model) for F in known]
    on_vecs = [
        mfdeq.ReducedFunctional(m, m.loss(F.loss)) for m, F in zip(models, known, strict=True)
    ]
    one, theta = mfdeq.SumFunctional(known, prior=prior), models[0].params(THETA)
    v, gathered = models[0].params(np.ones(P)), models[0].gathered_params
    for F in (mfdeq.SumFunctional(on_vecs, prior=prior), sum(on_vecs) + prior):
        np.testing.assert_allclose(F.value(theta), one.value(THETA), rtol=1e-8)
        np.testing.assert_allclose(
            gathered(F.gradient(theta)), one.gradient(THETA), rtol=1e-7, atol=1e-9
        )
        product = one.hessp(THETA, np.ones(P))
        np.testing.assert_allclose(gathered(F.hessp(theta, v)), product, rtol=1e-7)


def test_a_prior_of_numpy_is_refused_for_models_of_vecs():
    class OnVecs(LinearOnVecs):
        A, B = mat_of(np.eye(4)), mat_of(np.ones((4, P)))
        state_size, param_size = A.getSizes()[0], B.getSizes()[1]

    F = mfdeq.ReducedFunctional(OnVecs(), mfdeq.Loss(lambda h, theta: 0.0))
    with pytest.raises(mfdeq.ArgumentError, match=r"prior: expected .* PETSc's for OnVecs"):
        F + mfdeq.QuadraticPrior(np.eye(P))
    assert len(F + PRIOR) == 1


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


@pytest.mark.parametrize("distributed", [True, False])
def test_parameters_of_another_number_are_refused(distributed):
    F, _ = build(COUNTS[-1], distributed)
    expected = F.value(THETA)
    for theta in (np.ones(P + 1), np.ones(P - 1), np.ones((P, 1)), THETA[:1]):
        with pytest.raises(mfdeq.ModelError, match=r"params: expected an array of shape \(3,\)"):
            F.value(theta)
        assert F.value(THETA) == pytest.approx(expected, rel=1e-12)


def test_odd_numbers_and_uses_are_refused():
    with pytest.raises(mfdeq.ArgumentError, match="at most"):
        mfdeq.petsc.Groups(PETSc.COMM_WORLD, RANKS + 1)
    groups = mfdeq.petsc.Groups(PETSc.COMM_WORLD, RANKS)
    with pytest.raises(mfdeq.ArgumentError, match="expected 5 numbers"):
        groups.sum(lambda i: None, 5, [1.0])
    F, _ = build(1)
    with pytest.raises(mfdeq.ArgumentError, match=r"one Groups\.sum"):
        F + build(1)[0]  # over other Groups
    with pytest.raises(mfdeq.ArgumentError, match="expected two sums of one distributed"):
        F + F.groups.sum(lambda i: experiments()[i].functional, 1, distributed=False)
    with pytest.raises(mfdeq.ArgumentError, match=r"one Groups\.sum"):
        experiments()[0].functional + F
    with pytest.raises(TypeError):
        F * "2"
    with pytest.raises(mfdeq.ArgumentError, match="at most 5"):
        F.sample(0, 6)


def test_methods_that_need_matrices_say_how_to_make_the_sum():
    F, _ = build(COUNTS[-1])
    advice = "SumFunctional of all experiments on all ranks, without Groups"
    with pytest.raises(mfdeq.ArgumentError, match=advice):
        mfdeq.eigsh(F.hessian(THETA), 1, sigma=0.0)
    with pytest.raises(mfdeq.ArgumentError, match=advice):
        mfdeq.minimize(F, THETA, method="newton")


@pytest.mark.parametrize("count", COUNTS)
def test_multiples_and_priors_are_added_as_for_one_process(count):
    F, _ = build(count)
    one = mfdeq.SumFunctional([e.functional for e in experiments()], WEIGHTS, prior=PRIOR)
    other = mfdeq.QuadraticPrior(2.0, np.ones(P))
    for found, expected in [
        (2.0 * F, 2.0 * one),
        (F / 4.0 + other, one / 4.0 + other),
        (sum([-F]), -one),
    ]:
        np.testing.assert_allclose(found.value(THETA), expected.value(THETA), rtol=1e-9)
        np.testing.assert_allclose(found.gradient(THETA), expected.gradient(THETA), rtol=1e-8)
        v = np.arange(1.0, 1.0 + P)
        product = expected.hessp(THETA, v)
        np.testing.assert_allclose(found.hessp(THETA, v), product, rtol=1e-8)


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("count", COUNTS)
def test_sums_over_the_same_groups_are_added_as_for_one_process(count, distributed):
    F, _ = build(count, distributed, names=[f"first {i}" for i in range(5)])
    known = experiments()

    def reversed_experiment(i):
        functional = known[4 - i].functional
        if not distributed:
            return functional
        model = mfdeq.petsc.distributed(functional.model, F.groups.comm)
        return mfdeq.ReducedFunctional(model, model.loss(functional.loss))

    names = [f"second {i}" for i in range(4)]
    G = F.groups.sum(reversed_experiment, 4, names=names, distributed=distributed)
    one = mfdeq.SumFunctional([e.functional for e in known], WEIGHTS, prior=PRIOR)
    other = mfdeq.SumFunctional([known[4 - i].functional for i in range(4)])
    v = np.arange(1.0, 1.0 + P)
    for found, expected in [
        (F + 0.5 * G, one + 0.5 * other),
        (sum([F, G.sample(0, 1)]), one + other.sample(0, 1)),
        (G - F, other - one),
        (F + F, one + one),
    ]:
        np.testing.assert_allclose(found.value(THETA), expected.value(THETA), rtol=1e-8)
        gradient = expected.gradient(THETA)
        np.testing.assert_allclose(found.gradient(THETA), gradient, atol=1e-8 * abs(gradient).max())
        product = expected.hessp(THETA, v)
        np.testing.assert_allclose(found.hessp(THETA, v), product, atol=1e-8 * abs(product).max())
        assert found.sizes == expected.sizes
    both = F + 0.5 * G
    values = dict(zip(both.names, both.values(THETA), strict=True))
    single = one.values(THETA)
    assert values == pytest.approx(
        {f"first {i}": single[i] for i in range(5)}
        | {f"second {i}": single[4 - i] for i in range(4)}
    )
    weights = dict(zip(both.names, both.weights, strict=True))
    assert weights == {f"first {i}": w for i, w in enumerate(WEIGHTS)} | dict.fromkeys(names, 0.5)
    found, expected = mfdeq.minimize(both, THETA), mfdeq.minimize(one + 0.5 * other, THETA)
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)


@pytest.mark.parametrize("drawn", [1, 4])
@pytest.mark.parametrize("count", COUNTS)
def test_a_sample_is_that_of_one_process(count, drawn):
    """With fewer experiments drawn than there are groups, some of them have none."""
    F, _ = build(count)
    names = [str(i) for i in range(5)]
    one = mfdeq.SumFunctional(
        [e.functional for e in experiments()], WEIGHTS, prior=PRIOR, names=names
    )
    for seed in range(2):
        found, expected = F.sample(np.random.default_rng(seed), drawn), one.sample(seed, drawn)
        assert found.weights == expected.weights
        assert found.sizes == expected.sizes
        np.testing.assert_allclose(found.values(THETA), expected.values(THETA), rtol=1e-9)
        np.testing.assert_allclose(found.gradient(THETA), expected.gradient(THETA), rtol=1e-8)
        H, exact = found.hessian(THETA), expected.hessian(THETA) @ np.eye(P)
        np.testing.assert_allclose(H @ np.eye(P), exact, atol=1e-8 * abs(exact).max())
        assert found.name.startswith(f"{drawn} experiments in {count} groups: ")
        np.testing.assert_allclose(
            found.equilibrium(THETA).state, expected.equilibrium(THETA).state, rtol=1e-7
        )
    assert mfdeq.minimize(found, THETA).converged


def test_the_first_rank_draws_a_sample():
    F, _ = build(COUNTS[-1])
    found = F.sample(np.random.default_rng(RANK), 2)  # other numbers on every rank
    np.testing.assert_allclose(found.value(THETA), F.sample(0, 2).value(THETA))


class Written:
    """How often this process has put a file in place."""

    def __init__(self, monkeypatch):
        self.count, original = 0, checkpoints.write_members

        def counted(*arguments):
            self.count += 1
            return original(*arguments)

        monkeypatch.setattr(checkpoints, "write_members", counted)


def shared_path(tmp_path, name):
    """Return the path of the first rank, which all ranks use."""
    return MPI_COMM.bcast(str(tmp_path / name))


def test_the_first_rank_alone_writes_the_checkpoints_of_a_minimization(tmp_path, monkeypatch):
    written, path = Written(monkeypatch), shared_path(tmp_path, "run.npz")
    F, _ = build(COUNTS[-1])
    whole = mfdeq.minimize(F, THETA)
    with pytest.raises(mfdeq.ConvergenceError, match="max_iterations"):
        mfdeq.minimize(build(COUNTS[-1])[0], THETA, checkpoint=path, max_iterations=2)
    assert (written.count > 0) == (RANK == 0)
    resumed = mfdeq.minimize(build(COUNTS[-1])[0], THETA, checkpoint=path)
    assert resumed.converged
    np.testing.assert_allclose(resumed.params, whole.params, rtol=1e-7)
    assert MPI_COMM.allgather(resumed.params.tobytes()) == RANKS * [resumed.params.tobytes()]


def identity():
    """The identity as an operator of scipy, whose sums and products are operators of scipy."""
    return scipy.sparse.linalg.aslinearoperator(np.eye(P))


@pytest.mark.parametrize(
    "compose",
    [
        lambda H: H,
        lambda H: 2.0 * H,
        lambda H: mfdeq.Precision(np.ones(P)) + H,
        lambda H: H @ H,
        lambda H: H.to_accuracy(1e-9),
        lambda H: 2.0 * (identity() + H),
    ],
    ids=["itself", "multiple", "sum", "product", "inexact", "scipy"],
)
def test_the_first_rank_alone_writes_the_checkpoints_of_eigenpairs(tmp_path, monkeypatch, compose):
    written, path = Written(monkeypatch), shared_path(tmp_path, "pairs.npz")
    found = mfdeq.eigsh(compose(build(COUNTS[-1])[0].hessian(THETA)), 1, checkpoint=path)
    wrote = written.count > 0
    again = mfdeq.eigsh(compose(build(COUNTS[-1])[0].hessian(THETA)), 1, checkpoint=path)
    np.testing.assert_array_equal(again.values, found.values)
    assert wrote == (RANK == 0)


def test_one_rank_alone_can_ask_for_the_largest_tolerance_of_all_groups():
    known, groups = experiments(), mfdeq.petsc.Groups(PETSc.COMM_WORLD, COUNTS[-1])
    rtols = [1e-8, 1e-9, None, 1e-7, 1e-6]

    def experiment(i):
        F = known[i].functional
        return mfdeq.ReducedFunctional(F.model, F.loss, rtol=rtols[i])

    F = groups.sum(experiment, 5, distributed=False)
    if RANK == 0:
        assert F.state_rtol(Backend.of(THETA)) == 1e-6
    MPI_COMM.Barrier()
