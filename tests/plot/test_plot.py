"""What pictures show: the numbers drawn, their bars and marks, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.integrate import trapezoid
from support.case_toy import N, P, solved, toy_loss
from support.pictures import Triangulation, closed, legend, plot, plt  # noqa: F401
from support.refusing import refused

import mfdeq
from mfdeq.spectrum.eigenpairs import EigenReport


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
