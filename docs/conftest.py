"""Pages whose examples need an optional package are tested where it is installed."""

from importlib.util import find_spec

NEEDS = {
    "batches.rst": ["jax"],
    "coupling.rst": ["openmdao", "umbridge"],
    "peers.rst": ["optimistix"],
}
collect_ignore = [page for page, packages in NEEDS.items() if not all(map(find_spec, packages))]
