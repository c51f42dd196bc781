"""Single samples of a batch by `mfdeq.solve`, where the methods for batches do not converge."""

from __future__ import annotations

import warnings
from typing import Any

from ..arrays.backend import Array, Backend
from ..arrays.optional_packages import import_optional
from ..equilibrium.solve import solve
from ..errors import ConvergenceError, NearSingularWarning, SingularStateError
from ..forward.advice import DEFAULT_ADVICE
from ..models.linearization import Linearization
from ..models.model import FixedPointModel, Model, ResidualModel
from ..operators.operator import Operator
from .torch_batch import Residual, residual_and_matrix
from .torch_functions import to_array, to_tensor
from .torch_gmres import MatrixFree
from .torch_layer_inputs import NAME

torch: Any = import_optional("torch", "torch")

MAX_DENSE_SIZE = 1024  # unknowns of a sample
MAX_ITERATIONS = 100  # of each method, for a training that is not to wait long for an error
ADVICE = (
    "Leave the sample out, start elsewhere (h0=), or change the module so that each x has an "
    "equilibrium, as a map has that is a contraction in h"
)


class _Sample(Model):
    """The equilibrium of a sample; its only parameter is in no equation.

    Parameters
    ----------
    function : callable
        The module as a function of (m, n) states of the sample.
    start : (n,) tensor
    """

    param_size = 1

    def __init__(self, function: Residual, start: Any) -> None:
        self._function, self._start = function, start
        self.state_size = start.shape[0]

    @property
    def display_name(self) -> str:
        """The name in error messages."""
        return "module"

    def _tensor(self, h: Array) -> Any:
        return to_tensor(h, self._start).to(self._start)[None]

    def _value(self, h: Array) -> Array:
        """Return the value of the module, (n,)."""
        with torch.no_grad():
            return to_array(self._function(self._tensor(h))[0])

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivative, as a matrix unless that is too large."""
        at, n = self._tensor(h), self.state_size
        d_state: Any = None
        if n <= MAX_DENSE_SIZE:
            d_state = to_array(residual_and_matrix(self._function, at)[1][0])
        else:
            d_state = _Products(Backend.of(h), (n, n), MatrixFree(self._function, at))
        return Linearization(d_state=d_state, d_params=Backend.of(h).zeros(n, 1))


class _SampleMap(_Sample, FixedPointModel):
    def map(self, h: Array, theta: Array) -> Array:
        """Return the value of the module."""
        return self._value(h)


class _SampleResidual(_Sample, ResidualModel):
    def residual(self, h: Array, theta: Array) -> Array:
        """Return the value of the module."""
        return self._value(h)


class _Products(Operator):
    """The derivative of a module by its products.

    Parameters
    ----------
    source : Backend
    shape : tuple of int
    derivative : MatrixFree
    """

    def __init__(self, source: Any, shape: tuple[int, int], derivative: MatrixFree) -> None:
        super().__init__(source, shape)
        self._derivative = derivative

    def _apply(self, x: Array) -> Array:
        return self._columns(x, adjoint=False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._columns(y, adjoint=True)

    def _columns(self, x: Array, adjoint: bool) -> Array:
        def product(x: Array) -> Array:
            b = to_tensor(x, self._derivative.h).to(self._derivative.h)
            return to_array(self._derivative.apply(b[None], adjoint)[0])

        return product(x) if x.ndim == 1 else self.backend.columns(*map(product, x.T))


def solve_sample(
    function: Residual, kind: str, start: Any, options: dict[str, Any], sample: str
) -> Any:
    """Return the state of a sample.

    Parameters
    ----------
    function : callable
        The module as a function of (m, n) states of the sample.
    kind : {"map", "residual"}
    start : (n,) tensor
    options : dict
        Options of `mfdeq.solve`.
    sample : str
        Its name, for errors.

    Raises
    ------
    ConvergenceError, SingularStateError
        If there is no equilibrium to be found.
    """
    model = (_SampleMap if kind == "map" else _SampleResidual)(function, start)
    h0 = to_array(start)
    theta = Backend.of(h0).zeros(1)
    limited = {**options, "max_iterations": options.get("max_iterations") or MAX_ITERATIONS}
    try:
        with warnings.catch_warnings():  # at a fold derivatives are refused
            warnings.simplefilter("ignore", NearSingularWarning)
            eq = solve(model, theta, h0, error_estimates=False, **limited)
    except (ConvergenceError, SingularStateError) as error:
        if isinstance(error, SingularStateError) and error.kind:
            error.args = (f"{sample} of {NAME}: {error}",)
            raise
        reason = "a method met a state where A is singular"
        if isinstance(error, ConvergenceError):
            reason = str(error).removeprefix("module: ").removesuffix(DEFAULT_ADVICE).rstrip(". ")
        raise ConvergenceError(
            f"{sample} of {NAME}: no equilibrium was found: {reason}. {ADVICE}",
            best=error.best,
            report=error.report,
        ) from error
    except Exception as error:
        error.add_note(f"at {sample} of {NAME}")
        raise
    return to_tensor(eq.state, start).to(start)
