"""Special functions."""

import scipy.special
from cupy import _simulated as _s


def expit(x):
    return _s.wrap(scipy.special.expit(_s.unwrap(x)))
