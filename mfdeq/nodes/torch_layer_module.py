"""The module that `mfdeq.torch_layer` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, ModelError, SingularStateError
from .last_error import record_error
from .torch import refuse_autocast
from .torch_anderson import anderson, newton_krylov
from .torch_batch import (
    BatchReport,
    DenseLU,
    dense_size,
    newton,
    residual_and_matrix,
    worst_residual,
)
from .torch_gmres import MatrixFree
from .torch_layer_functions import Inverse, Solve, Step
from .torch_layer_inputs import (
    NAME,
    check_call,
    check_finite,
    check_independence,
    check_input,
    check_start,
    sample_shape,
)
from .torch_samples import solve_sample

torch: Any = import_optional("torch", "torch")

MIN_DIGITS = 2.0  # of a derivative
MAX_NEWTON_SIZE = 32  # unknowns of a sample, up to which Newton's method comes first for maps
GENERAL_OPTIONS = ("solver", "lower", "upper", "progress")  # only of `mfdeq.solve`

Method = Callable[..., tuple[Any, Any, Any, BatchReport]]


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
        for name, part in module.named_modules():
            if isinstance(part, TorchLayer):
                raise ArgumentError(
                    f"module of {NAME}: expected one without layers inside, got {name or 'one'}, "
                    "whose states are as accurate as its rtol, too little for derivatives of the "
                    "outer equilibrium. Make one layer of both, whose state is the two states "
                    "concatenated"
                )
        self.module, self.kind, self.state_shape = module, kind, state_shape
        self.options = options
        self.order, self.terms, self.warm_start = order, terms, warm_start
        self.report: BatchReport | None = None
        self.solves = 0
        self._last: Any = None  # the states of the last batch in training mode
        self._checked: Any = None  # the modes of the submodules when they were last checked
        self._called: set[Any] = set()  # the shapes with which the module has been called
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
        if torch.compiler.is_compiling():
            return torch.compiler.disable(self._forward)(x, h0)
        return self._forward(x, h0)

    def _forward(self, x: Any, h0: Any) -> Any:
        refuse_autocast(torch, NAME)
        dtype = check_input(self.module, x)
        if h0 is None:
            start = self._start(x, dtype)
        else:
            start = check_start(h0, x, dtype, self.state_shape)
        if torch._C._are_functorch_transforms_active():
            parameters, buffers = self.module.named_parameters(), self.module.named_buffers()
            tensors = [tensor for _, tensor in (*parameters, *buffers)]
            h, *matrices = Solve.apply(self, x, start, *tensors)
            return self._differentiable_in_transform(x, h, matrices, tensors)
        with torch.no_grad():
            h, factor = self.solve_batch(self.module, x.detach(), start)
        if torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.module.parameters())
        ):
            if isinstance(factor, DenseLU):
                return self._differentiable(x, h, self._by_matrices(*factor.tensors()))
            return self._differentiable(x, h, self._by_products(lambda: factor))
        return h

    def module_with(self, tensors: Iterable[Any]) -> Callable[[Any, Any], Any]:
        """Return the module with other parameters and buffers, in their order."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        values = {name: tensor for (name, _), tensor in zip(named, tensors, strict=True)}
        return lambda h, x: torch.func.functional_call(self.module, values, (h, x))

    def _start(self, x: Any, dtype: Any) -> Any:
        last, key = self._last, (tuple(x.shape[1:]), dtype)
        if self.state_shape is None and key not in self._shapes:
            self._shapes[key] = sample_shape(self.module, x, dtype)
        shape = (x.shape[0], *(self.state_shape or self._shapes.get(key, ())))
        if self.training and last is not None and last.shape == shape and last.dtype == dtype:
            return last.to(x.device)
        return torch.zeros(shape, dtype=dtype, device=x.device)

    def _residual(
        self, module: Callable[..., Any], x: Any, shape: Any, is_map: bool
    ) -> Callable[[Any], Any]:
        """Return R, or the value, of (m, n) states: those of the samples, each repeated."""

        def residual(h: Any) -> Any:
            times = h.shape[0] // x.shape[0]
            value = module(h.view(-1, *shape), x if times == 1 else x.repeat_interleave(times, 0))
            if value.shape != (h.shape[0], *shape):
                raise ModelError(
                    f"module of {NAME}: expected it to return the shape of its state, "
                    f"{(h.shape[0], *shape)}, got {tuple(value.shape)}"
                )
            value = value.reshape(h.shape)
            return h - value if is_map else value

        return residual

    def solve_batch(
        self, module: Callable[..., Any], x: Any, start: Any, dense: bool = False
    ) -> tuple[Any, Any]:
        """Solve for the states of a batch.

        Parameters
        ----------
        module : callable
            The module, or that with other parameters.
        x : (B, ...) tensor
        start : (B, ...) tensor
        dense : bool, optional
            Whether to factorize the A of each sample if it is small enough.

        Returns
        -------
        h : (B, ...) tensor
        factor : DenseLU or MatrixFree
        """
        B, shape = start.shape[0], start.shape[1:]
        flat = start.reshape(B, -1)
        residual = self._residual(module, x, shape, self.kind == "map")
        self.solves += 1
        rtol, max_iterations = (self.options.get(name) for name in ("rtol", "max_iterations"))
        h, factor, converged = flat, None, torch.zeros(B, dtype=torch.bool)
        self.report, methods = BatchReport("mfdeq.solve"), self._methods(flat)
        try:
            self._check(module, residual, x, flat, start)
            for i, iterate in enumerate(methods):
                before = self.report.method if i else ""
                h, converged, factor, self.report = iterate(residual, h, rtol, max_iterations)
                self.report.method = ", then ".join(filter(None, (before, self.report.method)))
                if bool(converged.all()):
                    break
                h = torch.where(converged[:, None], h, flat)
            failed = [i for i, done in enumerate(converged.tolist()) if not done]
            if failed:
                check_finite(self.module, x, start, residual(flat))
                h, factor = self._solve_again(module, x, flat, h, shape, failed), None
            if factor is None or (dense and isinstance(factor, MatrixFree)):
                R, factor, terms = self._factor(
                    residual, h, dense_size(h) and (dense or newton in methods)
                )
                if failed:
                    self.report.residuals[-1:] = [worst_residual(R, terms)]
            self.report.converged = True
        except Exception as error:
            record_error(error)
            raise
        if self.training and self.warm_start:
            self._last = h.view(start.shape)
        return h.view(start.shape), factor

    def _factor(self, residual: Any, h: Any, dense: bool) -> tuple[Any, Any, Any]:
        """Return R at the states, a factor of A, and the terms of the equations."""
        if dense:
            R, A = residual_and_matrix(residual, h)
            factor = DenseLU(A)
            return R, factor, factor.abs_apply(h.abs())
        with torch.no_grad():
            R = residual(h)
        return R, MatrixFree(residual, h), h.abs() + (h - R).abs()

    def _methods(self, h: Any) -> list[Method]:
        """Return the methods for a batch of states, to be tried in turn before `mfdeq.solve`."""
        name, is_map = self.options.get("method", "auto"), self.kind == "map"
        if any(self.options.get(option) not in (None, "auto") for option in GENERAL_OPTIONS):
            return []
        by_newton: Method = newton if dense_size(h) else newton_krylov
        if name == "auto" and is_map:
            methods: list[Method] = [anderson, by_newton]
            return methods[::-1] if h.shape[1] <= MAX_NEWTON_SIZE else methods
        return {"auto": [by_newton], "newton": [by_newton], "anderson": [anderson]}.get(name, [])

    def _solve_again(
        self, module: Any, x: Any, start: Any, h: Any, shape: Any, failed: list[int]
    ) -> Any:
        """Return the states with those of some samples solved by `mfdeq.solve`."""
        h = h.clone()
        self.report.solved_again = failed  # type: ignore[union-attr]
        for i in failed:
            function = self._residual(module, x[i : i + 1], shape, is_map=False)
            name = f"sample {i} of {len(x)}"
            h[i] = solve_sample(function, self.kind, start[i], self.options, name)
        return h

    def _check(self, module: Any, residual: Any, x: Any, flat: Any, start: Any) -> None:
        """Check that the module can be solved: again for new shapes, and if its mode changes."""
        shapes = (tuple(x.shape[1:]), tuple(start.shape[1:]), start.dtype)
        modes = tuple(part.training for part in self.module.modules())
        if shapes not in self._called:
            check_call(self.module, start, x, module)
            self._called.add(shapes)
        if modes != self._checked:
            check_independence(self.module, residual, flat)
            self._checked = modes

    def _by_matrices(self, LU: Any, pivots: Any, A: Any) -> Callable[[Any, Step], Any]:
        """Return A^-1, or the first terms of its Neumann series, by matrices."""
        if not self.terms:
            self._check_regular(LU, pivots, A)

        def apply(R: Any, step: Step) -> Any:
            if not self.terms:
                return torch.linalg.lu_solve(LU, pivots, R.unsqueeze(-1))[..., 0]
            x = R
            for _ in range(self.terms - 1):
                x = R + x - (A @ x.unsqueeze(-1))[..., 0]
            return x

        return apply

    def _by_products(
        self, make: Callable[..., MatrixFree], *tensors: Any
    ) -> Callable[[Any, Step], Any]:
        """Return A^-1, or the first terms of its Neumann series, by products of A."""
        return lambda R, step: Inverse.apply(make, self.terms, False, False, step, R, *tensors)

    def _differentiable(self, x: Any, h: Any, apply: Callable[[Any, Step], Any]) -> Any:
        """Return h after steps that have its derivatives; see Notes of `torch_layer`."""
        B, shape = h.shape[0], h.shape[1:]
        residual = self._residual(self.module, x, shape, self.kind == "map")
        state = h.detach().reshape(B, -1)
        steps = [Step(None)]
        for _ in range(0 if self.terms else self.order - 1):
            steps.insert(0, Step(steps[0]))
        for step in steps:
            state = state - apply(residual(state), step)
        return state.view(B, *shape)

    def _differentiable_in_transform(
        self, x: Any, h: Any, matrices: list[Any], tensors: list[Any]
    ) -> Any:
        """Return h with its derivatives, where A is a function of tensors with their own levels."""
        if matrices:
            return self._differentiable(x, h, self._by_matrices(*matrices))
        shape, is_map = h.shape[1:], self.kind == "map"

        def make(x: Any, h: Any, *tensors: Any) -> MatrixFree:
            module = self.module_with(t.detach() for t in tensors)
            residual = self._residual(module, x.detach(), shape, is_map)
            return MatrixFree(residual, h.reshape(len(h), -1))

        return self._differentiable(x, h, self._by_products(make, x, h, *tensors))

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
