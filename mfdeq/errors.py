"""The exceptions, and a warning. Each says what came, what was expected and what to do next."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


class MfdeqError(Exception):
    """Base class of every error this library raises on purpose."""


class ArgumentError(MfdeqError, ValueError):
    """An argument has a wrong shape, dtype or value; the message says which and what to pass."""


class ModelError(MfdeqError, ValueError):
    """A user's function or a model's input has a wrong shape, dtype or device, or holds NaN.

    The message names the function, what was expected of it and what came.
    """


class DerivativeError(MfdeqError, ValueError):
    """A derivative contradicts itself: an adjoint that is not one, a Hessian not symmetric.

    Attributes
    ----------
    field : str
        Which one, where that is known: "d_state", "curvature.state_state".
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ConvergenceError(MfdeqError, RuntimeError):
    """A solve (forward, adjoint or inner) that did not reach its tolerance.

    Attributes
    ----------
    best : array or tuple or None
        The best result computed; its residual is in the report.
    report : object or None
        How the solve went, with the history of residuals.
    """

    def __init__(self, message: str, *, best: Any = None, report: Any = None) -> None:
        super().__init__(message)
        self.best = best
        self.report = report


class SingularStateError(MfdeqError, ArithmeticError):
    """The state operator A is singular, or so near to it that a solve has no digits left.

    Attributes
    ----------
    digits : float
        Decimal digits left in a solution of A x = b, -log10(eps cond(A)); at most 0 if singular.
    best, report
        As in `ConvergenceError`.
    """

    def __init__(
        self, message: str, *, digits: float = 0.0, best: Any = None, report: Any = None
    ) -> None:
        super().__init__(message)
        self.digits = digits
        self.best = best
        self.report = report


class OutOfMemoryError(MfdeqError, MemoryError):
    """The memory of the device, or of the host, is full: how much was asked for, what to try."""


class StudyError(MfdeqError, RuntimeError):
    """A study that cannot go on: a full disk, a directory of another's, workers that do not start.

    Attributes
    ----------
    unrecorded : list
        Results that could not be written, with their cases; the study that raised keeps them, and
        writes them first when it goes on.
    """

    def __init__(self, message: str, *, unrecorded: Any = ()) -> None:
        super().__init__(message)
        self.unrecorded = list(unrecorded)


class ExperimentError(MfdeqError, ValueError):
    """A file of an experiment that cannot be used: the line, the key, what was expected."""


class CheckpointError(MfdeqError, OSError):
    """A file that a run was to continue from cannot be read, or is of another run.

    The message says what the file is, what was expected, and what to do.
    """


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written: the run goes on, and the last one is as it was."""


class NearSingularWarning(UserWarning):
    """The state operator A is so near to singular that digits are being lost."""


class AccuracyWarning(UserWarning):
    """What was asked for can be had, but with few digits: the message says why and how to more."""


class StudyWarning(UserWarning):
    """Records of a study are of a function that has changed since: they stay as they are."""


def warn(message: str, category: type[Warning]) -> None:
    """A warning that points at the caller's line, outside of this library."""
    frame, level = sys._getframe(1), 1
    inside = (__package__, "functools")
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


@contextlib.contextmanager
def note_origin(name: str) -> Iterator[None]:
    """Note on whatever a user's function raises which function it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"mfdeq: raised in {name}")
        raise
