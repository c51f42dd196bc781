"""Equilibria of a batch by Anderson acceleration, and by Newton's method without matrices."""

from __future__ import annotations

from typing import Any

from ..arrays.optional_packages import import_optional
from .torch_batch import (
    MAX_HALVINGS,
    MAX_NEWTON_STEPS,
    MIN_DECREASE,
    SMALL_STEP,
    BatchReport,
    Criteria,
    Residual,
)
from .torch_gmres import MatrixFree

torch: Any = import_optional("torch", "torch")

MAX_ITERATIONS = 500  # of Anderson acceleration
MAX_DIFFERENCES = 6
STALL = 40  # iterations without a smaller residual
STALL_STEPS = 8  # the same of Newton's method
MAX_GROWTH = 10.0  # of the residual, before the iteration restarts with a shorter step
NEAR_ROUNDINGS = 3.0  # of the residual, below which it may be rounding
CORRECTION_RTOL = 1e-2  # of Newton's correction
JUDGED_RTOL = 0.1  # of a correction that is only judged


class Differences:
    """The last differences of h and G = -R, each relative to the norm of that of G."""

    def __init__(self, h: Any) -> None:
        B, n = h.shape
        self._of_h = h.new_zeros(B, MAX_DIFFERENCES, n)
        self._of_G = h.new_zeros(B, MAX_DIFFERENCES, n)
        self._gram = h.new_zeros(B, MAX_DIFFERENCES, MAX_DIFFERENCES)
        self._ridge = 100.0 * torch.finfo(h.dtype).eps * torch.eye(MAX_DIFFERENCES).to(h)
        self._count = 0

    def clear(self) -> None:
        """Forget all differences."""
        self._count = 0

    def __bool__(self) -> bool:
        return self._count > 0

    def append(self, dh: Any, dG: Any) -> None:
        """Store a difference in place of the oldest one."""
        i = self._count % MAX_DIFFERENCES
        scale = dG.norm(dim=1, keepdim=True).clamp_min(1e-30)
        self._of_h[:, i], self._of_G[:, i] = dh / scale, dG / scale
        self._count += 1
        products = (self._of_G @ self._of_G[:, i].unsqueeze(-1))[..., 0]
        self._gram[:, i], self._gram[:, :, i] = products, products

    def step(self, G: Any) -> Any:
        """Return the step G - dG γ - dh γ, where γ minimizes ||G - dG γ|| for each sample."""
        m = min(self._count, MAX_DIFFERENCES)
        if not m:
            return G
        dh, dG = self._of_h[:, :m], self._of_G[:, :m]
        side = dG @ G.unsqueeze(-1)
        gamma = torch.linalg.solve(self._gram[:, :m, :m] + self._ridge[:m, :m], side)
        gamma = gamma.transpose(1, 2)
        return G - (gamma @ dG)[:, 0] - (gamma @ dh)[:, 0]


def anderson(
    residual: Residual, h: Any, rtol: float | None, max_iterations: int | None
) -> tuple[Any, Any, MatrixFree, BatchReport]:
    """Solve R(h) = 0 for each sample by Anderson acceleration of h - R(h).

    Parameters and results are those of `torch_batch.newton`.

    Notes
    -----
    The terms of an equation are |h| + |h - R| and an estimate of |J||h| by random signs.
    """
    report, criteria = BatchReport("anderson"), Criteria(h.dtype, rtol)
    limit = MAX_ITERATIONS if max_iterations is None else max_iterations
    B = h.shape[0]
    report.sample_iterations = torch.full((B,), -1, device=h.device)
    converged = torch.zeros(B, dtype=torch.bool, device=h.device)
    differences = Differences(h)
    best, since, iteration = float("inf"), 0, 0
    with torch.no_grad():
        R = residual(h)
    A: MatrixFree | None = None
    while True:
        terms = h.abs() + (h - R).abs()
        size = (R.abs() / torch.where(terms > 0.0, terms, torch.ones_like(terms))).amax(1)
        report.residuals.append(float(size.max()))
        worst = float((R.norm(dim=1) / h.norm(dim=1).clamp_min(1e-30)).max())
        since = 0 if worst < 0.9 * best else since + 1
        best = min(best, worst)
        stalled = since >= MAX_DIFFERENCES and worst < 1e3 * criteria.eps
        # R is the first term of the series of Newton's correction, which costs as much as all else.
        near = worst <= NEAR_ROUNDINGS * criteria.eps or bool(criteria(h, R, R, terms)[0].all())
        if near or stalled or iteration >= limit:
            A = MatrixFree(residual, h)
            step, _ = A.solve(R, False, JUDGED_RTOL, max_cycles=1)
            converged, worst = criteria(h, R, step, terms)
            if not bool(converged.all()):
                converged, worst = criteria(h, R, step, terms + A.terms_of_products())
            report.residuals[-1] = worst
            new = converged & (report.sample_iterations < 0)
            report.sample_iterations[new] = iteration
            if bool(converged.all()) or iteration >= limit:
                break
        if since >= STALL or not bool(R.isfinite().all()):
            break
        trial = h + differences.step(-R)
        with torch.no_grad():
            trial_R = residual(trial)
        grows = ~(trial_R.norm(dim=1) <= MAX_GROWTH * R.norm(dim=1))
        iteration += 1
        if bool(grows.any()) and differences:
            differences.clear()
            continue
        differences.append(trial - h, R - trial_R)
        h, R, A = trial, trial_R, None
        criteria.follow(h)
    report.converged = bool(converged.all())
    return h, converged, A or MatrixFree(residual, h), report


def newton_krylov(
    residual: Residual, h: Any, rtol: float | None, max_iterations: int | None
) -> tuple[Any, Any, MatrixFree, BatchReport]:
    """Solve R(h) = 0 for each sample by Newton's method with GMRES.

    Parameters and results are those of `torch_batch.newton`.
    """
    report, criteria = BatchReport("newton"), Criteria(h.dtype, rtol)
    limit = MAX_NEWTON_STEPS if max_iterations is None else max_iterations
    report.sample_iterations = torch.full((h.shape[0],), -1, device=h.device)
    best, since = float("inf"), 0
    for iteration in range(limit + 1):
        A = MatrixFree(residual, h)
        R = A.R.detach()
        step, _ = A.solve(R, False, CORRECTION_RTOL, max_cycles=1)
        terms = h.abs() + (h - R).abs() + A.terms_of_products()
        converged, worst = criteria(h, R, step, terms)
        report.residuals.append(worst)
        new = converged & (report.sample_iterations < 0)
        report.sample_iterations[new] = iteration
        if bool(converged.all()) or iteration == limit:
            break
        before, t = R.norm(dim=1), torch.ones_like(h[:, 0])
        left = float(torch.where(converged, torch.zeros_like(before), before).max())
        since = 0 if left < 0.9 * best else since + 1
        best = min(best, left)
        if since >= STALL_STEPS:
            break
        small = (step.abs() <= SMALL_STEP * h.abs()).all(1)
        for _ in range(MAX_HALVINGS):
            trial = h - t[:, None] * step
            with torch.no_grad():
                after = residual(trial).norm(dim=1)
            accepted = (after <= (1.0 - MIN_DECREASE * t) * before) | small
            if bool(accepted.all()):
                break
            t = torch.where(accepted, t, 0.5 * t)
        moved = accepted | converged
        h = torch.where(moved[:, None], trial, h)
        criteria.follow(h)
        if not bool((accepted & ~converged).any()):
            A = MatrixFree(residual, h)
            break
    report.converged = bool(converged.all())
    return h, converged, A, report
