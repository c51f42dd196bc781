"""What the driver says."""

from .._simulated import Device

is_hip = False


def getDeviceCount():
    return Device.count


def getDevice():
    return Device.current
