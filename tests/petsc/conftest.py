"""What several ranks that run one test need."""

import tempfile


def pytest_configure(config):
    """Give each rank a folder of its own: all would make, and clean up, the same one at once."""
    if config.option.basetemp is None:
        folder = tempfile.TemporaryDirectory(prefix="pytest-")
        config.option.basetemp = folder.name
        config.add_cleanup(folder.cleanup)
