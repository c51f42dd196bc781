"""Requests of UM-Bridge over HTTP: from bytes to an operation, and back."""

from __future__ import annotations

import json
import logging
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, cast

from ..errors import short_repr
from .host_names import check_host, named_host
from .served_model import ProtocolError, ServedModel

PROTOCOL_VERSION = 1.0
TIMEOUT = 60.0  # seconds, for a request to arrive

log = logging.getLogger("mfdeq.umbridge")


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "mfdeq"
    sys_version = ""
    timeout = TIMEOUT
    information: ClassVar[tuple[str, ...]] = ("ModelInfo", "InputSizes", "OutputSizes")

    @property
    def models(self) -> dict[str, ServedModel]:
        """What is served, by name."""
        return cast(Any, self.server).models

    def do_HEAD(self) -> None:  # noqa: D102
        self._answer(dict)

    def do_GET(self) -> None:  # noqa: D102
        self._answer(self._get)

    def do_POST(self) -> None:  # noqa: D102
        self._answer(self._post)

    def _answer(self, compute: Any) -> None:
        """Send what a function returns, or its error."""
        try:
            self._check_host()
            answer, status = compute(), 200
        except ProtocolError as error:
            answer, status = _error(error.kind, error), error.status
        except Exception as error:  # of the model: the server goes on
            log.debug("%s failed", self.path, exc_info=True)
            answer, status = _error(type(error).__name__, error), 500
        self._send(answer, status)

    def _check_host(self) -> None:
        """Refuse a request that names another host; clients of HTTP/1.0 need not name any."""
        named = self.headers.get_all("Host", [])
        if not named and self.request_version == "HTTP/1.0":
            return
        closing, self.close_connection = self.close_connection, True  # the body is not read
        server: Any = self.server
        addresses = [x[0] for x in (server.server_address, self.connection.getsockname())]
        check_host(named_host(named), addresses, server.allowed_hosts)
        self.close_connection = closing

    def _get(self) -> dict[str, Any]:
        if self.path != "/Info":
            raise self._not_found()
        return {"protocolVersion": PROTOCOL_VERSION, "models": list(self.models)}

    def _post(self) -> dict[str, Any]:
        fields, operation = self._fields(), self.path.removeprefix("/")
        name = fields.get("name")
        model = self.models.get(name) if isinstance(name, str) else None
        if operation not in self.information and not any(
            operation in served.operations for served in self.models.values()
        ):
            raise self._not_found()
        if model is None:
            raise ProtocolError(
                "ModelNotFound",
                f"name: expected one of {', '.join(self.models)}, got {short_repr(name)}",
            )
        if operation == "ModelInfo":
            return {"support": dict.fromkeys(model.operations, True)}
        if operation in ("InputSizes", "OutputSizes"):
            key = operation[0].lower() + operation[1:]
            return {key: model.sizes(key, fields)}
        return {"output": model.apply(operation, fields)}

    def _fields(self) -> dict[str, Any]:
        """Read and check the body of a request."""
        length = self.headers.get("Content-Length", "")
        longest = max(model.max_request_bytes for model in self.models.values())
        closing, self.close_connection = self.close_connection, True  # unless all of it is read
        if not length.isascii() or not length.isdigit():
            raise ProtocolError("InvalidInput", "expected a request with a Content-Length", 411)
        if len(length) > len(str(longest)) or int(length) > longest:
            raise ProtocolError(
                "InvalidInput", f"expected a request of at most {longest} bytes, got more", 413
            )
        body = self.rfile.read(int(length))
        self.close_connection = closing
        try:
            fields = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("InvalidInput", f"expected JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ProtocolError("InvalidInput", f"expected an object, got {short_repr(fields)}")
        return fields

    def _not_found(self) -> ProtocolError:
        return ProtocolError("NotFound", f"no such operation: {short_repr(self.path)}", 404)

    def _send(self, answer: dict[str, Any], status: int) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request for programs that ask for it."""
        log.debug(format, *args)


def _error(kind: str, error: Exception) -> dict[str, Any]:
    return {"error": {"type": kind, "message": str(error)}}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
