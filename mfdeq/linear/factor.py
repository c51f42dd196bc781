"""What `solver.setup(A)` returns: an object that solves systems with A and its adjoint.

Whatever the method, the true residual b - A x is computed after each solve, and a solution that
misses its tolerance is not returned.
"""

from __future__ import annotations

import copy
import threading
import time
from typing import Any, Self

from ..arrays.backend import Array, check_block
from ..arrays.kernels import CACHE_ENTRIES
from ..arrays.memory import translate_memory_errors
from ..locks import cached_property
from ..operators.operator import Operator
from ..report import LinearCounts
from .checked_solve import LOOSE_RTOL, CheckedSolve
from .components import Components, components_of
from .residuals import JointMeasure, ResidualMeasure, VectorMeasure
from .scaling import Scaling, weigh

# Iterations that cost as much as a set-up, where no model of the costs is known. Measured with AMG
# they are 60 to 120.
ITERATIONS_PER_SETUP = 40.0


class _Progress(threading.local):
    """How the last solve of each thread has gone.

    Attributes
    ----------
    stopped : str
        Why its last attempt gave up.
    iterations : int
    history : list of float
        The residuals of its iterations.
    """

    def __init__(self) -> None:  # called again in every thread
        self.stopped, self.iterations = "", 0
        self.history: list[float] = []


