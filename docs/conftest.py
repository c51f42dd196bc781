"""Pages whose examples need an optional package are tested where it is installed."""

from support.packages import is_installed

NEEDS = {
    "batches.rst": ["jax"],
    "coupling.rst": ["openmdao", "umbridge"],
    "peers.rst": ["optimistix"],
}
collect_ignore = [page for page, packages in NEEDS.items() if not all(map(is_installed, packages))]
