"""The work of a worker process: calls the user's function on a case, and returns the outcome."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

from ..arrays.backend import host, is_dense
from ..errors import ArgumentError
from .cases import check_name, json_value, numeric_array
from .provenance import describe_machine, utc_now

RNG_PARAMETER = "rng"  # the argument of a function for the case's random generator


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case, as a worker returns it.

    Attributes
    ----------
    status : {"done", "failed"}
    outputs : dict
        Numbers, strings and lists by their names, and arrays on the host.
    error, traceback : str or None
        The error of a case that failed.
    started : str
        The time in UTC, ISO 8601.
    seconds : float
        The wall time.
    worker : dict
        The machine and the process.
    """

    status: str
    outputs: dict[str, Any]
    error: str | None
    traceback: str | None
    started: str
    seconds: float
    worker: dict[str, Any]

    @classmethod
    def without_result(cls, error: str, trace: str | None = None) -> Outcome:
        """Return the outcome of a case whose worker returned nothing."""
        return cls("failed", {}, error, trace, utc_now(), 0.0, {})


def initialize_worker() -> None:
    """Make this worker exit when the process that started it ends for any reason.

    Otherwise it would wait forever, since it holds both ends of its queue. Ctrl-C reaches all
    processes of the terminal, and ends a worker without a traceback.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    parent = parent_process()
    if parent is not None:

        def exit_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=exit_with_parent, daemon=True).start()


def check_unpickling(pickled: bytes) -> dict[str, Any]:
    """Check that a worker can unpickle the function, and describe its machine."""
    pickle.loads(pickled)
    return describe_machine()


def run_case(
    function: Callable | bytes,
    params: Mapping[str, Any],
    starts: Mapping[str, Any],
    seed: list[int] | None,
) -> Outcome:
    """Call the function on a case. An exception becomes an outcome with status "failed".

    Parameters
    ----------
    function : callable or bytes
        The function, pickled if it comes from another process.
    params, starts : mapping of str
        The parameters of the case, and the arguments of its warm start.
    seed : list of int or None
        The seed of its random generator; None if the function takes none.
    """
    started, start = utc_now(), time.perf_counter()
    outputs: dict[str, Any] = {}
    error = trace = None
    try:
        called = pickle.loads(function) if isinstance(function, bytes) else function
        rng = {} if seed is None else {RNG_PARAMETER: host.random.default_rng(seed)}
        store_outputs(called(**params, **starts, **rng), params, outputs)
    except (Exception, SystemExit) as raised:
        error = "".join(traceback.format_exception_only(raised)).strip()
        trace = "".join(traceback.format_exception(raised))
    return Outcome(
        status="done" if error is None else "failed",
        outputs=outputs,
        error=error,
        traceback=trace,
        started=started,
        seconds=time.perf_counter() - start,
        worker=describe_machine(),
    )


def store_outputs(returned: Any, params: Mapping[str, Any], outputs: dict[str, Any]) -> None:
    """Add the values that a function returned to `outputs`.

    Every value that can be stored is added before an ArgumentError names the others.
    """
    if not isinstance(returned, Mapping):
        returned = {"value": returned}
    errors = []
    for name, value in returned.items():
        try:
            check_name(name, "name of an output")
            if name in params:
                raise ArgumentError(f"output {name!r}: a parameter has the same name; use another")
            outputs[name] = _storable(value, f"output {name!r}")
        except ArgumentError as error:
            errors.append(str(error))
    if errors:
        rest = f". record.kept holds the others: {', '.join(outputs)}" if outputs else ""
        raise ArgumentError("; ".join(errors) + rest)


def _storable(value: Any, label: str) -> Any:
    """Return a numpy array, or a value that JSON can represent."""
    if isinstance(value, complex | host.complexfloating):  # JSON has no complex numbers
        return host.asarray(value)
    if is_dense(value):
        value = numeric_array(value, label)
        if value.ndim:
            return value
    return json_value(value, label)


def takes_rng(function: Callable) -> bool:
    """Return True if a function has a parameter for a random generator."""
    try:
        return RNG_PARAMETER in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False
