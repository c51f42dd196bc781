"""Equilibria of a batch with too many unknowns for dense matrices, by Anderson acceleration.

The linear solves are by GMRES, for all samples at once, each in its own Krylov space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.optional_packages import import_optional
from ..errors import ConvergenceError
from .torch_batch import (
    MAX_HALVINGS,
    MAX_NEWTON_STEPS,
    MIN_DECREASE,
    SMALL_STEP,
    BatchReport,
    Criteria,
    Residual,
)

torch: Any = import_optional("torch", "torch")

MAX_ITERATIONS = 500  # of Anderson acceleration
MAX_DIFFERENCES = 6
STALL = 40  # iterations without a smaller residual
MAX_GROWTH = 10.0  # of the residual, before the iteration restarts with a shorter step
SIGN_SAMPLES = 3  # random vectors for an estimate of |J||h|
CORRECTION_RTOL = 1e-2  # of the correction that is judged
MAX_KRYLOV = 100  # dimension
MAX_CYCLES = 5
SOLVE_ROUNDINGS = 1e3  # of the residual of a linear solve


class MatrixFree:
    """Solves with A of each sample by its products, at fixed states.

    Parameters
    ----------
    residual : callable
    h : (B, n) tensor
    """

    def __init__(self, residual: Residual, h: Any) -> None:
        self.h = h.detach().requires_grad_()
        with torch.enable_grad():
            self.R = residual(self.h)
            self._dual = torch.zeros_like(self.R, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self.R, self.h, self._dual, create_graph=True, retain_graph=True
            )

    def apply(self, x: Any, adjoint: bool) -> Any:
        """Return A x or A'x, (B, n)."""
        if adjoint:
            return torch.autograd.grad(self.R, self.h, x, retain_graph=True)[0]
        return torch.autograd.grad(self._pulled, self._dual, x, retain_graph=True)[0]

    def solve(self, b: Any, adjoint: bool, rtol: float) -> tuple[Any, Any]:
        """Solve A x = b or A'x = b by restarted GMRES.

        Returns
        -------
        x : (B, n) tensor
        residual : (B,) tensor
            The relative true residuals.
        """
        x, size = torch.zeros_like(b), b.norm(dim=1)
        r = b
        for _ in range(MAX_CYCLES):
            x = x + self._cycle(r, adjoint, rtol * size)
            r = b - self.apply(x, adjoint)
            if bool((r.norm(dim=1) <= rtol * size).all()):
                break
        return x, torch.where(size > 0.0, r.norm(dim=1) / size, torch.zeros_like(size))

    def _cycle(self, r: Any, adjoint: bool, target: Any) -> Any:
        """Return the correction of one cycle of GMRES."""
        B, n = r.shape
        m = min(MAX_KRYLOV, n)
        beta = r.norm(dim=1)
        safe = torch.where(beta > 0.0, beta, torch.ones_like(beta))
        Q = [r / safe[:, None]]
        H = r.new_zeros(B, m + 1, m)
        e = r.new_zeros(B, m + 1, 1)
        e[:, 0, 0] = beta
        y, k = None, 0
        for k in range(1, m + 1):
            w = self.apply(Q[-1], adjoint)
            basis = torch.stack(Q, 1)  # (B, k, n)
            for _ in range(2):  # twice is enough
                h = (basis @ w.unsqueeze(-1))[..., 0]
                H[:, :k, k - 1] += h
                w = w - (h.unsqueeze(1) @ basis)[:, 0]
            norm = w.norm(dim=1)
            H[:, k, k - 1] = norm
            Q.append(w / torch.where(norm > 0.0, norm, torch.ones_like(norm))[:, None])
            if k % 4 == 0 or k == m:
                y = _least_squares(H[:, : k + 1, :k], e[:, : k + 1])
                left = (e[:, : k + 1] - H[:, : k + 1, :k] @ y)[..., 0].norm(dim=1)
                if bool((left <= 0.5 * target).all()):
                    break
        basis = torch.stack(Q[:k], 1)
        return (y.transpose(1, 2) @ basis)[:, 0]  # type: ignore[union-attr]

    def tensors(self) -> tuple[()]:
        """Return nothing: there is no matrix."""
        return ()


def _least_squares(H: Any, e: Any) -> Any:
    """Minimize ||e - H y||; samples that are solved already have columns of zeros."""
    return torch.linalg.pinv(H.double(), rtol=1e-14).to(H) @ e


class _Series(torch.autograd.Function):
    """The inverse of A, or the first terms of its series, as a linear function of R.

    Its value is that of one term, since R is as small as the tolerance at an equilibrium.
    """

    @staticmethod
    def forward(ctx: Any, R: Any, A: MatrixFree, terms: int, adjoint: bool, whole: bool) -> Any:
        """Apply it."""
        ctx.of = A, terms, adjoint
        if not whole:
            return R.clone()
        if not terms:
            rtol = SOLVE_ROUNDINGS * torch.finfo(R.dtype).eps
            x, residual = A.solve(R, adjoint, rtol)
            worst = float(residual.max())
            if not worst <= 10.0 * rtol:
                i = int(residual.argmax())
                raise ConvergenceError(
                    f"sample {i} of {len(R)} of mfdeq.torch_layer: GMRES for its derivative "
                    f"stopped at a relative residual of {worst:.1e}, expected {rtol:.1e}",
                    best=x,
                )
            return x
        x = R
        for _ in range(terms - 1):
            x = R + x - A.apply(x, adjoint)
        return x

    @staticmethod
    def backward(ctx: Any, y: Any) -> Any:
        """Apply the adjoint."""
        A, terms, adjoint = ctx.of
        return _Series.apply(y, A, terms, not adjoint, True), None, None, None, None


