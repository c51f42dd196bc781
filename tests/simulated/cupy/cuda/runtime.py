"""What the driver says."""

from .._simulated import Device as _Device

is_hip = False


def getDeviceCount():
    return _Device._count


def getDevice():
    return _Device._current
