"""A model or functional by the operations of UM-Bridge, on checked numbers of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, host
from ..errors import MfdeqError, short_repr
from ..locks import lock_of
from ..models.model import Model
from ..nodes.functional_node import host_node
from ..optimization.functional import Functional

BYTES_PER_NUMBER = 64  # of a request in JSON, indented
OTHER_BYTES = 65536  # of a request


class ProtocolError(MfdeqError):
    """An error in the terms of UM-Bridge, with its type and the status of HTTP."""

    def __init__(self, kind: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class ServedModel:
    """A model, theta -> h*, or a functional, theta -> L, by the operations of UM-Bridge.

    There is one input, theta, and one output. Requests are served one at a time.

    Parameters
    ----------
    model : Model or Functional
    caller : str
        The public function that error messages name.
    solve_options : dict
        Options of `mfdeq.solve`, for models.

    Attributes
    ----------
    input_size, output_size : int
        P, and N or 1.
    max_request_bytes : int
        The size of the longest request that is read.
    operations : dict of str to callable
        What each operation returns for the fields of a request.
    """

    def __init__(
        self, model: Model | Functional, caller: str, solve_options: dict[str, Any]
    ) -> None:
        self._node = host_node(model, caller, solve_options)
        self.input_size = int(self._node.model.param_size)
        self.output_size = int(self._node.model.state_size)
        numbers = 2 * self.input_size + self.output_size
        self.max_request_bytes = OTHER_BYTES + BYTES_PER_NUMBER * numbers
        self.operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "Evaluate": self._evaluate,
            "Gradient": self._gradient,
            "ApplyJacobian": self._apply_jacobian,
            "ApplyHessian": self._apply_hessian,
        }

    def sizes(self, name: str, fields: dict[str, Any]) -> list[int]:
        """Return "inputSizes" or "outputSizes"."""
        _expect_no_options(fields)
        return [self.input_size if name == "inputSizes" else self.output_size]

    def apply(self, operation: str, fields: dict[str, Any]) -> Any:
        """Return the output of an operation.

        Raises
        ------
        ProtocolError
            If a field of the request is missing or wrong, or the output is not finite.
        """
        _expect_no_options(fields)
        with lock_of(self), host.errstate(over="ignore", invalid="ignore"):
            output = host.asarray(self.operations[operation](fields))
        if not host.isfinite(output).all():
            raise ProtocolError("InvalidOutput", "the output is not finite", 500)
        return [output.tolist()] if operation == "Evaluate" else output.tolist()

    def _evaluate(self, fields: dict[str, Any]) -> Array:
        return self._solved(fields).state

    def _gradient(self, fields: dict[str, Any]) -> Array:
        _expect_zeros(fields, "outWrt", "inWrt")
        sens = self._vector(fields, "sens", self.output_size)
        return self._solved(fields).sensitivity_adjoint(sens)

    def _apply_jacobian(self, fields: dict[str, Any]) -> Array:
        _expect_zeros(fields, "outWrt", "inWrt")
        return self._solved(fields).sensitivity(self._vector(fields, "vec", self.input_size))

    def _apply_hessian(self, fields: dict[str, Any]) -> Array:
        _expect_zeros(fields, "outWrt", "inWrt1", "inWrt2")
        sens = self._vector(fields, "sens", self.output_size)
        vec = self._vector(fields, "vec", self.input_size)
        return self._solved(fields).component_hessian(sens, vec)

    def _solved(self, fields: dict[str, Any]) -> Any:
        """Return the equilibrium at the parameters of a request, or that of the last one."""
        inputs = fields.get("input")
        if not isinstance(inputs, list) or len(inputs) != 1:
            raise ProtocolError(
                "InvalidInput",
                f"input: expected a list of one list of {self.input_size} numbers, got "
                f"{short_repr(inputs)}",
            )
        return self._node.solved(_numbers(inputs[0], self.input_size, "input[0]"), None)

    def _vector(self, fields: dict[str, Any], name: str, size: int) -> Array:
        return _numbers(fields.get(name), size, name)


def _numbers(values: Any, size: int, name: str) -> Array:
    """Return a list of numbers as an array, after checking it."""
    if not isinstance(values, list) or len(values) != size:
        got = f"{len(values)}" if isinstance(values, list) else short_repr(values)
        raise ProtocolError("InvalidInput", f"{name}: expected a list of {size} numbers, got {got}")
    for x in values:
        if isinstance(x, bool) or not isinstance(x, (int, float)):
            raise ProtocolError("InvalidInput", f"{name}: expected numbers, got {short_repr(x)}")
    try:
        array = host.asarray(values, dtype=host.float64)
    except OverflowError:
        array = host.full(size, host.inf)
    if not host.isfinite(array).all():
        raise ProtocolError("InvalidInput", f"{name}: expected finite numbers")
    return array


def _expect_zeros(fields: dict[str, Any], *names: str) -> None:
    """Check the indices of an input or output, of which there is one each."""
    for name in names:
        index = fields.get(name)
        if isinstance(index, bool) or index != 0:
            raise ProtocolError(
                "InvalidInput",
                f"{name}: expected 0, since there is one input and one output, got "
                f"{short_repr(index)}",
            )


def _expect_no_options(fields: dict[str, Any]) -> None:
    config = fields.get("config")
    if config not in (None, {}):
        raise ProtocolError(
            "InvalidInput",
            f"config: expected {{}}, since the model has no options, got {short_repr(config)}",
        )
