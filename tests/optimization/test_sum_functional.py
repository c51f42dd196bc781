"""`mfdeq.SumFunctional`: sums over experiments against dense truth, shared factors, failures."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.optimize
from support.cases import close
from support.experiments import (
    PRECISION,
    WEIGHTS,
    P,
    Rootless,
    Source,
    matrices,
    mixed,
    smooth,
    source,
)
from support.places import available_cupy, to_numpy

import mfdeq

PLACES = [("float64", np), ("float32", np)]
if (cupy := available_cupy()) is not None:
    PLACES.append(("float64", cupy))
RTOL = {"float64": 1e-10, "float32": 1e-3}


class Sum:
    """A sum with its dense truth, at theta."""

    def __init__(self, dtype="float64", xp=np, **options):
        self.theta, experiments = mixed(dtype, xp)
        self.functionals = [e.functional for e in experiments]
        self.truths = [e.truth for e in experiments]
        precision = xp.asarray(PRECISION.astype(dtype))
        prior = mfdeq.QuadraticPrior(precision)
        self.F = mfdeq.SumFunctional(self.functionals, WEIGHTS, prior=prior, **options)

    def total(self, name):
        return sum(
            weight * np.asarray(get(truth, name))
            for weight, truth in zip(WEIGHTS, self.truths, strict=True)
        )

    @property
    def value(self):
        theta = to_numpy(self.theta).astype(float)
        return self.total("loss.value") + 0.5 * theta @ PRECISION @ theta

    @property
    def gradient(self):
        return self.total("gradient") + PRECISION @ to_numpy(self.theta).astype(float)

    @property
    def H(self):
        return self.total("H") + PRECISION


def get(x, name):
    for part in name.split("."):
        x = getattr(x, part)
    return x


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[0]}-{place[1].__name__}")
def place(request):
    return request.param


def test_value_gradient_and_hessian_are_those_of_the_experiments(place):
    dtype, xp = place
    s, rtol = Sum(dtype, xp), RTOL[dtype]
    close(np.array([s.F.value(s.theta)]), np.array([s.value]), rtol)
    close(s.F.values(s.theta), np.array([t.loss.value for t in s.truths]), rtol)
    close(s.F.gradient(s.theta), s.gradient, rtol)
    H = s.F.hessian(s.theta)
    assert H.shape == (P, P)
    V = np.random.default_rng(0).standard_normal((P, 4)).astype(dtype)
    close(H @ xp.asarray(V), s.H @ V, rtol)
    close(H.H @ xp.asarray(V), s.H @ V, rtol)
    close(H @ xp.asarray(V[:, 0]), s.H @ V[:, 0], rtol)
    close(s.F.hessp(s.theta, xp.asarray(V[:, 1])), s.H @ V[:, 1], rtol)
    assert H.dtype == np.dtype(dtype)


def test_parts_of_the_hessian_are_those_of_the_experiments(place):
    dtype, xp = place
    s, rtol = Sum(dtype, xp), RTOL[dtype]
    H, eye = s.F.hessian(s.theta), xp.eye(P, dtype=dtype)
    close(H.gauss_newton @ eye, s.total("gauss_newton") + PRECISION, rtol)
    close(H.dynamics @ eye, s.total("dynamics"), rtol)
    for name, term in H.terms.items():
        expected = sum(
            w * truth.terms[name] for w, truth in zip(WEIGHTS, s.truths, strict=True)
        ) + (PRECISION if name == "loss_params" else 0.0)
        assert np.abs(to_numpy(term @ eye) - expected).max() <= 10 * rtol * np.abs(s.H).max()
    states = sum(truth.N for truth in s.truths)
    assert H.lagrangian.shape == (P + states, P + states)
    close(H.adjoint_state, np.concatenate([t.adjoint_state for t in s.truths]), rtol)
    stacked = xp.concatenate(
        [eye, *(xp.asarray(t.Z.astype(dtype)) for t in s.truths)], axis=0
    )  # T' K T with the dense sensitivities
    close(stacked.T @ (H.lagrangian @ stacked), s.H, rtol)


def test_experiments_with_equal_matrices_share_a_factor_and_a_block():
    s = Sum()
    s.F.gradient(s.theta)
    H = s.F.hessian(s.theta)
    reports = [F.equilibrium(s.theta).report for F in s.functionals]
    first, second, _, _, last = reports
    assert first.forward.setups + first.linear.setups == 1
    for report in (second, last):
        assert report.forward.setups + report.linear.setups == 0
        assert report.forward.columns + report.linear.columns == 0
    before = first.linear.solves, first.linear.adjoint_solves, first.linear.columns
    H @ np.ones((P, 2))  # whose error is estimated by a product at the first experiment
    before = first.linear.solves, first.linear.adjoint_solves, first.linear.columns
    H @ np.ones((P, 2))
    after = first.linear.solves, first.linear.adjoint_solves, first.linear.columns
    assert np.subtract(after, before).tolist() == [1, 1, 12]
    matrices_held = {id(F.equilibrium(s.theta).linearized.A) for F in s.functionals}
    assert len(matrices_held) == 3


def test_states_of_linear_models_are_solved_for_as_one_block():
    s = Sum()
    s.F.value(s.theta)
    report = s.functionals[0].equilibrium(s.theta).report
    assert report.forward.solves == 2  # the step and the correction
    assert report.forward.columns == 6
    assert s.functionals[1].model.calls == 1  # at the state
    for F, truth in zip(s.functionals, s.truths, strict=True):
        close(F.equilibrium(s.theta).state, truth.state, 1e-10)
        assert F.equilibrium(s.theta).report.converged
    assert s.F.solves == 5
    assert s.functionals[2].equilibrium(s.theta).report.uniqueness == "judged"
    assert s.functionals[4].equilibrium(s.theta).report.uniqueness == "judged"


def test_the_next_theta_is_solved_from_the_last_states():
    s = Sum()
    s.F.gradient(s.theta)
    theta = s.theta + 0.01
    fresh = Sum()
    close(s.F.gradient(theta), fresh.F.gradient(theta), 1e-10)
    close(s.F.hessian(theta).toarray(), fresh.F.hessian(theta).toarray(), 1e-9)
    assert s.F.solves == 10


def test_experiments_whose_matrices_become_different_are_solved_by_themselves():
    theta, _ = smooth()
    D, other = matrices(5, 1), matrices(5, 1)
    other[2] = other[2] + 0.1 * np.eye(5)  # the same A where theta[1] is zero
    theta[1] = 0.0
    one, two = source(D, 3, theta), source(other, 4, theta)
    F = mfdeq.SumFunctional([one.functional, two.functional])
    F.gradient(theta)
    theta = theta + np.array([0.0, 0.5, 0.0])
    one, two = source(D, 3, theta), source(other, 4, theta)
    close(F.gradient(theta), one.truth.gradient + two.truth.gradient, 1e-10)
    close(F.hessian(theta).toarray(), one.truth.H + two.truth.H, 1e-10)


def test_groups_with_equal_matrices_are_found_in_any_order():
    theta, _ = smooth()
    D, other, third = matrices(6, 1), matrices(6, 2), matrices(6, 3)
    order = [third, D, other, D, other, D]
    experiments = [source(d, i, theta) for i, d in enumerate(order)]
    F = mfdeq.SumFunctional([e.functional for e in experiments])
    close(F.gradient(theta), sum(e.truth.gradient for e in experiments), 1e-10)
    close(F.hessian(theta).toarray(), sum(e.truth.H for e in experiments), 1e-10)
    reports = [e.functional.equilibrium(theta).report for e in experiments]
    setups = [r.forward.setups + r.linear.setups for r in reports]
    assert setups[1:] == [1, 1, 0, 0, 0]
    together = [any("at once" in choice for choice in r.choices) for r in reports]
    assert together == [False, True, True, True, True, True]
    assert F.equilibrium(theta).groups == [[0], [1, 3, 5], [2, 4]]


def test_matrices_that_differ_where_the_state_is_zero_are_told_apart():
    theta = np.zeros(P)
    eye = np.eye(3)
    D = [2.0 * eye, np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))]
    D[1][2, 0] = 1.0  # couples the third unknown, which is zero at theta = 0, to the first
    other = [np.diag([2.0, 2.0, 3.0]), *D[1:]]
    b, loss = np.array([1.0, 1.0, 0.0]), mfdeq.LeastSquares([2], [1.0])
    F = mfdeq.SumFunctional([mfdeq.ReducedFunctional(Source(d, b), loss) for d in (D, other)])
    # h_2 = -theta_0 h_0 / a with h_0 = 1/2 and a = 2 or 3; the loss is (h_2 - 1)² / 2.
    close(F.gradient(theta), np.array([0.25 + 1 / 6, 0.0, 0.0]), 1e-12)
    assert F.equilibrium(theta).groups == [[0], [1]]


def test_gradients_at_other_states_are_weighted():
    s = Sum()
    state = s.F.equilibrium(s.theta).state
    close(s.F.gradient_at(s.theta, state), s.gradient, 1e-9)
    close(
        s.F.partial_gradient(s.F.equilibrium(s.theta)),
        s.total("loss.L_t") + PRECISION @ s.theta,
        1e-9,
    )


def test_nonlinear_models_of_one_class_are_solved_by_themselves():
    theta, one = smooth()
    _, two = smooth()
    F = mfdeq.SumFunctional([one.functional, two.functional], [1.0, 2.0])
    close(F.gradient(theta), 3.0 * one.truth.gradient, 1e-10)
    close(F.hessian(theta).toarray(), 3.0 * one.truth.H, 1e-9)
    assert F.equilibrium(theta).groups == [[0, 1]]  # the same equilibrium twice
    assert F.solves == 2


def test_solvers_are_not_mixed():
    theta, _ = smooth()
    D = matrices(30, 1)
    krylov = mfdeq.Krylov(rtol=1e-12)
    experiments = [source(D, 1, theta), source(D, 2, theta, solver=krylov), source(D, 3, theta)]
    F = mfdeq.SumFunctional([e.functional for e in experiments])
    close(F.gradient(theta), sum(e.truth.gradient for e in experiments), 1e-9)
    assert F.equilibrium(theta).groups == [[0, 2], [1]]
    assert "gmres" in F.equilibrium(theta).parts[1].report.solver


def test_sums_and_multiples_of_functionals_are_sums():
    theta, experiments = mixed()
    F1, F2, F3 = (e.functional for e in experiments[:3])
    H1, H2, H3 = (e.truth.H for e in experiments[:3])
    eye = np.eye(P)
    prior = mfdeq.QuadraticPrior(PRECISION)
    for F, expected in (
        (F1 + 0.5 * F2, H1 + 0.5 * H2),
        (sum([F1, F2, F3]), H1 + H2 + H3),
        (2.0 * (F1 - F3 / 4), 2 * H1 - H3 / 2),
        (-F1 + F1 + F1, H1),
        (F1 + prior, H1 + PRECISION),
        (prior + F1, H1 + PRECISION),
        (0.5 * (F1 + prior) + F2 + prior, 0.5 * H1 + H2 + 1.5 * PRECISION),
        (mfdeq.SumFunctional([F1 + F2, 3.0 * F3], [2.0, 1.0]), 2 * H1 + 2 * H2 + 3 * H3),
    ):
        assert isinstance(F, mfdeq.SumFunctional)
        close(F.hessian(theta) @ eye, expected, 1e-9)
        assert len(F.values(theta)) == len(F)


def test_models_of_all_kinds_are_summed():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    theta, experiments = mixed()
    conserved = mfdeq.constrain(
        mfdeq.from_function(
            lambda h, p: (np.exp(p[0]) * h[0] - np.exp(p[1]) * h[1]) * np.array([1.0, -1.0]),
            *(2, P, "residual"),
        ),
        mfdeq.LinearConstraint(np.ones(2), lambda p: p[2], lambda p: np.eye(P)[2]),
    )
    C = jnp.asarray(0.2 * np.random.default_rng(5).standard_normal((4, P)))
    traced = mfdeq.from_jax(
        lambda h, p: h + h**3 - C @ p, state=jnp.zeros(4), params=jnp.zeros(P), kind="residual"
    )
    loss = mfdeq.LeastSquares(np.array([0]), np.array([0.4]))
    others = [mfdeq.ReducedFunctional(model, loss) for model in (conserved, traced)]
    F = mfdeq.SumFunctional([*(e.functional for e in experiments), *others], [*WEIGHTS, 3.0, 2.0])

    def conserved_value(p):
        h = p[2] * jnp.exp(p[1]) / (jnp.exp(p[0]) + jnp.exp(p[1]))
        return 0.5 * (h - 0.4) ** 2

    def traced_value(p):
        s = (C @ p)[0]
        h = jax.lax.fori_loop(
            0, 60, lambda _, h: h - (h + h**3 - s) / (1 + 3 * h**2), s / (1 + s**2)
        )
        return 0.5 * (h - 0.4) ** 2

    def closed(p):
        return 3.0 * conserved_value(p) + 2.0 * traced_value(p)

    sums = [
        sum(w * get(e.truth, name) for w, e in zip(WEIGHTS, experiments, strict=True))
        for name in ("loss.value", "gradient", "H")
    ]
    p = jnp.asarray(theta)
    close(np.array(F.value(theta)), sums[0] + np.asarray(closed(p)), 1e-9)
    close(F.gradient(theta), sums[1] + np.asarray(jax.grad(closed)(p)), 1e-8)
    close(F.hessian(theta).toarray(), sums[2] + np.asarray(jax.hessian(closed)(p)), 1e-6)


# Accuracy


def test_error_estimates_of_the_experiments_add_up():
    theta, _ = smooth()
    D = matrices(60, 1)
    loose = mfdeq.Krylov(rtol=1e-8)
    experiments = [source(D, seed, theta, solver=loose, form="dense") for seed in (1, 2)]
    experiments.append(source(matrices(40, 2), 3, theta, solver=loose, form="dense"))
    F = mfdeq.SumFunctional([e.functional for e in experiments], [1.0, 2.0, 3.0])
    exact = sum(w * e.truth.H for w, e in zip((1.0, 2.0, 3.0), experiments, strict=True))
    H, V = F.hessian(theta), np.random.default_rng(0).standard_normal((P, 2))
    for rtol in (1e-2, 1e-4):
        product, error = H.with_error(V, rtol=rtol)
        off = np.linalg.norm(product - exact @ V, axis=0)
        assert (off <= np.linalg.norm(error, axis=0)).all()
        assert np.linalg.norm(error) <= 100 * rtol * np.linalg.norm(product)
        assert np.linalg.norm(H.apply_inexact(V, rtol) - exact @ V) <= 100 * rtol
    assert H.iterative
    accurate = H.to_accuracy(1e-6) @ V
    assert np.linalg.norm(accurate - exact @ V) <= 1e-6 * np.linalg.norm(exact @ V)
    F = mfdeq.SumFunctional([e.functional for e in experiments], [1.0, 2.0, 3.0], accuracy=1e-6)
    assert np.linalg.norm(F.hessp(theta, V[:, 0]) - exact @ V[:, 0]) <= 1e-5


# Consumers


def test_eigenvalues_are_those_of_the_dense_sum():
    s = Sum()
    H, expected = s.F.hessian(s.theta), np.linalg.eigvalsh(s.H)
    close(mfdeq.eigsh(H, k=3).values, expected, 1e-6)
    pairs = mfdeq.eigsh(H, k=1, which="LA", certify=False)
    close(pairs.values, expected[-1:], 1e-6)
    prior = mfdeq.Precision(PRECISION)
    misfit = mfdeq.SumFunctional(s.functionals, WEIGHTS).hessian(s.theta)
    posterior = mfdeq.LowRank(mfdeq.eigsh(misfit, k=3, M=prior))  # of H, without the prior
    close(posterior @ np.eye(P), np.linalg.inv(s.H), 1e-6)


def sum_of_sparse_sources():
    theta, _ = smooth()
    D, other = matrices(9, 1), matrices(7, 2)
    experiments = [source(D, 1, theta), source(other, 2, theta), source(D, 3, theta)]
    prior = mfdeq.QuadraticPrior(np.diag(np.diag(PRECISION)))
    F = mfdeq.SumFunctional([e.functional for e in experiments], [1.0, 2.0, -0.5], prior=prior)
    truths = (e.truth.H for e in experiments)
    H = sum(w * H for w, H in zip((1.0, 2.0, -0.5), truths, strict=True))
    return F, theta, H + np.diag(np.diag(PRECISION))


def test_the_lagrangian_system_of_a_sum_is_assembled():
    F, theta, dense = sum_of_sparse_sources()
    H, values = F.hessian(theta), np.linalg.eigvalsh(dense)
    shift = 0.5 * (values[0] + values[1])
    inverse = mfdeq.ShiftedInverse(H, shift)
    assert inverse.below == 1
    b = np.arange(1.0, P + 1)
    close(inverse @ b, np.linalg.solve(dense - shift * np.eye(P), b), 1e-9)
    pairs = mfdeq.eigsh(H, k=2, sigma=shift, certify=True)
    nearest = values[np.argsort(abs(values - shift))[:2]]
    close(np.sort(pairs.values), np.sort(nearest), 1e-6)
    assert pairs.report.missed == 0


def test_shifts_without_matrices_are_refused_with_advice():
    s = Sum()
    model = s.functionals[2].model
    loss = mfdeq.Loss(
        lambda h, theta: float(h @ h),
        d_state=lambda h, theta: 2 * h,
        curvature=lambda h, theta: lambda u, z: (0 * u, 2 * z),
    )
    F = mfdeq.SumFunctional([s.functionals[0], mfdeq.ReducedFunctional(model, loss)])
    with pytest.raises(mfdeq.ArgumentError, match="eigsh without sigma"):
        mfdeq.eigsh(F.hessian(s.theta), k=1, sigma=0.1)


@pytest.mark.parametrize("method", ["newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs"])
def test_a_sum_is_minimized_by_every_method(method):
    F, theta, _ = sum_of_sparse_sources()
    F.weights[2] = 0.5
    found = mfdeq.minimize(F, theta, method=method, gtol=1e-8)
    assert found.converged
    assert np.linalg.norm(F.gradient(found.params)) <= 1e-6
    assert found.report.metric == "the prior's precision"
    assert found.definite
    assert len(found.equilibrium.parts) == 3
    again = pickle.loads(pickle.dumps(found))
    assert again.value == found.value
    assert again.definite


def test_scipy_minimizes_a_sum():
    F, theta, _ = sum_of_sparse_sources()
    F.weights[2] = 0.5
    found = scipy.optimize.minimize(
        F.value, theta, jac=F.gradient, hessp=F.hessp, method="trust-krylov", tol=1e-8
    )
    assert np.linalg.norm(F.gradient(found.x)) <= 1e-6


def test_a_minimization_resumes_from_a_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    F, theta, _ = sum_of_sparse_sources()
    F.weights[2] = 0.5
    whole = mfdeq.minimize(F, theta, gtol=1e-10, checkpoint=tmp_path / "whole.ckpt")
    F, theta, _ = sum_of_sparse_sources()
    F.weights[2] = 0.5
    with pytest.raises(mfdeq.ConvergenceError):
        mfdeq.minimize(F, theta, gtol=1e-10, max_iterations=2, checkpoint=path)
    F, theta, _ = sum_of_sparse_sources()
    F.weights[2] = 0.5
    resumed = mfdeq.minimize(F, theta, gtol=1e-10, checkpoint=path)
    assert np.array_equal(resumed.params, whole.params)
    assert resumed.report.equilibria == whole.report.equilibria


def test_a_sum_survives_pickling():
    F, theta, dense = sum_of_sparse_sources()
    value = F.value(theta)
    again = pickle.loads(pickle.dumps(F))
    assert again.value(theta) == pytest.approx(value, rel=1e-12)
    close(again.hessian(theta).toarray(), dense, 1e-9)


# Random subsets


def test_samples_are_unbiased_and_keep_the_prior():
    s = Sum(names=["a", "b", "c", "d", "e"])
    rng, total, draws = np.random.default_rng(1), np.zeros(P), 400
    for _ in range(draws):
        part = s.F.sample(rng, 2)
        assert len(part) == 2
        total += part.gradient(s.theta)
    close(total / draws, s.gradient, 0.1)
    seen = {tuple(s.F.sample(rng, 4).names) for _ in range(60)}
    assert len(seen) == 5
    whole = s.F.sample(0, 5)
    assert whole.weights == s.F.weights
    close(whole.hessian(s.theta).toarray(), s.H, 1e-10)
    assert s.F.sample(7, 3).names == s.F.sample(7, 3).names
    with pytest.raises(mfdeq.ArgumentError, match="at most 5"):
        s.F.sample(rng, 6)


# Failures


def with_a_failure(**options):
    theta, experiments = mixed()
    theta = theta * 0.0
    bad = mfdeq.ReducedFunctional(Rootless(), mfdeq.LeastSquares([0], [0.0]))
    functionals = [experiments[0].functional, bad, experiments[2].functional]
    return mfdeq.SumFunctional(functionals, **options), theta


@pytest.mark.parametrize("names", [None, ["north", "south", "west"]])
def test_an_experiment_without_an_equilibrium_is_named(names):
    F, theta = with_a_failure(names=names)
    for function in (F.value, F.gradient, F.hessian, F.equilibrium, F.values):
        with pytest.raises(mfdeq.ConvergenceError, match=r"^experiment 1\b") as caught:
            function(theta)
        assert ("1 (south):" in str(caught.value)) == (names is not None)
    assert caught.value.best is not None
    assert [f.solves for f in F.functionals] == [1, 1, 1]  # none of the others is lost
    assert F.functionals[2].equilibrium(theta).report.converged
    with pytest.raises(mfdeq.ConvergenceError, match="theta0"):
        mfdeq.minimize(F, theta)


def test_failures_are_infinite_where_that_is_asked_for():
    F, theta = with_a_failure(on_failure="inf")
    assert F.value(theta) == np.inf
    assert np.isnan(F.gradient(theta)).all()
    values = F.values(theta)
    assert np.isinf(values).tolist() == [False, True, False]
    expected = F.functionals[2].value(theta)
    assert values[2] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(mfdeq.ConvergenceError, match="experiment 1"):
        F.hessian(theta)
    part = F.functionals[0]
    assert mfdeq.SumFunctional([part]).on_failure == "raise"
    inf = mfdeq.ReducedFunctional(part.model, part.loss, on_failure="inf")
    assert (inf + inf).on_failure == "inf"
    assert (inf + part).on_failure == "raise"


def test_all_experiments_that_fail_are_named():
    theta, experiments = mixed()
    bad = [mfdeq.ReducedFunctional(Rootless(), mfdeq.LeastSquares([0], [0.0])) for _ in range(2)]
    F = mfdeq.SumFunctional([bad[0], experiments[0].functional, bad[1]])
    with pytest.raises(mfdeq.ConvergenceError, match=r"experiment 0 \(and 2\): "):
        F.value(theta * 0.0)


def test_mistakes_propagate_with_the_experiment():
    theta, experiments = mixed()

    def broken(h, theta):
        raise NameError("a mistake")

    loss = mfdeq.Loss(broken, d_state=broken)
    F = mfdeq.SumFunctional(
        [experiments[0].functional, mfdeq.ReducedFunctional(experiments[2].functional.model, loss)],
        on_failure="inf",
    )
    with pytest.raises(NameError, match="a mistake") as caught:
        F.value(theta)
    assert any("experiment 1" in note for note in caught.value.__notes__)


BAD = {
    "no functionals": (lambda F: mfdeq.SumFunctional([]), "at least one"),
    "a model": (lambda F: mfdeq.SumFunctional([F.model]), "ReducedFunctional"),
    "a functional alone": (lambda F: mfdeq.SumFunctional(3), "ReducedFunctional"),
    "too few weights": (lambda F: mfdeq.SumFunctional([F, F], [1.0]), "expected 2 numbers"),
    "a number as weights": (lambda F: mfdeq.SumFunctional([F, F], 2.0), "expected 2 numbers"),
    "NaN": (lambda F: mfdeq.SumFunctional([F], [np.nan]), "finite"),
    "a string": (lambda F: mfdeq.SumFunctional([F], ["1"]), "finite"),
    "names": (lambda F: mfdeq.SumFunctional([F], names=["a", "b"]), "expected 1 names"),
    "a prior of the state": (lambda F: mfdeq.SumFunctional([F], prior=F.loss), "QuadraticPrior"),
    "an unknown policy": (lambda F: mfdeq.SumFunctional([F], on_failure="skip"), "on_failure"),
    "another size": (
        lambda F: F + mfdeq.ReducedFunctional(other_size(), F.loss),
        "one number of parameters",
    ),
    "an executor": (lambda F: mfdeq.SumFunctional([F], executor=4), "Executor"),
}


def other_size():
    return mfdeq.from_function(lambda h, theta: h - theta[:1], 1, 2, "residual")


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    make, message = BAD[name]
    loss = mfdeq.LeastSquares([0], [1.0])
    with pytest.raises(mfdeq.ArgumentError, match=message):
        make(mfdeq.ReducedFunctional(Rootless(), loss))


def test_sums_with_other_objects_are_type_errors():
    F = mfdeq.ReducedFunctional(Rootless(), mfdeq.LeastSquares([0], [1.0]))
    for make in (lambda: F + 1.0, lambda: F * F, lambda: F / "2", lambda: True * F):
        with pytest.raises(TypeError):
            make()
