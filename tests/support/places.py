"""Devices of array_api_strict and of cupy, and the comparison of results there with numpy's."""

import functools
import importlib.util
import os

import array_api_strict as strict
import numpy as np
import pytest
from array_api_compat import numpy as compat

import mfdeq

NO_CUPY = "no CUDA device (MFDEQ_CUPY=simulated runs them on the simulation)"


@functools.cache
def available_cupy():
    """Return cupy if it has a device or is simulated, else None."""
    if importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    return cupy if cupy.is_available() else None


def libraries():
    """Return numpy, and cupy if available, as parameters for parametrize(**LIBRARIES)."""
    found = [pytest.param(np, id="numpy")]
    if (cupy := available_cupy()) is not None:
        found.append(pytest.param(cupy, id=cupy_label()))
    return found


def to_numpy(array):
    """Return a host float64 copy of an array of any library."""
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=float)


def cupy_label():
    """Return the name of cupy in test ids, which tells a simulation from a GPU."""
    return "cupy-simulated" if os.environ.get("MFDEQ_CUPY") == "simulated" else "cupy"


LIBRARIES = {"argnames": "xp", "argvalues": libraries()}
N, P = 5, 3
RNG = np.random.default_rng(0)
W, U = 0.3 * RNG.standard_normal((N, N)), RNG.standard_normal((N, P))


class Place:
    """A device of array_api_strict, or numpy's host; calling it moves an array there."""

    def __init__(self, name):
        self.xp = compat if name == "numpy" else strict
        self.device = "cpu" if name == "numpy" else strict.Device(name)

    def __call__(self, x):
        """Copy a host array to this device."""
        return self.xp.asarray(np.asarray(x), device=self.device)

    def back(self, x):
        """Copy an array, which must be on this device, to the host."""
        if self.xp is compat:
            return x
        assert x.device == self.device
        # Entry by entry, the only transfer from that device that works with every numpy.
        return np.reshape([float(x[i]) for i in np.ndindex(*x.shape)], x.shape)


HOST = Place("numpy")


def assert_agrees_with_numpy(place, compute):
    """Assert that compute(place), a tuple of arrays, is the same on a device and with numpy."""
    expected, found = compute(HOST), compute(place)
    assert len(expected) == len(found) > 0
    for here, there in zip(expected, found, strict=True):
        assert np.linalg.norm(here) > 0
        np.testing.assert_allclose(place.back(there), here, rtol=1e-12, atol=1e-13)


class Dense(mfdeq.FixedPointModel):
    """h = tanh(W h + U theta) in any array library."""

    state_size, param_size = N, P

    def __init__(self, place, products=False):
        self.xp, self.W, self.U, self.products = place.xp, place(W), place(U), products

    def map(self, h, theta):
        return self.xp.tanh(self.W @ h + self.U @ theta)

    def linearize(self, h, theta):
        y = self.xp.tanh(self.W @ h + self.U @ theta)
        first, second = 1 - y**2, -2 * y * (1 - y**2)
        W, U = self.W, self.U

        def curvature(lam):
            D = (second * lam)[:, None]
            K = mfdeq.Curvature(U.T @ (D * U), W.T @ (D * U), W.T @ (D * W))
            if not self.products:
                return K
            return lambda u, z: (
                K.params_params @ u + K.state_params.T @ z,
                K.state_params @ u + K.state_state @ z,
            )

        return mfdeq.Linearization(
            first[:, None] * W,
            first[:, None] * U,
            curvature=curvature,
            second=lambda a, b: second * (W @ a[1] + U @ a[0]) * (W @ b[1] + U @ b[0]),
        )
