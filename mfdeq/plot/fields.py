"""Pictures of parameters where they are: in a grid's cells, on a mesh or at points."""

from __future__ import annotations

import math
from typing import Any

from ..arguments import count as positive
from ..arrays.backend import Array, array_on_host, host, is_dense
from ..errors import ArgumentError
from ..spectrum.eigenpairs import Eigenpairs
from .axes import axes_or_new, pyplot
from .spectra import leading_pairs


def field(
    values: Array,
    shape: tuple[int, int] | None = None,
    triangulation: Any = None,
    points: Array | None = None,
    ax: Any = None,
    symmetric: bool = True,
    **style: Any,
) -> Any:
    """Parameters where they are: in a grid's cells, on a mesh or at points.

    Parameters
    ----------
    values : (P,) array
    shape : (int, int), optional
        (ny, nx) of a grid, ny nx = P, its rows one after another, the first on top.
    triangulation : matplotlib.tri.Triangulation, optional
        A mesh with P nodes, or with P triangles.
    points : (P, 2) array, optional
        x and y of each. One of `shape`, `triangulation` and `points` is needed.
    ax : matplotlib Axes, optional
        By default one in a new figure.
    symmetric : bool, optional
        Whether colours go from red to blue with zero in their middle.
    **style
        For matplotlib: ``cmap``, ``vmin``, ``vmax``, ``extent`` of a grid, ``s`` of points.

    Returns
    -------
    Axes
    """
    z = _vector(values)
    if sum(where is not None for where in (shape, triangulation, points)) != 1:
        raise ArgumentError("one of shape, triangulation and points was expected")
    style = _colours(z, symmetric) | style
    if shape is not None:
        grid = z.reshape(_grid(shape, z.size))
        ax = axes_or_new(ax)
        image = ax.imshow(grid, **{"interpolation": "nearest"} | style)
    elif triangulation is not None:
        ax, image = _on_mesh(z, triangulation, ax, style)
    else:
        xy = _host(points, "points")
        if xy.shape != (z.size, 2):
            raise ArgumentError(f"points has shape {xy.shape}; ({z.size}, 2) was expected")
        ax = axes_or_new(ax)
        image = ax.scatter(xy[:, 0], xy[:, 1], c=z, **style)
    ax.set_aspect("equal")
    _colour_bar(ax, image)
    return ax


def vectors(
    pairs: Eigenpairs,
    shape: tuple[int, int] | None = None,
    triangulation: Any = None,
    points: Array | None = None,
    count: int = 6,
    **style: Any,
) -> Any:
    """The leading eigenvectors as fields, by magnitude, in a new figure.

    Of either sign: each is drawn with its largest entry positive.

    Parameters
    ----------
    pairs : Eigenpairs
    shape, triangulation, points
        Where the parameters are, as in `field`.
    count : int, optional
        How many at most.
    **style
        As of `field`.

    Returns
    -------
    Figure
    """
    values, bounds, leading = leading_pairs(pairs, positive(count, "count"))
    V = array_on_host(pairs.vectors)[:, leading]
    peaks = host.argmax(abs(V), axis=0)
    V = V * host.sign(V[peaks, range(leading.size)])
    columns = min(3, leading.size)
    rows = math.ceil(leading.size / columns)
    figure, axes = pyplot().subplots(
        rows, columns, squeeze=False, figsize=(4 * columns, 3.4 * rows), layout="constrained"
    )
    for ax in axes.flat[leading.size :]:
        ax.remove()
    for ax, v, value, bound in zip(axes.flat, V.T, values, bounds, strict=False):
        field(v, shape, triangulation, points, ax, **style)
        ax.set_title(f"{value:.4g} ± {bound:.0e}")
    return figure


def _host(x: Any, name: str) -> Any:
    if not is_dense(x):
        raise ArgumentError(f"{name} is a {type(x).__name__}; an array was expected")
    return array_on_host(x)


def _vector(values: Any) -> Any:
    z = _host(values, "values")
    if z.ndim != 1 or not z.size or z.dtype.kind not in "biuf":
        raise ArgumentError(
            f"values has shape {z.shape} and dtype {z.dtype}; a real (P,) array was expected"
        )
    return z.astype(float) if z.dtype.kind in "bi" else z


def _grid(shape: Any, size: int) -> tuple[int, int]:
    try:
        ny, nx = (positive(n, "a side of shape") for n in shape)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"shape is {shape!r}; (ny, nx) was expected") from error
    if ny * nx != size:
        raise ArgumentError(f"shape {ny} × {nx} is {ny * nx} cells; values has {size} entries")
    return ny, nx


def _colours(z: Any, symmetric: bool) -> dict[str, Any]:
    if not symmetric:
        return {"cmap": "viridis"}
    finite = abs(z[host.isfinite(z)])
    top = float(finite.max(initial=0.0)) or 1.0
    return {"cmap": "RdBu_r", "vmin": -top, "vmax": top}


def _on_mesh(z: Any, mesh: Any, ax: Any, style: dict[str, Any]) -> tuple[Any, Any]:
    if not hasattr(mesh, "triangles"):
        raise ArgumentError(
            f"triangulation is a {type(mesh).__name__}; a matplotlib.tri.Triangulation was expected"
        )
    nodes, triangles = len(mesh.x), len(mesh.triangles)
    if z.size not in (nodes, triangles):
        raise ArgumentError(
            f"values has {z.size} entries; the mesh has {nodes} nodes and {triangles} triangles"
        )
    ax = axes_or_new(ax)
    if z.size == nodes:
        return ax, ax.tripcolor(mesh, z, **{"shading": "gouraud"} | style)
    return ax, ax.tripcolor(mesh, facecolors=z, **style)


def _colour_bar(ax: Any, image: Any) -> None:
    """As high as the picture, which a figure's own is not where aspects are equal."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    unit = 0.02 * max(1.0, abs((high - low) / (right - left)))
    ax.figure.colorbar(image, cax=ax.inset_axes((1.0 + unit, 0.0, 2.0 * unit, 1.0)))
