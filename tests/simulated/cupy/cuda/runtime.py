"""What the driver says."""

from .._simulated import Device

is_hip = False


def getDeviceCount():  # noqa: N802
    return Device.count


def getDevice():  # noqa: N802
    return Device.current
