"""What the examples compute, on small problems: slow, and where their packages are installed."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import mfdeq

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
pytestmark = pytest.mark.slow


@pytest.fixture
def groundwater():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import groundwater

    return groundwater


def test_groundwater_derivatives_pass_verification(groundwater):
    model = groundwater.Groundwater(groundwater.load_terrain(40))
    theta = np.full(model.param_size, np.log(groundwater.CONDUCTIVITY))
    misfit = mfdeq.LeastSquares(np.arange(0, model.state_size, 50), model.surface[::50])
    loss = misfit + mfdeq.QuadraticPrior(model.smoothness(), theta)
    found = mfdeq.verify(model, theta, loss)
    assert found.verdict == "PASS", str(found)


def test_groundwater_from_far_below_the_surface_is_a_typed_error(groundwater):
    model = groundwater.Groundwater(groundwater.load_terrain(40))
    theta = np.full(model.param_size, np.log(groundwater.CONDUCTIVITY))
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError)):
        mfdeq.solve(model, theta, model.surface - 60.0)


def test_refined_terrain_averages_to_the_measured_one(groundwater):
    measured = groundwater.load_terrain(40)
    terrain = groundwater.refine(measured, 3)
    z, fine = measured.elevation, terrain.elevation
    assert fine.shape == (3 * z.shape[0], 3 * z.shape[1])
    assert terrain.dx * fine.shape[1] == pytest.approx(measured.dx * z.shape[1])
    np.testing.assert_allclose(fine[1::3, 1::3], z, atol=1e-9)  # the middles are those measured
    assert np.abs(fine.reshape(40, 3, -1, 3).mean(axis=(1, 3)) - z).mean() < 3.0

    upslope = groundwater.upslope_area(z) > groundwater.CHANNEL
    np.testing.assert_array_equal(
        groundwater.streams(measured, measured), np.flatnonzero(upslope.ravel())
    )
    row, column = np.divmod(groundwater.streams(measured, terrain), fine.shape[1])
    assert sorted(zip(row // 3, column // 3, strict=True)) == list(
        zip(*np.nonzero(upslope), strict=True)
    )
    blocks = fine.reshape(40, 3, -1, 3).min(axis=(1, 3))
    np.testing.assert_array_equal(fine[row, column], blocks[row // 3, column // 3])


def test_groundwater_without_a_device_says_what_to_install(groundwater, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"^--device cuda needs .* cuda12 or cuda13 [^\n]*$"):
        groundwater.main(["--size", "small", "--device", "cuda"])


@pytest.fixture(scope="module")
def fitted():
    """The posterior of a small terrain, at its mode: module, problem, equilibrium, minimum."""
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import identifiability

    problem = identifiability.stream_problem(identifiability.load_terrain(40), noise=0.5)
    found = identifiability.find_mode(problem)
    return identifiability, problem, found.equilibrium, found


def test_the_mode_is_a_minimum(fitted):
    _, problem, eq, found = fitted
    F = mfdeq.ReducedFunctional(problem.model, problem.loss, eq.state)
    losses = [step.value for step in found.report.steps]
    assert all(before >= after for before, after in itertools.pairwise(losses))
    assert found.report.equilibria < 20
    v = problem.prior.samples(seed=5)
    v *= 0.1 / np.linalg.norm(v)
    here = F.value(eq.params)
    assert here < min(F.value(eq.params + v), F.value(eq.params - v))
    posterior = eq.hessian(problem.loss).toarray()
    g = eq.gradient(problem.loss)
    # The mode itself is a small part of a deviation of the posterior away.
    assert g @ np.linalg.solve(posterior, g) < 1e-6
    assert found.definite is True


@pytest.mark.parametrize("hessian", ["exact", "Gauss-Newton"])
def test_the_low_rank_posterior_is_the_dense_one(fitted, hessian):
    example, problem, eq, _ = fitted
    R, H = problem.prior, eq.hessian(problem.misfit)
    operator = H if hessian == "exact" else H.gauss_newton
    dense, prior = operator.toarray(), R.array.toarray()
    dense = (dense + dense.T) / 2
    mu = scipy.linalg.eigh(dense, prior, eigvals_only=True)
    covariance = np.linalg.inv(dense + prior)

    pairs = mfdeq.eigsh(operator, 80, M=R)
    low = mfdeq.LowRank(pairs)
    np.testing.assert_allclose(low.variances(), np.diag(covariance), rtol=1e-3)
    assert np.sum(pairs.values > 1.0) == np.sum(mu > 1.0) > 2
    gain = 0.5 * np.log1p(mu).sum()
    assert low.expected_information_gain() == pytest.approx(gain, rel=1e-3)
    if hessian == "exact":
        assert np.min(mu) < -1e-3  # else the counts are of nothing that Gauss-Newton is not
        for shift in (1.0, 0.01, -1.0):
            assert example.count_above(H, R, shift) == np.sum(mu > shift)

    with pytest.warns(mfdeq.AccuracyWarning, match="compute more than 3 pairs"):
        few = mfdeq.LowRank(mfdeq.eigsh(operator, 3, M=R))
    with pytest.warns(mfdeq.AccuracyWarning, match="compute more than 3 pairs"):
        few_variances = few.variances()
    posterior = eq.hessian(problem.loss)
    rest = example.remainder(posterior if hessian == "exact" else posterior.gauss_newton, few)
    share = np.sum(mu / (1 + mu)) - np.sum(few.values / (1 + few.values))
    assert abs(rest.determined - share) < 4 * rest.determined_error < share
    larger = np.mean(few_variances - np.diag(covariance))
    assert abs(rest.variance - larger) < 4 * rest.variance_error < 4 * larger


def test_newton_calibrates_further_than_l_bfgs(groundwater):
    import calibration

    problem = calibration.synthetic_problem(groundwater.load_terrain(40))
    prior = {"preconditioner": problem.prior}
    newton = calibration.calibrate(problem, "newton-cg", 100, max_iterations=100, **prior)
    assert newton.converged
    most = 5 * newton.report.equilibria
    bfgs = calibration.calibrate(problem, "l-bfgs", most, max_iterations=most, **prior)
    assert not bfgs.converged
    assert most <= bfgs.report.equilibria <= most + 20  # a search ends before the callback
    assert (
        newton.value
        < bfgs.value
        < problem.loss.value(mfdeq.solve(problem.model, problem.mean).state, problem.mean)
    )
    off = [np.linalg.norm(x - problem.truth) for x in (newton.params, problem.mean)]
    assert off[0] < 0.8 * off[1]


def test_the_recharge_study_is_complete_and_reproducible(groundwater, tmp_path, monkeypatch):
    pytest.importorskip("jinja2", reason="the studies extra is not installed")
    import recharge

    monkeypatch.chdir(tmp_path)
    recharge.main(["--size", "small"])
    records = mfdeq.Study("recharge_small").records()
    assert [record.status for record in records] == ["done"] * 12
    wetness = [record.params["wetness"] for record in records]
    assert np.corrcoef(np.log(wetness), [r.outputs["mean_depth"] for r in records])[0, 1] < -0.8
    one = records[5]
    model = recharge.valley(np.random.default_rng(one.seed), **one.params)
    rain = model.recharge
    assert rain.mean() == pytest.approx(one.params["wetness"] * recharge.MEAN)
    eq = mfdeq.solve(model, recharge.conductivities(model))
    np.testing.assert_allclose(one.outputs["heads"], eq.state, atol=1e-6)
    page = Path("recharge_small/report.html").read_text("utf-8")
    for text in ("12 of 12 planned cases done", "maps of depth", "length (m)", "mean_depth (m)"):
        assert text in page


def test_bratu_is_stable_below_the_fold_with_derivatives_of_differences():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import bratu_diagram
    from bratu import Bratu, ToRounding, follow_branch

    branch = follow_branch(ToRounding(17), bratu_diagram.EIGENVALUES)
    along = bratu_diagram.places(Bratu(17), branch)
    assert len(branch.folds) == 1
    assert max(place.error for place in along) < 1e-8
    lower = [place for place in along if place.unstable == 0]
    upper = [place for place in along if place.unstable == 1]
    assert len(lower) + len(upper) == len(along)
    assert all(place.slope > 0 and place.eigenvalues[0] > 0 for place in lower)
    assert all(place.slope < 0 and place.eigenvalues[0] < 0 for place in upper)
    # Differences along the lower branch, by the parameter.
    model, here = Bratu(17), lower[len(lower) // 2]
    low, mid, high = (
        model.at_centre(mfdeq.solve(model, np.array([here.lam + d])).state)
        for d in (-1e-3, 0.0, 1e-3)
    )
    assert (high - low) / 2e-3 == pytest.approx(here.slope, rel=1e-4)
    assert (high - 2 * mid + low) / 1e-6 == pytest.approx(here.bend, rel=1e-3)


@pytest.fixture(scope="module")
def power_grid():
    for package in ("jax", "pandapower"):
        pytest.importorskip(package, reason="the examples need the extra examples")
    import power_grid

    return power_grid


@pytest.fixture(scope="module")
def flow(power_grid):
    return power_grid.PowerFlow(power_grid.load_grid("case14"))


@pytest.mark.parametrize("case", ["case14", "case30", "case118"])
def test_power_flow_equals_that_of_pandapower(power_grid, case):
    grid = power_grid.load_grid(case)
    flow = power_grid.PowerFlow(grid)
    eq = mfdeq.solve(flow.model, flow.params(), flow.flat())
    assert np.max(np.abs(flow.complex_voltages(eq.state) - grid.voltage)) < 1e-8
    assert abs(flow.lost(eq.state, eq.params) - lost_in(case)) < 1e-6 * lost_in(case)


def lost_in(case):
    """What pandapower says is lost, in MW."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandapower
        import pandapower.networks

        net = getattr(pandapower.networks, case)()
        pandapower.runpp(net, tolerance_mva=1e-9, numba=False)
    return net.res_line.pl_mw.sum() + net.res_trafo.pl_mw.sum()


