"""Parameters and states in the forms that users have them: vectors, tensors and pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.library import find_library
from ..errors import ModelError

FOREIGN_PACKAGES = ("torch", "jax", "jaxlib")  # whose arrays become numpy arrays


def flatten_params(model: Any, theta: Any, name: str = "params") -> Any:
    """Return parameters as a vector; see `flatten_state`."""
    return _flatten(model, theta, "flat_params", name)


def flatten_state(model: Any, h: Any, name: str = "h0") -> Any:
    """Return a state as a vector.

    Parameters
    ----------
    model : Model
    h : object
        An (N,) array, or a tensor, a JAX array or, if the model has a method ``flat_state``, what
        that accepts, such as a dict of arrays.
    name : str, optional
        The name of the argument in error messages.

    Returns
    -------
    object
        An array of numpy or of another array library. What is not known here is returned as it is,
        to be validated with other arguments.
    """
    return _flatten(model, h, "flat_state", name)


def _flatten(model: Any, x: Any, method: str, name: str) -> Any:
    if x is None or isinstance(x, Real):
        return x
    foreign = is_foreign(x)
    if not foreign and find_library(type(x)) is not None and getattr(x, "ndim", 1) <= 1:
        return x
    if isinstance(x, (list, tuple)) and all(isinstance(entry, Real) for entry in x):
        return x
    flat = _method(model, method)
    if flat is not None:
        return flat(x)
    if isinstance(x, Mapping):
        raise ModelError(
            f"{name}: expected an array, got a {type(x).__name__}: only models from JAX and "
            "PyTorch take pytrees"
        )
    return tensor_on_host(x) if foreign else x


def _method(model: Any, name: str) -> Callable[[Any], Array] | None:
    """Return a method of the model, or of the first of the models that it combines."""
    models = (model, *getattr(model, "models", ()))
    return next((getattr(m, name) for m in models if hasattr(m, name)), None)


def is_foreign(x: Any) -> bool:
    """Test whether an object belongs to PyTorch or JAX."""
    return type(x).__module__.partition(".")[0] in FOREIGN_PACKAGES


def tensor_on_host(x: Any) -> Any:
    """Return a tensor of PyTorch or JAX on the host as a numpy array, and others unchanged."""
    x = x.detach() if hasattr(x, "detach") else x
    device = getattr(x, "device", None)
    platform = getattr(device, "type", None) or getattr(device, "platform", "")
    return host.asarray(x) if platform == "cpu" else x


def are_equal(x: Array, y: Array) -> bool:
    """Test whether two checked vectors have the same dtype, shape and entries."""
    return x.dtype == y.dtype and x.shape == y.shape and Backend.of(y).all(x == y)
