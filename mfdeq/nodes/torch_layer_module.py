"""The module that `mfdeq.torch_layer` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.optional_packages import import_optional
from ..derivatives.torch import from_torch
from ..equilibrium.solve import solve
from ..errors import ArgumentError, ModelError, SingularStateError
from .last_error import record_error
from .torch import refuse_autocast
from .torch_batch import BatchReport, dense_size, newton
from .torch_matrix_free import anderson, neumann_series

torch: Any = import_optional("torch", "torch")

NAME = "mfdeq.torch_layer"
REPEATED_ROUNDINGS = 1e4  # by which two values of a sample may differ, in units of rounding
MIN_DIGITS = 2.0  # of a derivative
METHODS = {"newton": newton, "anderson": anderson}
GENERAL_OPTIONS = ("solver", "lower", "upper", "progress")  # only of `mfdeq.solve`


class TorchLayer(torch.nn.Module):
    """The equilibrium of a module for each sample of a batch; see `torch_layer`.

    Attributes
    ----------
    module : torch.nn.Module
    report : BatchReport or None
        How the last forward solve went, with its residuals.
    solves : int
        The number of forward solves so far.
    """

    def __init__(
        self,
        module: Any,
        kind: str,
        state_shape: tuple[int, ...] | None,
        options: dict[str, Any],
        order: int,
        terms: int,
        warm_start: bool,
    ) -> None:
        super().__init__()
        self.module, self.kind, self.state_shape = module, kind, state_shape
        self.options = {"error_estimates": False, **options}
        self.order, self.terms, self.warm_start = order, terms, warm_start
        self.report: BatchReport | None = None
        self.solves = 0
        self._last: Any = None  # the states of the last batch in training mode
        self._checked: Any = None  # the modes of the submodules when they were last checked
        self._shapes: dict[Any, tuple[int, ...]] = {}  # of a state, by the shape of a sample

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the last batch."""
        return {**self.__dict__, "_last": None, "report": None}

    def extra_repr(self) -> str:
        """Return the arguments for `repr`."""
        return f"kind={self.kind!r}"

    def forward(self, x: Any, h0: Any = None) -> Any:
        """Return the equilibrium of each sample.

        Parameters
        ----------
        x : (B, ...) tensor
            The samples.
        h0 : (B, ...) tensor, optional
            The start. Derivatives with respect to it are zero.

        Returns
        -------
        (B, ...) tensor

        Raises
        ------
        ConvergenceError, SingularStateError
            If a sample has no equilibrium; the message names it.
        ModelError
            If the module returns a wrong shape, draws random numbers, or lets the samples depend on
            each other.
        """
        return torch.compiler.disable(self._forward)(x, h0)

    def _forward(self, x: Any, h0: Any) -> Any:
        refuse_autocast(torch, NAME)
        if x.ndim < 1 or not x.shape[0]:
            raise ArgumentError(
                f"x of {NAME}: expected samples along the first axis, got shape {tuple(x.shape)}"
            )
        start = self._start(x) if h0 is None else h0.detach()
        in_transform = torch._C._are_functorch_transforms_active()
        if in_transform:
            names, tensors = self._tensors()
            h, *factor = Solve.apply(self, names, x, start, *tensors)
        else:
            with torch.no_grad():
                h, *factor = self.solve_batch(self.module, x.detach(), start)
        if in_transform or (
            torch.is_grad_enabled()
            and (x.requires_grad or any(p.requires_grad for p in self.module.parameters()))
        ):
            return self._differentiable(x, h, factor)
        return h

    def _tensors(self) -> tuple[list[str], list[Any]]:
        """Return the parameters and buffers of the module with their names."""
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return [name for name, _ in named], [tensor for _, tensor in named]

    def _start(self, x: Any) -> Any:
        last = self._last
        shape = (x.shape[0], *self._sample_shape(x))
        if self.training and last is not None and last.shape == shape and last.dtype == x.dtype:
            return last.to(x.device)
        return x.new_zeros(shape).detach()

    def _sample_shape(self, x: Any) -> tuple[int, ...]:
        """Return the shape of the state of a sample: that which the module accepts."""
        if self.state_shape is not None:
            return self.state_shape
        shape = tuple(x.shape[1:])
        if shape in self._shapes:
            return self._shapes[shape]
        sizes = {n: None for p in self.module.parameters() for n in p.shape}
        reason: Exception | None = None
        with torch.no_grad():
            for candidate in (shape, *((n,) for n in sizes)):
                try:
                    value = self.module(x.new_zeros((x.shape[0], *candidate)), x.detach())
                except (RuntimeError, ValueError, IndexError) as error:
                    reason = reason or error
                    continue
                if tuple(value.shape[1:]) == candidate:
                    self._shapes[shape] = candidate
                    return candidate
        raise ModelError(
            f"module of {NAME}: its state has another shape than a sample of x, {shape}: pass "
            f"state_shape= to mfdeq.torch_layer, or h0"
        ) from reason

    def _residual(self, module: Callable[..., Any], x: Any, shape: Any) -> Callable[[Any], Any]:
        """Return the function of (m, n) states whose rows are those of the samples, repeated."""

        def residual(h: Any) -> Any:
            times = h.shape[0] // x.shape[0]
            value = module(h.view(-1, *shape), x if times == 1 else x.repeat_interleave(times, 0))
            if value.shape != (h.shape[0], *shape):
                raise ModelError(
                    f"module of {NAME}: expected it to return the shape of its state, "
                    f"{(h.shape[0], *shape)}, got {tuple(value.shape)}"
                )
            value = value.reshape(h.shape)
            return h - value if self.kind == "map" else value

        return residual

    def solve_batch(self, module: Callable[..., Any], x: Any, start: Any) -> tuple[Any, ...]:
        """Solve for the states of a batch.

        Parameters
        ----------
        module : callable
            The module, or that with other parameters.
        x : (B, ...) tensor
        start : (B, ...) tensor

        Returns
        -------
        h : (B, ...) tensor
        *factor : tensors
            The LU of A, its pivots and A, if it is dense.
        """
        B, shape = start.shape[0], start.shape[1:]
        flat = start.reshape(B, -1)
        residual = self._residual(module, x, shape)
        self._check(residual, flat)
        self.solves += 1
        iterate = self._method(flat)
        rtol, max_iterations = (self.options.get(name) for name in ("rtol", "max_iterations"))
        try:
            if iterate is None:
                h, failed, self.report = flat, list(range(B)), BatchReport("mfdeq.solve")
            else:
                h, converged, factor, self.report = iterate(residual, flat, rtol, max_iterations)
                failed = [i for i, done in enumerate(converged.tolist()) if not done]
            if failed:
                h = self._solve_again(module, x, flat, h, shape, failed)
                factor = (iterate or _linearization(h))(residual, h, rtol, 0)[2]
            self.report.converged = True
        except Exception as error:
            record_error(error)
            raise
        if self.training and self.warm_start:
            self._last = h.view(start.shape)
        return (h.view(start.shape), *factor.tensors())

    def _method(self, h: Any) -> Callable[..., Any] | None:
        """Return the method for a batch of states, or None if each is solved by `mfdeq.solve`."""
        method = self.options.get("method", "auto")
        general = {name for name in GENERAL_OPTIONS if self.options.get(name) not in (None, "auto")}
        if general or (method == "newton" and not dense_size(h)):
            return None
        return METHODS.get(method, _linearization(h) if method == "auto" else None)

    def _solve_again(
        self, module: Any, x: Any, start: Any, h: Any, shape: Any, failed: list[int]
    ) -> Any:
        """Return the states with those of some samples solved by `mfdeq.solve`."""
        h = h.clone()
        self.report.solved_again = failed  # type: ignore[union-attr]
        for i in failed:
            sample = x[i : i + 1]

            def f(state: Any, x: Any) -> Any:
                return module(state.view(1, *shape), x.view(sample.shape)).reshape(-1)  # noqa: B023

            try:
                model = from_torch(f, start[i], sample.reshape(-1), self.kind)
                eq = solve(
                    model,
                    sample.reshape(-1),
                    start[i],
                    **self.options,
                )
            except Exception as error:
                message = f"sample {i} of {len(x)} of {NAME}: {error}"
                error.args = (message, *error.args[1:])
                raise
            h[i] = torch.tensor(eq.state, dtype=h.dtype, device=h.device)
        return h

    def _check(self, residual: Callable[[Any], Any], h: Any) -> None:
        """Raise `ModelError` if samples depend on each other or on random numbers.

        They are checked again if a submodule changes its mode.
        """
        modes = tuple(part.training for part in self.module.modules())
        if modes == self._checked:
            return
        buffers = [(b, b._version, b.clone()) for b in self.module.buffers()]
        h = h + 0.1 * torch.sin(torch.arange(h.numel(), device=h.device).view(h.shape) + 1.0).to(h)
        values = [residual(h), residual(h)]
        among = residual(torch.stack([h, 2.0 * h + 1.0], 1).view(-1, h.shape[1]))[::2]
        changed = any(b._version != version for b, version, _ in buffers)
        with torch.no_grad():
            for b, version, copy in buffers:
                if b._version != version:
                    b.copy_(copy)
        bound = REPEATED_ROUNDINGS * torch.finfo(h.dtype).eps * float(values[0].abs().max())
        reason = ""
        if float((values[0] - values[1]).abs().max()) > bound:
            reason = "draws random numbers, as dropout does in training"
        elif changed:
            reason = "changes its buffers, as BatchNorm does in training"
        elif float((values[0] - among).abs().max()) > bound:
            reason = "lets the samples of a batch depend on each other, as BatchNorm does"
        if reason:
            raise ModelError(
                f"module of {NAME} {reason}, so that no sample has an equilibrium of its own. Put "
                "it into evaluation mode (layer.module.eval() after each model.train()), or use "
                "LayerNorm or GroupNorm, and dropout outside of the layer"
            )
        self._checked = modes

    def _differentiable(self, x: Any, h: Any, factor: list[Any]) -> Any:
        """Return h after steps that have its derivatives; see Notes of `torch_layer`."""
        B, shape = h.shape[0], h.shape[1:]
        residual = self._residual(self.module, x, shape)
        fixed = h.detach().reshape(B, -1)
        if not factor:
            apply = neumann_series(residual, fixed, self.terms)
        elif self.terms:
            apply = _series(factor[2], self.terms)
        else:
            LU, pivots, A = factor
            self._check_regular(LU, pivots, A)

            def apply(R: Any) -> Any:
                return torch.linalg.lu_solve(LU, pivots, R.unsqueeze(-1))[..., 0]

        state = fixed
        for _ in range(1 if self.terms else self.order):
            state = state - apply(residual(state))
        return state.view(B, *shape)

    def _check_regular(self, LU: Any, pivots: Any, A: Any) -> None:
        """Raise `SingularStateError` if A of a sample leaves its derivatives no digits."""
        if torch._C._are_functorch_transforms_active():
            return  # the values may be those of a batch of batches
        with torch.no_grad():
            b = torch.ones_like(A[..., 0])
            b[:, 1::2] = -1.0
            x = torch.linalg.lu_solve(LU, pivots, b.unsqueeze(-1))[..., 0]
            growth = A.abs().sum(2).amax(1) * x.abs().amax(1)
            bad = ~(growth * torch.finfo(A.dtype).eps < 10.0**-MIN_DIGITS)
            if bool(bad.any()):
                i = int(bad.nonzero()[0])
                error = SingularStateError(
                    f"sample {i} of {len(A)} of {NAME}: A is singular or nearly so at the "
                    "equilibrium, as at a fold, so that the derivatives have no correct digits",
                    digits=float(-torch.log10(growth[i] * torch.finfo(A.dtype).eps)),
                )
                record_error(error)
                raise error

    def gradient_error(self, loss: Callable[[Any], Any], x: Any, h0: Any = None) -> float:
        """Measure the error of the gradient that an inexact backward pass gives.

        Parameters
        ----------
        loss : callable
            A function of the equilibrium that returns a scalar tensor.
        x, h0 : (B, ...) tensors
            As in `forward`.

        Returns
        -------
        float
            ||g - exact g|| / ||exact g|| of the gradient with respect to all parameters of the
            module that require one.
        """
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        terms, gradients = self.terms, []
        for self.terms in (terms, 0):
            parts = torch.autograd.grad(loss(self(x, h0)), parameters, allow_unused=True)
            gradients.append(torch.cat([g.reshape(-1) for g in parts if g is not None]))
        self.terms = terms
        return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def _linearization(h: Any) -> Callable[..., Any]:
    """Return the method whose factor suits states of this size."""
    return newton if dense_size(h) else anderson


