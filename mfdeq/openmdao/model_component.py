"""The implicit component of a model; it imports OpenMDAO."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import openmdao.api as om

from ..arrays.backend import Array, host
from ..equilibrium.equilibrium import Equilibrium
from ..errors import ArgumentError, is_evaluation_failure
from ..models.model import Model
from ..models.problem import Problem
from ..optimization.equilibria import Equilibria
from .variables import Variables, are_as_written


class ModelComponent(om.ImplicitComponent):
    """A model as an implicit component; see `mfdeq.openmdao.component`.

    Parameters
    ----------
    model : Model
    params, state : Variables
        The inputs and the outputs.
    solve_options : dict
        Options of `mfdeq.solve`.

    Attributes
    ----------
    equilibria : Equilibria
        The equilibria so far, with the number of solves.
    """

    def __init__(
        self, model: Model, params: Variables, state: Variables, solve_options: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model, self.params, self.state = model, params, state
        self.equilibria = Equilibria(model, None, {"error_estimates": False, **solve_options})
        self._equilibrium: Equilibrium | None = None  # that of the last solve or linearization
        self._is_solved = False  # whether it is that of a solve

    def setup(self) -> None:
        """Add the inputs and the outputs."""
        for name, keywords in self.params.keywords.items():
            self.add_input(name, **keywords)
        start = self.state.parts(self._default_start())
        for name, keywords in self.state.keywords.items():
            self.add_output(name, **{"val": start[name], **keywords})

    def setup_partials(self) -> None:
        """Declare that each residual depends on every variable."""
        self.declare_partials("*", "*")

    def _default_start(self) -> Array:
        """Return the model's start at the default parameters, or ones if it has none there."""
        theta = host.concatenate(
            [
                host.zeros(x["shape"]).ravel() + host.ravel(x.get("val", 1.0))
                for x in self.params.keywords.values()
            ]
        )
        try:
            return Problem(self.model, theta).initial_state()
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            return host.ones(self.model.state_size)

    def apply_nonlinear(self, inputs: Any, outputs: Any, residuals: Any) -> None:
        """Compute R."""
        theta, h = self._point(inputs, outputs)
        with self._analysis_errors():
            self.state.write(residuals, Problem(self.model, theta, h).residual(h))

    def solve_nonlinear(self, inputs: Any, outputs: Any) -> None:
        """Solve for the equilibrium from the current outputs."""
        theta, h = self._point(inputs, outputs)
        if not (self._is_solved and self._is_at(theta, h)):
            start = self.equilibria.start
            if start is None or not host.array_equal(start, h):
                self.equilibria.forget(h)
            with self._analysis_errors():
                self._equilibrium = self.equilibria.at(theta)
            self._is_solved = True
        assert self._equilibrium is not None
        self.state.write(outputs, self._equilibrium.state)

    def linearize(self, inputs: Any, outputs: Any, jacobian: Any) -> None:
        """Linearize at the current outputs, which need not be an equilibrium."""
        theta, h = self._point(inputs, outputs)
        if not self._is_at(theta, h):
            with self._analysis_errors():
                self._equilibrium = self.equilibria.with_state(theta, h)
            self._is_solved = False

    def apply_linear(
        self, inputs: Any, outputs: Any, d_inputs: Any, d_outputs: Any, d_residuals: Any, mode: str
    ) -> None:
        """Add products with dR/dh = A and dR/dtheta = -B, or with their transposes."""
        linearized = self._linearized(inputs, outputs).linearized
        by_state, by_params = (
            any(name in d for name in variables.keywords)
            for variables, d in ((self.state, d_outputs), (self.params, d_inputs))
        )
        if mode == "fwd":
            residual = host.zeros(self.model.state_size)
            if by_state:
                residual += linearized.A @ self.state.direction(d_outputs)
            if by_params:
                residual -= linearized.B @ self.params.direction(d_inputs)
            self.state.add(d_residuals, residual)
            return
        w = self.state.direction(d_residuals)
        if by_state:
            self.state.add(d_outputs, linearized.A._apply_adjoint(w))
        if by_params:
            self.params.add(d_inputs, -linearized.B._apply_adjoint(w))

    def solve_linear(self, d_outputs: Any, d_residuals: Any, mode: str) -> None:
        """Solve with A in mode "fwd" and with its transpose in mode "rev"."""
        assert self._equilibrium is not None
        with self._analysis_errors():
            factor = self._equilibrium.factor
            if mode == "fwd":
                b = self.state.vector(d_residuals)
                self.state.write(d_outputs, factor.solve(b))
            else:
                b = self.state.vector(d_outputs)
                self.state.write(d_residuals, factor.solve_adjoint(b))

    def _point(self, inputs: Any, outputs: Any) -> tuple[Array, Array]:
        """Return theta and h as new vectors."""
        theta, h = self.params.vector(inputs), self.state.vector(outputs)
        if theta.dtype.kind == "c" or h.dtype.kind == "c":
            raise ArgumentError(
                f"{self.pathname}: expected real inputs and outputs, got those of a complex step, "
                'which a solver of real equations cannot take: use method="fd"'
            )
        return theta, h

    def _is_at(self, theta: Array, h: Array) -> bool:
        """Return whether the last linearization is that of this point, up to rounding of h."""
        eq = self._equilibrium
        if eq is None or not host.array_equal(theta, eq.params):
            return False
        return are_as_written(h, eq.state)

    def _linearized(self, inputs: Any, outputs: Any) -> Equilibrium:
        if self._equilibrium is None:
            self.linearize(inputs, outputs, None)
        assert self._equilibrium is not None
        return self._equilibrium

    @contextlib.contextmanager
    def _analysis_errors(self) -> Iterator[None]:
        """Raise what means that there is no equilibrium or no value as OpenMDAO's error of that."""
        try:
            yield
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            raise om.AnalysisError(f"{type(error).__name__}: {error}") from error
