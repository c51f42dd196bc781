"""Pages whose examples need an optional package are tested where it is installed."""

from importlib.util import find_spec

NEEDS = {"batches.rst": "jax", "coupling.rst": "openmdao", "peers.rst": "optimistix"}
collect_ignore = [page for page, package in NEEDS.items() if not find_spec(package)]
