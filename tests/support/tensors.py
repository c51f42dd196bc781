"""Comparison of tensors of PyTorch, which may require gradients."""

from support import cases


def close(actual, expected, rtol):
    """Assert that actual equals expected within rtol of its norm."""
    cases.close(*(x.detach() if hasattr(x, "detach") else x for x in (actual, expected)), rtol)
