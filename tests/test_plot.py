"""What pictures show: the numbers drawn, their bars and marks, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from case_toy import N, P, solved, toy_loss
from cases import build
from refusing import refused
from scipy.integrate import trapezoid

import mfdeq
from mfdeq.continuation.curve import Point
from mfdeq.spectrum.eigenpairs import EigenReport

matplotlib = pytest.importorskip("matplotlib", reason="the plots need the extra plot")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.tri import Triangulation  # noqa: E402

from mfdeq import plot  # noqa: E402


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def made(values, bounds=0.0, error=1e-9, dtype="float64", vectors=None):
    """Eigenpairs with these numbers."""
    values = np.asarray(values, dtype)
    bounds = np.full(values.shape, bounds, dtype) if np.isscalar(bounds) else np.asarray(bounds)
    errors = np.full(values.shape, error, dtype)
    report = EigenReport(True, "made", 1, 1.0, bounds, errors)
    vectors = np.eye(8, dtype=dtype)[:, : values.size] if vectors is None else vectors
    return mfdeq.Eigenpairs(values, vectors, bounds, report)


def drawn(ax):
    """Of each kind of point: numbers, heights, lower and upper ends of the bars, face colour."""
    found = {}
    for container in ax.containers:
        line, _, (bars,) = container.lines
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        x, y = line.get_data()
        face = line.get_markerfacecolor()
        found[container.get_label()] = np.asarray(x), np.asarray(y), ends[:, 0], ends[:, 1], face
    return found


def followed(*points):
    """A branch of points (t, h, kind, unstable), at theta0 = (5, 1) along (0, 2)."""
    made = [
        Point(t, np.array([h, -h]), np.zeros(2), 0.0, kind, None, unstable)
        for t, h, kind, unstable in points
    ]
    return mfdeq.Branch(made, np.array([5.0, 1.0]), np.array([0.0, 2.0]))


TURNED = followed(
    (0.0, 0.0, "", 0),
    (1.0, 1.0, "", 0),
    (1.5, 2.0, "fold", 1),
    (1.0, 3.0, "", 1),
    (0.0, 4.0, "", 1),
)


def curves(ax):
    """Of each curve that has points: its dashes, and where it is."""
    lines = [line for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata())]
    return [(line.get_linestyle(), np.column_stack(line.get_data()).tolist()) for line in lines]


def marks(ax):
    """Where marks are, by their names in the legend."""
    lines = [line for line in ax.lines if line.get_marker() != "None"]
    return {line.get_label(): np.column_stack(line.get_data()).tolist() for line in lines}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_spectrum_of_both_signs():
    ax = plot.spectrum(made([-3.0, -0.5, 0.01, 2.0, 20.0], [0.1, 0.0, 0.001, 0.5, 1.0]))
    kinds = drawn(ax)
    assert list(kinds) == ["positive", "negative"]
    x, y, low, high, face = kinds["positive"]
    np.testing.assert_allclose(x, [1, 3, 5])
    np.testing.assert_allclose(y, [20.0, 2.0, 0.01])
    np.testing.assert_allclose(high, [21.0, 2.5, 0.011])
    np.testing.assert_allclose(low, [19.0, 1.5, 0.009])
    assert face != "white"
    x, y, low, high, face = kinds["negative"]
    np.testing.assert_allclose(x, [2, 4])
    np.testing.assert_allclose(y, [3.0, 0.5])
    np.testing.assert_allclose([low[0], high[0]], [2.9, 3.1])
    assert face == "white"
    assert ax.get_yscale() == "log"
    assert legend(ax) == ["positive", "negative", "error of products ≤ 1e-09, off the axis"]
    low, high = ax.get_ylim()
    assert 1e-4 < low < 0.009
    assert high > 21.0


def test_what_may_be_zero_is_grey_and_on_the_axis():
    ax = plot.spectrum(made([-1e-17, 0.0, 2e-6, 1.0], [1e-5, 0.0, 3e-6, 1e-5], error=1e-5))
    kinds = drawn(ax)
    assert list(kinds) == ["positive", "within its bound of zero"]
    x, y, low, high, _ = kinds["within its bound of zero"]
    floor, _ = ax.get_ylim()
    np.testing.assert_array_equal(x, [2, 3, 4])
    assert np.all(y > floor)
    assert np.all(low > floor)
    np.testing.assert_allclose(high[:2], [5e-6, 1e-5])
    assert y[1] == y[2] == high[2] == low[0]
    (line,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), 1e-5)
    assert floor < 1e-5
    assert legend(ax)[-1] == "error of products ≤ 1e-05"
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
def test_one_pair(value):
    ax = plot.spectrum(made([value], error=0.0), label="H")
    ((kind, (x, y, *_)),) = drawn(ax).items()
    expected = {1.0: "positive", -1.0: "negative", 0.0: "within its bound of zero"}
    assert kind == f"H: {expected[value]}"
    assert x == [1]
    assert y == [1.0] if value else y > 0.0
    assert legend(ax) == [kind]


def test_spectra_side_by_side_in_given_axes():
    _, ax = plt.subplots()
    first, second = made([1.0, 2.0]), made([-1.0, 3.0, 4.0])
    assert plot.spectrum({"Gauss–Newton": first, "full": second}, ax=ax) is ax
    kinds = drawn(ax)
    assert list(kinds) == ["Gauss–Newton: positive", "full: positive", "full: negative"]
    np.testing.assert_array_equal(kinds["full: positive"][1], [4.0, 3.0])
    colours = [kinds[name][4] for name in ("Gauss–Newton: positive", "full: positive")]
    assert colours[0] != colours[1]
    assert legend(ax) == [*kinds, "error of products ≤ 1e-09, off the axis"]


def test_float32_and_another_library():
    xp = pytest.importorskip("array_api_strict", reason="needs the extra test")
    pairs = made([-1.0, 2.0, 4.0], 0.25, dtype="float32")
    ax = plot.spectrum(pairs)
    np.testing.assert_allclose(drawn(ax)["positive"][3], [4.25, 2.25])
    for name in ("values", "vectors", "error_bounds"):
        setattr(pairs, name, xp.asarray(getattr(pairs, name)))
    pairs.report.product_errors = xp.asarray(pairs.report.product_errors)
    np.testing.assert_allclose(drawn(plot.spectrum(pairs))["positive"][3], [4.25, 2.25])
    assert len(plot.vectors(pairs, (2, 4)).axes) == 3
    image = plot.field(xp.asarray(np.arange(6.0, dtype="float32")), (2, 3)).images[0]
    np.testing.assert_array_equal(image.get_array(), [[0, 1, 2], [3, 4, 5]])


def test_a_field_on_a_grid():
    ax = plot.field(np.array([0.0, 1.0, -4.0, 2.0, 0.0, 1.0]), shape=(2, 3))
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), [[0, 1, -4], [2, 0, 1]])
    assert image.get_clim() == (-4.0, 4.0)
    assert image.colorbar is not None
    image = plot.field(np.arange(6.0), shape=(3, 2), symmetric=False).images[0]
    assert image.get_clim() == (0.0, 5.0)
    image = plot.field(np.array([np.nan, 0.0]), shape=(1, 2), cmap="PuOr", vmax=3.0).images[0]
    assert image.get_clim() == (-1.0, 3.0)
    assert image.get_cmap().name == "PuOr"


def test_a_field_on_a_mesh_and_at_points():
    xy = np.random.default_rng(0).uniform(size=(12, 2))
    mesh = Triangulation(*xy.T)
    values = np.linspace(-1.0, 2.0, 12)
    _, ax = plt.subplots()
    assert plot.field(values, triangulation=mesh, ax=ax) is ax
    (nodes,) = ax.collections
    np.testing.assert_array_equal(nodes.get_array(), values)
    assert nodes.get_clim() == (-2.0, 2.0)
    of_triangles = np.arange(float(len(mesh.triangles)))
    (flat,) = plot.field(of_triangles, triangulation=mesh).collections
    np.testing.assert_array_equal(flat.get_array(), of_triangles)
    (dots,) = plot.field(values, points=xy, s=9.0).collections
    np.testing.assert_array_equal(dots.get_array(), values)
    np.testing.assert_array_equal(dots.get_offsets(), xy)
    np.testing.assert_array_equal(dots.get_sizes(), [9.0])


def test_vectors_lead_by_magnitude():
    V = np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    pairs = made([-5.0, 1.0, 20.0], [1e-3, 2e-3, 0.5], vectors=V)
    figure = plot.vectors(pairs, shape=(2, 2))
    assert [ax.get_title() for ax in figure.axes] == ["20 ± 5e-01", "-5 ± 1e-03", "1 ± 2e-03"]
    shown = [ax.images[0].get_array().ravel() for ax in figure.axes]
    for found, expected in zip(shown, (-V[:, 2], -V[:, 0], V[:, 1]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(plot.vectors(pairs, shape=(2, 2), count=2).axes) == 2
    assert len(plot.vectors(made(np.arange(1.0, 6.0)), shape=(2, 4), count=4).axes) == 4


@pytest.mark.parametrize("metric", [None, np.linspace(1.0, 2.0, P)])
def test_gauss_newton_against_full(metric):
    H = solved().hessian(toy_loss())
    pairs = mfdeq.eigsh(H.gauss_newton, k=P, M=metric)
    kinds = drawn(plot.gauss_newton_against_full(H, pairs))
    V = pairs.vectors[:, np.argsort(-abs(pairs.values))]
    R = np.diag(np.ones(P) if metric is None else metric)
    np.testing.assert_allclose(V.T @ R @ V, np.eye(P), atol=1e-9)
    for name, op in (("Gauss–Newton", H.gauss_newton), ("full, same vectors", H)):
        x, y, low, high, _ = kinds[name]
        np.testing.assert_array_equal(x, 1 + np.arange(P))
        np.testing.assert_allclose(y, np.diag(V.T @ op.toarray() @ V), rtol=1e-9, atol=1e-9)
        assert np.all(low <= y)
        assert np.all(y <= high)


def test_gauss_newton_against_full_by_number():
    H = solved().hessian(toy_loss())
    ax = plot.gauss_newton_against_full(H, 2)
    expected = np.linalg.eigvalsh(H.gauss_newton.toarray())[: -2 - 1 : -1]
    np.testing.assert_allclose(drawn(ax)["Gauss–Newton"][1], expected, rtol=1e-9)


def test_a_wide_range_goes_on_a_logarithmic_axis_through_zero():
    H = solved().hessian(toy_loss())
    pairs = mfdeq.eigsh(H.gauss_newton, k=2)
    pairs.values[:] = [1.0, 2.0]
    assert plot.gauss_newton_against_full(H, pairs).get_yscale() == "linear"
    pairs.values[:] = [0.02, 1e4]
    ax = plot.gauss_newton_against_full(H, pairs)
    assert ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == pytest.approx(0.01)


def test_a_branch_is_dashed_beyond_its_fold():
    ax = plot.branch(TURNED, np.max)
    lower, upper = [[0, 0], [1, 1], [1.5, 2]], [[1.5, 2], [1, 3], [0, 4]]
    assert curves(ax) == [("-", lower), ("--", upper)]
    assert marks(ax) == {"fold": [[1.5, 2.0]]}
    assert legend(ax) == ["stable", "unstable", "fold"]
    assert len({line.get_color() for line in ax.lines[:2]}) == 1
    # An eigenvalue that is zero to rounding says nothing, whatever its sign.
    other = followed(
        *[(p.t, p.state[0], p.kind, 0 if p.kind else p.unstable) for p in TURNED.points]
    )
    assert curves(plot.branch(other, np.max)) == curves(ax)
    assert curves(plot.branch(TURNED, np.min))[0][1] == [[0, 0], [1, -1], [1.5, -2]]


def test_stability_that_changes_without_a_fold_changes_halfway():
    hopf = followed((0.0, 0.0, "", 2), (1.0, 2.0, "", 2), (2.0, 2.0, "", 0), (3.0, 2.0, "", 0))
    ax = plot.branch(hopf, np.max)
    assert curves(ax) == [("--", [[0, 0], [1, 2], [1.5, 2]]), ("-", [[1.5, 2], [2, 2], [3, 2]])]
    assert marks(ax) == {}
    assert legend(ax) == ["stable", "unstable"]


def test_a_fold_from_unstable_to_unstable_breaks_nothing():
    both = followed((0.0, 0.0, "", 1), (1.0, 1.0, "fold", 1), (0.5, 2.0, "", 2))
    ax = plot.branch(both, np.max)
    assert curves(ax) == [("--", [[0, 0], [1, 1], [0.5, 2]])]
    assert legend(ax) == ["unstable", "fold"]


def test_a_branch_of_unknown_stability_is_one_solid_curve():
    bare = [(p.t, p.state[0], p.kind, None) for p in TURNED.points]
    ax = plot.branch(followed(*bare), np.max)
    assert curves(ax) == [("-", [[p[0], p[1]] for p in bare])]
    assert legend(ax) == ["fold"]
    assert plot.branch(followed((0.0, 1.0, "", None)), np.max).get_legend() is None


def test_branches_by_name_and_their_crossing():
    trunk = followed((0.0, 0.0, "", 0), (1.0, 0.0, "crossing", 0), (2.0, 0.0, "", 1))
    sides = [followed((1.0, 0.0, "crossing", 0), (2.0, h, "", 0)) for h in (1.0, 2.0)]
    _, given = plt.subplots()
    ax = plot.branch({"trunk": trunk, "other": sides[0]}, np.max, given, parameter=1)
    assert ax is given
    assert [line for _, line in curves(ax)] == [
        [[1, 0], [3, 0]],
        [[3, 0], [5, 0]],
        [[3, 0], [5, 1]],
    ]
    assert marks(ax) == {"crossing": [[3.0, 0.0], [3.0, 0.0]]}
    assert legend(ax) == ["trunk", "other", "stable", "unstable", "crossing"]
    assert ax.get_xlabel() == "parameter 1"
    first, beyond, other = [line.get_color() for line in ax.lines[:3]]
    assert first == beyond != other
    ax = plot.branch([trunk, *sides], np.max)
    assert legend(ax) == ["stable", "unstable", "crossing"]
    assert [line for _, line in curves(ax)][2:] == [[[1, 0], [2, 1]], [[1, 0], [2, 2]]]
    ax.figure.draw_without_rendering()


def test_a_branch_that_was_followed():
    class Ridge(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return h * (3 - h**2) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization((3 - 3 * h**2)[:, None], -np.ones((1, 1)))

    branch = mfdeq.follow(Ridge(), np.zeros(1), span=(-1.0, 3.0), eigenvalues=1)
    (solid, lower), (dashed, upper) = curves(plot.branch(branch, np.max))
    assert (solid, dashed) == ("-", "--")
    assert lower[-1] == upper[0] == pytest.approx([2.0, 1.0], abs=1e-4)
    assert max(h for _, h in lower) < min(h for _, h in upper[1:])


def minimized(method="newton-cg", **options):
    case = build("bratu_field")
    return mfdeq.minimize(
        mfdeq.ReducedFunctional(case.model, case.loss, case.h0), case.params, method, **options
    )


def test_how_gradients_fall_over_what_they_cost():
    newton = minimized()
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        minimized("l-bfgs", max_iterations=4)
    stopped = caught.value.best
    ax = plot.convergence({"Newton": newton, "L-BFGS": stopped})
    first, end, second, cross = ax.lines
    for line, last, found in ((first, end, newton), (second, cross, stopped)):
        steps = found.report.steps
        assert list(line.get_xdata()) == [step.solves for step in steps]
        assert list(line.get_ydata()) == [step.gradient_norm for step in steps]
        assert last.get_xdata() == [found.report.solves]
        assert last.get_ydata() == [np.linalg.norm(found.gradient)]
        assert last.get_color() == line.get_color()
    assert (end.get_marker(), cross.get_marker()) == ("o", "X")
    assert legend(ax) == ["Newton", "L-BFGS"]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "linear solves")
    _, given = plt.subplots()
    assert plot.convergence(newton, given, over="seconds") is given
    assert list(given.lines[0].get_xdata()) == [step.seconds for step in newton.report.steps]
    assert given.get_xlabel() == "seconds"
    assert given.get_legend() is None
    assert legend(plot.convergence(newton, label="a name")) == ["a name"]


ONE = made([1.0])
MESH = Triangulation([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
REFUSED = {
    "no pairs": (lambda: plot.spectrum(np.ones(3)), "ndarray; what mfdeq.eigsh returns"),
    "an empty mapping": (lambda: plot.spectrum({}), "empty mapping"),
    "no value": (lambda: plot.spectrum(made([])), "holds no eigenvalue"),
    "another shape": (lambda: plot.field(np.ones(6), shape=(2, 4)), "8 cells; values has 6"),
    "no shape": (lambda: plot.field(np.ones(6), shape=6), r"shape is 6; \(ny, nx\)"),
    "three sides": (lambda: plot.field(np.ones(6), shape=(1, 2, 3)), r"\(ny, nx\)"),
    "a negative side": (lambda: plot.field(np.ones(6), shape=(-2, -3)), r"\(ny, nx\)"),
    "nowhere": (lambda: plot.field(np.ones(6)), "one of shape"),
    "in two places": (lambda: plot.field(np.ones(3), (1, 3), MESH), "one of shape"),
    "a block": (lambda: plot.field(np.ones((2, 3)), (2, 3)), r"values has shape \(2, 3\)"),
    "complex": (lambda: plot.field(1j * np.ones(6), (2, 3)), "complex128"),
    "a list": (lambda: plot.field([1.0, 2.0], (1, 2)), "list; an array"),
    "another mesh": (lambda: plot.field(np.ones(5), triangulation=MESH), "3 nodes and 1 triangles"),
    "no mesh": (lambda: plot.field(np.ones(5), triangulation=3), "Triangulation was expected"),
    "other points": (lambda: plot.field(np.ones(5), points=np.ones((4, 2))), r"\(5, 2\)"),
    "vectors elsewhere": (lambda: plot.vectors(ONE, shape=(3, 3)), "values has 8 entries"),
    "no vectors": (lambda: plot.vectors(ONE, shape=(2, 4), count=0), "count is 0"),
    "no Hessian": (lambda: plot.gauss_newton_against_full(np.eye(3)), "ReducedHessian"),
    "no branch": (lambda: plot.branch(ONE, np.max), "Eigenpairs; what mfdeq.follow returns"),
    "no branches": (lambda: plot.branch([], np.max), "branches is empty"),
    "no measure": (lambda: plot.branch(TURNED, 1.0), "measure is a float; a callable"),
    "no parameter": (lambda: plot.branch(TURNED, np.max, parameter=2), "parameter is 2; one of 2"),
    "no minimum": (lambda: plot.convergence({"a": ONE}), "Eigenpairs; what mfdeq.minimize"),
    "an empty mapping of minima": (lambda: plot.convergence({}), "minima is an empty mapping"),
    "another cost": (lambda: plot.convergence(ONE, over="money"), "over is 'money'"),
    "no number": (
        lambda: plot.gauss_newton_against_full(solved().hessian(toy_loss()), "all"),
        "pairs is 'all'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    with refused(mfdeq.ArgumentError, words):
        call()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with refused(mfdeq.ArgumentError, r"mfdeq\[plot\]", r'"\.\[plot\]"'):
        plot.field(np.ones(N), shape=(1, N))


def test_density():
    values = np.r_[np.linspace(0, 1, 96), 5.0, 6.0, 7.0, 8.0]
    pairs = mfdeq.eigsh(np.diag(values), 4)
    of = mfdeq.spectral_density(np.diag(values), pairs=pairs, steps=40)
    ax = plot.density(of, width=0.1, label="a name")
    curve, ticks = ax.lines
    x, y = curve.get_data()
    assert x[0] == pytest.approx(of.nodes.min() - 0.4)
    assert x[-1] == pytest.approx(8.4)
    np.testing.assert_allclose(y, of(x, 0.1))
    assert trapezoid(y, x) == pytest.approx(100, rel=1e-2)
    np.testing.assert_allclose(ticks.get_xdata(), [5, 6, 7, 8])
    assert (curve.get_label(), ax.get_yscale()) == ("a name", "log")
    assert plot.density(of, ax=ax) is ax
    one = mfdeq.spectral_density(np.eye(50))
    assert np.isfinite(plot.density(one).lines[0].get_ydata()).all()
    with pytest.raises(mfdeq.ArgumentError, match="spectral_density"):
        plot.density(pairs)
