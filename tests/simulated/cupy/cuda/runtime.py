"""What the driver says."""

from .._simulated import CUDARuntimeError  # noqa: F401
from .._simulated import Device as _Device

is_hip = False


def getDeviceCount():
    return _Device._count


def getDevice():
    return _Device._current


def getDeviceProperties(device):
    return {"name": b"a simulation of cupy on the host"}


def runtimeGetVersion():
    return 0


def driverGetVersion():
    return 0
