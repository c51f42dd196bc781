"""Reports on a forward solve and on the cost of the linear solves that follow it."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .tables import MAX_TABLE_ROWS, PrintedAsTable, Table, pairs_table

_counting = threading.Lock()  # of all counts, since it is never held for long


@dataclass
class LinearCounts:
    """The cost of the solves with A and its adjoint so far.

    Threads that share a factor add to the same counts, each call of a method as one step.

    Attributes
    ----------
    setups : int
        Factorizations computed and hierarchies built.
    refreshes : int
        Hierarchies updated for a new matrix without a full set-up.
    solves, adjoint_solves : int
        Number of solves, which may be one application of the factor, as for most Newton steps
        with a factorization; a block of right-hand sides counts once.
    columns : int
        Right-hand sides in total.
    iterations : int
        Krylov or Neumann iterations in total; 0 for a direct factor.
    refinements : int
        Refinement steps taken because a true residual was above its tolerance.
    full_solves : int
        Solves to the full tolerance: a Newton step or an estimate may ask for less.
    worst_residual : float
        The largest relative true residual ||b - A x|| / ||b|| among solves to the full tolerance.
    at_floor : int
        Columns accepted above their tolerance, at the rounding floor c eps || |A||x| ||.
    seconds : float
        Wall time of set-ups and solves.
    bytes : int
        Memory of the last LU, incomplete LU or multigrid hierarchy.
    peak_bytes : int
        Peak memory use up to the last solve: of this process on the host, or of cupy's pool since
        it was last emptied on a device.
    history : list of float
        Relative residuals of the worst column in the last iterative solve, by its recurrence.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, p: h**3 + h - p, 2, 2, "residual")
    >>> mfdeq.solve(model, np.array([2.0, 10.0])).report.forward.setups > 0
    True
    """

    setups: int = 0
    refreshes: int = 0
    solves: int = 0
    adjoint_solves: int = 0
    columns: int = 0
    iterations: int = 0
    refinements: int = 0
    full_solves: int = 0
    worst_residual: float = 0.0
    at_floor: int = 0
    seconds: float = 0.0
    bytes: int = 0
    peak_bytes: int = 0
    history: list[float] = field(default_factory=list)

    def add_time(self) -> AbstractContextManager[None]:
        """Return a context that adds the wall time of its block to `seconds`."""
        return _Timer(self)

    def add(self, **amounts: float) -> None:
        """Add amounts to the counts with these names.

        Examples
        --------
        >>> counts = LinearCounts()
        >>> counts.add(solves=1, columns=3)
        >>> counts.solves, counts.columns
        (1, 3)
        """
        counts = self.__dict__
        with _counting:
            for name in amounts:
                counts[name] += amounts[name]

    def raise_to(self, **values: float) -> None:
        """Replace the counts with these names by values that are larger."""
        with _counting:
            for name, value in values.items():
                setattr(self, name, max(getattr(self, name), value))

    def add_solve(
        self,
        adjoint: bool,
        columns: int,
        seconds: float,
        full: bool,
        worst_residual: float,
        peak_bytes: int,
    ) -> None:
        """Add a solve, whose worst relative residual counts if it was to the full tolerance."""
        with _counting:
            self.solves += not adjoint
            self.adjoint_solves += adjoint
            self.columns += columns
            self.seconds += seconds
            self.full_solves += full
            if worst_residual > self.worst_residual:
                self.worst_residual = worst_residual
            if peak_bytes > self.peak_bytes:
                self.peak_bytes = peak_bytes


class _Timer(AbstractContextManager[None]):
    """A context that adds its wall time to counts."""

    def __init__(self, counts: LinearCounts) -> None:
        self.counts, self.start = counts, time.perf_counter()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        with _counting:
            self.counts.seconds += time.perf_counter() - self.start


class SampleReport(NamedTuple):
    """How the solve for one sample of a batch went.

    Attributes
    ----------
    converged : bool
    iterations : int
        The number of its iterations.
    residual : float
        Its largest |R_i| relative to the size of the equation.
    reason : str
        Why it has no equilibrium, or "".
    """

    converged: bool
    iterations: int
    residual: float
    reason: str = ""


@dataclass(frozen=True)
class SampleReports(Sequence[SampleReport]):
    """How the solves for the samples of a batch went, as arrays and as one report for each.

    Attributes
    ----------
    converged : (samples,) array of bool
    iterations : (samples,) array of int
    residuals : (samples,) array
        The largest |R_i| of each sample relative to the size of the equation.
    reasons : dict of int to str
        Why samples have no equilibrium.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def f(h, theta, x):
    ...     return theta[0] * np.sin(h) + x
    >>> model = mfdeq.from_function(
    ...     f, 2, 1, "map", args=np.array([[0.1, 0.2], [0.3, 0.4], [5.0, 6.0]]), batched=True
    ... )
    >>> reports = mfdeq.solve(model, np.array([0.5])).report.samples
    >>> len(reports), reports.failed, reports[1].converged
    (3, 0, True)
    """

    converged: Any
    iterations: Any
    residuals: Any
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of samples without an equilibrium."""
        return len(self.converged) - int(self.converged.sum())

    def __len__(self) -> int:
        return len(self.converged)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        return SampleReport(
            bool(self.converged[i]),
            int(self.iterations[i]),
            float(self.residuals[i]),
            self.reasons.get(i, ""),
        )

    def __str__(self) -> str:
        few, many = int(self.iterations.min()), int(self.iterations.max())
        count = f"{len(self) - self.failed} of {len(self)}"
        text = f"{count} converged, after {few} to {many} iterations"
        listed = [f"sample {i}: {why}" for i, why in list(self.reasons.items())[:MAX_TABLE_ROWS]]
        return "; ".join([text, *listed])