def test_power_flow_derivatives_pass_verification(flow):
    found = mfdeq.verify(flow.model, flow.params(), flow.objective, flow.flat())
    assert found.verdict == "PASS", str(found)


def test_power_flow_derivatives_match_differences_of_equilibria(flow):
    F = mfdeq.ReducedFunctional(flow.model, flow.objective, flow.flat())
    theta, v = flow.params(), np.random.default_rng(0).standard_normal(flow.param_size)
    step = 1e-4 * v / np.linalg.norm(v)
    g, gv = F.gradient(theta) @ step, F.hessp(theta, step)
    assert abs((F.value(theta + step) - F.value(theta - step)) / 2 - g) < 1e-6 * abs(g)
    change = (F.gradient(theta + step) - F.gradient(theta - step)) / 2
    assert np.linalg.norm(change - gv) < 1e-6 * np.linalg.norm(gv)


def test_power_flow_approaches_collapse_like_a_fold(power_grid, flow):
    eq = mfdeq.solve(flow.model, flow.params(), flow.flat())
    found, A = eq.smallest_singular, eq.linearization.d_state.toarray()
    sigma = np.linalg.svd(A, compute_uv=False)[-1]
    assert (1.0 - 1e-12) * sigma <= found.value < 1.01 * sigma  # a bound, but for rounding
    assert np.linalg.norm(A @ found.right) < 1.01 * sigma

    steps = power_grid.towards_collapse(flow, eq.state)
    sigmas, lowest = [step.sigma for step in steps], [step.lowest for step in steps]
    assert np.all(np.diff(sigmas) < 0)
    assert np.all(np.diff(lowest[2:]) < 0)  # before, a generator holds the lowest
    # At a fold σ_min leaves like the root of what is left.
    end = steps[-1].collapse
    near, nearer = steps[-3], steps[-2]
    ratio = (nearer.sigma / near.sigma) ** 2 * (end - near.load) / (end - nearer.load)
    assert abs(ratio - 1) < 0.05
    assert abs(nearer.collapse - end) < 1e-4 * end
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        mfdeq.solve(flow.model, flow.params(1.01 * end), eq.state)


