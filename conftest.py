"""Settings of doctests of the package: plots without a screen, and only where matplotlib is."""

import importlib.util
import os

os.environ.setdefault("MPLBACKEND", "Agg")

collect_ignore = [] if importlib.util.find_spec("matplotlib") else ["mfdeq/plot"]
