"""Newton's method for all samples of a batch at once, each by its own measure.

The model is evaluated for all samples in one call, and their Jacobians are solved with as a stack
of dense blocks. Everything else, the line search, the criteria and failures, is one sample's own:
what happens in one does not change the iterates of another.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.noise import noise_deviation
from ..forward import ConvergenceMonitor, ModelMethod
from ..forward.criteria import FALL_RATIO, FLOOR_ROUNDINGS, MAX_NOISE_FACTOR, MIN_FALLS
from ..linear import Solver
from ..linear.block_diagonal import singular_blocks
from ..models.model import Model
from ..models.problem import Problem
from ..report import SampleReports

SUFFICIENT_DECREASE = 1e-4  # constant of the Armijo condition on the level
MIN_CONTRACTION = 0.25  # constant of the restricted monotonicity test
MAX_HALVINGS = 30  # of one step in the line search
SHORT_LENGTH = 1 / 16  # of a step; a sample has stalled after ...
MAX_SHORT_STEPS = 15  # ... so many short steps in a row
MAX_IDLE = 10  # iterations without progress, after which a step must reduce the residual
STALL_DECREASE = 0.99  # progress is a decrease of the worst residual to less than this multiple
MAX_NOISE_RATIO = 1e-3  # worst residual of a stalled sample, below which noise is measured
NOISE_STEP, NOISE_POINTS, NOISE_DEGREE = 1e-7, 7, 3  # relative step, and the line, of a measurement
CHORD_RATIO = 1e-4  # worst residual of a sample, below which the last derivatives suffice ...
MAX_CHORD_CONTRACTION = 0.1  # ... as long as a step with them leaves no more than this
MAX_LISTED = 3  # samples that are named in a message
EFFECT_SEED = 29  # of the signs of rounding errors
SLOW = 0.2  # contraction of an iteration: it is 1/2 at a fold


class BatchModel(Protocol):
    """What `SampleNewton` and `BatchedEquilibrium` need of a model of many samples.

    Attributes
    ----------
    samples, sample_size : int
        The number of samples, and of the unknowns of each.
    tolerates_failures : bool
        Whether samples without an equilibrium are left out.
    """

    samples: int
    sample_size: int
    tolerates_failures: bool

    def sample_values(self, H: Array, theta: Array) -> Array:
        """Return f of each row of H, (samples, n), with NaN where there is no value."""

    def sample_blocks(self, H: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values and the Jacobians, (samples, n, n), with NaN where there are none."""

    def sample_step(self, H: Array, theta: Array, sizes: Array) -> SampleStep:
        """Return Newton's step from each row of H, whose unknowns have the given sizes."""

    def without_samples(self, kept: Array, H: Array) -> Model:
        """Return the model in which samples that are not kept stay at their rows of H."""


class SampleStep(Protocol):
    """Newton's steps of all samples, with NaN in samples without a value or a derivative.

    Attributes
    ----------
    R, terms, wide, D : (samples, n) arrays
        The residuals, the sizes |A| s of the terms of each equation, those with max(s, |D|) in
        place of s, and the corrections D = A^-1 R.
    """

    R: Array
    terms: Array
    wide: Array
    D: Array

    def solve(self, b: Array) -> Array:
        """Return A^-1 b for (samples, n, k) arrays, not finite where A is singular."""


class BlockStep:
    """Newton's steps from the Jacobians of the samples.

    Parameters
    ----------
    backend : Backend
    R : (samples, n) array
    A : (samples, n, n) array
    sizes : (samples, n) array
    """

    def __init__(self, backend: Backend, R: Array, A: Array, sizes: Array) -> None:
        self.backend, self.R, self.A = backend, R, A
        xp = backend.xp
        self.D = self.solve(R[:, :, None])[:, :, 0]
        both = xp.abs(A) @ xp.stack([sizes, xp.maximum(sizes, xp.abs(self.D))], axis=2)
        self.terms, self.wide = both[:, :, 0], both[:, :, 1]

    def solve(self, b: Array) -> Array:
        """Return A^-1 b, which is NaN in samples with a singular A."""
        xp = self.backend.xp
        regular = xp.isfinite(xp.sum(self.A, axis=(1, 2))) & xp.isfinite(xp.sum(b, axis=(1, 2)))
        try:
            if bool(xp.all(regular)):
                return xp.linalg.solve(self.A, b)
        except host.linalg.LinAlgError:
            for i in singular_blocks(self.A):
                regular[i] = False
        X = xp.full_like(b, float("nan"))
        if self.backend.any(regular):
            try:
                X[regular] = xp.linalg.solve(self.A[regular], b[regular])
            except host.linalg.LinAlgError:  # a singular block beside others that are not finite
                numbers = host.nonzero(array_on_host(regular))[0]
                for i in numbers[singular_blocks(self.A[regular])]:
                    regular[int(i)] = False
                X[regular] = xp.linalg.solve(self.A[regular], b[regular])
        return X


