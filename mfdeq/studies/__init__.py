"""Studies: a function evaluated on many cases, every result stored in a directory.

This room makes the cases (grids and random samples), distributes them over processes or any
`concurrent.futures.Executor`, records each result as soon as it is available, so that a killed
study can continue, and reads the records back as tables, datasets and an HTML page. It knows
nothing about equilibria; the function may be any. A single long computation continues from a
checkpoint instead: see `mfdeq.files`.
"""

from .cases import grid, sample
from .records import Record, Status

__all__ = ["Record", "Status", "grid", "sample"]