@pytest.fixture(scope="module")
def deq_digits():
    for package in ("jax", "sklearn"):
        pytest.importorskip(package, reason="the examples need the extra examples")
    import deq_digits

    return deq_digits


def test_layer_derivatives_equal_those_through_unrolled_iterations(deq_digits):
    """Gradient and Hessian product against JAX's through 200 damped iterations."""
    import jax
    from jax.flatten_util import ravel_pytree

    layer, _ = deq_digits.load_digits(7, units=3)
    model, (_, tree) = layer.model, ravel_pytree(layer.weights)

    def unrolled(theta):
        w, h = tree(theta), layer.state
        for _ in range(200):
            h = 0.5 * (h + layer.map(h, w))
        return layer.misfit(h, w) + deq_digits.DECAY * (theta @ theta) / 2

    theta = model.flat_params(layer.weights)
    v = np.random.default_rng(0).standard_normal(theta.size)
    value, g = jax.value_and_grad(unrolled)(theta)
    _, gv = jax.jvp(jax.grad(unrolled), (theta,), (v,))
    F = mfdeq.ReducedFunctional(model, layer.loss)
    assert abs(F.value(theta) - value) < 1e-9
    assert np.linalg.norm(F.gradient(theta) - g) < 1e-8 * np.linalg.norm(g)
    assert np.linalg.norm(F.hessp(theta, v) - gv) < 1e-8 * np.linalg.norm(gv)


