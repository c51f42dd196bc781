"""Minimization in a metric: independent of units, at the minimum, and at rounding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import build, close

import mfdeq
from mfdeq.optimization.methods import METHODS

N, P = 5, 4
RNG = np.random.default_rng(3)
C = RNG.standard_normal((N, P)) / 3
D = RNG.standard_normal((N, N)) / 6 + np.diag(np.arange(2.0, 2.0 + N))
MEAN = RNG.standard_normal(P)
ROOT = RNG.standard_normal((P, P)) / 3 + np.eye(P)
PRECISION = ROOT @ ROOT.T


class Cubic(mfdeq.ResidualModel):
    """rows · (D h + h³ - C exp(theta)), with h and theta in other units."""

    state_size, param_size = N, P

    def __init__(self, rows=1.0, state=1.0, params=1.0):
        self.rows, self.state, self.params = (x * np.ones(n) for x, n in
                                              ((rows, N), (state, N), (params, P)))  # fmt: skip

    def residual(self, h, theta):
        h, theta = h / self.state, theta / self.params
        return self.rows * (D @ h + h**3 - C @ np.exp(theta))

    def linearize(self, h, theta):
        h, grown = h / self.state, np.exp(theta / self.params)
        A = self.rows[:, None] * (D + np.diag(3 * h**2)) / self.state

        def curvature(lam):
            lam = self.rows * lam
            return mfdeq.Curvature(
                params_params=sp.diags(-(C.T @ lam) * grown / self.params**2).tocsr(),
                state_state=sp.diags(6 * lam * h / self.state**2).tocsr(),
            )

        B = -self.rows[:, None] * C * grown / self.params
        return mfdeq.Linearization(sp.csr_matrix(A), sp.csr_matrix(B), curvature)


TRUTH = np.linspace(-1.0, 0.5, P)
DATA = mfdeq.solve(Cubic(), TRUTH).state + 0.03 * np.sin(np.arange(N))


def problem(rows=1.0, state=1.0, params=1.0, prior=True):
    """Return the functional and the metric, in units of rows, of the state and of parameters."""
    model = Cubic(rows, state, params)
    loss = mfdeq.LeastSquares(np.arange(N), model.state * DATA, 1 / model.state**2)
    R = sp.csr_matrix(PRECISION / np.outer(model.params, model.params))
    if prior:
        loss = loss + mfdeq.QuadraticPrior(R, model.params * MEAN)
    return mfdeq.ReducedFunctional(model, loss), R, model


def random_units(seed):
    rng = np.random.default_rng(seed)
    return [10.0 ** rng.uniform(-8, 8, n) for n in (N, N, P)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [None, "matrix"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_minima_do_not_depend_on_units(method, given, seed):
    """The iterations are the same, and the minimum to 1e-6, whatever the units."""
    reports, params = [], []
    for rows, state, unit in ([1.0, 1.0, 1.0], random_units(seed)):
        F, R, model = problem(rows, state, unit)
        metric = None if given is None else R
        found = mfdeq.minimize(F, np.zeros(P), method, metric=metric, gtol=1e-8)
        params.append(found.params / model.params)
        reports.append(found.report)
        assert found.report.metric == ("given" if given else "the prior's precision")
    close(params[1], params[0], 1e-6)
    assert abs(len(reports[0].steps) - len(reports[1].steps)) <= 2


@pytest.mark.parametrize("method", ["newton-cg", "gauss-newton"])
def test_minima_within_bounds_do_not_depend_on_units(method):
    """One parameter ends at its lower bound, another at its upper one."""
    params = []
    free = mfdeq.minimize(problem()[0], np.zeros(P), gtol=1e-8).params
    for rows, state, unit in ([1.0, 1.0, 1.0], random_units(5)):
        F, _, model = problem(rows, state, unit)
        lower = model.params * (free + np.array([0.1, -1.0, -1.0, -1.0]))
        upper = model.params * (free + np.array([1.0, -0.05, 1.0, 1.0]))
        found = mfdeq.minimize(F, np.zeros(P), method, bounds=(lower, upper), gtol=1e-8)
        assert found.params[0] == lower[0]
        assert found.params[1] == upper[1]
        params.append(found.params / model.params)
    close(params[1], params[0], 1e-6)


def test_a_diagonal_metric_finds_a_parameter_of_small_size():
    """Without a metric its gradient, or that of the other one, would not count."""
    sizes = np.array([1e-7, 1.0, 1e6, 1e2])
    F, _, _ = problem(params=sizes, prior=False)
    exact = mfdeq.minimize(problem(prior=False)[0], np.zeros(P), gtol=1e-10).params
    found = mfdeq.minimize(F, np.zeros(P), metric=1 / sizes**2, gtol=1e-10)
    close(found.params / sizes, exact, 1e-5)


def test_a_failed_run_without_a_metric_names_it_where_sizes_differ():
    sizes = np.array([1e-7, 1.0, 1e6, 1e2])
    for units, metric, named in (
        (sizes, None, True),
        (sizes, 1 / sizes**2, False),
        (np.ones(P), None, False),
    ):
        F, _, _ = problem(params=units, prior=False)
        with pytest.raises(mfdeq.ConvergenceError, match="was reached") as caught:
            mfdeq.minimize(F, 0.1 * units, metric=metric, max_iterations=1)
        assert ("pass metric=1 / sizes**2" in str(caught.value)) == named


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [True, False])
def test_a_start_at_the_minimum_has_converged(method, prior):
    F, _, _ = problem(prior=prior)
    first = mfdeq.minimize(F, np.zeros(P), "newton", gtol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = mfdeq.minimize(F, first.params, method, gtol=1e-8)
    assert again.converged
    assert len(again.report.steps) < 8
    assert again.report.limited_by in ("gtol", "rounding")
    close(again.params, first.params, 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_an_exact_fit_at_the_start_has_converged(method):
    """The loss and its gradient are rounding, to which no step is relative."""
    model = Cubic()
    data = mfdeq.solve(model, TRUTH).state
    F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares(np.arange(N), data))
    found = mfdeq.minimize(F, TRUTH, method)
    assert found.converged
    assert len(found.report.steps) < 20
    close(found.params, TRUTH, 1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_at_its_rounding_ends_a_run_with_a_warning(method):
    F, _, _ = problem()
    with pytest.warns(mfdeq.AccuracyWarning, match="which is its error"):
        found = mfdeq.minimize(F, np.zeros(P), method, gtol=1e-30, max_iterations=400)
    assert found.converged
    assert found.report.limited_by == "rounding"
    assert np.linalg.norm(found.gradient) < 1e-9


def test_wrong_derivatives_are_not_taken_for_rounding():
    class Wrong(Cubic):
        def linearize(self, h, theta):
            lin = super().linearize(h, theta)
            return mfdeq.Linearization(lin.d_state, -1.3 * lin.d_params, lin.curvature)

    loss = mfdeq.LeastSquares(np.arange(N), DATA)
    with pytest.raises(mfdeq.ConvergenceError, match=r"wrong derivatives|was reached"):
        mfdeq.minimize(mfdeq.ReducedFunctional(Wrong(), loss), np.zeros(P), gtol=1e-8)


PRIORS = {
    "a number": lambda: mfdeq.QuadraticPrior(2.0),
    "a matrix": lambda: mfdeq.QuadraticPrior(PRECISION),
    "a Precision": lambda: mfdeq.QuadraticPrior(mfdeq.Precision(PRECISION)),
    "a multiple": lambda: 3.0 * mfdeq.QuadraticPrior(sp.csr_matrix(PRECISION)),
    "a sum": lambda: mfdeq.QuadraticPrior(sp.csr_matrix(PRECISION)) + mfdeq.QuadraticPrior(1.0),
}
WITHOUT_INVERSE = {
    "a singular matrix": lambda: mfdeq.QuadraticPrior(np.diag([1.0, 1.0, 1.0, 0.0])),
    "products only": lambda: mfdeq.QuadraticPrior(sp.linalg.aslinearoperator(PRECISION)),
    "none": lambda: 0.0 * mfdeq.QuadraticPrior(1.0),
}


@pytest.mark.parametrize("kind", [*PRIORS, *WITHOUT_INVERSE])
def test_the_metric_is_the_precision_of_the_priors_if_it_has_an_inverse(kind):
    prior = {**PRIORS, **WITHOUT_INVERSE}[kind]()
    model = Cubic()
    F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares(np.arange(N), DATA) + prior)
    found = mfdeq.minimize(F, np.zeros(P), gtol=1e-7)
    g = F.gradient(np.zeros(P))
    first = found.report.steps[0].gradient_norm
    if kind in WITHOUT_INVERSE:
        assert found.report.metric == "Euclidean"
        assert first == pytest.approx(np.linalg.norm(g))
        return
    assert found.report.metric == "the prior's precision"
    R = {"a number": 2.0 * np.eye(P), "a sum": PRECISION + np.eye(P)}.get(kind, PRECISION)
    assert first == pytest.approx(np.sqrt(g @ np.linalg.solve(R, g)))
    step = found.report.steps[1]
    assert step.length > 0.0


def test_the_metric_may_be_given_in_every_form():
    F, _, _ = problem()
    g = F.gradient(np.zeros(P))
    R = PRECISION
    for metric, matrix in (
        (R, R),
        (sp.csr_matrix(R), R),
        (mfdeq.Precision(R), R),
        (mfdeq.QuadraticPrior(R), R),
        (np.diag(R).copy(), np.diag(np.diag(R))),
        (2.5, 2.5 * np.eye(P)),
    ):
        found = mfdeq.minimize(F, np.zeros(P), metric=metric)
        expected = np.sqrt(g @ np.linalg.solve(matrix, g))
        assert found.report.steps[0].gradient_norm == pytest.approx(expected)
        assert found.report.metric == "given"


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (np.eye(3), r"metric: expected the shape \(4,\) or \(4, 4\), got \(3, 3\)"),
        (np.ones(3), r"metric: expected the shape \(4,\) or \(4, 4\), got \(3,\)"),
        (-1.0, "metric: expected a positive number"),
        (mfdeq.LeastSquares(np.arange(2), np.zeros(2)), "metric: expected an mfdeq.Precision"),
        (-np.eye(P), "not positive definite"),
        (sp.linalg.aslinearoperator(np.eye(P)), "solve"),
    ],
)
def test_wrong_metrics_are_refused(metric, said):
    with pytest.raises(mfdeq.ArgumentError, match=said):
        mfdeq.minimize(problem()[0], np.zeros(P), metric=metric)


def test_a_run_with_another_metric_is_not_resumed(tmp_path):
    F, R, _ = problem()
    mfdeq.minimize(F, np.zeros(P), checkpoint=tmp_path / "run.npz")
    with pytest.raises(mfdeq.CheckpointError, match="metric"):
        mfdeq.minimize(F, np.zeros(P), metric=R, checkpoint=tmp_path / "run.npz")


def test_the_inverse_of_the_metric_is_the_default_preconditioner():
    case = build("bratu_field")
    R = np.diag(np.logspace(0, 3, 16))
    found = [
        mfdeq.minimize(
            mfdeq.ReducedFunctional(case.model, case.loss), case.params, metric=R, **options
        )
        for options in ({}, {"preconditioner": mfdeq.Precision(R)})
    ]
    np.testing.assert_array_equal(found[0].params, found[1].params)
