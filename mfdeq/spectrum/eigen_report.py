"""The report of an eigenvalue computation: its cost, its accuracy and missing eigenvalues."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import array_on_host
from ..tables import MAX_TABLE_ROWS, ShownAsTable, Table


@dataclass
class EigenReport(ShownAsTable):
    """Report of an eigenvalue computation.

    Attributes
    ----------
    converged : bool
        Whether all k pairs reached the tolerance.
    method : str
        The method: "dense", "Lanczos", "Davidson", ...
    products : int
        The number of products with H; a block of b columns counts as b.
    missed : int or None
        The number of wanted eigenvalues that were not found, by inertia counts. Those that are
        within the error bound of the last wanted value count as copies of it, of which none is
        missing. None if they were not counted or a count is unreliable.
    miss_chance : float or None
        The bound on the chance that a wanted eigenvalue is missing which is separated from the last
        wanted value by ``miss_gap * norm`` or more; None if it was not looked for.
    miss_gap : float or None
        The gap, relative to `norm`; with a shift sigma, a gap of (H - sigma M)^-1 relative to the
        norm of that.
    extra_products : int
        The products of the search for missing eigenvalues; with a shift, those of the inverse.
    norm : float
        The largest magnitude of all approximate eigenvalues, wanted or not.
    residuals : (k,) array
        ||H x - mu x|| of each pair, or ||H x - mu R x|| in the norm of R^-1.
    product_errors : (k,) array
        The error of H x for each pair, estimated by `with_error`, plus rounding, also that of
        products and solves with M. The error bounds include it.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> report = mfdeq.eigsh(np.diag(np.arange(100.0)), k=2).report
    >>> report.converged, report.method
    (True, 'Lanczos')
    >>> bool(np.all(report.residuals <= 1e-6 * report.norm))
    True
    """

    converged: bool
    method: str
    products: int
    norm: float
    residuals: Any = field(repr=False)
    product_errors: Any = field(repr=False)
    missed: int | None = None
    miss_chance: float | None = None
    miss_gap: float | None = None
    extra_products: int = 0

    def __str__(self) -> str:
        excluded = self.miss_chance == 0 and self.miss_gap == 0
        if self.missed == 0 or (self.missed is None and excluded):
            others = "no wanted eigenvalue missed"
        elif self.missed is not None:
            others = f"{self.missed} wanted eigenvalues missed"
        elif self.miss_chance is None:
            others = "not searched for missed eigenvalues"
        else:
            chance = max(self.miss_chance, sys.float_info.epsilon)
            others = f"chance of a missed eigenvalue below {chance:.0e}"
            others += "" if self.miss_gap is None else f" at a gap of {self.miss_gap:.0e}"
        how = "converged" if self.converged else "not converged"
        return f"{how} by the method {self.method} after {self.products} products, {others}"

    def _table(self) -> Table:
        columns = {"residual": self.residuals, "product error": self.product_errors}
        shown = {name: array_on_host(x)[:MAX_TABLE_ROWS] for name, x in columns.items()}
        return Table(
            {name: [f"{x:.1e}" for x in column] for name, column in shown.items()},
            len(self.residuals) - len(shown["residual"]),
            "pairs",
            after=[str(self)],
        )
