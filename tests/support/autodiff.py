"""The namespaces of the packages that differentiate automatically."""

import importlib

import pytest


def library(source):
    """The namespace that a source differentiates, and its conversion of arrays."""
    if source == "from_jax":
        pytest.importorskip("jax", reason="the jax extra is not installed")
        xp = importlib.import_module("jax.numpy")
        return xp, xp.asarray
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    return torch, torch.as_tensor
