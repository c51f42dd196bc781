"""Studies of many cases, kept in a directory: grids and samples of cases, `mfdeq.Study` itself."""

from .cases import grid, sample

__all__ = ["grid", "sample"]
