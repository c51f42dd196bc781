"""Reports: how a forward solve went, and what the linear solves since have cost."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class LinearCounts:
    """What the solves with A and its adjoint have cost so far.

    Attributes
    ----------
    setups : int
        Factorizations computed and hierarchies built.
    refreshes : int
        Hierarchies that took the entries of another matrix instead of a new set-up.
    solves, adjoint_solves : int
        Calls; a block of k columns counts as one.
    columns : int
        Right-hand sides in total.
    iterations : int
        Krylov or Neumann iterations in total; 0 for a direct factor.
    refinements : int
        Corrections made because a true residual was still above its tolerance.
    worst_residual : float
        The largest relative true residual ||b - A x|| / ||b|| among solves to the full tolerance.
    at_floor : int
        Columns accepted above their tolerance, at the rounding floor c eps || |A||x| ||.
    seconds : float
        Wall time of set-ups and solves.
    bytes : int
        Memory of the last factor: LU, incomplete LU or multigrid levels.
    peak_bytes : int
        The most memory held at once up to the last solve: by this process on the host, by cupy's
        pool (since it was last emptied) on a device.
    history : list of float
        Relative residuals of the worst column of the last iterative solve, as its recurrence gives
        them, iteration by iteration.
    """

    setups: int = 0
    refreshes: int = 0
    solves: int = 0
    adjoint_solves: int = 0
    columns: int = 0
    iterations: int = 0
    refinements: int = 0
    worst_residual: float = 0.0
    at_floor: int = 0
    seconds: float = 0.0
    bytes: int = 0
    peak_bytes: int = 0
    history: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def add_time(self) -> Iterator[None]:
        """Add the wall time of a block to `seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


@dataclass
class SolveReport:
    """How the forward solve went, and the counts of every kind of solve since.

    Attributes
    ----------
    converged : bool
    reason : str
        Why it stopped and which criterion applied, in words.
    method, solver : str
        The forward method and the linear solver used in the end.
    choices : list of str
        What "auto" chose and why, and what it gave up.
    residuals : list of float
        The true ||R|| at the start and after every iteration.
    polished : bool
        Whether the last residual follows a chord step with the last factor, which brings the error
        of the state well below its tolerance and does not count as an iteration.
    target : float
        max(rtol scale, floor), which ||R|| had to reach.
    scale : float
        The size of residual that counts as one.
    floor : float
        c eps || |A||h| ||, the rounding error of evaluating R.
    limited_by : str
        "rtol" or "floor": which of the two set the target.
    digits_left : float
        Decimal digits that a solution of A x = b can have: what rounding in A, -log10(eps
        cond(A)), or the error of the state leaves, whichever is less. NaN until the first
        derivative sets up the factor.
    smallest_singular : float
        An upper bound of the smallest singular value of A, in the units of A. NaN until the first
        derivative.
    gradient_error : float
        Estimated relative error of the last gradient for which an estimate was requested, or NaN.
    derivatives : dict of str to str
        The source of each field of the linearization, where the model names it.
    evaluations : int
        Evaluations of the map or residual.
    forward, linear : LinearCounts
        Linear solves of the forward iteration, and with the factor at the equilibrium since then.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, "residual")
    >>> report = mfdeq.solve(model, np.array([4.0]), np.array([1.0])).report
    >>> report.converged, report.method, report.limited_by
    (True, 'newton', 'rtol')
    """

    converged: bool = False
    reason: str = ""
    method: str = ""
    solver: str = ""
    choices: list[str] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)
    polished: bool = False
    target: float = math.nan
    scale: float = math.nan
    floor: float = math.nan
    limited_by: str = ""
    digits_left: float = math.nan
    smallest_singular: float = math.nan
    gradient_error: float = math.nan
    derivatives: dict[str, str] = field(default_factory=dict)
    evaluations: int = 0
    forward: LinearCounts = field(default_factory=LinearCounts)
    linear: LinearCounts = field(default_factory=LinearCounts)

    @property
    def iterations(self) -> int:
        """Iterations of the forward method."""
        return max(len(self.residuals) - 1 - self.polished, 0)

    @property
    def residual(self) -> float:
        """||R|| at the end."""
        return self.residuals[-1] if self.residuals else math.nan

    @property
    def digits(self) -> float:
        """-log10(||R|| / scale): the digits of the residual."""
        if self.residual == 0.0:
            return math.inf
        return -math.log10(self.residual / self.scale) if self.scale > 0 else math.nan

    def __str__(self) -> str:
        digits = (
            "not known before the first derivative"
            if math.isnan(self.digits_left)
            else f"{self.digits_left:.1f} (smallest singular value of A "
            f"{self.smallest_singular:.1e})"
        )
        counts = self.forward, self.linear
        rows = [
            ("converged", f"{self.converged}: {self.reason}"),
            ("method", f"{self.method}, {self.solver}"),
            (
                "residual",
                f"{self.residual:.3e} after {self.iterations} iterations (scale "
                f"{self.scale:.3e}, {self.digits:.1f} digits; floor {self.floor:.1e})",
            ),
            ("digits left", digits),
            ("forward solves", _format_counts(self.forward)),
            ("solves since", _format_counts(self.linear)),
            ("memory", f"{max(c.peak_bytes for c in counts) / 2**20:.0f} MiB at the peak"),
        ]
        rows += [("derivatives", text) for text in _format_sources(self.derivatives)]
        rows += [("choice", choice) for choice in self.choices]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _format_sources(derivatives: dict[str, str]) -> list[str]:
    fields: dict[str, list[str]] = {}
    for name, source in derivatives.items():
        fields.setdefault(source, []).append(name)
    return [f"{', '.join(names)} by {source}" for source, names in fields.items()]


def _format_counts(counts: LinearCounts) -> str:
    worst = f"{counts.worst_residual:.1e}" if counts.worst_residual else "none to full tolerance"
    refreshed = f" and {counts.refreshes} refreshed" if counts.refreshes else ""
    return (
        f"{counts.setups} set-ups{refreshed}, {counts.solves} solves and "
        f"{counts.adjoint_solves} adjoint "
        f"({counts.columns} columns, {counts.iterations} iterations, {counts.seconds:.2f} s, "
        f"factor of {counts.bytes / 2**20:.1f} MiB), "
        f"worst relative residual {worst}"
    )
