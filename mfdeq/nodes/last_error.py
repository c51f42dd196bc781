"""The last error of a node, for programs whose own errors hold no more than its message."""

from __future__ import annotations

_last: list[Exception] = []  # at most one: replacing the entry is one step for other threads


def last_error() -> Exception | None:
    """Return the last error that was raised in a node of another program.

    A compiled program of JAX raises its own error, which has the message of that of mfdeq but not
    its type, state or report.

    Returns
    -------
    Exception or None
        The `ConvergenceError`, `SingularStateError` or other exception of the latest failure in a
        function of `to_jax`, `to_torch` or `torch_layer`, in any thread; None if there was none.

    See Also
    --------
    to_jax : a model as a function of JAX.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_jax(
    ...     lambda h, theta: h**2 + theta, np.ones(1), np.ones(1), "residual", initial_state=0.7
    ... )
    >>> state = jax.jit(mfdeq.to_jax(model, method="newton"))
    >>> try:
    ...     state(np.ones(1))  # h² + 1 = 0 has no solution
    ... except Exception as error:
    ...     failure = mfdeq.last_error()
    >>> type(failure).__name__, failure.report.converged
    ('ConvergenceError', False)
    """
    return _last[-1] if _last else None


def record_error(error: Exception) -> None:
    """Keep an error as the last one."""
    _last[:] = [error]
