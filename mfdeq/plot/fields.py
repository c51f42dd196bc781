"""Plots of parameters in space: in the cells of a grid, on a mesh or at points."""

from __future__ import annotations

import math
from typing import Any

from ..arguments import count as positive
from ..arrays.backend import Array, array_on_host, host, is_dense
from ..errors import ArgumentError
from ..spectrum.eigenpairs import Eigenpairs, vectors_of
from .axes import get_axes, pyplot
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
    """Plot parameters in space: in the cells of a grid, on a mesh or at points.

    Parameters
    ----------
    values : (P,) array
        Real numbers.
    shape : (int, int), optional
        (ny, nx) of a grid with ny nx = P cells, numbered row by row, the first row at the top.
    triangulation : matplotlib.tri.Triangulation, optional
        A mesh with P nodes or P triangles.
    points : (P, 2) or (P,) array, optional
        The coordinates x and y of each parameter, or its place on a line, above which values are
        drawn as a curve. Exactly one of `shape`, `triangulation` and `points` must be given.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.
    symmetric : bool, default: True
        Whether colours run from blue to red with white at zero.
    **style
        Options of matplotlib: ``cmap``, ``vmin`` and ``vmax``, ``extent`` of a grid, ``s`` of
        points, and those of lines.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `values` is not a real (P,) array, or its size does not fit the grid, mesh or points.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq import plot
    >>> ax = plot.field(np.array([0.0, 1.0, -4.0, 2.0, 0.0, 1.0]), shape=(2, 3))
    >>> image = ax.images[0]
    >>> image.get_array().shape
    (2, 3)
    >>> [float(limit) for limit in image.get_clim()]
    [-4.0, 4.0]
    """
    z = _real_vector(values)
    places = sum(place is not None for place in (shape, triangulation, points))
    if places != 1:
        raise ArgumentError(
            "places of the parameters: expected exactly one of shape=(ny, nx), triangulation= and "
            f"points=, got {places}. For parameters on a line pass points=x, such as "
            f"numpy.arange({z.size})"
        )
    if points is not None and _on_host(points, "points").shape == z.shape:
        return _on_line(z, _on_host(points, "points"), ax, style)
    style = _colour_scale(z, symmetric) | style
    if shape is not None:
        grid = z.reshape(_grid_shape(shape, z.size))
        ax = get_axes(ax)
        image = ax.imshow(grid, **{"interpolation": "nearest"} | style)
    elif triangulation is not None:
        ax, image = _on_mesh(z, triangulation, ax, style)
    else:
        xy = _on_host(points, "points")
        if xy.shape != (z.size, 2):
            raise ArgumentError(
                f"points: expected shape ({z.size}, 2) or ({z.size},), got {xy.shape}"
            )
        ax = get_axes(ax)
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
    """Plot the leading eigenvectors as fields, by falling magnitude, in a new figure.

    Parameters
    ----------
    pairs : Eigenpairs
        The result of `mfdeq.eigsh`.
    shape, triangulation, points
        Where the parameters are, as in `field`.
    count : int, default: 6
        The number of eigenvectors, at most.
    **style
        As in `field`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ArgumentError
        If `pairs` is not a result of `mfdeq.eigsh` or holds no eigenvalue, or as in `field`.

    Notes
    -----
    The sign of an eigenvector is arbitrary; it is drawn with its largest entry positive.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> pairs = mfdeq.eigsh(np.diag([1.0, -2.0, 3.0, 4.0, 5.0, 6.0]), 2, "LA")
    >>> figure = plot.vectors(pairs, shape=(2, 3))
    >>> [ax.get_title()[:3] for ax in figure.axes]
    ['6 ±', '5 ±']
    """
    values, bounds, leading = leading_pairs(pairs, positive(count, "count"))
    V = array_on_host(vectors_of(pairs))[:, leading]
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


def _on_host(x: Any, name: str) -> Array:
    if not is_dense(x):
        raise ArgumentError(f"{name}: expected an array, got {type(x).__name__}")
    return array_on_host(x)


def _real_vector(values: Any) -> Array:
    z = _on_host(values, "values")
    if z.ndim != 1 or not z.size or z.dtype.kind not in "biuf":
        raise ArgumentError(
            f"values: expected a real (P,) array, got shape {z.shape} and dtype {z.dtype}"
        )
    return z.astype(float) if z.dtype.kind in "bi" else z


def _grid_shape(shape: Any, size: int) -> tuple[int, int]:
    try:
        ny, nx = (positive(n, "a side of shape") for n in shape)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "shape: expected two positive integers (ny, nx), got "
            f"{type(shape).__name__ if is_dense(shape) else repr(shape)}; "
            "parameters on a line have points=x"
        ) from error
    if ny * nx != size:
        raise ArgumentError(
            f"shape: expected {size} cells, one for each entry of values, got {ny} × {nx}"
        )
    return ny, nx


def _colour_scale(z: Any, symmetric: bool) -> dict[str, Any]:
    if not symmetric:
        return {"cmap": "viridis"}
    finite = abs(z[host.isfinite(z)])
    top = float(finite.max(initial=0.0)) or 1.0
    return {"cmap": "RdBu_r", "vmin": -top, "vmax": top}


def _on_line(z: Any, x: Any, ax: Any, style: dict[str, Any]) -> Any:
    ax, order = get_axes(ax), host.argsort(x)
    ax.plot(x[order], z[order], **style)
    return ax


def _on_mesh(z: Any, mesh: Any, ax: Any, style: dict[str, Any]) -> tuple[Any, Any]:
    if not hasattr(mesh, "triangles"):
        raise ArgumentError(
            f"triangulation: expected a matplotlib.tri.Triangulation, got {type(mesh).__name__}"
        )
    nodes, triangles = len(mesh.x), len(mesh.triangles)
    if z.size not in (nodes, triangles):
        raise ArgumentError(
            f"values: expected {nodes} entries for the nodes of the mesh, or {triangles} for its "
            f"triangles, got {z.size}"
        )
    ax = get_axes(ax)
    if z.size == nodes:
        return ax, ax.tripcolor(mesh, z, **{"shading": "gouraud"} | style)
    return ax, ax.tripcolor(mesh, facecolors=z, **style)


def _colour_bar(ax: Any, image: Any) -> None:
    """Add a colour bar as high as the axes; the default one is not if the aspect is equal."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    unit = 0.02 * max(1.0, abs((high - low) / (right - left)))
    ax.figure.colorbar(image, cax=ax.inset_axes((1.0 + unit, 0.0, 2.0 * unit, 1.0)))
