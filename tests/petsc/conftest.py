"""Settings for several ranks that run the same tests."""

import tempfile


def pytest_configure(config):
    """Give each rank its own folder: otherwise all would make and remove the same one at once."""
    if config.option.basetemp is None:
        folder = tempfile.TemporaryDirectory(prefix="pytest-")
        config.option.basetemp = folder.name
        config.add_cleanup(folder.cleanup)