def neumann_series(residual: Residual, h: Any, terms: int) -> Callable[[Any], Any]:
    """Return A^-1, or the first terms of its Neumann series, as a differentiable function.

    Parameters
    ----------
    residual : callable
    h : (B, n) tensor
    terms : int
        0 for A^-1.
    """
    constant = MatrixFree(residual, h)
    return lambda R: _Series.apply(R, constant, terms, False, False)


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
    dh: list[Any] = []
    dG: list[Any] = []
    best, since, iteration = float("inf"), 0, 0
    with torch.no_grad():
        R = residual(h)
    A: MatrixFree | None = None
    while True:
        terms = h.abs() + (h - R).abs()
        size = (R.abs() / torch.where(terms > 0.0, terms, torch.ones_like(terms))).amax(1)
        report.residuals.append(float(size.max()))
        scale = R.norm(dim=1) / h.norm(dim=1).clamp_min(1e-30)
        worst = float(scale.max())
        since = 0 if worst < 0.9 * best else since + 1
        best = min(best, worst)
        stalled = since >= MAX_DIFFERENCES and worst < 1e3 * criteria.eps
        if worst <= max(criteria.rtol, 10.0 * criteria.eps) or stalled or iteration >= limit:
            A = MatrixFree(residual, h)
            step, _ = A.solve(R, False, CORRECTION_RTOL)
            converged, report.residuals[-1] = criteria(h, R, step, terms + _terms_of_products(A, h))
            new = converged & (report.sample_iterations < 0)
            report.sample_iterations[new] = iteration
            if bool(converged.all()) or iteration >= limit:
                break
        if since >= STALL or not bool(R.isfinite().all()):
            break
        trial = h + _step(-R, dh, dG)
        with torch.no_grad():
            trial_R = residual(trial)
        grows = ~(trial_R.norm(dim=1) <= MAX_GROWTH * R.norm(dim=1))
        if bool(grows.any()) and dh:
            dh, dG, iteration = [], [], iteration + 1
            continue
        dh = [*dh[1 - MAX_DIFFERENCES :], trial - h]
        dG = [*dG[1 - MAX_DIFFERENCES :], R - trial_R]
        h, R, iteration = trial, trial_R, iteration + 1
        criteria.follow(h)
    if not bool(converged.all()) and iteration < limit:
        h, converged, A = _newton_krylov(residual, h, criteria, report)
    report.converged = bool(converged.all())
    return h, converged, A or MatrixFree(residual, h), report


def _newton_krylov(
    residual: Residual, h: Any, criteria: Criteria, report: BatchReport
) -> tuple[Any, Any, MatrixFree]:
    """Continue by Newton's method with GMRES, where Anderson acceleration has stalled."""
    report.method = "anderson, then newton"
    for _ in range(MAX_NEWTON_STEPS + 1):
        A = MatrixFree(residual, h)
        R = A.R.detach()
        step, _ = A.solve(R, False, CORRECTION_RTOL)
        terms = h.abs() + (h - R).abs() + _terms_of_products(A, h)
        converged, worst = criteria(h, R, step, terms)
        report.residuals.append(worst)
        new = converged & (report.sample_iterations < 0)
        report.sample_iterations[new] = report.iterations
        if bool(converged.all()):
            break
        before, t = R.norm(dim=1), torch.ones_like(h[:, 0])
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
            break
    return h, converged, A


def _terms_of_products(A: MatrixFree, h: Any) -> Any:
    """Estimate |J||h|, by J times h with random signs, (B, n)."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    total = torch.zeros_like(h)
    for _ in range(SIGN_SAMPLES):
        signs = torch.randint(0, 2, h.shape, generator=generator).to(h) * 2.0 - 1.0
        total += (signs * h - A.apply(signs * h, False)) ** 2
    return total.sqrt()


def _step(G: Any, dh: list[Any], dG: list[Any]) -> Any:
    """Return the step G - dG γ - dh γ, where γ minimizes ||G - dG γ|| for each sample."""
    if not dh:
        return G
    differences = torch.stack(dG, 2)  # (B, n, m)
    scale = differences.norm(dim=1, keepdim=True).clamp_min(1e-30)
    Q = differences / scale
    gram = Q.transpose(1, 2) @ Q
    side = Q.transpose(1, 2) @ G.unsqueeze(-1)
    ridge = 100.0 * torch.finfo(G.dtype).eps * torch.eye(len(dh)).to(G)
    gamma = torch.linalg.solve(gram + ridge, side) / scale.transpose(1, 2)
    return G - ((differences + torch.stack(dh, 2)) @ gamma)[..., 0]
