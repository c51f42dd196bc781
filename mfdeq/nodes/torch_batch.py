"""Equilibria of a batch of independent samples in PyTorch, and linear solves with their A.

All states are (B, n) tensors. The criteria of convergence are those of `mfdeq.solve`, for each
sample by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..arrays.optional_packages import import_optional
from ..forward.sizes import DEFAULT_RTOL_FLOAT64, FLOOR_ROUNDINGS, STEP_ROUNDINGS

torch: Any = import_optional("torch", "torch")

MAX_DENSE_SIZE = 256  # unknowns of a sample
MAX_DENSE_NUMBERS = 2**25  # of all A of a batch
MAX_NEWTON_STEPS = 50
MAX_HALVINGS = 8
MIN_DECREASE = 0.1  # of the norm of A^-1 R in a step, as a share of the full step
SMALL_STEP = 1e-3  # relative to the unknowns
MIN_DIGITS = 3.0  # of the state, if rounding is the target

Residual = Callable[[Any], Any]


def dense_size(h: Any) -> bool:
    """Return whether the states of a batch are small enough for the dense A of each sample."""
    n = h.shape[1]
    return n <= MAX_DENSE_SIZE and h.shape[0] * n * n <= MAX_DENSE_NUMBERS


class DenseLU:
    """The LU of the dense A of each sample.

    Parameters
    ----------
    A : (B, n, n) tensor
    """

    def __init__(self, A: Any) -> None:
        self.A = A
        self.LU, self.pivots, self.info = torch.linalg.lu_factor_ex(A)

    def solve(self, b: Any, adjoint: bool = False) -> Any:
        """Solve A x = b or A'x = b for (B, n) tensors."""
        return torch.linalg.lu_solve(self.LU, self.pivots, b.unsqueeze(-1), adjoint=adjoint)[..., 0]

    def abs_apply(self, size: Any) -> Any:
        """Return |A| size, (B, n)."""
        return (self.A.abs() @ size.unsqueeze(-1))[..., 0]

    def tensors(self) -> tuple[Any, Any, Any]:
        """Return the LU, its pivots and A."""
        return self.LU, self.pivots, self.A


def residual_and_matrix(residual: Residual, h: Any) -> tuple[Any, Any]:
    """Return R, (B, n), and the A of each sample, (B, n, n), by one backward pass.

    Every sample is repeated n times, once for each of its equations.
    """
    B, n = h.shape
    with torch.enable_grad():
        repeated = h.detach().repeat_interleave(n, 0).requires_grad_()
        R = residual(repeated)
        units = torch.eye(n, dtype=h.dtype, device=h.device).repeat(B, 1)
        (rows,) = torch.autograd.grad(R, repeated, units)
    return R.detach().view(B, n, n)[:, 0], rows.view(B, n, n)


class BatchReport:
    """How the forward solve of a batch went.

    Attributes
    ----------
    method : str
    iterations : int
    residuals : list of float
        The worst |R_i| relative to the terms of its equation, over all samples, at every iteration.
    converged : bool
    sample_iterations : (B,) tensor
        The iteration in which each sample converged.
    solved_again : list of int
        The samples that `mfdeq.solve` has solved.
    """

    def __init__(self, method: str) -> None:
        self.method, self.converged = method, False
        self.residuals: list[float] = []
        self.sample_iterations: Any = None
        self.solved_again: list[int] = []

    @property
    def iterations(self) -> int:
        """The number of iterations."""
        return max(len(self.residuals) - 1, 0)

    def __repr__(self) -> str:
        return (
            f"<{self.method}, converged: {self.converged}, {self.iterations} iterations, worst "
            f"residual {self.residuals[-1] if self.residuals else math.nan:.1e}>"
        )


def worst_residual(R: Any, terms: Any) -> float:
    """Return the largest |R_i| relative to the terms of its equation."""
    size = R.abs()
    counted = torch.maximum(terms, size)
    return float((size / torch.where(counted > 0.0, counted, torch.ones_like(size))).max())