class _ChordStep:
    """Steps with the derivatives of an earlier state."""

    def __init__(self, R: Array, before: SampleStep) -> None:
        self.R, self.solve = R, before.solve
        self.terms = self.wide = before.terms
        self.D = before.solve(R[:, :, None])[:, :, 0]


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
        run.finish()


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
        self.model: Any = problem.model  # a `BatchModel`
        batch: Any = self.model
        self.shape = (batch.samples, batch.sample_size)
        self.given_sizes = self._given(problem.state_scale())
        self.start = self.H = self._rows(self.backend.copied(h))
        self.largest: Array | None = None  # |h_j| over the iterates after the first step
        self.linear = self._newton_step(self.H)
        self.R = self.linear.R
        defined = self._defined(self.linear)
        samples = self.shape[0]
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
        self.noise: Array | None = None
        self.largest_terms = self.falls = self.xp.zeros_like(self.H)
        self.recent: list[Array] = []
        self.limit = monitor.max_iterations  # on the iterations of all samples together
        self.fixed_terms: Array | None = None  # units of residuals in the stricter line search
        self.earlier_ratios: list[Array] = []  # of the two iterations before
        self.by_rounding = self.doubtful = self.by_chord = False

    # The model.

    def _rows(self, h: Array) -> Array:
        return self.xp.reshape(h, self.shape)

    def _flat(self, H: Array) -> Array:
        return self.xp.reshape(H, (-1,))

    def _given(self, sizes: Array | None) -> Array | None:
        return None if sizes is None else self._rows(sizes)

    def _residuals(self, H: Array) -> Array:
        """Return R, with NaN in samples without a value."""
        self.problem.evaluations += 1
        with self.backend.ignore_overflow():
            values = self.model.sample_values(H, self.problem.theta)
            return H - values if self.problem.is_map else values

    def _newton_step(self, H: Array) -> SampleStep:
        """Return Newton's steps from H, with derivatives there."""
        self.problem.evaluations += 1
        with self.backend.ignore_overflow():
            return self.model.sample_step(H, self.problem.theta, self._own_sizes(H))

    def _defined(self, step: SampleStep) -> Array:
        """Return in which samples the residual and its derivative are finite."""
        return self.xp.isfinite(self.xp.sum(step.R, axis=1) + self.xp.sum(step.terms, axis=1))

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

    # Sizes, as in `forward.criteria`.

    def _own_sizes(self, H: Array) -> Array:
        """Return the sizes for the terms of equations, which are at least those of the unknowns."""
        sizes = self._sizes(H)
        return sizes if self.given_sizes is None else self.xp.maximum(sizes, self.xp.abs(H))

    def _sizes(self, H: Array) -> Array:
        """Return the sizes of the unknowns: one that has fallen to zero has its largest value."""
        if self.given_sizes is not None:
            return self.given_sizes
        size = self.xp.abs(H)
        return size if self.largest is None else self.xp.where(self._zero(H), self.largest, size)

    def _zero(self, H: Array) -> Array:
        """Return which unknowns have converged to zero, as consecutive corrections show."""
        size = self.xp.abs(H)
        if self.largest is None:
            return size < 0.0
        small = size < self.monitor.step_rtol * self.largest
        return small & ((size == 0.0) | (self.falls >= MIN_FALLS))

    def _watch_zeros(self) -> None:
        xp, size = self.xp, self.xp.abs(self.H)
        falls = xp.abs(self.H - self.D) <= FALL_RATIO * size
        if self.largest is not None:
            tiny = size <= self.backend.eps * self.largest
            falls = falls | (tiny & (xp.abs(self.D) >= size))
        self.falls = xp.where(falls, self.falls + 1.0, xp.zeros_like(size))

    def _floor(self, terms: Array) -> Array:
        floor = FLOOR_ROUNDINGS * self.backend.eps * terms
        return floor if self.noise is None else floor + MAX_NOISE_FACTOR * self.noise

    # One iteration.

    def judge(self) -> bool:
        """Judge the corrections of the active samples, and return whether any is left active."""
        xp, monitor = self.xp, self.monitor
        self.D = xp.where(self.active[:, None], self.linear.D, self.D)
        undefined = self.active & ~xp.isfinite(xp.sum(self.D, axis=1))
        self._fail(undefined, "its derivative A is singular at an iterate")
        self.D = xp.where(undefined[:, None], xp.zeros_like(self.D), self.D)
        self.terms = terms = self.linear.terms
        self.largest_terms = xp.maximum(self.largest_terms, xp.maximum(terms, xp.abs(self.R)))
        floor = self._floor(terms)
        self._watch_zeros()
        sizes = self._sizes(self.H)
        scale = self._given(self.problem.residual_scale(self._flat(self.H)))
        scale = terms if scale is None else scale
        size, change = xp.abs(self.R), xp.abs(self.D)
        within = size <= floor
        at_floor = xp.all(within, axis=1)
        satisfied = xp.all((size <= monitor.rtol * scale) | within, axis=1)
        settled = change <= monitor.step_rtol * sizes
        exact = rounded = xp.all(settled, axis=1)
        if self.backend.any(self.active & at_floor & ~exact):
            effect = self._effect(floor)
            rounded = exact | (at_floor & xp.all(settled | (change <= effect), axis=1))
        ratios = _ratio(xp, size, xp.where(scale > 0.0, scale, xp.maximum(terms, size)))
        self.earlier_ratios = [*self.earlier_ratios, self.ratios][-2:] if self.recent else []
        self.ratios = xp.where(self.active, xp.max(ratios, axis=1), self.ratios)
        converged = self.active & satisfied & rounded
        if self.backend.any(converged):
            relative = xp.max(_ratio(xp, change, sizes), axis=1)
            self.corrections = xp.where(converged, relative, self.corrections)
            self.by_rounding |= self.backend.any(converged & (~exact | ~self._within(size, scale)))
            self.doubtful |= self._may_be_singular(converged)
            self.converged = self.converged | converged
            self.active = self.active & ~converged
        monitor.report.residuals.append(float(xp.max(xp.where(self._tried, self.ratios, 0.0))))
        if len(monitor.report.residuals) > self.limit:
            self._fail(
                self.active,
                f"it did not converge in {monitor.max_iterations} iterations (see max_iterations)",
            )
        return self.backend.any(self.active)

    def _within(self, size: Array, scale: Array) -> Array:
        return self.xp.all(size <= max(self.monitor.rtol, self.backend.eps) * scale, axis=1)

    @property
    def _tried(self) -> Array:
        return self.xp.isfinite(self.ratios)

    def _effect(self, floor: Array) -> Array:
        """Return what rounding of R changes in each unknown."""
        xp = self.xp
        random = self.backend.random(floor.shape[0] * floor.shape[1], seed=EFFECT_SEED)
        sides = xp.stack([xp.sign(self._rows(random)) * floor, floor], axis=2)
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
        level = _Level(xp, terms, self._floor(wide))
        before = level(self.R)
        reference = before
        idle = self._idle()
        for residual in () if strict else self.recent:
            reference = xp.where(idle, reference, xp.maximum(reference, level(residual)))
        sizes = xp.maximum(self._sizes(self.H), xp.abs(self.D))
        lengths = 1.0 + 0.0 * before
        pending, H, following = active, self.H, None
        chord = self._chord_suffices()
        for halvings in range(MAX_HALVINGS):
            trial = self.H - lengths[:, None] * self.D
            trial = self._rows(self.problem.limited(self._flat(self.H), self._flat(trial)))
            trial = xp.where(pending[:, None], trial, H)
            if halvings == 0 and not chord:
                following = self._newton_step(trial)
                R = following.R
            else:
                R = self._residuals(trial)
            defined = xp.isfinite(xp.sum(R, axis=1))
            H = xp.where((pending & defined)[:, None], trial, H)
            if halvings == 0 and not (
                self.recent or strict
            ):  # terms that vanish at the start may be large
                there = xp.abs(xp.where(defined[:, None], R, xp.zeros_like(R)))
                level = _Level(xp, xp.maximum(terms, there), self._floor(wide))
                before = reference = level(self.R)
            after = level(xp.where(defined[:, None], R, xp.zeros_like(R)))
            accepted = (
                pending & defined & (after <= reference - SUFFICIENT_DECREASE * lengths * before)
            )
            doubtful = pending & defined & ~accepted
            if not strict and self.backend.any(doubtful):
                accepted = accepted | self._contracts(doubtful, R, lengths, sizes)
            pending = pending & ~accepted & self.active
            if not self.backend.any(pending):
                break
            lengths = xp.where(pending, 0.5 * lengths, lengths)
        moved = active & ~pending & self.active
        self._watch_lengths(moved, lengths)
        self.H = xp.where(moved[:, None], H, self.H)
        self.recent = [*self.recent, self.R][-2:]
        self._settle_stalled(pending & self.active)
        self._continue_from(following, chord, R, halvings, moved)
        size = xp.abs(self.H)
        self.largest = size if self.largest is None else xp.maximum(self.largest, size)
        self.iterations += array_on_host(moved)

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
            following = _ChordStep(R, self.linear) if self.by_chord else self._newton_step(self.H)
        else:
            self.by_chord = False
        self._fail(moved & ~self._defined(following), "the model has no derivative at an iterate")
        self.linear = following
        self.R = self.xp.where(moved[:, None], following.R, self.R)

    def _contracts(self, which: Array, R: Array, lengths: Array, sizes: Array) -> Array:
        """Return in which samples the next correction, with the A of this step, is shorter."""
        xp = self.xp
        with self.backend.ignore_overflow():
            following = self.linear.solve(R[:, :, None])[:, :, 0]
        sizes = xp.where(sizes > 0.0, sizes, xp.ones_like(sizes))
        bound = (1.0 - MIN_CONTRACTION * lengths) * _norms(xp, self.D / sizes)
        return which & (_norms(xp, following / sizes) <= bound)

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
        measured = stalled & (self.ratios <= MAX_NOISE_RATIO) & (self._noise_of(stalled) == 0.0)
        if self.backend.any(measured):
            noise = self._measured_noise()
            before = 0.0 * noise if self.noise is None else self.noise
            self.noise = self.xp.where(measured[:, None], noise, before)
            stalled = stalled & ~measured
        self._fail(
            stalled,
            "it stalled: no decrease of the residual along the Newton step (a fold, no solution "
            "for these parameters, or a wrong derivative)",
        )

    def _noise_of(self, which: Array) -> Array:
        return 0.0 * self.ratios if self.noise is None else self.xp.max(self.noise, axis=1)

    def _measured_noise(self) -> Array:
        signs = self.xp.sign(self._rows(self.backend.random(self.H.size, seed=23)))
        step = NOISE_STEP * self._sizes(self.H) * signs
        values = [self._flat(self._residuals(self.H + t * step)) for t in range(NOISE_POINTS)]
        deviation = noise_deviation(self.backend, values, range(NOISE_POINTS), [NOISE_DEGREE])
        least = self.xp.full_like(deviation, self.backend.smallest_normal)
        return self._rows(self.xp.maximum(deviation, least))

    # Samples for which the line search fails.

    def restart(self) -> bool:
        """Begin again with failed samples and a stricter line search; return whether there are any.

        Steps then have to reduce the residual in units that stay the same, so that no cycle is
        possible.
        """
        xp, step = self.xp, self._newton_step(self.start)
        self.active = ~self.converged & self._defined(step)
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

    # The end.

    def _may_be_singular(self, converged: Array) -> bool:
        """Return whether the convergence of a sample was slow at the end, as at a fold.

        Newton's method contracts by one half there.
        """
        if len(self.earlier_ratios) < 2:
            return False
        before, last = self.earlier_ratios
        slow = self.xp.maximum(self.ratios, SLOW * last) > SLOW**2 * before
        return self.backend.any(converged & slow)

    def finish(self) -> None:
        """Take the last step of converged samples, and end or fail."""
        problem, monitor, xp = self.problem, self.monitor, self.xp
        self._polish()
        converged = array_on_host(self.converged)
        monitor.report.samples = SampleReports(
            converged, self.iterations, array_on_host(self.ratios), self.reasons
        )
        h = self._flat(self.H)
        if not converged.all():
            if not converged.any() or not self.model.tolerates_failures:
                raise self._failure(h)
            kept = self.xp.asarray(self.converged)
            self.H = xp.where(kept[:, None], self.H, self.start)
            problem.replace_model(self.model.without_samples(kept, self.H))
            h = self._flat(self.H)
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
        H = self._rows(self.problem.limited(self._flat(self.H), self._flat(H)))
        R = self._residuals(H)
        defined = xp.isfinite(xp.sum(R, axis=1))
        size = xp.abs(R)
        allowed = xp.maximum(xp.abs(self.R), self._floor(self.terms))
        better = self.converged & defined & xp.all(size <= allowed, axis=1)
        self.H = xp.where(better[:, None], H, self.H)
        self.R = xp.where(better[:, None], R, self.R)
        terms = xp.maximum(self.terms, size)
        after = xp.max(_ratio(xp, xp.abs(self.R), terms), axis=1)
        self.ratios = xp.where(better, after, self.ratios)
        self.monitor.report.polished = True

    def _name_worst(self, ratios: Array) -> None:
        i, n = int(self.xp.argmax(ratios)), self.shape[1]
        j = int(self.xp.argmax(_ratio(self.xp, self.xp.abs(self.R[i, :]), self.terms[i, :])))
        self.monitor.report.worst_equation = self.problem.equation_name(i * n + j)
        i = int(self.xp.argmax(self.corrections))
        change, size = self.xp.abs(self.D[i, :]), self._sizes(self.H)[i, :]
        j = int(self.xp.argmax(_ratio(self.xp, change, size)))
        self.monitor.report.worst_unknown = self.problem.unknown_name(i * n + j)
        zero = self.converged[:, None] & self._zero(self.H)
        self.monitor.report.zero_unknowns = self.backend.count(zero)

    def _failure(self, h: Array) -> Exception:
        monitor, failed = self.monitor, sorted(self.reasons)
        listed = "; ".join(f"sample {i}: {self.reasons[i]}" for i in failed[:MAX_LISTED])
        more = f"; and {len(failed) - MAX_LISTED} more" if len(failed) > MAX_LISTED else ""
        worst = self.xp.asarray([i in self.reasons for i in range(self.shape[0])])
        ratios = self.xp.where(worst & self._tried, self.ratios, 0.0)
        self._name_worst(ratios)
        monitor.best, monitor.best_ratio = h, float(self.xp.max(ratios))
        return monitor.failure(
            f"found no equilibrium of {len(failed)} of {self.shape[0]} samples ({listed}{more})",
            "Start these samples elsewhere (h0, initial_state), or leave out those without an "
            "equilibrium by on_failure='mask'",
        )


class _Level:
    """The norms of the residuals of samples, in units of the terms of each equation."""

    def __init__(self, xp: Any, terms: Array, floor: Array) -> None:
        self.xp, self.floor = xp, floor
        self.weights = 1.0 / xp.where(terms > 0.0, terms, xp.ones_like(terms))

    def __call__(self, R: Array) -> Array:
        xp = self.xp
        above = xp.maximum(xp.abs(R) - self.floor, xp.zeros_like(R))
        return _norms(xp, above * self.weights)


def _norms(xp: Any, x: Array) -> Array:
    return xp.sqrt(xp.sum(x * x, axis=1))


def _ratio(xp: Any, x: Array, size: Array) -> Array:
    """Return x / size entry by entry, where 0 / 0 is 0."""
    safe = xp.where(size > 0.0, size, xp.ones_like(size))
    infinite = xp.where(x > 0.0, xp.full_like(x, float("inf")), xp.zeros_like(x))
    return xp.where(size > 0.0, x / safe, infinite)
