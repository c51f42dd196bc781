"""Scaling by powers of two, which is exact, so that squares neither overflow nor underflow.

Inner products of vectors below 1e-23 in float32, or beyond 1e±154 in float64, are zero or infinite.
Linear solves multiply their right-hand sides by powers of two first, and the solutions by the
inverse powers; eigensolvers do so with products and eigenvalues. Everything in between then
computes with numbers near one.
"""

from __future__ import annotations

from typing import Any

from .backend import Array, Backend, array_on_host, host

NO_EXPONENT = host.zeros((), dtype=int)


def in_range(backend: Backend, sizes: Any) -> bool:
    """Return whether squares of numbers of these sizes, on the host, are far from the limits."""
    least = backend.smallest_to_square
    return bool(((sizes >= least) & (sizes <= 1.0 / least)).all())


def scaled_by(value: float, exponent: int) -> float:
    """Return 2^e times a number on the host; infinite if it overflows."""
    with Backend.ignore_overflow():
        return float(host.ldexp(value, exponent))


def exponents_of(backend: Backend, x: Array) -> Any:
    """Return e such that the largest entry of each column of 2^e x is near one.

    Parameters
    ----------
    backend : Backend
    x : (n,) or (n, k) array

    Returns
    -------
    () or (k,) array of int on the host
        Zero for columns that are in range already, zero, or not finite.
    """
    xp = backend.xp
    least = backend.smallest_to_square
    vector = type(x) is host.ndarray and x.ndim == 1 and x.shape[0] > 0
    if vector and least <= host.maximum.reduce(abs(x)) <= 1.0 / least:
        return NO_EXPONENT  # the usual case
    largest = array_on_host(xp.max(xp.abs(x), axis=0)).astype("float64")
    leave = (largest == 0) | ((largest >= least) & (largest <= 1.0 / least))
    leave = leave | ~host.isfinite(largest)
    return host.where(leave, 0, -host.frexp(host.where(leave, 1.0, largest))[1])


def times_power(backend: Backend, x: Array, exponents: Any) -> Array:
    """Return 2^e x, for one int e or one for each column.

    Results that the dtype cannot hold are infinite, or rounded to its subnormal numbers.
    """
    with backend.ignore_overflow():
        # In two steps, since 2^e itself may be out of range.
        for part in (exponents // 2, exponents - exponents // 2):
            power = host.ldexp(1.0, part)
            x = x * (float(power) if host.ndim(power) == 0 else backend.coefficients(power))
    return x
