"""Pages whose examples need JAX are tested where it is installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("jax") else ["batches.rst"]
