"""Studies: a function evaluated on many cases, every result stored in a directory.

This room makes the cases (grids and random samples), distributes them over processes or any
`concurrent.futures.Executor`, records each result as soon as it is there so that a killed run
continues, and reads the records back as tables, datasets and an HTML page. It knows nothing of
equilibria: a case calls any function. Runs of a single long computation continue from a file by
`mfdeq.files`.
"""

from .cases import grid, sample
from .records import Record, Status

__all__ = ["Record", "Status", "grid", "sample"]
