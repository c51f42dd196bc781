"""The registry of forward methods, by name."""

from __future__ import annotations

from ..errors import ArgumentError
from .anderson import Anderson
from .newton import Newton
from .picard import Picard
from .protocol import ForwardMethod
from .transient import Transient

METHODS: dict[str, ForwardMethod] = {
    "newton": Newton(),
    "anderson": Anderson(),
    "picard": Picard(),
    "transient": Transient(),
}
RESERVED_NAMES = ("auto", "snes")  # mfdeq.solve and mfdeq.petsc.solve use these


def register(name: str, method: ForwardMethod) -> None:
    """Make a forward method available as ``mfdeq.solve(..., method=name)``.

    Parameters
    ----------
    name : str
        A name that no other method has.
    method : ForwardMethod

    Raises
    ------
    ArgumentError
        If the name is taken, or `method` is not an instance of `ForwardMethod`.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq.forward import METHODS, ForwardMethod, register
    >>> class Richardson(ForwardMethod):
    ...     max_iterations = 200
    ...
    ...     def iterate(self, problem, h, solver, monitor):
    ...         R = problem.residual(h)
    ...         monitor.record(h, R)
    ...         while not monitor.done:
    ...             h = h - 0.1 * R
    ...             R = problem.residual(h)
    ...             monitor.record(h, R)
    >>> register("richardson", Richardson())
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> eq = mfdeq.solve(model, np.array([2.0, 2.0]), method="richardson")
    >>> print(eq.state.round(4))
    [1. 1.]
    >>> del METHODS["richardson"]
    """
    if not isinstance(name, str) or name in (*METHODS, *RESERVED_NAMES):
        known = ", ".join(map(repr, (*METHODS, *RESERVED_NAMES)))
        raise ArgumentError(f"name: expected a string that is not among {known}, got {name!r}")
    if not isinstance(method, ForwardMethod):
        raise ArgumentError(
            "method: expected an instance of a class derived from mfdeq.forward.ForwardMethod, "
            f"got a {type(method).__name__}"
        )
    METHODS[name] = method
