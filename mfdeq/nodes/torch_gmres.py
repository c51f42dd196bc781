"""Linear solves with A of each sample of a batch by its products alone."""

from __future__ import annotations

from typing import Any

from ..arrays.optional_packages import import_optional
from .torch_batch import DenseLU, Residual, dense_size, residual_and_matrix

torch: Any = import_optional("torch", "torch")

MAX_KRYLOV = 100  # dimension
MAX_CYCLES = 5
CHECK_EVERY = 4  # steps, between two looks at the residual
FIRST_CAPACITY = 16  # vectors for which there is room at first
MAX_SOLVES = 2  # by products, as a gradient needs; for more a matrix that fits is factorized
SIGN_SAMPLES = 3  # random vectors for an estimate of |J||h|


class MatrixFree:
    """Solves with A of each sample by its products, at fixed states.

    After a few solves, as many products with a Hessian need them, A is factorized if it is small.

    Parameters
    ----------
    residual : callable
    h : (B, n) tensor
    """

    def __init__(self, residual: Residual, h: Any) -> None:
        self._residual = residual
        self.h = h.detach().requires_grad_()
        with torch.enable_grad():
            self.R = residual(self.h)
            self._dual = torch.zeros_like(self.R, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(
                self.R, self.h, self._dual, create_graph=True, retain_graph=True
            )
        self._solves = 0
        self._lu: DenseLU | None = None

    def apply(self, x: Any, adjoint: bool) -> Any:
        """Return A x or A'x, (B, n)."""
        if adjoint:
            return torch.autograd.grad(self.R, self.h, x, retain_graph=True)[0]
        return torch.autograd.grad(self._pulled, self._dual, x, retain_graph=True)[0]

    def terms_of_products(self) -> Any:
        """Estimate |J||h|, by J times h with random signs, (B, n)."""
        h = self.h.detach()
        generator = torch.Generator(device="cpu").manual_seed(0)
        total = torch.zeros_like(h)
        for _ in range(SIGN_SAMPLES):
            signs = torch.randint(0, 2, h.shape, generator=generator).to(h) * 2.0 - 1.0
            total += (signs * h - self.apply(signs * h, False)) ** 2
        return total.sqrt()

    def solve(
        self, b: Any, adjoint: bool, rtol: float, max_cycles: int = MAX_CYCLES
    ) -> tuple[Any, Any]:
        """Solve A x = b or A'x = b by restarted GMRES, each sample in its own Krylov space.

        Returns
        -------
        x : (B, n) tensor
        residual : (B,) tensor
            The relative true residuals.
        """
        self._solves += 1
        if self._lu is None and self._solves > MAX_SOLVES and dense_size(b):
            self._lu = DenseLU(residual_and_matrix(self._residual, self.h)[1])
        size = b.norm(dim=1)
        x = torch.zeros_like(b) if self._lu is None else self._lu.solve(b, adjoint)
        r = b if self._lu is None else b - self.apply(x, adjoint)
        for _ in range(max_cycles):
            if self._lu is not None or bool((r.norm(dim=1) <= rtol * size).all()):
                break
            x = x + self._cycle(r, adjoint, rtol * size)
            r = b - self.apply(x, adjoint)
        return x, torch.where(size > 0.0, r.norm(dim=1) / size, torch.zeros_like(size))

    def _cycle(self, r: Any, adjoint: bool, target: Any) -> Any:
        """Return the correction of one cycle of GMRES."""
        B, n = r.shape
        m = min(MAX_KRYLOV, n)
        beta = r.norm(dim=1)
        Q = r.new_empty(B, min(FIRST_CAPACITY, m) + 1, n)
        Q[:, 0] = r / _one_if_zero(beta)[:, None]
        H = r.new_zeros(B, m + 1, m)
        y, k = None, 0
        for k in range(1, m + 1):
            if k == Q.shape[1]:
                Q = torch.cat([Q, torch.empty_like(Q)], 1)
            w = self.apply(Q[:, k - 1], adjoint).unsqueeze(1)
            basis = Q[:, :k]
            for _ in range(2):  # twice is enough
                h = w @ basis.transpose(1, 2)
                H[:, :k, k - 1] += h[:, 0]
                w = torch.baddbmm(w, h, basis, alpha=-1.0)
            norm = w[:, 0].norm(dim=1)
            H[:, k, k - 1] = norm
            Q[:, k] = w[:, 0] / _one_if_zero(norm)[:, None]
            if k % CHECK_EVERY == 0 or k == m:
                y, left = _least_squares(H[:, : k + 1, :k], beta)
                if bool((left <= 0.5 * target).all()):
                    break
        return (y.unsqueeze(1) @ Q[:, :k])[:, 0]  # type: ignore[union-attr]

    def tensors(self) -> tuple[()]:
        """Return nothing: there is no matrix."""
        return ()


def _one_if_zero(size: Any) -> Any:
    return torch.where(size > 0.0, size, torch.ones_like(size))


def _least_squares(H: Any, beta: Any) -> tuple[Any, Any]:
    """Minimize ||beta e - H y||, e the first unit vector; return y and the minimum.

    The space of a sample that is solved exactly ends, and further columns of its H are zero. Their
    entries of y are zero, too.
    """
    H = H.double()
    k = H.shape[2]
    ended = (H == 0.0).all(1)
    Q, R = torch.linalg.qr(H)
    side = beta.double()[:, None] * Q[:, 0]
    R = torch.where(ended[:, None, :], torch.eye(k, dtype=R.dtype, device=R.device), R)
    side = torch.where(ended, torch.zeros_like(side), side).unsqueeze(-1)
    y = torch.linalg.solve_triangular(R, side, upper=True)
    e = torch.zeros_like(H[:, :, :1])
    e[:, 0, 0] = beta
    left = (e - H @ y)[..., 0].norm(dim=1)
    return y[..., 0].to(beta), left.to(beta)