class Factor:
    """Base class of factors, which solve with A and its adjoint and check every solve.

    A subclass defines `_attempt`, which solves without a check, and, if one application of its
    preconditioner is cheaper than a solve, `_approximate`. The methods `preconditioned_factor`,
    `factor_for_equilibrium` and `refactorize` reuse a factor for another matrix. `Reused` calls
    them along a path of matrices: the steps of Newton's method, of a continuation or of an
    optimizer. By default they return None, and a new factor is set up for every matrix.

    Several threads may solve with a factor at the same time, so `_attempt` must not store anything
    in `self` except as `stopped`, of which each thread has its own, or under a lock.

    Parameters
    ----------
    A : Operator, (N, N)
    rtol : float or None
        Relative true residual that a solve must reach; None is 1e-10 (1e-5 in float32).
    counts : LinearCounts or None
        Counts to which the work is added; None makes new ones.

    Attributes
    ----------
    name : str
        The method and its preconditioner, in reports and errors.
    flexible : bool
        Whether one application of `approximate` is not linear to rounding. A Krylov method that
        uses it as a preconditioner must then be a flexible one.
    iterative : bool
        Whether a solve to a looser tolerance costs less. Inexact products of a Hessian, for
        example, use looser tolerances only then.
    advice : str
        What the error after a failed solve says to try.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> factor = mfdeq.Direct().setup(np.array([[2.0, 1.0], [0.0, 4.0]]))
    >>> print(factor.solve(np.array([3.0, 4.0])), factor.solve_adjoint(np.array([2.0, 5.0])))
    [1. 1.] [1. 1.]
    >>> factor.counts.setups, factor.counts.solves, factor.counts.adjoint_solves
    (1, 1, 1)
    """

    name = "factor"
    flexible = False
    iterative = True
    advice = "another preconditioner, mfdeq.Direct() or more iterations"  # after a failed solve
    _rtol_factor_in_units = 1.0  # of `rtol`, for residuals as they are beside those in no units
    _least_rtol_in_no_units = 0.0  # tolerance in no units; `rtol` itself if it is smaller

    def __init__(self, A: Operator, rtol: float | None, counts: LinearCounts | None) -> None:
        self.A = A
        self.backend = A.backend
        self.rtol = A.backend.default_rtol if rtol is None else float(rtol)
        self.counts = LinearCounts() if counts is None else counts
        self.counts.add(setups=1)
        self._progress = _Progress()

    @translate_memory_errors
    def solve(self, b: Array, *, rtol: float | None = None, weights: Array | None = None) -> Array:
        """Solve A x = b.

        Parameters
        ----------
        b : (N,) or (N, k) array
        rtol : float, optional
            Relative true residual ||b - A x|| / ||b|| of every column; by default the factor's.
            It must be reached in no units as well: see Notes.
        weights : (N,) array, optional
            Positive weights W, if the equations have other units than those found in A: the
            tolerance is then of ||W (b - A x)|| / ||W b|| alone, which GMRES minimizes.

        Returns
        -------
        x : array of the shape of b

        Raises
        ------
        ConvergenceError
            If the true residual stays above both the tolerance and the rounding floor
            c eps || |A||x| ||. Carries the best x.
        SingularStateError
            If rounding hides the solution, since A is singular to working precision.

        Notes
        -----
        If the entries of A are known, or it has scales, ||R (b - A x)|| / ||R b|| must reach the
        tolerance as well. R is the diagonal that equilibrates A (`mfdeq.linear.scaling`), such that
        equations in small units count like others. Systems that are independent of each other in A
        are compared with their own part of b.
        """
        return self._solve_checked(self._checked(b), rtol, weights=weights)

    @translate_memory_errors
    def solve_adjoint(self, b: Array, *, rtol: float | None = None) -> Array:
        """Solve A* x = b, A* being the adjoint of A: as `solve`."""
        return self._solve_checked(self._checked(b), rtol, adjoint=True)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the approximate inverse, without a residual check.

        Error estimates call it, and iterations that check their own residuals.

        Parameters
        ----------
        r : (N,) or (N, k) array
        adjoint : bool, optional
            Approximate the inverse of the adjoint.
        """
        return self._approximate(r, adjoint)

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor for a nearby matrix, preconditioned by this one.

        `Reused` calls it for every new matrix as long as that is cheaper than a set-up. It must
        not set anything up: ``counts.setups`` stays as it is.

        Parameters
        ----------
        A : Operator, (N, N)
            The nearby matrix. Only its shape is known to be the same.
        counts : LinearCounts
            The counts of the new factor.
        max_iterations : int
            Iterations after which a solve of the new factor fails, so that `Reused` replaces it.

        Returns
        -------
        Factor or None
            None, the default, if this factor cannot precondition A.
        """
        return None

    def iterations_per_setup(self, columns: int) -> float:
        """Estimate how many iterations preconditioned by this factor cost as much as a set-up.

        `Reused` decides by it when another set-up is due. Nothing is timed, so that the same solves
        take the same decisions.

        Parameters
        ----------
        columns : int
            The right-hand sides of each iteration.
        """
        return ITERATIONS_PER_SETUP

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor for a nearby matrix, preconditioned by this one, for many solves.

        `Reused` calls it for the matrix of the equilibrium, for which products of the sensitivity
        and of Hessians take many solves.

        Returns
        -------
        Factor or None
            None, the default, if solves would be cheaper after a set-up for A, as with an LU.
        """
        return None

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor of A, made by updating this factor's preconditioner for A in place.

        `Reused` calls it when this factor has aged, and counts a refresh instead of a set-up.
        This factor remains usable, with the new preconditioner.

        Returns
        -------
        Factor or None
            None, the default, if a set-up is needed. This factor is then unchanged.
        """
        return None

    def counted_in(self, counts: LinearCounts) -> Factor:
        """Return this factor with other counts, in which its later solves are counted."""
        other = copy.copy(self)
        other.counts, other._progress = counts, _Progress()
        counts.raise_to(bytes=self.nbytes)
        return other

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"cannot pickle or deep-copy a factor ({self.name}): set it up again from the matrix, "
            "or pickle the equilibrium, which travels without its factor"
        )

    def forget(self) -> None:
        """Discard what later solves would reuse from earlier ones, such as a recycled space.

        A computation that is repeated after this gives the same bits. By default there is nothing
        to discard.
        """

    @property
    def stopped(self) -> str:
        """Why the last attempt of this thread gave up, or "" if it did not."""
        return self._progress.stopped

    @stopped.setter
    def stopped(self, why: str) -> None:
        self._progress.stopped = why

    @property
    def iterations_of_last_solve(self) -> int:
        """The iterations of the last solve of this thread."""
        return self._progress.iterations

    def count_iterations(self, iterations: int, residual: float | None = None) -> None:
        """Count iterations of a solve, and record the relative residual that they have reached.

        `_attempt` calls it, so that iterations are also counted for the solve of this thread.
        """
        progress = self._progress
        progress.iterations += iterations
        if residual is not None:
            progress.history.append(residual)
        self.counts.add(iterations=iterations)

    @property
    def working(self) -> Factor:
        """The factor that solves: this one, or the current one of a factor that delegates."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the factorization or hierarchy, in addition to A; by default 0."""
        return 0

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        """Solve A x = b, or A* x = b, without a residual check; if it gives up, set `stopped`.

        Parameters
        ----------
        b : (N,) or (N, k) array
            Finite. Must not be written into.
        rtol : float
            Relative residual of each column to aim at; a direct method may ignore it.
        adjoint : bool
        """
        raise NotImplementedError

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        """Solve as `_attempt` does, with residuals weighted if the method can minimize them so."""
        return self._attempt(b, rtol, adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        """Apply the preconditioner; by default solve to `LOOSE_RTOL`."""
        return self._attempt(r, LOOSE_RTOL, adjoint)

    def _checked(self, b: Array) -> Array:
        return check_block(b, self.backend, self.A.shape[0], "the right-hand side")

    @cached_property
    def _adjoint_operator(self) -> Operator:
        return self.A.H  # type: ignore[attr-defined]

    @cached_property
    def scaling(self) -> Scaling:
        """The diagonals R and C such that the rows and columns of R A C are of similar size."""
        A = self.A
        return Scaling.from_scales(A) if A.array is None else Scaling.of_operator(A)

    @cached_property
    def _components(self) -> Components | None:
        if self.A.array is None:
            return None
        if "components" not in (known := vars(self.A)):  # where copies of this factor find them
            known["components"] = components_of(self.A.array)
        return known["components"]

    def _weights(self, b: Array, adjoint: bool) -> Array | None:
        """Return weights in which the residuals for b have no units, (N,) or (N, k); None: ones."""
        parts = self._components
        rows = self.scaling.columns if adjoint else self.scaling.rows
        rows = None if self.scaling.balanced else rows
        if parts is None:
            return rows
        groups = parts.columns if adjoint else parts.rows
        return weigh(rows, groups.spread(1.0 / groups.lengths_or_ones(weigh(rows, b))))

    def _measure(self, b: Array, adjoint: bool, weights: Array | None = None) -> ResidualMeasure:
        """Return the measure of residuals, in which a solve must reach its tolerance."""
        if weights is not None:
            return ResidualMeasure(self.backend, weights, b)
        weights = self._weights(b, adjoint)
        if weights is None and b.ndim == 1 and b.shape[0] <= CACHE_ENTRIES:
            return VectorMeasure(self.backend, b)
        if weights is None:
            return ResidualMeasure(self.backend, None, b)
        return JointMeasure(
            [
                ResidualMeasure(self.backend, None, b, rtol_factor=self._rtol_factor_in_units),
                ResidualMeasure(self.backend, weights, b, least_rtol=self._least_rtol_in_no_units),
            ]
        )

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        """Solve for a right-hand side that has been validated, and check the residual.

        `solve` and `solve_adjoint` call it, and so do operators of this package, whose b is known
        to have the right shape, dtype and device.
        """
        counts, progress, start = self.counts, self._progress, time.perf_counter()
        rtol = self.rtol if rtol is None else rtol
        progress.stopped, progress.iterations, progress.history = "", 0, []
        solve: CheckedSolve | None = None
        try:
            if 0 in b.shape:
                return self.backend.zeros(*b.shape)
            solve = CheckedSolve(self, b, rtol, adjoint, weights)
            counts.history = progress.history
            if not solve.measure.in_range:
                return solve.solution_in_range()
            # In this frame, so that few calls lie between a solve and the package.
            x = (
                self._attempt(b, rtol, adjoint)
                if weights is None
                else self._attempt_weighted(b, rtol, adjoint, weights)
            )
            return solve.refined(x)
        finally:
            # Looser solves (Newton steps, estimates) do not count as the worst.
            worst = solve.worst_residual if solve is not None and rtol <= self.rtol else None
            counts.add_solve(
                adjoint,
                1 if b.ndim == 1 else b.shape[1],
                time.perf_counter() - start,
                worst is not None,
                0.0 if worst is None else worst,
                self.backend.kernels.peak_bytes(),
            )

    def _solve_unchecked(self, b: Array, rtol: float, adjoint: bool) -> Array:
        """Solve for a caller that checks a residual of its own: if it is too large, solve again."""
        progress = self._progress
        progress.stopped, progress.iterations, progress.history = "", 0, []
        self.counts.history = progress.history
        return self._attempt(b, rtol, adjoint)
