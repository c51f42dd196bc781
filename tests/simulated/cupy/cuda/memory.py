"""The error of a full device."""

from .._simulated import OutOfMemoryError  # noqa: F401
