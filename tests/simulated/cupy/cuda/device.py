"""The class of devices, where cupy has it."""

from .._simulated import Device  # noqa: F401
