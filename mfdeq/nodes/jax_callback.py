"""Callbacks of compiled programs, in which functions of JAX can be called.

A callback holds one of the threads of JAX's CPU client. A function of JAX that the callback calls
may need another one, and if all of them are held by callbacks, the program waits for ever. Inside
callbacks such functions are therefore computed by another client, which has its own threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, host
from ..arrays.optional_packages import import_optional


@functools.cache
def callback_device(client: Any) -> Any:
    """Return a CPU device with other threads than those of a client.

    Parameters
    ----------
    client : client of JAX
        That of the compiled program. A node in the function of another node has the other client,
        so that its callbacks use a third one.

    Returns
    -------
    device or None
        None if this version of JAX cannot make another client.
    """
    try:
        return import_optional("jaxlib.xla_client", "jax").make_cpu_client().local_devices()[0]
    except (AttributeError, TypeError, RuntimeError):
        return None


def as_callback(
    jax: ModuleType, on_host: Callable[..., Array], client: Any
) -> Callable[..., tuple[Array]]:
    """Return a function of arrays for a compiled program, with a tuple of one array of numpy.

    Parameters
    ----------
    jax : module
    on_host : callable
        A function of arrays of numpy.
    client : client of JAX
        That of the compiled program.
    """
    device = callback_device(client)

    def callback(*operands: Any) -> tuple[Array]:
        with contextlib.nullcontext() if device is None else jax.default_device(device):
            return (host.asarray(on_host(*map(host.asarray, operands))),)

    return callback
