"""Models and functionals as a UM-Bridge server, for programs in other languages.

UM-Bridge is a protocol over HTTP by which samplers and optimizers evaluate a model and its
derivatives. This package has the server's side of it, with Python's own HTTP server; clients are
packages of their own. What is computed does not belong here.
"""

from .server import Server, serve

__all__ = ["Server", "serve"]
