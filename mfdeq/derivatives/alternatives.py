"""Different ways to the same derivative, such as forward and reverse mode, and checks of them.

A source of derivatives uses the first way that works for a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import MfdeqError, ModelError
from .source import Function

ADJOINT_RTOL = 1e-3  # of a dot test of products in reverse mode
DIFFERENCE_STEP = 1e-3  # relative, of the difference that a Hessian product is compared with
DIFFERENCE_RTOL = 0.05  # of that comparison
DIFFERENCE_NOISE = 1e-5  # of the gradient, in float32
MAX_REASON_LENGTH = 200  # characters of another library's message in ours


class Alternatives:
    """Functions that compute the same in different ways, such as forward and reverse mode.

    The first of them that raises no exception is used, in this call and in all later ones.

    Parameters
    ----------
    functions : list of callables
        Functions of the same arguments.
    value : callable
        A function of these arguments that only evaluates the user's function. If all alternatives
        fail and this fails too, its exception propagates.
    error : callable
        ``error(exceptions)`` returns the exception to raise if only derivatives fail.
    probe : callable, optional
        ``probe(result, *x)`` uses a result, since some alternatives fail only then.
    """

    def __init__(
        self,
        functions: list[Function],
        value: Function,
        error: Callable[[list[Exception]], Exception],
        probe: Function | None = None,
    ) -> None:
        self.functions, self.value, self.error = functions, value, error
        self.probe = probe
        self.chosen: Function | None = None

    def __call__(self, *x: Any) -> Any:
        """Call the first alternative that works."""
        if self.chosen is not None:
            return self.chosen(*x)
        errors: list[Exception] = []
        for function in self.functions:
            try:
                result = function(*x)
                if self.probe is not None:
                    self.probe(result, *x)
            except (MfdeqError, MemoryError):
                raise
            except Exception as error:
                if _is_out_of_memory(error):
                    raise
                errors.append(error)
            else:
                self.chosen = function
                return result
        self.value(*x)
        raise self.error(errors) from errors[0]


def partial_function(function: Function, x: Sequence[Any], which: int) -> Function:
    """Return f(h, theta) as a function of h (0) or of theta (1) alone."""
    h, theta, *data = x
    if which == 0:
        return lambda h: function(h, theta, *data)
    return lambda theta: function(h, theta, *data)


def check_reverse_products(product: Function, adjoint: Function, v: Any, u: Any) -> None:
    """Raise `ArithmeticError` unless <u, J v> = <J'u, v>.

    A product that is derived from the adjoint product in reverse mode is wrong where the latter is
    not a differentiable function of u, or not linear in it.
    """
    left, right = u * product(v), v * adjoint(u)
    scale = _sum(abs(left)) + _sum(abs(right))
    if abs(_sum(left) - _sum(right)) > ADJOINT_RTOL * scale:
        raise ArithmeticError("its derivative in reverse mode cannot be differentiated")


def check_linear(adjoint: Function, u: Any) -> None:
    """Raise `ArithmeticError` unless an adjoint product is linear along one vector."""
    once, twice = adjoint(u), adjoint(2.0 * u)
    if _sum(abs(twice - 2.0 * once)) > ADJOINT_RTOL * _sum(abs(twice)):
        raise ArithmeticError("its derivative in reverse mode is not linear")


def check_hessian_product(
    gradient: Function, product: Function, x: Sequence[Any], v: Sequence[Any]
) -> None:
    """Raise `ArithmeticError` unless the product with a Hessian agrees with a difference.

    Reverse mode over reverse mode omits, without an error, what a custom gradient computes outside
    of the library. The comparison is rough.

    Parameters
    ----------
    gradient, product : callable
        Functions of several vectors, which return as many.
    x, v : sequences of vectors
        The point, and a direction with entries of about one.
    """
    steps = [DIFFERENCE_STEP * (1.0 + abs(part)) * d for part, d in zip(x, v, strict=True)]
    ahead = gradient(*(part + step for part, step in zip(x, steps, strict=True)))
    behind = gradient(*(part - step for part, step in zip(x, steps, strict=True)))
    for exact, a, b in zip(product(*steps), ahead, behind, strict=True):
        scale = _sum(abs(a)) + _sum(abs(b))
        error, size = _sum(abs(2.0 * exact - (a - b))), _sum(abs(a - b))
        if error > DIFFERENCE_RTOL * size + DIFFERENCE_NOISE * scale:
            raise ArithmeticError("its gradient cannot be differentiated")


def _sum(x: Any) -> float:
    """Return the sum of an array, or of a tensor that may belong to a graph of its parameters."""
    total = x.sum()
    return float(total.detach() if hasattr(total, "detach") else total)


def missing_mode_error(caller: str, what: str, advice: str, errors: list[Exception]) -> ModelError:
    """Return the error for derivatives that no mode of differentiation can compute."""
    reasons = "; ".join(dict.fromkeys(first_line(error) for error in errors))
    return ModelError(
        f"{what} of a function of {caller}: neither forward nor reverse mode can differentiate it "
        f"({reasons}). {advice}"
    )


def first_line(error: Exception) -> str:
    """Return the first sentence of a message, which may be long."""
    text = str(error).strip().partition("\n")[0]
    return text if len(text) <= MAX_REASON_LENGTH else f"{text[:MAX_REASON_LENGTH]}..."


def _is_out_of_memory(error: Exception) -> bool:
    return "out of memory" in str(error).lower() or "RESOURCE_EXHAUSTED" in str(error)
