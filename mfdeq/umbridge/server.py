"""`mfdeq.umbridge.serve`: an HTTP server of models and functionals."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterable, Mapping
from http.server import HTTPServer
from numbers import Integral
from typing import Any, Self

from ..errors import ArgumentError, short_repr
from ..models.model import Model
from ..optimization.functional import Functional
from .handler import Handler, log
from .host_names import address_family, checked_names
from .served_model import ServedModel

CALLER = "mfdeq.umbridge.serve"
MAX_PORT = 65535


def serve(
    served: Functional | Model | Mapping[str, Functional | Model],
    *,
    port: int = 4242,
    host: str = "127.0.0.1",
    allowed_hosts: str | Iterable[str] = (),
    **solve_options: Any,
) -> Server:
    """Serve functionals and models by the protocol of UM-Bridge, until the server is closed.

    Parameters
    ----------
    served : ReducedFunctional, SumFunctional or model, or mapping of str to those
        What to serve, by its name. A functional alone is named "functional", and a model alone
        "state".
    port : int, optional
        The port; 0 for a free one.
    host : str, optional
        The address to listen at, of IPv4 or IPv6, or a name of this machine. By default only
        programs on this machine can connect; "0.0.0.0" or "::" are all of its addresses. Whoever
        can connect may evaluate what is served: there are no passwords.
    allowed_hosts : str or iterable of str, optional
        Further names by which clients reach the server, without a port. Requests that name another
        host than these, `host`, the address that they reach or a loopback name are refused.
    **solve_options
        Options of `mfdeq.solve` for models: method, solver, rtol, max_iterations, lower, upper.
        A functional has its own.

    Returns
    -------
    Server
        It serves in the background, and keeps the program running until it is closed.

    Raises
    ------
    ArgumentError
        If something else than models and functionals is to be served, `port` is no port, a host is
        no name, an option is unknown, or there are options and no model.
    OSError
        If the port is taken, or this machine has no such address.

    Notes
    -----
    A functional maps theta, of size P, to one number L; a model maps it to h*, of size N. With
    y = sens and v = vec, ``Evaluate`` returns L or h*, ``Gradient`` y g or Z'y, ``ApplyJacobian``
    g'v or Z v, and ``ApplyHessian`` y H v, or the product of the Hessian of y'h* with v. All of
    these are exact. Requests at the same theta share one equilibrium and one factor. One request is
    served at a time; others wait.

    Requests are JSON, of a length that follows from P and N; nothing in them is executed. Errors
    have a type and a message: "ModelNotFound", "InvalidInput" or "InvalidOutput" as in other
    servers of UM-Bridge, or the name of an error of mfdeq, such as "ConvergenceError". A request
    whose Host header names another host is "Forbidden" (status 403): else a page in a browser could
    read the answers by having its own name resolve to this server (DNS rebinding).

    References
    ----------
    L. Seelinger, V. Cheng-Seelinger, A. Davis, M. Parno and A. Reinarz, "UM-Bridge: Uncertainty
    quantification and modeling bridge", Journal of Open Source Software 8 (2023), 4748.

    Examples
    --------
    >>> import json
    >>> import urllib.request
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> loss = mfdeq.LeastSquares(np.array([0]), np.array([1.0]))
    >>> F = mfdeq.ReducedFunctional(model, loss)
    >>> with mfdeq.umbridge.serve(F, port=0) as server:
    ...     body = json.dumps({"name": "functional", "input": [[0.0]]}).encode()
    ...     with urllib.request.urlopen(f"{server.url}/Evaluate", body) as answer:
    ...         print(answer.read().decode())
    {"output": [[0.034...]]}
    """
    if isinstance(served, Functional):
        served = {"functional": served}
    elif isinstance(served, Model):
        served = {"state": served}
    if not isinstance(served, Mapping) or not served or not all(isinstance(x, str) for x in served):
        raise ArgumentError(
            f"served of {CALLER}: expected a functional, a model or a mapping of names to those, "
            f"got {short_repr(served)}"
        )
    functionals = {name for name, x in served.items() if isinstance(x, Functional)}
    exempt = functionals if len(functionals) < len(served) else ()  # alone they refuse options
    models = {
        name: ServedModel(x, CALLER, {} if name in exempt else solve_options)
        for name, x in served.items()
    }
    return Server((host, _checked_port(port)), models, allowed_hosts)


def _checked_port(port: Any) -> int:
    number = -1 if isinstance(port, bool) or not isinstance(port, Integral) else int(port)
    if not 0 <= number <= MAX_PORT:
        raise ArgumentError(
            f"port of {CALLER}: expected an integer from 0 to {MAX_PORT}, got {short_repr(port)}"
        )
    return number


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """A server of models and functionals, which serves until it is closed; see `serve`.

    Use it in a ``with`` statement, or call `close`.

    Parameters
    ----------
    address : tuple of str and int
        The host and the port.
    models : dict of str to ServedModel
    allowed_hosts : str or iterable of str
        As of `serve`.

    Attributes
    ----------
    url : str
        What a client connects to.

    Examples
    --------
    >>> import urllib.request
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> with mfdeq.umbridge.serve({"cosine": model}, port=0) as server:
    ...     with urllib.request.urlopen(f"{server.url}/Info") as answer:
    ...         print(answer.read().decode())
    {"protocolVersion": 1.0, "models": ["cosine"]}
    """

    daemon_threads = True  # those of requests

    def __init__(
        self,
        address: tuple[str, int],
        models: dict[str, ServedModel],
        allowed_hosts: str | Iterable[str] = (),
    ) -> None:
        self.models = models
        self.address_family = address_family(*address, CALLER)
        self.allowed_hosts = checked_names(allowed_hosts, CALLER) | checked_names(
            address[0] or (), CALLER
        )
        super().__init__(address, Handler)
        self._thread = threading.Thread(target=self.serve_forever, name=CALLER, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        """What a client connects to, "http://127.0.0.1:4242" or "http://[::1]:4242"."""
        host, port = self.server_address[:2]
        if self.address_family == socket.AF_INET6:
            host = f"[{str(host).replace('%', '%25')}]"
        return f"http://{host!s}:{port}"

    def wait(self) -> None:
        """Serve until the program is interrupted, and close then."""
        try:
            self._thread.join()
        except KeyboardInterrupt:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Stop serving, and free the port. Later calls do nothing."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke, for programs that ask for it."""
        log.debug("the connection with %s broke", client_address, exc_info=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mfdeq.umbridge.Server of {', '.join(self.models)} at {self.url}>"