class Criteria:
    """The criteria of convergence of `mfdeq.solve` for each sample of a batch.

    Parameters
    ----------
    dtype : torch.dtype
    rtol : float or None
    """

    def __init__(self, dtype: Any, rtol: float | None) -> None:
        self.eps = torch.finfo(dtype).eps
        self.explicit = rtol is not None
        default = DEFAULT_RTOL_FLOAT64 if dtype == torch.float64 else 0.0
        self.rtol = default if rtol is None else rtol
        self.step_rtol = max(self.rtol, STEP_ROUNDINGS * self.eps)
        self._largest: Any = None  # |h| over the iterates after the first step

    def __call__(self, h: Any, R: Any, step: Any, terms: Any) -> tuple[Any, float]:
        """Return which samples have converged, (B,), and the worst relative residual.

        Parameters
        ----------
        h, R, step, terms : (B, n) tensors
            The states, residuals, Newton's corrections and |A||h|.
        """
        size, change, at = R.abs(), step.abs(), h.abs()
        floor = FLOOR_ROUNDINGS * self.eps * terms
        satisfied = (size <= torch.maximum(self.rtol * terms, floor)).all(1)
        if self._largest is not None:
            at = torch.where(at < self.step_rtol * self._largest, self._largest, at)
        settled = (change <= self.step_rtol * at).all(1)
        if not self.explicit:
            # What is left of R is rounding, and so is what it changes in h.
            scale = at.amax(1, keepdim=True)
            by_rounding = (size <= floor) & (change <= 10.0**-MIN_DIGITS * scale)
            settled = settled | by_rounding.all(1)
        return satisfied & settled, worst_residual(R, terms)

    def follow(self, h: Any) -> None:
        """Take account of an accepted iterate."""
        size = h.abs()
        self._largest = size if self._largest is None else torch.maximum(size, self._largest)


def newton(
    residual: Residual, h: Any, rtol: float | None, max_iterations: int | None
) -> tuple[Any, Any, DenseLU, BatchReport]:
    """Solve R(h) = 0 for each sample by Newton's method with a line search.

    Parameters
    ----------
    residual : callable
        ``residual(h)`` for (m, n) tensors whose rows belong to the samples, m a multiple of B.
    h : (B, n) tensor
    rtol, max_iterations
        As in `torch_layer`.

    Returns
    -------
    h : (B, n) tensor
    converged : (B,) tensor of bool
    factor : DenseLU
        At the states of the samples that have converged.
    report : BatchReport
    """
    report, criteria = BatchReport("newton"), Criteria(h.dtype, rtol)
    limit = MAX_NEWTON_STEPS if max_iterations is None else max_iterations
    report.sample_iterations = torch.full((h.shape[0],), -1, device=h.device)
    for iteration in range(limit + 1):
        R, A = residual_and_matrix(residual, h)
        factor = DenseLU(A)
        step = factor.solve(R)
        converged, worst = criteria(h, R, step, factor.abs_apply(h.abs()))
        converged = converged & (factor.info == 0)
        report.residuals.append(worst)
        new = converged & (report.sample_iterations < 0)
        report.sample_iterations[new] = iteration
        if bool(converged.all()) or iteration == limit:
            break
        step = torch.where(step.isfinite().all(1, keepdim=True), step, torch.zeros_like(step))
        h, moved = _line_search(residual, h, step, factor)
        criteria.follow(h)
        if not bool((moved & ~converged).any()):
            break
    report.converged = bool(converged.all())
    return h, converged, factor, report


def _line_search(residual: Residual, h: Any, step: Any, factor: DenseLU) -> tuple[Any, Any]:
    """Return the states after steps that reduce A^-1 R, and which samples have moved.

    Its norm, each unknown relative to its own size, does not depend on units. A step that changes
    no unknown by more than a small part of itself is taken as it is.
    """
    size = torch.maximum(h.abs(), step.abs())
    weights = torch.where(size > 0.0, 1.0 / size, torch.ones_like(size))
    before = (weights * step).norm(dim=1)
    small = (step.abs() <= SMALL_STEP * h.abs()).all(1)
    t = torch.ones_like(before)
    trial, accepted = h, small
    for _ in range(MAX_HALVINGS):
        trial = h - t[:, None] * step
        with torch.no_grad():
            after = (weights * factor.solve(residual(trial))).norm(dim=1)
        accepted = (after <= (1.0 - MIN_DECREASE * t) * before) | small
        if bool(accepted.all()):
            return trial, accepted
        t = torch.where(accepted, t, 0.5 * t)
    return torch.where(accepted[:, None], trial, h), accepted
