"""The hosts that requests may name.

A page in a browser can have its own name resolve to the address of a server that listens on the
reader's machine, and then read its answers ("DNS rebinding"). Such requests name the page's host.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any

from ..errors import ArgumentError, short_repr
from .served_model import ProtocolError

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|[^\s:/@\[\]]+)(?::[0-9]*)?")


def address_family(host: Any, port: int, caller: str) -> socket.AddressFamily:
    """Return the family of a host to listen at: IPv4 if it has an address of it, else IPv6."""
    if not isinstance(host, str):
        raise ArgumentError(
            f"host of {caller}: expected the name or the address of this machine as a string, got "
            f"{short_repr(host)}"
        )
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return min(entry[0] for entry in found)  # AF_INET comes first


def checked_names(names: Any, caller: str) -> frozenset[str]:
    """Return the names that a user allows, as `named_host` returns those of requests."""
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    for name in names:
        bare = isinstance(name, str) and (_is_address(name) or not re.search(r"[\s:/@*\[\]]", name))
        if not bare or not name:
            raise ArgumentError(
                f"allowed_hosts of {caller}: expected names or addresses without a port, such as "
                f"'solver.example.org', got {short_repr(name)}"
            )
    return frozenset(_normalized(name) for name in names)


def named_host(headers: list[str]) -> str:
    """Return the host that the Host headers of a request name, without its port."""
    found = HOST.fullmatch(headers[0].strip()) if len(headers) == 1 else None
    if found is None:
        got = ", ".join(short_repr(x) for x in headers) or "none"
        raise ProtocolError("InvalidInput", f"expected one Host header with a name, got {got}")
    return _normalized(found[1].removeprefix("[").removesuffix("]"))


def check_host(name: str, addresses: Iterable[str], allowed: frozenset[str]) -> None:
    """Raise a `ProtocolError` unless a name is of the server, of this machine, or allowed.

    Parameters
    ----------
    name : str
        What `named_host` returns.
    addresses : iterable of str
        Those that the server listens at and that the connection was made to.
    allowed : frozenset of str
        What `checked_names` returns.
    """
    addresses = [_normalized(address) for address in addresses]
    if name in allowed or name in addresses or _is_loopback(name):
        return
    known = ", ".join(dict.fromkeys([*addresses, "localhost", *sorted(allowed)]))
    raise ProtocolError(
        "Forbidden",
        f"Host: expected one of {known}, got {short_repr(name)}. If clients reach this server by "
        "that name, pass it in allowed_hosts= of mfdeq.umbridge.serve",
        403,
    )


def _normalized(host: str) -> str:
    """Return a name in lower case, or an address in its shortest form."""
    try:
        address = ip_address(host.partition("%")[0])  # without the interface of a link
    except ValueError:
        return host.lower().removesuffix(".")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
