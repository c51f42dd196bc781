"""Devices, memory, streams and graphs."""

import contextlib

from .. import _simulated
from .._simulated import Device, MemoryPointer  # noqa: F401
from . import device, memory, runtime


class MemoryPool:
    def malloc(self, size):
        raise NotImplementedError("the simulation of cupy has memory of the host")

    def set_limit(self, size=None, fraction=None):
        _simulated.limit = size or 0

    def get_limit(self):
        return _simulated.limit

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return _simulated.largest

    def free_bytes(self):
        return 0

    def free_all_blocks(self, stream=None):
        pass


class Stream:
    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self._null, self.ptr = not non_blocking, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        _simulated.outside_a_capture("a synchronization")
        _simulated.reads += 1

    def begin_capture(self, mode=None):
        if self._null:
            raise runtime.CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the null stream")
        _simulated.capture.work = []

    def end_capture(self):
        work, _simulated.capture.work = _simulated.capture.work, None
        return Graph(work)


class Graph:
    """What was captured; here it has been done once by then, on a device not yet."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        for again in self._work:
            again()


@contextlib.contextmanager
def using_allocator(allocator=None):
    yield


def get_current_stream(device_id=-1):
    return Stream()


def is_available():
    return True


def get_device_id():
    return Device._current


memory.MemoryPool = MemoryPool
__all__ = ["Device", "MemoryPool", "Stream", "device", "memory", "runtime"]
