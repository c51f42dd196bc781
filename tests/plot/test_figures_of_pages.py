"""The figures of the documentation on dark pages: docs/figures.py."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from support.pictures import plt

colors = pytest.importorskip("matplotlib.colors")


@pytest.fixture(scope="module")
def figures():
    path = Path(__file__).parents[2] / "docs" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A middle grey has as little contrast with a dark page as with a white one.
@pytest.mark.parametrize("color", ["k", "0.4", "navy", "crimson", *(f"C{k}" for k in range(7))])
def test_colours_have_enough_contrast_with_a_dark_page(figures, color):
    replaced = figures.dark(color)
    assert figures.contrast(np.array(replaced[:3])) >= 4.5
    assert replaced[3] == 1.0


def test_white_becomes_the_page_and_no_colour_stays_none(figures):
    assert np.allclose(figures.dark("white")[:3], figures.PAGE)
    assert figures.dark("none") == "none"
    assert figures.dark((0.0, 0.0, 0.0, 0.3))[3] == 0.3


def test_text_lines_and_ticks_are_recoloured_and_those_on_a_map_are_not(figures):
    figure, (curve, chart) = plt.subplots(1, 2)
    line = curve.plot([1, 2], color="navy")[0]
    bars = curve.bar([0, 1], [1, 2], color="white", edgecolor="k")
    dots = curve.scatter([0, 1], [1, 2], color=["k", "white"])
    curve.set_title("a title")
    label = curve.annotate(
        "here",
        (0, 1),
        (0.5, 1.5),
        arrowprops={"arrowstyle": "-", "color": "k"},
        bbox={"fc": "white", "ec": "none", "alpha": 0.8},
    )
    image = chart.imshow(np.eye(2), cmap="viridis")
    marks = chart.plot([0, 1], [0, 1], "k.")[0]
    figure.colorbar(image)
    before = image.to_rgba(np.eye(2))

    figures.darken(figure)
    curve.set_xlim(-100.0, 100.0)  # makes ticks that there were not
    figure.canvas.draw()

    texts = [curve.title, label, *curve.get_xticklabels(), *chart.get_yticklabels()]
    texts += figure.axes[2].get_yticklabels()
    assert all(colors.same_color(text.get_color(), figures.dark("k")) for text in texts)
    page = colors.to_rgb(tuple(figures.PAGE))
    grounds = [figure.patch, curve.patch, bars[0], label.get_bbox_patch()]
    assert all(np.allclose(patch.get_facecolor()[:3], page) for patch in grounds)
    assert colors.same_color(bars[0].get_edgecolor(), figures.dark("k"))
    assert label.get_bbox_patch().get_edgecolor()[3] == 0.0
    assert colors.same_color(label.arrow_patch.get_edgecolor(), figures.dark("k"))
    assert colors.same_color(line.get_color(), figures.dark("navy"))
    assert np.allclose(dots.get_facecolor(), [figures.dark("k"), figures.dark("white")])
    assert marks.get_color() == "k"
    assert np.array_equal(image.to_rgba(np.eye(2)), before)


def test_what_a_script_saves_is_there_twice_and_as_wide_as_asked_for(
    figures, tmp_path, monkeypatch
):
    monkeypatch.setattr(plt.Figure, "savefig", plt.Figure.savefig)  # what is restored afterwards
    figures.save_pairs(width=300)
    figure, ax = plt.subplots(figsize=(4, 2))
    ax.plot([0, 1])
    figure.savefig(tmp_path / "one.png", dpi=10)
    light, dark = (plt.imread(tmp_path / name) for name in ("one.png", "one_dark.png"))
    assert light.shape[:2] == dark.shape[:2] == (150, 300)
    assert light[0, 0, :3].min() == 1.0
    assert dark[0, 0, :3].max() < 0.1