def _series(A: Any, terms: int) -> Callable[[Any], Any]:
    """Return the first terms of the Neumann series of A^-1 = (I - J)^-1."""

    def apply(R: Any) -> Any:
        x = R
        for _ in range(terms - 1):
            x = R + x - (A @ x.unsqueeze(-1))[..., 0]
        return x

    return apply


class Solve(torch.autograd.Function):
    """The states of a batch and the factor of A, for the transforms of `torch.func`.

    They have no derivatives.
    """

    @staticmethod
    def forward(layer: Any, names: Any, x: Any, start: Any, *tensors: Any) -> Any:
        """Solve with the values of the tensors, without their derivatives."""
        values = dict(zip(names, (t.detach() for t in tensors), strict=True))

        def module(h: Any, x: Any) -> Any:
            return torch.func.functional_call(layer.module, values, (h, x))

        return layer.solve_batch(module, x.detach(), start.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Mark the results as constants."""
        ctx.mark_non_differentiable(*output)
        ctx.shapes = [(x.shape, x.dtype, x.device) for x in output]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return no gradients."""
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return no tangents."""
        return (None,) * len(ctx.shapes)

    @staticmethod
    def vmap(info: Any, axes: Any, layer: Any, names: Any, *operands: Any) -> Any:
        """Solve for one batch after the other."""
        results = []
        for i in range(info.batch_size):
            at = [
                t if axis is None else t.select(axis, i)
                for t, axis in zip(operands, axes[2:], strict=True)
            ]
            results.append(Solve.apply(layer, names, *at))
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)
