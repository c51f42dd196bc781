"""What the examples compute, on small problems: slow, and where their packages are installed."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

import mfdeq

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
pytestmark = pytest.mark.slow


@pytest.fixture
def groundwater():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import groundwater

    return groundwater


def test_groundwater_derivatives(groundwater):
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


def test_finer_groundwater_is_the_same_ground(groundwater):
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

    problem = identifiability.observed(identifiability.load_terrain(40), noise=0.5)
    found = identifiability.mode(problem)
    return identifiability, problem, found.equilibrium, found


def test_the_mode_is_one(fitted):
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
def test_a_posterior_of_terrain_is_the_dense_one(fitted, hessian):
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
            assert example.above(H, R, shift) == np.sum(mu > shift)

    few = mfdeq.LowRank(mfdeq.eigsh(operator, 3, M=R))
    posterior = eq.hessian(problem.loss)
    rest = example.left_out(posterior if hessian == "exact" else posterior.gauss_newton, few)
    share = np.sum(mu / (1 + mu)) - np.sum(few.values / (1 + few.values))
    assert abs(rest.determined - share) < 4 * rest.determined_error < share
    larger = np.mean(few.variances() - np.diag(covariance))
    assert abs(rest.variance - larger) < 4 * rest.variance_error < 4 * larger


def test_conductivities_are_calibrated(monkeypatch):
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import calibration

    known = calibration.observed(calibration.load_terrain(40))
    problem, truth = known.problem, known.truth
    heads = mfdeq.solve(problem.model, truth).state[known.wells]
    noise = problem.misfit.data - heads
    assert 0.7 * calibration.NOISE < noise.std() < 1.3 * calibration.NOISE

    monkeypatch.setitem(calibration.ITERATIONS, "l-bfgs", 30)
    minima = {
        name: calibration.calibrate(problem, *how) for name, how in calibration.METHODS.items()
    }
    newton, *others = minima.values()
    assert newton.converged
    assert len(newton.report.steps) <= 1 + 100
    prior = calibration.rms(truth - problem.mean)
    assert calibration.rms(newton.params - truth) < 0.6 * prior
    start = mfdeq.solve(problem.model, problem.mean)
    assert calibration.wells_off(known, newton.equilibrium) < 1.0
    assert calibration.wells_off(known, start) > 10.0
    for other in others:
        assert not other.converged
        assert len(other.report.steps) == 1 + 30
        assert newton.value < other.value < newton.report.steps[0].value


@pytest.fixture(scope="module")
def bratu():
    pytest.importorskip("matplotlib", reason="the examples need the extra plot")
    import bratu

    return bratu


def test_bratu_grows_towards_its_fold_as_the_fold_says(bratu):
    model = bratu.Bratu(17)
    fold = bratu.find_fold(model, bratu.followed(bratu.ToRounding(17)))
    phi = np.linalg.svd(model.linearize(fold.u, np.array([fold.lam])).d_state.toarray())[2][-1]
    assert abs(fold.slope / (phi[model.centre] * (phi @ np.exp(fold.u))) - 1) < 1e-6
    start = fold.u - 1e-3 * abs(phi)
    for gap, off in ((1e-4, 1e-2), (1e-6, 1e-3)):
        eq = mfdeq.solve(model, np.array([fold.lam - gap]), start)
        row = bratu.look(eq, gap)
        assert row.height < fold.u[model.centre]
        assert abs(row.slope * row.sigma / fold.slope - 1) < off
        assert abs(row.bend * row.sigma**3 / fold.bend - 1) < off
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        mfdeq.solve(model, np.array([fold.lam + 1e-2]), fold.u)


def test_a_diagram_of_bratu(bratu):
    import bratu_diagram

    model = bratu.Bratu(17)
    branch = bratu.followed(bratu.ToRounding(17), bratu_diagram.EIGENVALUES)
    top = bratu.find_fold(model, branch).u[model.centre]
    along = bratu_diagram.places(model, branch)
    for place in along:
        upper = place.height > top
        assert place.unstable == upper == (place.eigenvalues[0] < 0)
        assert (place.slope < 0) == upper
        assert place.off < 1e-7
    states = [point.state for point in branch.points if not point.kind]
    for place, state in zip(along, states, strict=True):
        if abs(place.slope) < 1.0:
            u = [
                model.at_centre(mfdeq.solve(model, np.array([place.lam + s]), state).state)
                for s in (-1e-3, 0.0, 1e-3)
            ]
            assert (u[2] - u[0]) / 2e-3 == pytest.approx(place.slope, rel=1e-4)
            assert (u[2] - 2 * u[1] + u[0]) / 1e-6 == pytest.approx(place.bend, rel=1e-2, abs=1e-3)


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
def test_power_flow_equals_pandapower_s(power_grid, case):
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


def test_power_flow_derivatives(flow):
    found = mfdeq.verify(flow.model, flow.params(), flow.objective, flow.flat())
    assert found.verdict == "PASS", str(found)


def test_power_flow_gradient_is_that_of_solved_equilibria(flow):
    F = mfdeq.ReducedFunctional(flow.model, flow.objective, flow.flat())
    theta, v = flow.params(), np.random.default_rng(0).standard_normal(flow.param_size)
    step = 1e-4 * v / np.linalg.norm(v)
    g, gv = F.gradient(theta) @ step, F.hessp(theta, step)
    assert abs((F.value(theta + step) - F.value(theta - step)) / 2 - g) < 1e-6 * abs(g)
    change = (F.gradient(theta + step) - F.gradient(theta - step)) / 2
    assert np.linalg.norm(change - gv) < 1e-6 * np.linalg.norm(gv)


def test_power_flow_falls_towards_collapse(power_grid, flow):
    eq = mfdeq.solve(flow.model, flow.params(), flow.flat())
    found, A = eq.smallest_singular, eq.linearization.d_state.toarray()
    sigma = np.linalg.svd(A, compute_uv=False)[-1]
    assert sigma <= found.value < 1.01 * sigma
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


def test_layer_derivatives_are_those_of_its_iterations(deq_digits):
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


def test_layer_has_one_equilibrium_whatever_its_weights(deq_digits):
    layer, _ = deq_digits.load_digits(7, units=6)
    rng = np.random.default_rng(0)
    theta = 3.0 * rng.standard_normal(layer.model.param_size)
    W = np.asarray(deq_digits.recurrent(layer.model.params_tree(theta)["V"]))
    assert np.linalg.norm(W, 2) > 2.0  # no contraction
    assert np.linalg.eigvalsh((W + W.T) / 2)[-1] <= 1.0 - deq_digits.MARGIN + 1e-9
    starts = 0.9 * rng.uniform(-1, 1, (4, layer.model.state_size))
    states = [mfdeq.solve(layer.model, theta, h).state for h in starts]
    assert max(np.linalg.norm(h - states[0]) for h in states) < 1e-7


def test_newton_s_method_trains_the_layer(deq_digits):
    layer, _ = deq_digits.load_digits(40, units=3)
    start = layer.model.flat_params(layer.weights)
    size = deq_digits.Size(3, 40, newton=25, adam=40, look=100)
    for train in (deq_digits.by_newton, deq_digits.by_adam):
        theta, log = train(layer, start, size)
        assert log.rows[-1].loss < 0.9 * log.rows[0].loss
        assert layer.share_right(theta) > layer.share_right(start)
