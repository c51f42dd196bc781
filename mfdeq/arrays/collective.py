"""Public functions on several processes: arguments compared, errors raised on all of them.

A process that raises alone leaves the others waiting for its next message. Libraries of distributed
arrays therefore put a context around every public function, which `collective` asks them for. For
arrays in one process the decorated functions are called as they are.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from ..errors import MfdeqError
from .library import distributed_libraries

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def collective(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Decorate a public function that all processes of distributed arguments call together.

    Arguments that must be equal on every process are compared, and an error on one process is an
    error of the same class on all.
    """
    name = function.__qualname__.removesuffix(".__init__").removesuffix(".__new__")
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        for library in distributed_libraries():
            context = library.public_call(name, signature, args, kwargs)
            if context is not None:
                with context:
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return checked


@contextlib.contextmanager
def defer_error(owner: Any) -> Iterator[None]:
    """Context of a constructor that cannot tell which processes call it.

    In a program of several processes its error is kept as ``owner.construction_error``, for the
    first public function that all of them call with the object. In one process it is raised.
    """
    try:
        yield
    except MfdeqError as error:
        if not any(library.several_processes() for library in distributed_libraries()):
            raise
        owner.construction_error = error