def test_the_layer_has_one_equilibrium_for_large_weights(deq_digits):
    layer, _ = deq_digits.load_digits(7, units=6)
    rng = np.random.default_rng(0)
    theta = 3.0 * rng.standard_normal(layer.model.param_size)
    W = np.asarray(deq_digits.recurrent(layer.model.params_tree(theta)["V"]))
    assert np.linalg.norm(W, 2) > 2.0  # no contraction
    assert np.linalg.eigvalsh((W + W.T) / 2)[-1] <= 1.0 - deq_digits.MARGIN + 1e-9
    starts = 0.9 * rng.uniform(-1, 1, (4, layer.model.state_size))
    states = [mfdeq.solve(layer.model, theta, h).state for h in starts]
    assert max(np.linalg.norm(h - states[0]) for h in states) < 1e-7


def test_newton_and_adam_train_the_layer(deq_digits):
    layer, _ = deq_digits.load_digits(40, units=3)
    start = layer.model.flat_params(layer.weights)
    size = deq_digits.Size(3, 40, newton=25, adam=40, spectrum_every=100)
    for train in (deq_digits.by_newton, deq_digits.by_adam, deq_digits.by_minibatches):
        theta, log = train(layer, start, size)
        assert log.rows[-1].loss < 0.9 * log.rows[0].loss
        assert layer.share_right(theta) > layer.share_right(start)


@pytest.fixture
def bilevel():
    for package in ("jax", "sklearn"):
        pytest.importorskip(package, reason="the examples need the extra examples")
    import bilevel

    return bilevel


def test_newton_finds_regularizers_that_validate_better_than_a_common_one(bilevel):
    problem = bilevel.Bilevel(bilevel.Size(100, 300, 10))
    theta, rows, found = bilevel.by_minimize(problem, "newton-cg")
    assert found.converged
    assert found.definite
    descent = bilevel.by_descent(problem, 40, 30.0)
    assert rows[-1].loss < descent[-1].loss < descent[0].loss
    _, common = bilevel.best_common(problem)
    assert float(bilevel.misfit(problem.weights(theta), *problem.validation)) < min(common)
    # The inner minimum: its gradient is zero.
    x, y = problem.fitted
    w = np.asarray(problem.weights(theta))
    slope = -(y / (1.0 + np.exp(y * (x @ w[:-1] + w[-1])))) @ x / len(y)
    np.testing.assert_allclose(slope + np.exp(theta) * w[:-1], 0.0, atol=1e-9)


