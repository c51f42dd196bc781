"""Plots of eigenvalues: with error bounds, as a density, and of Gauss-Newton and full Hessians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..arguments import count as positive
from ..arrays.backend import array_on_host, host
from ..equilibrium.reduced_hessian import ReducedHessian
from ..errors import ArgumentError
from ..priors.metric import Euclidean
from ..spectrum.eigenpairs import Eigenpairs, vectors_of
from ..spectrum.eigsh import eigsh
from ..spectrum.spectral_density import SpectralDensity
from .axes import get_axes, named_results

NOISE_FLOOR_RATIO = 1e-2  # a noise floor below this fraction of the smallest value is off the axis
LOG_AXIS_RATIO = 30.0  # of the largest value to the smallest, above which an axis is logarithmic
CURVE_POINTS = 1000
GREY = "0.6"
MIN_DENSITY = 0.01  # eigenvalues per width of the smoothing, where the axis of a density ends


def spectrum(
    pairs: Eigenpairs | Mapping[str, Eigenpairs], ax: Any = None, label: str | None = None
) -> Any:
    """Plot the magnitudes of eigenvalues with their error bounds, the largest first.

    Parameters
    ----------
    pairs : Eigenpairs, or mapping of str to Eigenpairs
        The results of `mfdeq.eigsh`: one, or several by their names in the legend.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.
    label : str, optional
        The name of a single spectrum in the legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `pairs` is not a result of `mfdeq.eigsh`, or holds no eigenvalue.

    Notes
    -----
    Markers of positive eigenvalues are filled, those of negative ones open. Bars are the error
    bounds. The dashed line is the noise floor: the largest estimated error of a product with the
    operator. If it is far below all values, a text gives it instead. An eigenvalue not larger than
    its bound may be zero or of either sign: it is grey, and drawn at the lower end of the axis if
    it lies below.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> pairs = mfdeq.eigsh(np.diag([3.0, -2.0, 1.0, 0.5]), 2, "LM")
    >>> ax = plot.spectrum(pairs)
    >>> [text.get_text() for text in ax.get_legend().get_texts()][:2]
    ['positive', 'negative']
    """
    named = named_results(pairs, Eigenpairs, "pairs", "mfdeq.eigsh", label)
    spectra = [_Spectrum(name, one) for name, one in named]
    ax = get_axes(ax)
    sizes = [x for one in spectra for x in one.positive_sizes] or [1.0]
    floor = max(one.noise_floor for one in spectra)
    bottom = 0.5 * min(sizes + ([floor] if floor >= NOISE_FLOOR_RATIO * min(sizes) else []))
    handles = [handle for i, one in enumerate(spectra) for handle in one.draw(ax, f"C{i}", bottom)]
    text = f"error of products ≤ {floor:.0e}"
    if floor >= bottom:
        handles.append(ax.axhline(floor, color="0.4", ls="--", lw=1, label=text))
    elif floor > 0.0:
        ax.text(0.02, 0.02, text, transform=ax.transAxes, color="0.4", size="small")
    ax.set_yscale("log")
    ax.set(ylim=(0.7 * bottom, None), xlabel="number, by magnitude", ylabel="|eigenvalue|")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(handles=handles, frameon=False)
    return ax


def density(
    of: SpectralDensity, ax: Any = None, width: float | None = None, label: str | None = None
) -> Any:
    """Plot a spectral density: eigenvalues per unit, with known eigenvalues as ticks.

    Parameters
    ----------
    of : SpectralDensity
        The result of `mfdeq.spectral_density`.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.
    width : float, optional
        The standard deviation of the Gaussians that smooth the density, in units of the
        eigenvalues. By default a hundredth of their range.
    label : str, optional
        The name of the curve in a legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `of` is not a result of `mfdeq.spectral_density`.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> of = mfdeq.spectral_density(np.diag(np.linspace(0.0, 1.0, 50)))
    >>> ax = plot.density(of, width=0.05)
    >>> ax.get_ylabel()
    'eigenvalues per unit'
    """
    if not isinstance(of, SpectralDensity):
        raise ArgumentError(
            "of: expected a SpectralDensity, which mfdeq.spectral_density returns, got "
            f"{type(of).__name__}"
        )
    every = host.concatenate([of.nodes.reshape(-1), of.exact])
    low, high = float(every.min()), float(every.max())
    if width is None:
        width = 0.01 * (high - low) or 0.01 * abs(high) or 1.0
    x = host.linspace(low - 4.0 * width, high + 4.0 * width, CURVE_POINTS)
    curve = of(x, width)
    ax = get_axes(ax)
    (line,) = ax.plot(x, curve, label=label)
    ax.set_yscale("log")
    style = {"transform": ax.get_xaxis_transform(), "color": line.get_color(), "ls": "none"}
    ax.plot(of.exact, host.zeros(of.exact.size), marker="|", **style)
    ax.set(xlabel="eigenvalue", ylabel="eigenvalues per unit")
    ax.set_ylim(bottom=MIN_DENSITY / width)  # below are the tails of the Gaussians
    return ax


def gauss_newton_against_full(
    H: ReducedHessian, pairs: Eigenpairs | int = 8, ax: Any = None
) -> Any:
    """Plot eigenvalues of the Gauss-Newton Hessian, and the full Hessian along its eigenvectors.

    Parameters
    ----------
    H : ReducedHessian
        ``eq.hessian(loss)``.
    pairs : Eigenpairs or int, default: 8
        Eigenpairs of ``H.gauss_newton``, in any inner product; or the number to compute.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ArgumentError
        If `H` is not a ReducedHessian, or `pairs` is neither Eigenpairs nor a positive integer.

    Notes
    -----
    The values of the full Hessian are Rayleigh quotients v'H v along the eigenvectors v of the
    Gauss-Newton Hessian, not its eigenvalues. Their bars are the estimated errors of the products.
    The axis is logarithmic, and linear around zero, if values differ by more than a factor of 30.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import plot
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 2, 2, kind="map")
    >>> loss = mfdeq.LeastSquares(np.arange(2), np.array([0.5, 0.6]))
    >>> H = mfdeq.solve(model, np.array([0.3, 0.1])).hessian(loss)
    >>> ax = plot.gauss_newton_against_full(H, 2)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['Gauss–Newton', 'full, same vectors']
    """
    if not isinstance(H, ReducedHessian):
        raise ArgumentError(f"H: expected an mfdeq.ReducedHessian, got {type(H).__name__}")
    if not isinstance(pairs, Eigenpairs):
        pairs = eigsh(H.gauss_newton, positive(pairs, "pairs"), "LA")
    values, bounds, leading = leading_pairs(pairs)
    metric = pairs.precision or Euclidean(H.backend)
    product, error = H.with_error(vectors_of(pairs))
    full = array_on_host(H.backend.column_dots(vectors_of(pairs), product))[leading]
    errors = array_on_host(metric.dual_norms(error))[leading]

    ax = get_axes(ax)
    number = 1 + host.arange(leading.size)
    ax.axhline(0.0, color=GREY, lw=0.8)
    ax.vlines(number, host.minimum(values, full), host.maximum(values, full), GREY, zorder=1)
    style = {"linestyle": "none", "capsize": 2}
    ax.errorbar(number, values, bounds, fmt="o", color="C0", label="Gauss–Newton", **style)
    style["mfc"] = "white"
    ax.errorbar(number, full, errors, fmt="D", color="C1", label="full, same vectors", **style)
    sizes = abs(values[abs(values) > bounds])
    if sizes.size and max(sizes.max(), abs(full).max()) > LOG_AXIS_RATIO * sizes.min():
        # A power of ten, so that labels do not overlap.
        ax.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(sizes.min())))
    ax.set(xlabel="number, by magnitude", ylabel="v'H v")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


class _Spectrum:
    """The values of one spectrum and their error bounds, by falling magnitude."""

    def __init__(self, name: str | None, pairs: Eigenpairs) -> None:
        self.name = name
        self.values, self.bounds, _ = leading_pairs(pairs)
        self.sizes = abs(self.values)
        self.noise_floor = float(max(array_on_host(pairs.report.product_errors), default=0.0))
        self.signed = self.sizes > self.bounds

    @property
    def positive_sizes(self) -> list[float]:
        """Magnitudes on a logarithmic axis; for values that may be zero, their largest."""
        upper = host.where(self.signed, self.sizes, self.sizes + self.bounds)
        return [float(x) for x in upper if 0.0 < x < math.inf]

    def draw(self, ax: Any, colour: str, bottom: float) -> list[Any]:
        """Draw positive, negative and uncertain values, and return the handles for a legend."""
        handles: list[Any] = []
        kinds = (
            ("positive", self.signed & (self.values > 0.0), colour, colour),
            ("negative", self.signed & (self.values < 0.0), colour, "white"),
            ("within its bound of zero", ~self.signed, GREY, "white"),
        )
        number = 1 + host.arange(self.sizes.size)
        for kind, which, edge, face in kinds:
            if which.any():
                at, bound = host.maximum(self.sizes[which], bottom), self.bounds[which]
                # Bars that reach zero end at the bottom of the logarithmic axis.
                below = at - host.maximum(self.sizes[which] - bound, bottom)
                above = host.maximum(self.sizes[which] + bound - at, 0.0)
                style = {"fmt": "o", "markersize": 4.5, "capsize": 2, "elinewidth": 1}
                bars = [host.maximum(below, 0.0), above]
                label = kind if self.name is None else f"{self.name}: {kind}"
                style |= {"color": edge, "mfc": face, "label": label}
                handles.append(ax.errorbar(number[which], at, bars, **style))
        return handles


def leading_pairs(pairs: Any, count: int | None = None) -> tuple[Any, Any, Any]:
    """Return values and bounds on the host by falling magnitude, and their indices in `pairs`."""
    if not isinstance(pairs, Eigenpairs):
        raise ArgumentError(
            f"pairs: expected Eigenpairs, which mfdeq.eigsh returns, got {type(pairs).__name__}"
        )
    values = array_on_host(pairs.values).astype(float)
    bounds = array_on_host(pairs.error_bounds).astype(float)
    if not values.size:
        raise ArgumentError("pairs: expected at least one eigenvalue, got none")
    leading = host.argsort(-abs(values), kind="stable")[:count]
    return values[leading], bounds[leading], leading
