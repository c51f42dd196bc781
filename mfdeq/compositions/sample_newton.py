"""Newton's method for all samples of a batch at once, each by its own measure.

The model is evaluated for all samples in one call, and their Jacobians are solved with as a stack
of dense blocks. Everything else, the line search, the criteria and failures, is one sample's own:
what happens in one does not change the iterates of another.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..forward import ConvergenceMonitor, ModelMethod
from ..linear import Solver
from ..models.problem import Problem
from .sample_measures import Level, measure, norms
from .sample_results import SampleResults
from .sample_sizes import SampleSizes
from .sample_steps import ChordStep, SampleEvaluations, SampleStep

SUFFICIENT_DECREASE = 1e-4  # constant of the Armijo condition on the level
MIN_CONTRACTION = 0.25  # constant of the restricted monotonicity test
MAX_HALVINGS = 30  # of one step in the line search
SHORT_LENGTH = 1 / 16  # of a step; a sample has stalled after ...
MAX_SHORT_STEPS = 15  # ... so many short steps in a row
MAX_IDLE = 10  # iterations without progress, after which a step must reduce the residual
STALL_DECREASE = 0.99  # progress is a decrease of the worst residual to less than this multiple
MAX_NOISE_RATIO = 1e-3  # worst residual of a stalled sample, below which noise is measured
CHORD_RATIO = 1e-4  # worst residual of a sample, below which the last derivatives suffice ...
MAX_CHORD_CONTRACTION = 0.1  # ... as long as a step with them leaves no more than this
EFFECT_SEED = 29  # of the signs of rounding errors
SLOW = 0.2  # contraction of an iteration: it is 1/2 at a fold


class SampleNewton(ModelMethod):
    """Newton's method for the samples of a batch, each with its own line search and criteria.

    Notes
    -----
    A sample has converged where every equation holds to rtol of the size of its terms, (|A||h|)_i,
    and Newton's correction changes every unknown by at most rtol of its size, each or down to
    rounding, as in `mfdeq.solve`. A step is halved until the residual in units of the terms
    decreases, or until the next correction is shorter (the restricted monotonicity test [1]_).
    Samples that fail begin again, and then every step has to reduce the residual.

    References
    ----------
    .. [1] P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).
    """

    name = "newton"
    reason = "the samples of a batch are independent"
    max_iterations = 100

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve for all samples; see `ForwardMethod`."""
        run = _Iteration(problem, h, monitor)
        while run.judge():
            run.step()
        if run.restart():
            while run.judge():
                run.step()
        run.results().finish()


