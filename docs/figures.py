"""Figures of the pages, each in the colours of a light and of a dark page.

Run as a program, ``python docs/figures.py``, it makes the picture of the front page.
"""

import runpy
import sys
from pathlib import Path

import numpy as np
from matplotlib import collections, colors, image, rcParams
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

WIDTH = 1920  # pixels: twice the width of a page, for screens of a high resolution
PAGE = np.array(colors.to_rgb("#131416"))  # the background of the dark theme
INK = np.array(colors.to_rgb("#cfd0d0"))  # its text
CONTRAST = 4.5  # of text and lines with the page, as the guidelines for accessible pages ask for
MAX_COLORS = 12  # of a collection; one with more shows data by its colours
MAPS = (
    image.AxesImage,
    collections.QuadMesh,
    collections.TriMesh,
    collections.PolyCollection,
    ContourSet,
)


save = Figure.savefig


def save_pair(figure, path, width=WIDTH):
    """Save a figure for light pages, and in dark colours, in which it is left, for dark pages.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : Path
        The file for light pages. That for dark pages is ``dark_path(path)``.
    width : int, default: ``WIDTH``
        In pixels.
    """
    dpi = width / figure.get_figwidth()
    save(figure, path, dpi=dpi)
    darken(figure)
    save(figure, dark_path(path), dpi=dpi)


def save_pairs(width=WIDTH):
    """Let what scripts save in files be saved for light and for dark pages."""

    def savefig(figure, target, **options):
        if isinstance(target, str | Path):
            save_pair(figure, Path(target), width)
        else:
            save(figure, target, **options)

    Figure.savefig = savefig


def dark_path(path):
    """Return the file of a picture for dark pages."""
    return path.with_stem(f"{path.stem}_dark")


def darken(figure):
    """Give a figure the colours of a dark page.

    Greys are inverted, and dark colours become lighter. Colours that show data do not change, nor
    does the inside of axes with a map, since what is drawn on a map was chosen to be seen on it.
    """
    axes = figure.axes
    inside = set()
    for ax in axes:
        if any(is_map(artist) for artist in ax.get_children()):
            legend = [ax.get_legend()] if ax.get_legend() else []
            for artist in [ax.patch, *ax.lines, *ax.patches, *ax.texts, *ax.collections, *legend]:
                inside.update(artist.findobj())
    for artist in figure.findobj():
        if artist not in inside:
            recolor(artist)
    for ax in axes:
        for axis in (ax.xaxis, ax.yaxis, *([ax.zaxis] if hasattr(ax, "zaxis") else [])):
            darken_ticks(axis)
            if hasattr(axis, "pane"):  # of three dimensions
                axis.set_pane_color(dark(axis.pane.get_facecolor()))


def is_map(artist):
    """Say whether an artist fills an area with colours that show data."""
    if isinstance(artist, ContourSet):
        return artist.filled
    return isinstance(artist, MAPS) and artist.get_array() is not None


def recolor(artist):
    """Give one artist the colours of a dark page."""
    if isinstance(artist, Text):
        if not artist.get_path_effects():  # an outline makes it readable on anything
            artist.set_color(dark(artist.get_color()))
        for part in (artist.get_bbox_patch(), getattr(artist, "arrow_patch", None)):
            if part is not None:
                recolor(part)
    elif isinstance(artist, Line2D):
        marker = artist.get_markerfacecolor(), artist.get_markeredgecolor()
        artist.set_color(dark(artist.get_color()))
        artist.set_markerfacecolor(dark(marker[0]))
        artist.set_markeredgecolor(dark(marker[1]))
    elif isinstance(artist, Patch):
        face, edge = artist.get_facecolor(), artist.get_edgecolor()
        artist.set_facecolor(dark(face))
        artist.set_edgecolor(dark(edge))
    elif isinstance(artist, collections.PathCollection) and artist.get_array() is not None:
        artist.set(edgecolor=INK, linewidth=0.5)  # around dots of any colour
    elif isinstance(artist, collections.Collection) and artist.get_array() is None:
        face, edge = artist.get_facecolor(), artist.get_edgecolor()
        if len(np.unique(face, axis=0)) <= MAX_COLORS:
            artist.set_facecolor([dark(color) for color in face])
        if len(np.unique(edge, axis=0)) <= MAX_COLORS:
            artist.set_edgecolor([dark(color) for color in edge])


def darken_ticks(axis):
    """Give the ticks of an axis, those that are drawn later as well, the colours of a dark page."""
    now = axis.get_tick_params(which="major")
    ticks = now.get("color", rcParams["xtick.color"])
    axis.set_tick_params(
        which="both",
        color=dark(ticks),
        labelcolor=dark(now.get("labelcolor", ticks)),
        grid_color=dark(now.get("grid_color", rcParams["grid.color"])),
    )


def dark(color):
    """Return the colour that takes the place of another one on a dark page."""
    *rgb, alpha = colors.to_rgba(color)
    if alpha == 0.0:
        return "none"
    rgb = np.array(rgb)
    if np.ptp(rgb) < 0.1:
        rgb = INK + (PAGE - INK) * rgb.mean()
    while contrast(rgb) < CONTRAST and np.ptp(rgb) >= 0.1:
        rgb = rgb + 0.05 * (1.0 - rgb)
    return (*rgb, alpha)


def contrast(rgb):
    """Return the ratio of luminances of a colour and the dark page (WCAG 2)."""
    light, page = (
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        for c in (rgb, PAGE)
    )
    return (light + 0.05) / (page + 0.05)


if __name__ == "__main__":
    docs = Path(__file__).parent
    save_pairs(width=1400)  # the file is in the repository
    sys.argv = ["groundwater.py", "--output", str(docs / "_static" / "groundwater.png")]
    runpy.run_path(str(docs.parent / "examples" / "groundwater.py"), run_name="__main__")
