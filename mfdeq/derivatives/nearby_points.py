"""Typical sizes of the entries of a vector, and nearby points at distances relative to them."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array, Backend
from ..errors import is_evaluation_failure

NEARBY_DISTANCES = (1e-2, 1e-4, 1e-6)  # relative to typical sizes, tried in this order


def typical_sizes(x: Array) -> Array:
    """Return the magnitudes of the entries of x, or the root mean square of all if larger."""
    backend = Backend.of(x)
    typical = backend.norm(x) / x.shape[0] ** 0.5 or 1.0
    return backend.xp.maximum(backend.xp.abs(x), backend.xp.asarray(typical, dtype=x.dtype))


def nearby_point(
    f: Callable[[Array, Array], Array], h: Array, theta: Array, sizes: tuple[Array, Array], i: int
) -> tuple[Array, Array]:
    """Return a point near (h, theta) at which f has a finite value, different for each i.

    Parameters
    ----------
    f : callable
    h, theta : (N,) and (P,) arrays
    sizes : pair of (N,) and (P,) arrays
        Typical sizes of h and theta, to which distances are relative.
    i : int
        The index of the point, which seeds the random direction.

    Returns
    -------
    h, theta : arrays
        The nearby point, or the given one if f raises or is not finite at all of the points tried.
    """
    backend = Backend.of(h, theta)
    for distance in NEARBY_DISTANCES:
        near_h, near_theta = (
            x + distance * size * backend.random(x.shape[0], seed=20 + i)
            for x, size in zip((h, theta), sizes, strict=True)
        )
        with backend.ignore_overflow():
            try:
                value = f(near_h, near_theta)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                continue
            if bool(backend.xp.all(backend.xp.isfinite(value))):
                return near_h, near_theta
    return h, theta
