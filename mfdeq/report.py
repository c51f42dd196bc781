"""How a solve went, in one shape everywhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class LinearCounts:
    """What the solves with A and its adjoint cost so far.

    Attributes
    ----------
    setups : int
        Factorizations and hierarchies built.
    refreshes : int
        Hierarchies given the entries of another matrix, in place of a set-up.
    solves, adjoint_solves : int
        Calls; a block of k columns is one.
    columns : int
        Right-hand sides in all.
    iterations : int
        Krylov or Neumann iterations in all; 0 for a direct factor.
    refinements : int
        Corrections because a true residual was still above its tolerance.
    worst_residual : float
        The largest relative true residual ||b - A x|| / ||b|| accepted of a solve to full
        tolerance.
    at_floor : int
        Columns accepted at the rounding floor c eps || |A||x| ||, above their tolerance.
    seconds : float
        Wall time in set-ups and solves.
    bytes : int
        Memory that the factor set up last holds: LU, incomplete LU or multigrid levels.
    peak_bytes : int
        The most memory that was held at once up to the last solve: by cupy's pool since it was
        last emptied, on the host by this process.
    history : list of float
        Relative residuals of the last iterative solve by its own recurrence, of the worst
        column, iteration by iteration.
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
    def timed(self) -> Iterator[None]:
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
        Why it stopped, and which criterion applied, in words.
    method, solver : str
        What was used in the end.
    choices : list of str
        What "auto" picked and why, and what it fell back from.
    residuals : list of float
        ||R|| at the start and after every iteration: true residuals.
    polished : bool
        Whether the last of them is after a chord step with the last factor, which takes the
        state error well below its tolerance and is not counted as an iteration.
    target : float
        max(rtol scale, floor), what ||R|| had to reach.
    scale : float
        The size of residual that counts as one.
    floor : float
        c eps || |A||h| ||, the rounding error of evaluating R.
    limited_by : str
        "rtol" or "floor": which of the two the target was.
    digits_left : float
        Decimal digits that a solution of A x = b can have: the fewer of what rounding in A,
        -log10(eps cond(A)), and the error of the state leave. NaN until the first derivative
        sets the factor up.
    smallest_singular : float
        The least singular value of A, from above and in the units of A. NaN until then too.
    gradient_error : float
        Estimated relative error of the last gradient that was asked for with one; else NaN.
    derivatives : dict of str to str
        Where each field of the linearization is from, where the model says so.
    evaluations : int
        Evaluations of the map or residual.
    forward, linear : LinearCounts
        Linear solves of the forward iteration, and with the factor at the equilibrium since.
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
            else f"{self.digits_left:.1f} (least singular value of A {self.smallest_singular:.1e})"
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
            ("forward solves", _counted(self.forward)),
            ("solves since", _counted(self.linear)),
            ("memory", f"at most {max(c.peak_bytes for c in counts) / 2**20:.0f} MiB at once"),
        ]
        rows += [("derivatives", text) for text in _grouped(self.derivatives)]
        rows += [("choice", choice) for choice in self.choices]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _grouped(derivatives: dict[str, str]) -> list[str]:
    fields: dict[str, list[str]] = {}
    for name, source in derivatives.items():
        fields.setdefault(source, []).append(name)
    return [f"{', '.join(names)} by {source}" for source, names in fields.items()]


def _counted(counts: LinearCounts) -> str:
    worst = f"{counts.worst_residual:.1e}" if counts.worst_residual else "none to full tolerance"
    refreshed = f" and {counts.refreshes} refreshed" if counts.refreshes else ""
    return (
        f"{counts.setups} set-ups{refreshed}, {counts.solves} solves and "
        f"{counts.adjoint_solves} adjoint "
        f"({counts.columns} columns, {counts.iterations} iterations, {counts.seconds:.2f} s, "
        f"factor of {counts.bytes / 2**20:.1f} MiB), "
        f"worst relative residual {worst}"
    )
