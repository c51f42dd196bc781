"""Devices of array_api_strict, and what is computed there beside what numpy computes."""

import array_api_strict as strict
import numpy as np
from array_api_compat import numpy as compat


class Place:
    """A device of array_api_strict, or the host."""

    def __init__(self, name):
        self.xp = compat if name == "numpy" else strict
        self.device = "cpu" if name == "numpy" else strict.Device(name)

    def __call__(self, x):
        """A host array there."""
        return self.xp.asarray(np.asarray(x), device=self.device)

    def back(self, x):
        """An array from there, on the host; it must have been there."""
        if self.xp is compat:
            return x
        assert x.device == self.device
        # Entry by entry: nothing else leaves that device under every numpy.
        return np.reshape([float(x[i]) for i in np.ndindex(*x.shape)], x.shape)


HOST = Place("numpy")


def agrees(place, compute):
    """compute(place), a tuple of arrays, is on the device what it is with numpy."""
    expected, found = compute(HOST), compute(place)
    assert len(expected) == len(found) > 0
    for here, there in zip(expected, found, strict=True):
        assert np.linalg.norm(here) > 0
        np.testing.assert_allclose(place.back(there), here, rtol=1e-12, atol=1e-13)
