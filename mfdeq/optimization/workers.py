"""What a worker of an executor does: it holds shares of a sum, and answers requests about them.

Executors do not say which worker takes a task. A share stays where its first task went: later tasks
carry the list of which worker holds what, and a worker answers for the shares that it holds. One
that has answered already returns at once, so that the task goes to another.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Backend

MAX_SUMS = 4  # of which a worker holds shares; those of the oldest are dropped
MAX_HESSIANS = 2  # that a share keeps: of the last point and of a trial point
IDLE_SECONDS = 0.002  # between tasks of a worker that has answered

_shares: OrderedDict[str, dict[int, Any]] = OrderedDict()  # by the token of the sum
_answered: dict[str, int] = {}  # the last round of each sum
_lock = threading.Lock()


@dataclass
class Answer:
    """The results of a task.

    Attributes
    ----------
    worker : str
        The host and the process.
    results : dict of int to object, or None
        What was asked for, or an exception, by share; None if the worker has answered already.
    counts : dict of int to tuple
        The forward and linear solves of each share so far.
    """

    worker: str
    results: dict[int, Any] | None
    counts: dict[int, tuple[int, int]]


def worker_name() -> str:
    """Return the host and the number of this process."""
    return f"{socket.gethostname()}, process {os.getpid()}"


def answer_with(token: str, number: int, share: int, pickled: bytes, request: Any) -> Answer:
    """Take a share, and answer a request about it."""
    F = pickle.loads(pickled)
    with _lock:
        _shares.setdefault(token, {})[share] = F
        _shares.move_to_end(token)
        while len(_shares) > MAX_SUMS:
            _answered.pop(_shares.popitem(last=False)[0], None)
    return _answer(token, {share: F}, {share: request})


def answer_held(
    token: str, number: int, holders: Mapping[str, Sequence[int]], requests: Mapping[int, Any]
) -> Answer:
    """Answer requests about all shares that this worker holds, once in each round."""
    name = worker_name()
    with _lock:
        idle = name not in holders or _answered.get(token) == number
        _answered[token] = number
        held = _shares.get(token, {})
        mine = {share: held[share] for share in holders.get(name, ()) if share in held}
    if idle:
        time.sleep(IDLE_SECONDS)
        return Answer(name, None, {})
    return _answer(token, mine, requests)


def _answer(token: str, shares: Mapping[int, Any], requests: Mapping[int, Any]) -> Answer:
    results, counts = {}, {}
    for share, F in shares.items():
        results[share] = _guarded(F, requests[share])
        counts[share] = F.solves, F.linear_solves
    return Answer(worker_name(), results, counts)


def _guarded(F: Any, request: tuple[Any, ...]) -> Any:
    name, *arguments = request
    try:
        return evaluate(F, name, *arguments)
    except Exception as error:
        return portable_error(error)


def portable_error(error: Exception) -> Exception:
    """Return an error that can be sent to another process, without attributes that cannot be."""
    if _travels(error):
        return error
    with contextlib.suppress(Exception):  # copies fail where the class takes other arguments
        reduced = copy.copy(error)
        for name, value in vars(error).items():
            if not _travels(value):
                setattr(reduced, name, None)
        if _travels(reduced):
            return reduced
    return RuntimeError(f"{type(error).__name__}: {error}")


def _travels(x: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(x))
    except Exception:
        return False
    return True


def evaluate(F: Any, name: str, theta: Any, weights: Sequence[float], *arguments: Any) -> Any:
    """Answer one request about a share.

    Parameters
    ----------
    F : SumFunctional
        The share.
    name : str
        What is asked for: a key of `REQUESTS`.
    theta : (P,) array
    weights : sequence of float
        The weights of the experiments by now.
    """
    F.weights = list(weights)
    return REQUESTS[name](F, theta, *arguments)


def _hessian(F: Any, theta: Any, part: str) -> Any:
    """Return the Hessian at one of the last points, or a part of it."""
    held = vars(F).setdefault("_hessians_held", OrderedDict())
    key = Backend.of(theta).library.fingerprint(theta), tuple(F.weights)
    if key not in held:
        held[key] = F.hessian_at(F.equilibrium(theta), evaluate=False)
        while len(held) > MAX_HESSIANS:
            held.popitem(last=False)
    return held[key] if part == "hessian" else getattr(held[key], part)


def _values(F: Any, theta: Any) -> list[Any]:
    """Return the values of the experiments, errors in place of those without one."""
    values = F.experiments.evaluated(theta)
    return [portable_error(x) if isinstance(x, Exception) else x for x in values]


def _product(F: Any, theta: Any, part: str, x: Any) -> Any:
    return _hessian(F, theta, part)._apply(x)


def _product_with_error(F: Any, theta: Any, part: str, x: Any, rtol: float | None) -> Any:
    return _hessian(F, theta, part).with_error(x, rtol=rtol)


def _inexact_product(F: Any, theta: Any, part: str, x: Any, rtol: float) -> Any:
    return _hessian(F, theta, part).apply_inexact(x, rtol)


def _tolerance(F: Any, theta: Any) -> tuple[bool, float]:
    H = _hessian(F, theta, "hessian")
    return H.iterative, H.solver_rtol


REQUESTS: dict[str, Callable[..., Any]] = {
    "values": _values,
    "gradient": lambda F, theta: F.evaluate_gradient(theta),
    "partial gradient": lambda F, theta: F.partial_gradient(F.equilibrium(theta)),
    "gradient at": lambda F, theta, state: F.gradient_at(theta, state),
    "state": lambda F, theta: F.equilibrium(theta).state,
    "forget": lambda F, theta, start: F.forget(start),
    "tolerance": _tolerance,
    "product": _product,
    "product with error": _product_with_error,
    "inexact product": _inexact_product,
}
