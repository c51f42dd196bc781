"""Pages whose examples need an optional package are tested where it is installed."""

from importlib.util import find_spec

NEEDS = {
    "batches.rst": ["jax"],
    "coupling.rst": ["openmdao", "umbridge"],
    "peers.rst": ["optimistix"],
}


def installed(package):
    """Whether there is a package with files, not only a folder of tests of the same name."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


collect_ignore = [page for page, packages in NEEDS.items() if not all(map(installed, packages))]
