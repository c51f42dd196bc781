"""One case in a worker: the user's function called, and what became of it."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..arrays.backend import host, is_dense
from ..errors import ArgumentError
from .cases import check_name, numbers, plain_value
from .provenance import machine, now
from .store import Outcome

RANDOM = "rng"  # the parameter of a function that gets the random numbers of a case


def begin() -> None:
    """Let a process of the pool end with the one that started it, however that ends.

    A worker holds both ends of its queue, and would wait there for ever. An interrupt from the
    keyboard comes to all of them, and ends this one without a word.
    """
    import signal
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, lambda *_: os._exit(1))
    parent = parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def ready(pickled: bytes) -> dict[str, Any]:
    """Whether the function has come through."""
    pickle.loads(pickled)
    return machine()


def run_case(
    sent: Any, params: Mapping[str, Any], starts: Mapping[str, Any], seed: list[int] | None
) -> Outcome:
    """Call the function on a case; what it raises is an outcome, too."""
    started, before = now(), time.perf_counter()
    outputs: dict[str, Any] = {}
    error = trace = None
    try:
        function = pickle.loads(sent) if isinstance(sent, bytes) else sent
        rng = {} if seed is None else {RANDOM: host.random.default_rng(seed)}
        check(function(**params, **starts, **rng), params, outputs)
    except (Exception, SystemExit) as raised:
        error = "".join(traceback.format_exception_only(raised)).strip()
        trace = "".join(traceback.format_exception(raised))
    return Outcome(
        status="done" if error is None else "failed",
        outputs=outputs,
        error=error,
        traceback=trace,
        started=started,
        seconds=time.perf_counter() - before,
        worker=machine(),
    )


def check(returned: Any, params: Mapping[str, Any], outputs: dict[str, Any]) -> None:
    """Put what a function returned into `outputs`, by names; of bad ones an error, at the end."""
    if not isinstance(returned, Mapping):
        returned = {"value": returned}
    wrong = []
    for name, value in returned.items():
        try:
            check_name(name, "an output")
            if name in params:
                raise ArgumentError(
                    f"the output {name!r} has the name of a parameter; another was expected"
                )
            outputs[name] = _stored(value, f"the output {name!r}")
        except ArgumentError as error:
            wrong.append(str(error))
    if wrong:
        kept = f". {', '.join(outputs)} are kept, in record.kept" if outputs else ""
        raise ArgumentError("; ".join(wrong) + kept)


def _stored(value: Any, told: str) -> Any:
    """A numpy array, or what JSON has."""
    if isinstance(value, complex | host.complexfloating):  # JSON has none
        return host.asarray(value)
    if is_dense(value):
        value = numbers(value, told)
        if value.ndim:
            return value
    return plain_value(value, told)


def wants_random(function: Callable) -> bool:
    """Whether a function has a parameter for random numbers."""
    try:
        return RANDOM in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return False