@pytest.fixture
def deq_layer():
    for package in ("torch", "sklearn"):
        pytest.importorskip(package, reason="the example needs PyTorch and the extra examples")
    import deq_layer

    return deq_layer


def test_adam_and_newton_train_the_convolutional_layer(deq_layer):
    data, unseen = deq_layer.load_digits(30)
    for name, network in deq_layer.networks(2).items():
        task = deq_layer.Task(network, data, unseen, 10)
        task.adam(4)
        after_adam = task.losses[-1]
        assert after_adam < task.losses[0]
        found = task.newton(4)
        assert found.value < after_adam
        assert task.hessian.value() == pytest.approx(found.value, rel=1e-8)
        ends = task.all_eigenvalues()[[0, -1]]
        task.record_spectrum("end")
        np.testing.assert_allclose(task.spectra["end"][[0, -1]], ends, rtol=1e-2, atol=1e-3)
        assert 0.1 < task.share_right() <= 1.0, name


def test_the_convolutional_layer_is_a_contraction_whatever_its_kernel(deq_layer):
    import torch

    layer = deq_layer.networks(2)["equilibrium"][1]
    with torch.no_grad():
        layer.module.kernel.mul_(100.0)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    h = layer(x)
    torch.testing.assert_close(layer.module(h, x), h, rtol=1e-8, atol=1e-8)
    a, b = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    apart = (layer.module(a, x) - layer.module(b, x)).abs().max()
    assert apart <= deq_layer.GAIN * (a - b).abs().max()


