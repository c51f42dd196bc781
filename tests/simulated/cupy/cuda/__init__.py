"""Devices and memory."""

from .. import _simulated
from .._simulated import Device, MemoryPointer  # noqa: F401
from . import device, memory, runtime


class MemoryPool:
    def set_limit(self, size=None, fraction=None):
        _simulated.limit = size or 0

    def get_limit(self):
        return _simulated.limit

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 0

    def free_all_blocks(self, stream=None):
        pass


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        pass

    def synchronize(self):
        _simulated.reads += 1


def is_available():
    return True


def get_device_id():
    return Device._current


memory.MemoryPool = MemoryPool
__all__ = ["Device", "MemoryPool", "Stream", "device", "memory", "runtime"]
