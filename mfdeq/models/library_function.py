"""The function of a model in the library that differentiates it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LibraryFunction:
    """The map or residual of a model, as a function of vectors of another library.

    Attributes
    ----------
    residual : callable
        ``residual(h, theta, *data)`` is R = h - f(h, theta, *data) of a map, or the residual
        itself, (N,).
    state_to_tree, params_to_tree : callable
        Convert an (N,) or (P,) vector of the library to the structure of the user's example.
    state_to_vector, params_to_vector : callable
        The converse.
    state, params : object
        The user's examples, with arrays of the library as leaves.
    data : tuple
        What f takes after (h, theta): nothing, or the model's ``args``.
    data_are_example : bool
        Whether the data only say which structure, shapes and dtypes data have.
    """

    residual: Callable[..., Any]
    state_to_tree: Callable[[Any], Any]
    params_to_tree: Callable[[Any], Any]
    state_to_vector: Callable[[Any], Any]
    params_to_vector: Callable[[Any], Any]
    state: Any
    params: Any
    data: tuple[Any, ...] = ()
    data_are_example: bool = False