def test_reactions_agree_with_closed_forms(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import reactions

    monkeypatch.chdir(tmp_path)
    reactions.main(["--size", "small"])
    lines = capsys.readouterr().out.splitlines()
    errors = [float(line.split()[-1]) for line in lines if line.startswith(("error", "rates"))]
    assert len(errors) == 6
    assert max(errors) < 1e-10
    assert (tmp_path / "reactions.png").exists()


@pytest.fixture
def cavity():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import cavity

    return cavity


def test_cavity_derivatives_pass_verification(cavity):
    flow = cavity.Cavity(8)
    theta = cavity.parameters(8, 20.0) + 0.1 * np.random.default_rng(0).standard_normal(8)
    found = mfdeq.verify(flow.constrained(), theta, flow.energy())
    assert found.verdict == "PASS", str(found)


def test_cavity_comes_close_to_the_published_velocities(cavity, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cavity.main(["--size", "small"])
    lines = capsys.readouterr().out.splitlines()
    rows = [re.findall(r"-?\d[\d.e-]*", line) for line in lines if line.startswith("  Re = ")]
    numbers = np.array(rows, dtype=float)  # Re, u, v, mean pressure, imbalance
    assert (numbers[:, 1:3] < np.array([[0.02], [0.02], [0.04]])).all()  # 32 x 32 cells
    assert (abs(numbers[:, 3:]) < 1e-14).all()
    (errors,) = (line for line in lines if line.startswith("errors beside differences"))
    gradient, product = map(float, re.findall(r"\d[\d.e-]*", errors))
    assert gradient < 1e-8
    assert product < 1e-6
    assert (tmp_path / "cavity.png").exists()


def test_cavity_velocities_at_one_percent_of_the_lid(cavity):
    """At Re = 400, where 64 x 64 cells are enough."""
    flow = cavity.Cavity(64)
    model, state = flow.constrained(), None
    for reynolds in (100, 400):
        theta = cavity.parameters(64, reynolds)
        state = mfdeq.solve(model, theta, state).state
    assert max(flow.differences(state, theta, 1)) < 0.01


@pytest.fixture(scope="module")
def grounded():
    """The tomography of a small ground, at its mode: module, problem, minimum."""
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import resistivity

    problem = resistivity.synthetic_problem(resistivity.Size(16, 6, 8, 6))
    return resistivity, problem, mfdeq.minimize(problem.functional, problem.mean, gtol=1e-6)


def test_currents_of_the_tomography_are_balanced_and_derivatives_pass(grounded):
    resistivity, problem, _ = grounded
    model = resistivity.Source(problem.ground, int(problem.electrodes[2]))
    verification = mfdeq.verify(model, problem.truth, problem.misfit.functionals[2].loss)
    assert verification, verification
    eq = mfdeq.solve(model, problem.truth)
    D, M = problem.ground.D, problem.ground.M
    open_faces = np.asarray(abs(D).sum(axis=1)) == 1.0
    q = np.exp(M @ problem.truth) * (D @ eq.state)
    outflow = np.abs(q[open_faces]).sum()
    assert outflow == pytest.approx(1.0, rel=1e-9)  # what is fed in leaves far away
    # Reciprocity: the potential at b of a source in a is that at a of a source in b.
    other = int(problem.electrodes[5])
    back = mfdeq.solve(resistivity.Source(problem.ground, other), problem.truth)
    assert eq.state[other] == pytest.approx(back.state[model.cell], rel=1e-9)


def test_the_most_probable_ground_is_a_minimum_with_one_factor(grounded):
    _, problem, found = grounded
    F = problem.functional
    assert found.converged
    assert found.definite
    reports = [eq.report for eq in found.equilibrium.parts]
    assert sum(r.forward.setups + r.linear.setups for r in reports) == 1
    v = np.random.default_rng(0).standard_normal(problem.ground.size)
    for t in (1e-2, -1e-2):
        assert F.value(found.params + t * v) > found.value
    H, step = F.hessian(found.params), 1e-5
    change = F.gradient(found.params + step * v) - F.gradient(found.params - step * v)
    expected = change / (2 * step)
    np.testing.assert_allclose(H @ v, expected, atol=1e-5 * np.abs(expected).max())


def test_standard_deviations_of_the_ground_are_the_dense_ones(grounded):
    _, problem, found = grounded
    misfit = problem.misfit.hessian(found.params)
    pairs = mfdeq.eigsh(misfit, problem.ground.size, M=problem.precision)
    variances = mfdeq.LowRank(pairs).variances()
    dense = misfit.toarray() + problem.precision.array.toarray()
    np.testing.assert_allclose(variances, np.diag(np.linalg.inv(dense)), rtol=1e-5)
    assert variances[: problem.ground.nx].mean() < variances[-problem.ground.nx :].mean()


@pytest.fixture(scope="module")
def markets():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import markets

    return markets


def test_shares_of_the_markets_are_those_observed(markets):
    data = markets.simulate(markets.Size(2, 6, 20))
    market = data.models[0]
    theta = np.zeros(market.param_size)
    theta[:3] = markets.SIGMA
    delta = mfdeq.solve(market, theta).state
    shares = market.choices(delta, markets.SIGMA).mean(axis=0)
    np.testing.assert_allclose(shares, np.exp(market.log_shares), rtol=1e-9)
    loss = markets.moments_of(data.X[0], data.Z[0])
    rng = np.random.default_rng(1)
    theta = np.concatenate([markets.SIGMA, rng.standard_normal(market.param_size - 3)])
    verification = mfdeq.verify(market, theta, loss)
    assert verification, verification


def test_derivatives_of_the_gmm_objective_match_differences(markets):
    objective = markets.Objective(markets.simulate(markets.Size(4, 9, 20)))
    sigma, step, eye = np.array([0.9, 0.7, 0.8]), 1e-5, np.eye(3)
    values = [objective.value(sigma + s * step * e) for e in eye for s in (1, -1)]
    slopes = [objective.gradient(sigma + s * step * e) for e in eye for s in (1, -1)]
    gradient = np.subtract(values[::2], values[1::2]) / (2 * step)
    hessian = np.subtract(slopes[::2], slopes[1::2]) / (2 * step)
    found = objective.gradient(sigma)
    np.testing.assert_allclose(found, gradient, atol=1e-7 * np.abs(gradient).max())
    found = objective.hessian(sigma)
    np.testing.assert_allclose(found, hessian, atol=1e-6 * np.abs(hessian).max())


def test_standard_errors_of_linear_demand_are_those_of_two_stage_least_squares(markets):
    # Without random tastes (sigma fixed), the sandwich is White's formula.
    objective = markets.Objective(markets.simulate(markets.Size(6, 9, 20)))
    covariance = objective.covariance(markets.SIGMA)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)
    theta = objective.extremum(markets.SIGMA)
    X, Z = np.concatenate(objective.data.X), objective.Z
    delta, W, n = objective.delta(markets.SIGMA), objective.W, len(Z)
    beta = theta[3:6]
    projected = Z @ np.linalg.solve(Z.T @ Z, Z.T @ X)
    np.testing.assert_allclose(
        beta, np.linalg.solve(projected.T @ X, projected.T @ delta), rtol=1e-8
    )
    xi = delta - X @ beta
    # dm / dsigma by differences of the mean utilities
    step = 1e-6
    d_sigma = np.stack(
        [
            objective.delta(markets.SIGMA + step * e) - objective.delta(markets.SIGMA - step * e)
            for e in np.eye(3)
        ],
        axis=1,
    ) / (2 * step)
    G = Z.T @ np.hstack([d_sigma, -X]) / n
    Omega = (Z * xi[:, None] ** 2).T @ Z / n
    A = np.linalg.inv(G.T @ W @ G) @ G.T @ W
    np.testing.assert_allclose(covariance, A @ Omega @ A.T / n, rtol=1e-3)


def test_the_instruments_identify_all_tastes(markets):
    objective = markets.Objective(markets.simulate(markets.SIZES["small"]))
    truth = np.concatenate([markets.SIGMA, markets.BETA])
    found = scipy.optimize.minimize(
        objective.value, markets.START, jac=objective.gradient, hess=objective.hessian,
        method="trust-exact", options={"gtol": 1e-6},
    )  # fmt: skip
    errors = np.sqrt(np.diag(objective.covariance(found.x)))
    assert np.all(errors < 0.4 * np.abs(truth)), errors
    assert np.all(np.abs(objective.extremum(found.x)[:6] - truth) < 4.0 * errors)


@pytest.fixture
def heat():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import heat

    return heat


def test_the_steps_of_the_heat_example_pass_verification(heat):
    problem = heat.synthetic_problem(6, 10)
    theta = 0.1 * np.random.default_rng(0).standard_normal(problem.truth.size)
    found = mfdeq.verify(problem.model, theta, problem.misfit + problem.prior)
    assert found.verdict in ("PASS", "INCONCLUSIVE"), str(found)
    assert not [check for check in found.checks if check.verdict == "FAIL"]


def test_insulated_plates_keep_their_heat(heat):
    problem = heat.synthetic_problem(8, 20)
    eq = mfdeq.solve(problem.model, problem.truth)
    np.testing.assert_allclose(eq.steps.sum(axis=1), problem.truth[:64].sum(), rtol=1e-10)
    assert eq.steps[-1].std() < 0.2 * eq.start.std()


def test_the_heat_example_fits_its_data_and_finds_the_start(heat, tmp_path, capsys):
    problem = heat.synthetic_problem(12, 20)
    found = heat.fit(problem)
    assert found.converged
    eq = found.equilibrium
    misfit = np.sqrt(2.0 * problem.misfit.value(eq.state, eq.params) / problem.data.size)
    assert misfit < 1.1  # standard deviations of the noise
    start, kappa = np.split(eq.params - problem.truth, 2)
    assert np.linalg.norm(start) < 0.4 * np.linalg.norm(problem.truth[:144])
    assert np.linalg.norm(kappa) < 0.9 * np.linalg.norm(problem.truth[144:])
    heat.draw(tmp_path / "heat.png", problem, eq)
    assert (tmp_path / "heat.png").stat().st_size > 10_000


@pytest.fixture
def water_network():
    pytest.importorskip("wntr", reason="wntr is not installed")
    import water_network

    return water_network


def test_heads_are_those_of_epanet_by_any_coefficients(water_network):
    plans = water_network.Network("Net3")
    ageing = water_network.Ageing(plans)
    network = water_network.Network("Net3", ageing)
    truth = ageing(network.ends.mean(axis=1))
    assert np.abs(truth).max() > 0.4
    np.testing.assert_allclose(network.roughness, plans.roughness, rtol=1e-12)
    for model, theta in ((plans, np.zeros(plans.pipes)), (network, truth)):
        heads = mfdeq.solve(model, theta).state[model.pipes :]
        np.testing.assert_allclose(heads, model.solution[model.pipes :], rtol=0, atol=1e-3)
    assert np.abs(plans.solution - network.solution)[plans.pipes :].max() > 1.0


def test_the_water_network_passes_verification(water_network):
    network = water_network.Network("Net3")
    heads = np.arange(network.pipes, network.state_size, 5)
    loss = mfdeq.LeastSquares(heads, np.full(heads.shape, 50.0)) + network.prior()
    found = mfdeq.verify(network, np.full(network.pipes, 0.1), loss)
    assert found.verdict == "PASS", str(found)


def test_the_calibration_finds_the_heads_that_were_not_measured(water_network, tmp_path, capsys):
    figure = tmp_path / "water.png"
    water_network.main(["--size", "small", "--output", str(figure)])
    found = re.search(r"other heads: ([\d.]+) m by the plans, ([\d.]+) m", capsys.readouterr().out)
    before, after = map(float, found.groups())
    assert after < 0.4 * before
    assert figure.stat().st_size > 10_000


@pytest.fixture(scope="module")
def flame():
    """The reactor of hydrogen, its model, and the branch around its extinction."""
    pytest.importorskip("cantera", reason="cantera is not installed")
    import reactor

    hydrogen = reactor.Reactor(*reactor.FUELS["small"][1:3])
    model = mfdeq.mixed(hydrogen)
    branch = mfdeq.follow(model, hydrogen.theta, 0, span=reactor.SPAN, towards=-1.0)
    return reactor, hydrogen, model, branch


def test_derivatives_with_respect_to_rates_are_those_of_the_reactor(flame):
    _, hydrogen, model, _ = flame
    eq = mfdeq.solve(model, hydrogen.theta)
    by_function = mfdeq.from_function(
        hydrogen.residual, model.state_size, model.param_size, "residual"
    )
    exact = np.asarray(eq.linearization.d_params)
    found = np.asarray(by_function.linearize(eq.state, hydrogen.theta).d_params)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-7 * np.abs(exact).max())


