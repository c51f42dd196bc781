"""Pictures of eigenvalues: with their bounds, how they are distributed, and of two Hessians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..arguments import count as positive
from ..arrays.backend import array_on_host, host
from ..equilibrium.reduced_hessian import ReducedHessian
from ..errors import ArgumentError
from ..priors.precision import Euclidean
from ..spectrum.density import SpectralDensity
from ..spectrum.eigenpairs import SAFETY, Eigenpairs
from ..spectrum.extreme import eigsh
from .axes import axes_or_new
from .legends import by_name

NEAR = 1e-2  # of the smallest value, down to which an axis is stretched for the noise floor
WIDE = 30.0  # ratio of values, from which on an axis is logarithmic
POINTS = 1000  # of a curve
GREY = "0.6"
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
    named = by_name(pairs, Eigenpairs, "pairs", "mfdeq.eigsh", label)
    spectra = [_Spectrum(name, of) for name, of in named]
    ax = axes_or_new(ax)
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
    ax = axes_or_new(ax)
    (line,) = ax.plot(x, curve, label=label)
    ax.set_yscale("log")
    style = {"transform": ax.get_xaxis_transform(), "color": line.get_color(), "ls": "none"}
    ax.plot(of.exact, host.zeros(of.exact.size), marker="|", **style)
    ax.set(xlabel="eigenvalue", ylabel="eigenvalues per unit")
    ax.set_ylim(bottom=LEAST / width)  # below are the tails of the Gaussians
    return ax


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
    values, bounds, leading = leading_pairs(pairs)
    metric = pairs.precision or Euclidean(H.backend)
    product, error = H.with_error(pairs.vectors)
    full = array_on_host(H.backend.column_dots(pairs.vectors, product))[leading]
    errors = SAFETY * array_on_host(metric.dual_norms(error))[leading]

    ax = axes_or_new(ax)
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
        self.values, self.bounds, _ = leading_pairs(pairs)
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


def leading_pairs(pairs: Any, count: int | None = None) -> tuple[Any, Any, Any]:
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
