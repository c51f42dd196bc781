"""Plots of fields and of eigenvectors: images, titles and refused arguments."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.case_toy import N
from support.pictures import Triangulation, eigenpairs, plot, plt
from support.refusing import refused

import mfdeq


def test_a_field_is_drawn_on_a_grid():
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


def test_a_field_is_drawn_on_a_mesh_and_at_points():
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


def test_vectors_are_drawn_by_falling_magnitude():
    V = np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    pairs = eigenpairs([-5.0, 1.0, 20.0], [1e-3, 2e-3, 0.5], vectors=V)
    figure = plot.vectors(pairs, shape=(2, 2))
    assert [ax.get_title() for ax in figure.axes] == ["20 ± 5e-01", "-5 ± 1e-03", "1 ± 2e-03"]
    shown = [ax.images[0].get_array().ravel() for ax in figure.axes]
    for found, expected in zip(shown, (-V[:, 2], -V[:, 0], V[:, 1]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(plot.vectors(pairs, shape=(2, 2), count=2).axes) == 2
    assert len(plot.vectors(eigenpairs(np.arange(1.0, 6.0)), shape=(2, 4), count=4).axes) == 4


ONE = eigenpairs([1.0])


def test_parameters_on_a_line_are_drawn_as_a_curve():
    x, values = np.array([0.5, 0.0, 1.0]), np.array([3.0, -1.0, 2.0])
    (line,) = plot.field(values, points=x, color="C1").lines
    np.testing.assert_array_equal(line.get_xydata(), [[0.0, -1.0], [0.5, 3.0], [1.0, 2.0]])
    assert line.get_color() == "C1"


MESH = Triangulation([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
REFUSED = {
    "another shape": (lambda: plot.field(np.ones(6), shape=(2, 4)), "expected 6 cells.* got 2 × 4"),
    "no shape": (lambda: plot.field(np.ones(6), shape=6), r"\(ny, nx\), got 6"),
    "three sides": (lambda: plot.field(np.ones(6), shape=(1, 2, 3)), r"\(ny, nx\)"),
    "places for a shape": (lambda: plot.field(np.ones(6), np.ones(6)), "got ndarray; .*points=x"),
    "a negative side": (lambda: plot.field(np.ones(6), shape=(-2, -3)), r"\(ny, nx\)"),
    "nowhere": (lambda: plot.field(np.ones(6)), "exactly one of shape.* got 0.*line pass points=x"),
    "in two places": (lambda: plot.field(np.ones(3), (1, 3), MESH), "exactly one of shape.* got 2"),
    "a block": (lambda: plot.field(np.ones((2, 3)), (2, 3)), r"values: .* got shape \(2, 3\)"),
    "complex": (lambda: plot.field(1j * np.ones(6), (2, 3)), "complex128"),
    "a list": (lambda: plot.field([1.0, 2.0], (1, 2)), "values: expected an array, got list"),
    "another mesh": (
        lambda: plot.field(np.ones(5), triangulation=MESH),
        "expected 3 entries for the nodes of the mesh, or 1 for its triangles, got 5",
    ),
    "no mesh": (lambda: plot.field(np.ones(5), triangulation=3), "Triangulation, got int"),
    "other points": (
        lambda: plot.field(np.ones(5), points=np.ones((4, 2))),
        r"\(5, 2\) or \(5,\), got \(4",
    ),
    "vectors elsewhere": (lambda: plot.vectors(ONE, shape=(3, 3)), "expected 8 cells"),
    "no vectors": (lambda: plot.vectors(ONE, shape=(2, 4), count=0), "count"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_drawn_are_refused(name):
    call, words = REFUSED[name]
    with refused(mfdeq.ArgumentError, words):
        call()


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with refused(mfdeq.ArgumentError, r"mfdeq\[plot\]", r'"\.\[plot\]"'):
        plot.field(np.ones(N), shape=(1, N))