def test_the_temperature_of_the_reactor_changes_with_the_enthalpy_that_flows_in_and_out(flame):
    _, reactor, _, _ = flame
    h = reactor.ignited - np.append(np.zeros(reactor.species), 300.0)
    change = reactor.residual(h, reactor.theta)
    enthalpies = reactor.gas.partial_molar_enthalpies / reactor.weights
    inflow = reactor.feed @ reactor.feed_enthalpies - reactor.gas.enthalpy_mass
    found = reactor.gas.cp_mass * change[-1] + enthalpies @ change[:-1]
    assert found == pytest.approx(inflow / np.exp(reactor.theta[0]), rel=1e-9)


def test_the_extinction_moves_as_its_derivative_says(flame):
    """All rates multiplied by one number divide the residence time by it."""
    reactor, hydrogen, model, branch = flame
    (fold,) = branch.folds
    slopes = fold.derivative()[1:]
    assert slopes.sum() == pytest.approx(-1.0, abs=1e-7)
    i = int(np.argmax(np.abs(slopes)))
    ends = [
        reactor.extinction(model, hydrogen.theta, branch, i, s)
        for s in (reactor.SHIFT, -reactor.SHIFT)
    ]
    assert (ends[0] - ends[1]) / (2.0 * reactor.SHIFT) == pytest.approx(slopes[i], rel=2e-3)