@dataclass
class SolveReport(PrintedAsTable):
    """The outcome of a forward solve, and the counts of linear solves up to now.

    Attributes
    ----------
    converged : bool
        Whether the residual reached its target.
    reason : str
        Why the iteration stopped, and by which criterion.
    method, solver : str
        The forward method and the linear solver that produced the result.
    choices : list of str
        The choices that "auto" made, with reasons, and the attempts that it abandoned.
    residuals : list of float
        The worst residual at the start and after every iteration: the largest |R_i| relative to the
        size of its equation, which is that of its own terms or the model's `residual_scale`.
    residual : float
        The worst residual of the final state.
    correction : float
        The largest Newton correction of an unknown at the final state, relative to the size of the
        unknown, which is its value or the model's `state_scale`. The last chord step makes the
        state more accurate than this.
    worst_equation, worst_unknown : str
        The names of the equation and of the unknown with these values.
    zero_unknowns : int
        The number of unknowns that have converged to zero, whose relative accuracy does not count.
    polished : bool
        Whether chord steps with the last factor were taken at the end. They do not count as
        iterations.
    limited_by : str
        Whether "rtol" or "rounding" limited the accuracy.
    failures : int
        The number of trial states at which the model had no value.
    last_failure : str
        The message of the last of these failures.
    digits_left : float
        Decimal digits to which A x = b can be solved: the smaller of -log10(eps cond(A)) and the
        digits allowed by the error of the state. NaN until the first derivative sets up the
        factor.
    smallest_singular : float
        An upper bound on the smallest singular value of A, in the units of A. NaN until the first
        derivative and, if rows or columns of A are of very different size, until the first use of
        ``eq.smallest_singular``.
    uniqueness : str
        Whether the equilibrium is isolated, as far as its A tells: "judged", "not judged: " with
        the reason, or "no: " with what is singular. The first derivative always judges it.
    gradient_error : float
        Estimated relative error of the first gradient, or of the last one for which an estimate
        was requested; NaN without an estimate.
    product_error : float
        The same of products with a Hessian.
    derivatives : dict of str to str
        The source of each field of the linearization, if the model names it.
    evaluations : int
        Number of evaluations of the map or residual.
    samples : SampleReports or None
        How the solve for each sample of a batch went.
    forward, linear : LinearCounts
        Counts of the linear solves in the forward iteration, and of those for derivatives with the
        factor at the equilibrium.

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
    residual: float = math.nan
    correction: float = math.nan
    worst_equation: str = ""
    worst_unknown: str = ""
    zero_unknowns: int = 0
    polished: bool = False
    limited_by: str = ""
    failures: int = 0
    last_failure: str = ""
    digits_left: float = math.nan
    smallest_singular: float = math.nan
    uniqueness: str = ""
    gradient_error: float = math.nan
    product_error: float = math.nan
    derivatives: dict[str, str] = field(default_factory=dict)
    evaluations: int = 0
    samples: SampleReports | None = None
    forward: LinearCounts = field(default_factory=LinearCounts)
    linear: LinearCounts = field(default_factory=LinearCounts)

    def record_solver(self, name: str, choices: Sequence[str]) -> None:
        """Record the solver in use, and those of its choices that are new."""
        self.solver = name
        self.choices += [choice for choice in choices if choice not in self.choices]

    @property
    def iterations(self) -> int:
        """The number of iterations of the forward method."""
        return max(len(self.residuals) - 1, 0)

    @property
    def digits(self) -> float:
        """The decimal digits of the state, -log10 of the worst residual or correction.

        At most those of float64; 0.0 if the solve did not converge.
        """
        worst = max(self.residual, self.correction, sys.float_info.epsilon)
        return max(0.0, -math.log10(worst)) if self.converged else 0.0

    def _table(self) -> Table:
        digits = (
            "not known before the first derivative"
            if math.isnan(self.digits_left)
            else f"{self.digits_left:.1f}"
            + (
                ""
                if math.isnan(self.smallest_singular)
                else f" (smallest singular value of A {self.smallest_singular:.1e})"
            )
        )
        counts = self.forward, self.linear
        rows = [
            ("converged", f"{self.converged}: {self.reason}"),
            ("method", f"{self.method}, {self.solver}"),
            (
                "state",
                f"{self.digits:.1f} digits after {_plural(self.iterations, 'iteration')}, limited "
                f"by {self.limited_by or 'nothing yet'}",
            ),
            ("worst", ", ".join(filter(None, (self.worst_equation, self.worst_unknown)))),
            ("digits left", digits),
            ("forward solves", _format_counts(self.forward)),
            ("derivative solves", _format_counts(self.linear)),
            ("peak memory", f"{max(c.peak_bytes for c in counts) / 2**20:.0f} MiB"),
        ]
        if self.samples is not None:
            rows.append(("samples", str(self.samples)))
        if self.uniqueness != "judged":
            rows.append(("unique", self.uniqueness or "not judged"))
        if self.zero_unknowns:
            rows.append(("zeros", f"{_plural(self.zero_unknowns, 'unknown')} converged to zero"))
        if self.failures:
            times = _plural(self.failures, "trial state")
            rows.append(("failures", f"no value at {times}: {self.last_failure}"))
        rows += [("derivatives", text) for text in _format_sources(self.derivatives)]
        rows += [("choice", choice) for choice in self.choices]
        return pairs_table(rows)


def _format_sources(derivatives: dict[str, str]) -> list[str]:
    fields: dict[str, list[str]] = {}
    for name, source in derivatives.items():
        fields.setdefault(source, []).append(name)
    return [f"{', '.join(names)} by {source}" for source, names in fields.items()]


def _format_counts(counts: LinearCounts) -> str:
    parts = [_plural(counts.setups, "set-up")]
    if counts.refreshes:
        parts.append(_plural(counts.refreshes, "refresh", "refreshes"))
    parts += [_plural(counts.solves, "solve"), _plural(counts.adjoint_solves, "adjoint solve")]
    details = [_plural(counts.columns, "right-hand side")]
    if counts.iterations:
        details.append(_plural(counts.iterations, "iteration") + " of the linear solver")
    details += [f"{counts.seconds:.2f} s", f"factor of {counts.bytes / 2**20:.1f} MiB"]
    text = f"{', '.join(parts)} ({', '.join(details)})"
    if counts.full_solves:
        return f"{text}, largest relative residual {counts.worst_residual:.1e}"
    inexact = counts.solves + counts.adjoint_solves > 0
    return f"{text}, none of them to the full tolerance" if inexact else text


def _plural(n: int, singular: str, plural: str = "") -> str:
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
