"""Which packages are installed."""

from importlib.util import find_spec


def is_installed(package):
    """Return whether there is a package with files, not only a folder of tests of that name."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
