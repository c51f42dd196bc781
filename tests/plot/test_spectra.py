"""Plots of eigenvalues: values, error bars, markers and refused arguments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid
from support.case_toy import P, solve_toy, toy_loss
from support.pictures import eigenpairs, legend, plot, plt
from support.refusing import refused

import mfdeq


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


def test_a_spectrum_shows_signs_bounds_and_noise_floor():
    ax = plot.spectrum(eigenpairs([-3.0, -0.5, 0.01, 2.0, 20.0], [0.1, 0.0, 0.001, 0.5, 1.0]))
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
    assert legend(ax) == ["positive", "negative"]
    assert [text.get_text() for text in ax.texts] == ["error of products ≤ 1e-09"]
    low, high = ax.get_ylim()
    assert 1e-4 < low < 0.009
    assert high > 21.0


def test_values_that_may_be_zero_are_grey_and_on_the_axis():
    ax = plot.spectrum(eigenpairs([-1e-17, 0.0, 2e-6, 1.0], [1e-5, 0.0, 3e-6, 1e-5], error=1e-5))
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
def test_a_single_pair_is_drawn(value):
    ax = plot.spectrum(eigenpairs([value], error=0.0), label="H")
    ((kind, (x, y, *_)),) = drawn(ax).items()
    expected = {1.0: "positive", -1.0: "negative", 0.0: "within its bound of zero"}
    assert kind == f"H: {expected[value]}"
    assert x == [1]
    assert y == [1.0] if value else y > 0.0
    assert legend(ax) == [kind]


def test_several_spectra_are_drawn_in_the_axes_given():
    _, ax = plt.subplots()
    first, second = eigenpairs([1.0, 2.0]), eigenpairs([-1.0, 3.0, 4.0])
    assert plot.spectrum({"Gauss–Newton": first, "full": second}, ax=ax) is ax
    kinds = drawn(ax)
    assert list(kinds) == ["Gauss–Newton: positive", "full: positive", "full: negative"]
    np.testing.assert_array_equal(kinds["full: positive"][1], [4.0, 3.0])
    colours = [kinds[name][4] for name in ("Gauss–Newton: positive", "full: positive")]
    assert colours[0] != colours[1]
    assert legend(ax) == [*kinds]


def test_float32_and_other_array_libraries_are_drawn():
    xp = pytest.importorskip("array_api_strict", reason="needs the extra test")
    pairs = eigenpairs([-1.0, 2.0, 4.0], 0.25, dtype="float32")
    ax = plot.spectrum(pairs)
    np.testing.assert_allclose(drawn(ax)["positive"][3], [4.25, 2.25])
    for name in ("values", "vectors", "error_bounds"):
        setattr(pairs, name, xp.asarray(getattr(pairs, name)))
    pairs.report.product_errors = xp.asarray(pairs.report.product_errors)
    np.testing.assert_allclose(drawn(plot.spectrum(pairs))["positive"][3], [4.25, 2.25])
    assert len(plot.vectors(pairs, (2, 4)).axes) == 3
    image = plot.field(xp.asarray(np.arange(6.0, dtype="float32")), (2, 3)).images[0]
    np.testing.assert_array_equal(image.get_array(), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("metric", [None, np.linspace(1.0, 2.0, P)])
def test_both_hessians_are_drawn_along_the_same_vectors(metric):
    H = solve_toy().hessian(toy_loss())
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


def test_gauss_newton_pairs_may_be_given_by_their_number():
    H = solve_toy().hessian(toy_loss())
    ax = plot.gauss_newton_against_full(H, 2)
    expected = np.linalg.eigvalsh(H.gauss_newton.toarray())[: -2 - 1 : -1]
    np.testing.assert_allclose(drawn(ax)["Gauss–Newton"][1], expected, rtol=1e-9)


def test_a_wide_range_has_a_logarithmic_axis_through_zero():
    H = solve_toy().hessian(toy_loss())
    pairs = mfdeq.eigsh(H.gauss_newton, k=2)
    pairs.values[:] = [1.0, 2.0]
    assert plot.gauss_newton_against_full(H, pairs).get_yscale() == "linear"
    pairs.values[:] = [0.02, 1e4]
    ax = plot.gauss_newton_against_full(H, pairs)
    assert ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == pytest.approx(0.01)


def test_a_density_integrates_to_the_number_of_eigenvalues():
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


REFUSED = {
    "no pairs": (lambda: plot.spectrum(np.ones(3)), "pairs: expected a.* mfdeq.eigsh .* ndarray"),
    "an empty mapping": (
        lambda: plot.spectrum({}),
        "pairs: expected at least one .* empty mapping",
    ),
    "no value": (lambda: plot.spectrum(eigenpairs([])), "pairs: expected at least one eigenvalue"),
    "no density": (lambda: plot.density(eigenpairs([1.0])), "mfdeq.spectral_density returns"),
    "no Hessian": (
        lambda: plot.gauss_newton_against_full(np.eye(3)),
        "H: expected an mfdeq.ReducedHessian, got ndarray",
    ),
    "no number": (
        lambda: plot.gauss_newton_against_full(solve_toy().hessian(toy_loss()), "all"),
        "'all'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_drawn_are_refused(name):
    call, words = REFUSED[name]
    with refused(mfdeq.ArgumentError, words):
        call()
