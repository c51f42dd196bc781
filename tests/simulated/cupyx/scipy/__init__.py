"""Factorizations and sparse matrices."""

from . import linalg, sparse  # noqa: F401
