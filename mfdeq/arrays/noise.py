"""The noise of a function of vectors, measured from its values at points of a line.

The noise is what polynomials of a low degree leave of the values. In exact arithmetic it is zero
for a polynomial, and negligible for a smooth function on a short line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .backend import Array, Backend, host

LINE_ROUNDINGS = 4.0  # of the largest change along the line, below which the rest is rounding


def values_on_line(
    function: Callable[[float], Array | None], points: Sequence[float]
) -> list[Array]:
    """Return the values of a function of t at the given points, up to the first without a value."""
    values: list[Array] = []
    for t in points:
        value = function(t)
        if value is None:
            break
        values.append(value)
    return values


def noise_deviation(
    backend: Backend, values: Sequence[Array], points: Sequence[float], degrees: Sequence[int]
) -> Array:
    """Estimate the standard deviation of the noise of each entry of a function.

    Parameters
    ----------
    backend : Backend
    values : sequence of (n,) arrays
        The values at points of a line.
    points : sequence of float
        Their distances along the line, in any unit. At irregular distances, values that are rounded
        to multiples of a number do not look exact by chance.
    degrees : sequence of int
        The degrees of the polynomials that are removed, smaller than the number of points minus
        one.

    Returns
    -------
    (n,) array
        The root mean square, by degree of freedom, of what the best polynomial leaves; the least of
        those of the degrees, as what is smooth adds to an estimate.

    Notes
    -----
    For equidistant points and the degree k - 1 it is an average of the estimates from all
    differences of the order k and higher, σ² = (k!)² / (2k)! mean (Δᵏf)² [1]_.

    References
    ----------
    .. [1] J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM Journal on Scientific
       Computing 33 (2011), 1292-1314.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.arrays.backend import Backend
    >>> from mfdeq.arrays.noise import noise_deviation
    >>> points = range(7)
    >>> values = [np.array([np.exp(1e-3 * t), 1.0 + 1e-6 * (-1) ** t]) for t in points]
    >>> smooth, noisy = noise_deviation(Backend.of(values[0]), values, points, [3])
    >>> bool(smooth < 1e-12), bool(1e-6 < noisy < 2e-6)
    (True, True)
    """
    xp, count = backend.xp, len(points)
    middle = values[count // 2]
    changes = [value - middle for value in values]
    largest = xp.abs(changes[0])
    for change in changes[1:]:
        largest = xp.maximum(largest, xp.abs(change))
    # The columns after the first k are orthogonal to all polynomials of degrees below k.
    basis = host.linalg.qr(host.vander(host.asarray(points, dtype=float), increasing=True))[0]
    squares: list[Array] = []
    for column in basis.T[min(degrees) + 1 :]:
        left = float(column[0]) * changes[0]
        for weight, change in zip(column[1:], changes[1:], strict=True):
            left = left + float(weight) * change
        exact = xp.abs(left) <= LINE_ROUNDINGS * backend.eps * largest
        with backend.ignore_overflow():
            squares.append(xp.where(exact, 0.0 * left, left) ** 2)
    least: Array | None = None
    for degree in degrees:
        rest = squares[degree - min(degrees) :]
        total = rest[0]
        for square in rest[1:]:
            total = total + square
        deviation = xp.sqrt(total / len(rest))
        least = deviation if least is None else xp.minimum(least, deviation)
    assert least is not None
    return least
