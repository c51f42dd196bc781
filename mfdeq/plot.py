"""Pictures of spectra and of fields of parameters, by matplotlib (the extra ``plot``)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from .arguments import count as positive
from .arrays import Array, array_on_host, host, is_dense
from .errors import ArgumentError
from .hessian import ReducedHessian
from .precision import Euclidean
from .spectrum.density import SpectralDensity
from .spectrum.eigenpairs import SAFETY, Eigenpairs
from .spectrum.extreme import eigsh

NEAR = 1e-2  # of the smallest value, down to which an axis is stretched for the noise floor
WIDE = 30.0  # ratio of values, from which on an axis is logarithmic
GREY = "0.6"
POINTS = 1000  # of a curve
LEAST = 0.01  # eigenvalues within a width, that a curve of a density goes down to


def spectrum(
    pairs: Eigenpairs | Mapping[str, Eigenpairs], ax: Any = None, label: str | None = None
) -> Any:
    """Magnitudes of eigenvalues with their bounds, the largest first.

    Parameters
    ----------
    pairs : Eigenpairs, or mapping of str to Eigenpairs
        One spectrum, or several by their names.
    ax : matplotlib Axes, optional
        By default one in a new figure.
    label : str, optional
        Name of a single spectrum in the legend.

    Returns
    -------
    Axes

    Notes
    -----
    Positive values are filled, negative ones open. Bars are the bounds. The dashed line is the
    noise floor, the largest estimated error of a product. A value not above its bound may be zero
    or of either sign: it is grey, and where it would be below the axis it is at its lower end.
    Where the floor is far below all values only the legend has it.
    """
    named = pairs if isinstance(pairs, Mapping) else {label: pairs}
    if not named:
        raise ArgumentError("pairs is an empty mapping; one or more Eigenpairs were expected")
    spectra = [_Spectrum(name, of) for name, of in named.items()]
    ax = _axes(ax)
    seen = [x for one in spectra for x in one.certain] or [1.0]
    floor = max(one.floor for one in spectra)
    bottom = 0.5 * min(seen + ([floor] if floor >= NEAR * min(seen) else []))
    drawn = [handle for i, one in enumerate(spectra) for handle in one.draw(ax, f"C{i}", bottom)]
    if floor > 0.0:
        text = f"error of products ≤ {floor:.0e}" + ("" if floor >= bottom else ", off the axis")
        drawn.append(ax.axhline(floor, color="0.4", ls="--", lw=1, label=text))
    ax.set_yscale("log")
    ax.set(ylim=(0.7 * bottom, None), xlabel="number, by magnitude", ylabel="|eigenvalue|")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(handles=drawn, frameon=False)
    return ax


def density(
    of: SpectralDensity, ax: Any = None, width: float | None = None, label: str | None = None
) -> Any:
    """How eigenvalues are distributed: how many per unit, and those that are known as ticks.

    Parameters
    ----------
    of : SpectralDensity
    ax : matplotlib Axes, optional
        By default one in a new figure.
    width : float, optional
        Standard deviation of the Gaussians that it is smoothed by; by default a hundredth of the
        range.
    label : str, optional
        Name of the curve in a legend.

    Returns
    -------
    Axes
    """
    if not isinstance(of, SpectralDensity):
        raise ArgumentError(
            f"of is a {type(of).__name__}; what mfdeq.spectral_density returns was expected"
        )
    every = host.concatenate([of.nodes.reshape(-1), of.exact])
    low, high = float(every.min()), float(every.max())
    if width is None:
        width = 0.01 * (high - low) or 0.01 * abs(high) or 1.0
    x = host.linspace(low - 4.0 * width, high + 4.0 * width, POINTS)
    curve = of(x, width)
    ax = _axes(ax)
    (line,) = ax.plot(x, curve, label=label)
    ax.set_yscale("log")
    style = {"transform": ax.get_xaxis_transform(), "color": line.get_color(), "ls": "none"}
    ax.plot(of.exact, host.zeros(of.exact.size), marker="|", **style)
    ax.set(xlabel="eigenvalue", ylabel="eigenvalues per unit")
    ax.set_ylim(bottom=LEAST / width)  # below are the tails of the Gaussians
    return ax


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
        ax = _axes(ax)
        image = ax.imshow(grid, **{"interpolation": "nearest"} | style)
    elif triangulation is not None:
        ax, image = _on_mesh(z, triangulation, ax, style)
    else:
        xy = _host(points, "points")
        if xy.shape != (z.size, 2):
            raise ArgumentError(f"points has shape {xy.shape}; ({z.size}, 2) was expected")
        ax = _axes(ax)
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
    values, bounds, leading = _leading(pairs, positive(count, "count"))
    V = array_on_host(pairs.vectors)[:, leading]
    peaks = host.argmax(abs(V), axis=0)
    V = V * host.sign(V[peaks, range(leading.size)])
    columns = min(3, leading.size)
    rows = math.ceil(leading.size / columns)
    figure, axes = _pyplot().subplots(
        rows, columns, squeeze=False, figsize=(4 * columns, 3.4 * rows), layout="constrained"
    )
    for ax in axes.flat[leading.size :]:
        ax.remove()
    for ax, v, value, bound in zip(axes.flat, V.T, values, bounds, strict=False):
        field(v, shape, triangulation, points, ax, **style)
        ax.set_title(f"{value:.4g} ± {bound:.0e}")
    return figure


def gauss_newton_against_full(
    H: ReducedHessian, pairs: Eigenpairs | int = 8, ax: Any = None
) -> Any:
    """Eigenvalues of Gauss-Newton beside what the full Hessian says along the same vectors.

    Parameters
    ----------
    H : ReducedHessian
    pairs : Eigenpairs or int, optional
        Of ``H.gauss_newton``, in any inner product, or how many of them to compute.
    ax : matplotlib Axes, optional
        By default one in a new figure.

    Returns
    -------
    Axes

    Notes
    -----
    The full Hessian's are Rayleigh quotients v'H v, not its eigenvalues; their bars are the
    estimated error of the products. Where values differ by more than a factor of 30 the axis is
    logarithmic, and linear around zero.
    """
    if not isinstance(H, ReducedHessian):
        raise ArgumentError(f"H is a {type(H).__name__}; an mfdeq.ReducedHessian was expected")
    if not isinstance(pairs, Eigenpairs):
        pairs = eigsh(H.gauss_newton, positive(pairs, "pairs"), "LA")
    values, bounds, leading = _leading(pairs)
    metric = pairs.precision or Euclidean(H.backend)
    product, error = H.with_error(pairs.vectors)
    full = array_on_host(H.backend.column_dots(pairs.vectors, product))[leading]
    errors = SAFETY * array_on_host(metric.dual_norms(error))[leading]

    ax = _axes(ax)
    number = 1 + host.arange(leading.size)
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.vlines(number, host.minimum(values, full), host.maximum(values, full), GREY, zorder=1)
    style = {"linestyle": "none", "capsize": 2}
    ax.errorbar(number, values, bounds, fmt="o", color="C0", label="Gauss–Newton", **style)
    style["mfc"] = "white"
    ax.errorbar(number, full, errors, fmt="D", color="C1", label="full, same vectors", **style)
    sizes = abs(values[abs(values) > bounds])
    if sizes.size and max(sizes.max(), abs(full).max()) > WIDE * sizes.min():
        # A power of ten, so that no two labels are in one place.
        ax.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(sizes.min())))
    ax.set(xlabel="number, by magnitude", ylabel="v'H v")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


class _Spectrum:
    """One spectrum, the largest first: magnitudes, bounds and what its points are."""

    def __init__(self, name: str | None, pairs: Eigenpairs) -> None:
        self.name = name
        self.values, self.bounds, _ = _leading(pairs)
        self.sizes = abs(self.values)
        self.floor = float(max(array_on_host(pairs.report.product_errors), default=0.0))
        self.known = self.sizes > self.bounds

    @property
    def certain(self) -> list[float]:
        """What has a place on a logarithmic axis: values, or what they may be at most."""
        most = host.where(self.known, self.sizes, self.sizes + self.bounds)
        return [float(x) for x in most if 0.0 < x < math.inf]

    def draw(self, ax: Any, colour: str, bottom: float) -> list[Any]:
        """Put its three kinds of points there; what a legend shows of them."""
        drawn: list[Any] = []
        kinds = (
            ("positive", self.known & (self.values > 0.0), colour, colour),
            ("negative", self.known & (self.values < 0.0), colour, "white"),
            ("within its bound of zero", ~self.known, GREY, "white"),
        )
        number = 1 + host.arange(self.sizes.size)
        for kind, which, edge, face in kinds:
            if which.any():
                at, bound = host.maximum(self.sizes[which], bottom), self.bounds[which]
                # From zero on down a logarithmic axis has no place.
                below = at - host.maximum(self.sizes[which] - bound, bottom)
                above = host.maximum(self.sizes[which] + bound - at, 0.0)
                style = {"fmt": "o", "markersize": 4.5, "capsize": 2, "elinewidth": 1}
                bars = [host.maximum(below, 0.0), above]
                label = kind if self.name is None else f"{self.name}: {kind}"
                style |= {"color": edge, "mfc": face, "label": label}
                drawn.append(ax.errorbar(number[which], at, bars, **style))
        return drawn


def _leading(pairs: Any, count: int | None = None) -> tuple[Any, Any, Any]:
    """Values and bounds on the host, by falling magnitude, and which they are."""
    if not isinstance(pairs, Eigenpairs):
        raise ArgumentError(
            f"pairs is a {type(pairs).__name__}; what mfdeq.eigsh returns was expected"
        )
    values = array_on_host(pairs.values).astype(float)
    bounds = array_on_host(pairs.error_bounds).astype(float)
    if not values.size:
        raise ArgumentError("pairs holds no eigenvalue; one at least was expected")
    leading = host.argsort(-abs(values), kind="stable")[:count]
    return values[leading], bounds[leading], leading


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
    ax = _axes(ax)
    if z.size == nodes:
        return ax, ax.tripcolor(mesh, z, **{"shading": "gouraud"} | style)
    return ax, ax.tripcolor(mesh, facecolors=z, **style)


def _colour_bar(ax: Any, image: Any) -> None:
    """As high as the picture, which a figure's own is not where aspects are equal."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    unit = 0.02 * max(1.0, abs((high - low) / (right - left)))
    ax.figure.colorbar(image, cax=ax.inset_axes((1.0 + unit, 0.0, 2.0 * unit, 1.0)))


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    return _pyplot().subplots(figsize=(6.4, 4.6), layout="constrained")[1]


def _pyplot() -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ArgumentError(
            f"matplotlib cannot be imported ({error}): install the extra mfdeq[plot]; in a clone, "
            'pip install -e ".[plot]"'
        ) from error
