"""What `solver.setup(A)` returns: the one thing that solves with A and with its adjoint.

Whatever the method, the true residual b - A x is computed afterwards and decides.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Protocol

from ..arrays.backend import Array, array_on_host, check_block, host, is_sparse
from ..arrays.memory import translate_memory_errors
from ..arrays.sparse import canonical
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..operators.operator import Operator
from ..operators.user_operators import as_operator, backend_of
from ..report import LinearCounts

ROUNDING = 16.0  # c of the floor c eps || |A||x| ||
SUSPECT = 1e-3  # a relative residual, or rounding in it, of which a singular A may be the cause
FEWEST = 1.0  # digits with which a solution is let through
CORRECTIONS = 10  # further solves for the residual, before a solve is called failed


class Solver(Protocol):
    """A description of how to solve; `setup` does the work that is done once per A."""

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize A, or build what preconditions it."""
        ...


class Factor:
    """Solves with A and its adjoint, checked.

    Subclasses define `_attempt`, and `_approximate` where one application of the
    preconditioner is cheaper than a solve.

    Parameters
    ----------
    A : Operator, (N, N)
    rtol : float or None
        Relative true residual that a solve reaches; None is 1e-10 (1e-5 in float32).
    counts : LinearCounts, optional
        Where the work is added up.
    """

    name = "factor"
    flexible = False  # whether one application is not linear to rounding
    iterative = True  # whether a solve to a looser tolerance costs less
    instead = "another preconditioner, mfdeq.Direct() or more iterations"  # after a failure

    def __init__(self, A: Operator, rtol: float | None, counts: LinearCounts | None) -> None:
        self.A = A
        self.backend = A.backend
        self.rtol = A.backend.default_rtol if rtol is None else float(rtol)
        self.counts = LinearCounts() if counts is None else counts
        self.counts.setups += 1
        self.stopped = ""  # why an attempt of this solve gave up, where it did

    def solve(self, b: Array, *, rtol: float | None = None) -> Array:
        """x with ||b - A x|| <= rtol ||b||, for (N,) and column by column for (N, k).

        Raises
        ------
        ConvergenceError
            With the best x, where the true residual stays above both the tolerance and the
            rounding floor c eps || |A||x| ||.
        """
        return self._told(b, rtol, adjoint=False)

    def solve_adjoint(self, b: Array, *, rtol: float | None = None) -> Array:
        """x with ||b - A* x|| <= rtol ||b||; as `solve`."""
        return self._told(b, rtol, adjoint=True)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """One application of what stands for the inverse, unchecked: for error estimates."""
        return self._approximate(r, adjoint)

    def nearby(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor | None:
        """Solves with an A near this factor's, which it preconditions; None where it cannot."""
        return None

    def kept_for(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Solves with an A near this factor's that cost no more than with A's own; or None."""
        return None

    def refreshed(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Solves with A by what this factor holds, given A's entries: this factor is no more.

        None where only a set-up can do that.
        """
        return None

    def forget(self) -> None:
        """Drop what earlier solves have left behind and later ones depend on."""

    @property
    def nbytes(self) -> int:
        """Memory that the factorization or hierarchy holds, beside A itself."""
        return 0

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        raise NotImplementedError

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self._attempt(r, 0.1, adjoint)

    @translate_memory_errors
    def _told(self, b: Array, rtol: float | None, adjoint: bool) -> Array:
        return self._solve(b, rtol, adjoint)

    def _solve(self, b: Array, rtol: float | None, adjoint: bool) -> Array:
        A = self.A.H if adjoint else self.A  # type: ignore[attr-defined]
        b = check_block(b, self.backend, A.shape[0], "the right-hand side")
        rtol = self.rtol if rtol is None else rtol
        self.counts.solves += not adjoint
        self.counts.adjoint_solves += adjoint
        self.counts.columns += 1 if b.ndim == 1 else b.shape[1]
        if 0 in b.shape:
            return self.backend.zeros(*b.shape)
        with self.counts.timed():
            x = self._corrected(A, b, rtol, adjoint)
        self.counts.peak_bytes = max(self.counts.peak_bytes, self.backend.kernels.peak_bytes())
        return x

    def _corrected(self, A: Operator, b: Array, rtol: float, adjoint: bool) -> Array:
        norm = self.backend.column_norms
        b_norm = self._read(norm(b))
        if not host.isfinite(b_norm).all():
            xp = self.backend.xp
            finite = bool(xp.all(xp.isfinite(b)))
            why = "is too large: its norm overflows" if finite else "holds NaN or infinity"
            raise ArgumentError(f"the right-hand side {why}")
        self.stopped = ""
        self.counts.history = []
        x = self._attempt(b, rtol, adjoint)
        product = self._product(A, x)
        history = [self._read(self.backend.difference_norms(b, product))]
        while not (history[-1] <= rtol * b_norm).all():
            if not host.isfinite(history[-1]).all():
                raise self._unsolved(x, history, b_norm, rtol, adjoint)
            floor = ROUNDING * self.backend.eps * self._read(norm(A.abs_apply(x)))
            if (history[-1] <= host.maximum(floor, rtol * b_norm)).all():
                above = history[-1] > rtol * b_norm
                self.counts.at_floor += int(above.sum())
                noise = host.where(above, host.maximum(history[-1], floor / ROUNDING), 0.0)
                if _worst(noise, b_norm) > SUSPECT:
                    self._check_digits(A, x, _relative(noise, b_norm), adjoint)
                break
            stalled = len(history) > 1 and (history[-1] > 0.5 * history[-2] + floor).any()
            if stalled or self.stopped or len(history) > CORRECTIONS:
                raise self._unsolved(x, history, b_norm, rtol, adjoint)
            self.counts.refinements += 1
            x = x + self._attempt(b - product, max(rtol, 0.01 * self.rtol), adjoint)
            product = self._product(A, x)
            history.append(self._read(self.backend.difference_norms(b, product)))
        if rtol <= self.rtol:  # looser ones were asked for: a Newton step, an estimate
            worst = _worst(history[-1], b_norm)
            self.counts.worst_residual = max(self.counts.worst_residual, worst)
        return x

    @staticmethod
    def _read(norms: Array) -> Any:
        """Numbers of each column on the host."""
        return array_on_host(norms).astype("float64")

    def _check_digits(self, A: Operator, x: Array, noise: Any, adjoint: bool) -> None:
        if x.ndim == 2:
            x = x[:, int(noise.argmax())]
        x = x / self.backend.norm(x)
        digits = rounding_digits(A, x, self._attempt(x, 0.1, not adjoint))
        if not digits >= FEWEST:
            raise singular(digits, "to working precision")

    def _product(self, A: Operator, x: Array) -> Array:
        xp = self.backend.xp
        if A.array is not None or bool(xp.all(xp.isfinite(x))):
            return A._apply(x)
        # A breakdown's NaN is not for the user's product to see, nor to be blamed on it.
        return x

    def _unsolved(
        self, x: Array, history: list[Any], b_norm: Any, rtol: float, adjoint: bool
    ) -> ConvergenceError:
        path = " -> ".join(f"{_worst(r, b_norm):.1e}" for r in history)
        why = f"{self.stopped}; " if self.stopped else ""
        return ConvergenceError(
            f"{self.name}: the {'adjoint ' if adjoint else ''}solve stopped at a relative true "
            f"residual of {_worst(history[-1], b_norm):.2e}, above its tolerance {rtol:.1e} "
            f"({why}residuals {path}). Try {self.instead}; a nearly singular A does this too",
            best=x,
            report=self.counts,
        )


def _relative(r_norm: Any, b_norm: Any) -> Any:
    return r_norm / host.where(b_norm > 0, b_norm, 1.0)


def _worst(r_norm: Any, b_norm: Any) -> float:
    return float(host.max(_relative(r_norm, b_norm), initial=0.0))


class Application(Operator):
    """One application of a factor in place of the inverse: a preconditioner.

    Attributes
    ----------
    flexible : bool
        Whether it is not linear to rounding.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor = factor
        self.flexible = factor.flexible
        self.nbytes = factor.nbytes

    def _apply(self, x: Array) -> Array:
        return self.factor._approximate(x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor._approximate(y, True)

    def forget(self) -> None:
        """Drop what earlier solves have left in the factor."""
        self.factor.forget()


def rounding_digits(A: Operator, x: Array, w: Array) -> float:
    """-log10(eps |w|' |A| |x|), w = A^-T x, |x| = 1: Skeel's condition number along x.

    It does not change when rows of A are rescaled.
    """
    backend = A.backend
    condition = float(backend.xp.vecdot(backend.xp.abs(w), A.abs_apply(x)))
    return -math.log10(backend.eps * max(condition, 1.0))


def singular(digits: float, how: str) -> SingularStateError:
    """The error for a state operator without digits."""
    return SingularStateError(
        f"the state operator A is singular {how} ({digits:.1f} digits left): at a fold, or the "
        "model leaves a component of the state undetermined (no boundary condition, no drain). "
        "Move the parameters away from the fold, start where the state is determined, or pin "
        "the free component",
        digits=digits,
    )


def operator_of(A: Any) -> Operator:
    """A square matrix or operator of any kind as one of ours, or an `ArgumentError`."""
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(
            f"A is a {type(A).__name__} of shape {shape}; a square matrix, or a LinearOperator "
            "with its adjoint, was expected"
        )
    if isinstance(A, Operator):
        return A
    if is_sparse(A):
        A = canonical(A)
    return as_operator(backend_of(A), A, shape, "A")


def matrix_of(A: Operator, needed_by: str) -> Any:
    """The entries of A, or an `ArgumentError` where only its products are known."""
    array = A.array
    if array is None and A.has_entries:
        raise ArgumentError(
            f"{needed_by} is for matrices of numpy, scipy and cupy; those of PETSc are solved with "
            "by mfdeq.petsc.KSP(options={...})"
        )
    if array is None:
        raise ArgumentError(
            f"{needed_by} needs the entries of A, of which only products are known: give a sparse "
            "or dense matrix (a model as its d_state), or use mfdeq.Krylov(preconditioner=M), M "
            "being None, a LinearOperator of your own or mfdeq.Approximate(...)"
        )
    return array


def check_solver(solver: Any) -> None:
    """Raise `ArgumentError` unless `solver` is a description with a set-up."""
    setup = None if isinstance(solver, type) else getattr(solver, "setup", None)
    if setup is None or "counts" not in inspect.signature(setup).parameters:
        raise ArgumentError(
            f"solver is {solver!r}; 'auto', mfdeq.Direct(), mfdeq.Krylov(...) or mfdeq.Neumann() "
            "was expected (a preconditioner goes into mfdeq.Krylov(preconditioner=...))"
        )