class _Iteration:
    """The iterates of all samples.

    Attributes
    ----------
    H, R : (samples, n) arrays
        The states, and the residuals there.
    A : (samples, n, n) array
    active : (samples,) array of bool
        The samples that are neither converged nor failed.
    """

    def __init__(self, problem: Problem, h: Array, monitor: ConvergenceMonitor) -> None:
        self.problem, self.monitor, self.backend = problem, monitor, problem.backend
        self.xp = problem.backend.xp
        self.evaluations = SampleEvaluations(problem)
        self.sizes = SampleSizes(self.evaluations, problem.state_scale(), monitor.step_rtol)
        self.start = self.H = self.evaluations.rows(self.backend.copied(h))
        self.linear = self._newton_step(self.H)
        self.R = self.linear.R
        defined = self.evaluations.defined(self.linear)
        samples = self.evaluations.shape[0]
        self.active = defined
        self.converged = defined & False
        self.reasons: dict[int, str] = {}
        self._fail(~defined, "the model has no value or derivative at the start")
        self.iterations = host.zeros(samples, dtype=int)
        self.short = host.zeros(samples, dtype=int)
        self.ratios = self.xp.full_like(self.H[:, 0], float("inf"))
        self.corrections = self.since_best = self.xp.zeros_like(self.ratios)
        self.best = self.ratios
        self.D = self.xp.zeros_like(self.H)
        self.largest_terms = self.xp.zeros_like(self.H)
        self.recent: list[Array] = []
        self.limit = monitor.max_iterations  # on the iterations of all samples together
        self.fixed_terms: Array | None = None  # units of residuals in the stricter line search
        self.earlier_ratios: list[Array] = []  # of the two iterations before
        self.by_rounding = self.doubtful = self.by_chord = False

    def _newton_step(self, H: Array) -> SampleStep:
        self.monitor.report.forward.add(setups=1, solves=1, columns=1)  # of all samples at once
        return self.evaluations.newton_step(H, self.sizes.of_terms(H))

    def _chord_step(self, R: Array) -> SampleStep:
        self.monitor.report.forward.add(solves=1, columns=1)
        return ChordStep(R, self.linear)

    def _chord_suffices(self) -> bool:
        """Return whether all residuals are so small that the last derivatives will do."""
        xp = self.xp
        ratios = xp.where(self.active, self.ratios, 0.0)
        if not float(xp.max(ratios)) <= CHORD_RATIO:
            return False
        if self.by_chord:
            slow = self.ratios > MAX_CHORD_CONTRACTION * self.earlier_ratios[-1]
            return not self.backend.any(self.active & slow)
        return True

    # One iteration.

    def judge(self) -> bool:
        """Judge the corrections of the active samples, and return whether any is left active."""
        xp, monitor = self.xp, self.monitor
        self.D = self._select(self.active, self.linear.D, self.D)
        undefined = self.active & ~xp.isfinite(xp.sum(self.D, axis=1))
        self._fail(undefined, "its derivative A is singular at an iterate")
        self.D = self._select(~undefined, self.D, xp.zeros_like(self.D))
        self.terms = terms = self.linear.terms
        self.largest_terms = xp.maximum(self.largest_terms, xp.maximum(terms, xp.abs(self.R)))
        floor = self.sizes.floor(terms)
        self.sizes.watch_corrections(self.H, self.D)
        sizes = self.sizes.of(self.H)
        scale = self.problem.residual_scale(self.evaluations.flat(self.H))
        scale = terms if scale is None else self.evaluations.rows(scale)
        found = measure(
            xp,
            self.R,
            self.D,
            terms=terms,
            scale=scale,
            sizes=sizes,
            floor=floor,
            rtols=(monitor.rtol, monitor.step_rtol, max(monitor.rtol, self.backend.eps)),
        )
        rounded = found.settled
        if self.backend.any(self.active & found.at_floor & ~rounded):
            change = xp.abs(self.D)
            small = (change <= monitor.step_rtol * sizes) | (change <= self._effect(floor))
            rounded = rounded | (found.at_floor & xp.all(small, axis=1))
        self.earlier_ratios = [*self.earlier_ratios, self.ratios][-2:] if self.recent else []
        self.ratios = xp.where(self.active, found.ratios, self.ratios)
        converged = self.active & found.satisfied & rounded
        if self.backend.any(converged):
            self.corrections = xp.where(converged, found.corrections, self.corrections)
            exact = found.settled & found.within
            self.by_rounding |= self.backend.any(converged & ~exact)
            self.doubtful |= self._may_be_singular(converged)
            self.converged = self.converged | converged
            self.active = self.active & ~converged
        monitor.report.residuals.append(float(xp.max(xp.where(self.tried, self.ratios, 0.0))))
        if len(monitor.report.residuals) > self.limit:
            self._fail(
                self.active,
                f"it did not converge in {monitor.max_iterations} iterations (see max_iterations)",
            )
        return self.backend.any(self.active)

    def _select(self, which: Array, rows: Array, others: Array) -> Array:
        """Return the given rows in some samples, and other rows in the others."""
        if self.backend.is_numpy and which.all():
            return rows
        return self.xp.where(which[:, None], rows, others)

    @property
    def tried(self) -> Array:
        return self.xp.isfinite(self.ratios)

    def _effect(self, floor: Array) -> Array:
        """Return what rounding of R changes in each unknown."""
        xp = self.xp
        random = self.backend.random(floor.shape[0] * floor.shape[1], seed=EFFECT_SEED)
        sides = xp.stack([xp.sign(self.evaluations.rows(random)) * floor, floor], axis=2)
        with self.backend.ignore_overflow():
            return xp.max(xp.abs(self.linear.solve(sides)), axis=2)

    def _fail(self, which: Any, reason: str) -> None:
        which = array_on_host(which)
        if which.any():
            self.reasons |= dict.fromkeys(host.nonzero(which)[0].tolist(), reason)
            self.active = self.active & ~self.backend.xp.asarray(which)

    def step(self) -> None:
        """Take a step in every active sample, shortened by its line search."""
        xp, active = self.xp, self.active
        wide = xp.where(xp.isfinite(self.linear.wide), self.linear.wide, self.terms)
        strict = self.fixed_terms is not None
        terms = self.fixed_terms if strict else xp.maximum(wide, self.largest_terms)
        level = Level(xp, terms, self.sizes.floor(wide))
        before = level(self.R)
        idle = self._idle()
        sizes = xp.maximum(self.sizes.of(self.H), xp.abs(self.D))
        lengths = 1.0 + 0.0 * before
        pending, H, following = active, self.H, None
        chord = self._chord_suffices()
        for halvings in range(MAX_HALVINGS):
            trial = self.H - lengths[:, None] * self.D
            trial = self.evaluations.limited(self.H, trial)
            trial = self._select(pending, trial, H)
            if halvings == 0 and not chord:
                following = self._newton_step(trial)
                R = following.R
            else:
                R = self.evaluations.residuals(trial)
            defined = xp.isfinite(xp.sum(R, axis=1))
            H = self._select(pending & defined, trial, H)
            values = self._select(defined, R, xp.zeros_like(R))
            if halvings == 0 and not (
                self.recent or strict
            ):  # terms that vanish at the start may be large
                there = xp.abs(values)
                level = Level(xp, xp.maximum(terms, there), self.sizes.floor(wide))
                before = level(self.R)
            after = level(values)
            decrease = SUFFICIENT_DECREASE * lengths * before
            accepted = pending & defined & (after <= before - decrease)
            if not strict and self.backend.any(pending & defined & ~accepted):
                reference = self._reference(level, before, idle)
                accepted = pending & defined & (after <= reference - decrease)
            doubtful = pending & defined & ~accepted
            if not strict and self.backend.any(doubtful):
                accepted = accepted | self._contracts(doubtful, R, lengths, sizes)
            pending = pending & ~accepted & self.active
            if not self.backend.any(pending):
                break
            lengths = xp.where(pending, 0.5 * lengths, lengths)
        moved = active & ~pending & self.active
        self._watch_lengths(moved, lengths)
        self.H = self._select(moved, H, self.H)
        self.recent = [*self.recent, self.R][-2:]
        self._settle_stalled(pending & self.active)
        self._continue_from(following, chord, R, halvings, moved)
        self.sizes.watch_states(self.H)
        self.iterations += array_on_host(moved)

    def _reference(self, level: Level, before: Array, idle: Array) -> Array:
        """Return the levels that a step has to reduce, the largest of the last few residuals."""
        reference = before
        for residual in self.recent:
            larger = self.xp.maximum(reference, level(residual))
            reference = self.xp.where(idle, reference, larger)
        return reference

    def _idle(self) -> Array:
        """Return which samples have made no progress for a while, as in a cycle."""
        xp = self.xp
        better = self.ratios < STALL_DECREASE * self.best
        self.best = xp.where(better, self.ratios, self.best)
        self.since_best = xp.where(better, 0.0, self.since_best + 1.0)
        return self.since_best > MAX_IDLE

    def _continue_from(
        self, following: SampleStep | None, chord: bool, R: Array, halvings: int, moved: Array
    ) -> None:
        """Keep the steps from the new states, which are known if no step was shortened."""
        if halvings or following is None:
            self.by_chord = chord and not halvings
            following = self._chord_step(R) if self.by_chord else self._newton_step(self.H)
        else:
            self.by_chord = False
        self._fail(
            moved & ~self.evaluations.defined(following),
            "the model has no derivative at an iterate",
        )
        self.linear = following
        self.R = self._select(moved, following.R, self.R)

    def _contracts(self, which: Array, R: Array, lengths: Array, sizes: Array) -> Array:
        """Return in which samples the next correction, with the A of this step, is shorter."""
        xp = self.xp
        with self.backend.ignore_overflow():
            following = self.linear.solve(R[:, :, None])[:, :, 0]
        sizes = xp.where(sizes > 0.0, sizes, xp.ones_like(sizes))
        bound = (1.0 - MIN_CONTRACTION * lengths) * norms(xp, self.D / sizes)
        return which & (norms(xp, following / sizes) <= bound)

    def _watch_lengths(self, moved: Array, lengths: Array) -> None:
        short = array_on_host(moved & (lengths <= SHORT_LENGTH))
        self.short = host.where(short, self.short + 1, 0)
        self._fail(
            self.short >= MAX_SHORT_STEPS,
            f"it stalled: {MAX_SHORT_STEPS} consecutive steps were shortened (a fold, or no "
            "solution for these parameters)",
        )

    def _settle_stalled(self, stalled: Array) -> None:
        """Measure the noise where no step reduces the residual: it may be nothing else."""
        if not self.backend.any(stalled):
            return
        measured = (
            stalled & (self.ratios <= MAX_NOISE_RATIO) & self.sizes.without_noise(self.ratios)
        )
        if self.backend.any(measured):
            self.sizes.measure_noise(measured, self.H)
            stalled = stalled & ~measured
        self._fail(
            stalled,
            "it stalled: no decrease of the residual along the Newton step (a fold, no solution "
            "for these parameters, or a wrong derivative)",
        )

    # Samples for which the line search fails.

    def restart(self) -> bool:
        """Begin again with failed samples and a stricter line search; return whether there are any.

        Steps then have to reduce the residual in units that stay the same, so that no cycle is
        possible.
        """
        if not self.reasons:
            return False
        xp, step = self.xp, self._newton_step(self.start)
        self.active = ~self.converged & self.evaluations.defined(step)
        if not self.backend.any(self.active):
            return False
        chosen = self.active[:, None]
        self.fixed_terms = self.largest_terms
        self.H = xp.where(chosen, self.start, self.H)
        self.linear, self.R = step, xp.where(chosen, step.R, self.R)
        for i in host.nonzero(array_on_host(self.active))[0].tolist():
            del self.reasons[i]
        self.recent, self.by_chord = [], False
        self.short = 0 * self.short
        self.limit += self.monitor.max_iterations
        self.monitor.report.choices.append(
            "method: samples for which it failed began again with a stricter line search"
        )
        return True

    def _may_be_singular(self, converged: Array) -> bool:
        """Return whether the convergence of a sample was slow at the end, as at a fold.

        Newton's method contracts by one half there.
        """
        if len(self.earlier_ratios) < 2:
            return False
        before, last = self.earlier_ratios
        slow = self.xp.maximum(self.ratios, SLOW * last) > SLOW**2 * before
        return self.backend.any(converged & slow)

    def results(self) -> SampleResults:
        """Return how the iteration has ended for each sample."""
        return SampleResults(
            self.evaluations,
            self.sizes,
            self.monitor,
            start=self.start,
            H=self.H,
            R=self.R,
            D=self.D,
            terms=self.terms,
            converged=self.converged,
            ratios=self.ratios,
            corrections=self.corrections,
            iterations=self.iterations,
            reasons=self.reasons,
            by_rounding=self.by_rounding,
            doubtful=self.doubtful,
        )
