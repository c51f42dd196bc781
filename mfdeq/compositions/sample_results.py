"""The end of Newton's method for a batch: the last step, the reports of samples, and failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host
from ..forward import ConvergenceMonitor
from ..report import SampleReports
from .sample_measures import ratio
from .sample_sizes import SampleSizes
from .sample_steps import SampleEvaluations

MAX_LISTED = 3  # samples that are named in a message


@dataclass
class SampleResults:
    """How the iteration has ended for each sample.

    Attributes
    ----------
    evaluations : SampleEvaluations
    sizes : SampleSizes
    monitor : ConvergenceMonitor
    start, H, R, D, terms : (samples, n) arrays
        The starts, and at the last states the residuals, corrections and sizes of terms.
    converged : (samples,) array of bool
    ratios, corrections : (samples,) arrays
        The worst residuals, and for converged samples the relative corrections.
    iterations : (samples,) array of int
        On the host.
    reasons : dict of int to str
        Why samples have failed.
    by_rounding : bool
        Whether equations hold down to rounding only.
    doubtful : bool
        Whether a derivative may be singular.
    """

    evaluations: SampleEvaluations
    sizes: SampleSizes
    monitor: ConvergenceMonitor
    start: Array
    H: Array
    R: Array
    D: Array
    terms: Array
    converged: Array
    ratios: Array
    corrections: Array
    iterations: Any
    reasons: dict[int, str]
    by_rounding: bool
    doubtful: bool

    def __post_init__(self) -> None:
        self.backend: Backend = self.evaluations.backend
        self.xp = self.backend.xp

    def finish(self) -> None:
        """Take the last step of converged samples, and end or fail."""
        evaluations, monitor, xp = self.evaluations, self.monitor, self.xp
        self._polish()
        converged = array_on_host(self.converged)
        monitor.report.samples = SampleReports(
            converged, self.iterations, array_on_host(self.ratios), self.reasons
        )
        h = evaluations.flat(self.H)
        if not converged.all():
            if not converged.any() or not evaluations.model.tolerates_failures:
                raise self._failure(h)
            kept = self.xp.asarray(self.converged)
            self.H = xp.where(kept[:, None], self.H, self.start)
            evaluations.problem.replace_model(evaluations.model.without_samples(kept, self.H))
            h = evaluations.flat(self.H)
        if not self.doubtful:
            monitor.report.uniqueness = "judged"
        ratios = xp.where(self.converged, self.ratios, 0.0)
        self._name_worst(ratios)
        monitor.finish(
            h,
            float(xp.max(ratios)),
            float(xp.max(self.corrections)),
            "rounding" if self.by_rounding else "rtol",
        )

    def _polish(self) -> None:
        xp = self.xp
        if not self.backend.any(self.converged):
            return
        H = xp.where(self.converged[:, None], self.H - self.D, self.H)
        H = self.evaluations.limited(self.H, H)
        R = self.evaluations.residuals(H)
        defined = xp.isfinite(xp.sum(R, axis=1))
        size = xp.abs(R)
        allowed = xp.maximum(xp.abs(self.R), self.sizes.floor(self.terms))
        better = self.converged & defined & xp.all(size <= allowed, axis=1)
        self.H = xp.where(better[:, None], H, self.H)
        self.R = xp.where(better[:, None], R, self.R)
        terms = xp.maximum(self.terms, size)
        after = xp.max(ratio(xp, xp.abs(self.R), terms), axis=1)
        self.ratios = xp.where(better, after, self.ratios)
        self.monitor.report.polished = True

    def _name_worst(self, ratios: Array) -> None:
        i, n = int(self.xp.argmax(ratios)), self.evaluations.shape[1]
        j = int(self.xp.argmax(ratio(self.xp, self.xp.abs(self.R[i, :]), self.terms[i, :])))
        self.monitor.report.worst_equation = self.evaluations.problem.equation_name(i * n + j)
        i = int(self.xp.argmax(self.corrections))
        change, size = self.xp.abs(self.D[i, :]), self.sizes.of(self.H)[i, :]
        j = int(self.xp.argmax(ratio(self.xp, change, size)))
        self.monitor.report.worst_unknown = self.evaluations.problem.unknown_name(i * n + j)
        zero = self.converged[:, None] & self.sizes.zero(self.H)
        self.monitor.report.zero_unknowns = self.backend.count(zero)

    def _failure(self, h: Array) -> Exception:
        samples = self.evaluations.shape[0]
        monitor, failed = self.monitor, sorted(self.reasons)
        listed = "; ".join(f"sample {i}: {self.reasons[i]}" for i in failed[:MAX_LISTED])
        more = f"; and {len(failed) - MAX_LISTED} more" if len(failed) > MAX_LISTED else ""
        worst = self.xp.asarray([i in self.reasons for i in range(samples)])
        ratios = self.xp.where(worst & self.xp.isfinite(self.ratios), self.ratios, 0.0)
        self._name_worst(ratios)
        monitor.best, monitor.best_ratio = h, float(self.xp.max(ratios))
        return monitor.failure(
            f"found no equilibrium of {len(failed)} of {samples} samples ({listed}{more})",
            "Start these samples elsewhere (h0, initial_state), or leave out those without an "
            "equilibrium by on_failure='mask'",
        )
