"""Exceptions and warnings: each message says what was expected, what came and what to do next."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

MAX_REPR_LENGTH = 60


class MfdeqError(Exception):
    """Base class of every error that mfdeq raises on purpose.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> try:
    ...     mfdeq.Direct(rtol=2.0)
    ... except mfdeq.MfdeqError as error:
    ...     print(type(error).__name__)
    ArgumentError
    """


class ArgumentError(MfdeqError, ValueError):
    """An argument has a wrong shape, dtype or value; the message says which, and what to pass.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> mfdeq.Direct(rtol=2.0)
    Traceback (most recent call last):
    mfdeq.errors.ArgumentError: rtol of mfdeq.Direct: expected a number between 0 and 1, got 2.0
    """


class ModelError(MfdeqError, ValueError):
    """A user's function or a model's input has a wrong shape, dtype or device, or holds NaN.

    The message names the function, what was expected of it and what it returned.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: h[:1] - theta, 2, 1, "residual")
    >>> try:
    ...     mfdeq.solve(model, np.array([1.0]))
    ... except mfdeq.ModelError as error:
    ...     print(error)
    mfdeq.from_function(<lambda>).residual: expected an array of shape (2,), got shape (1,)
    """


class DerivativeError(MfdeqError, ValueError):
    """A derivative contradicts itself: an adjoint is not the adjoint, or a Hessian not symmetric.

    Attributes
    ----------
    field : str
        Which derivative, where that is known: "d_state", "curvature.state_state".

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> skewed = mfdeq.QuadraticPrior(np.array([[1.0, 1.0], [0.0, 1.0]]), np.zeros(2))
    >>> try:
    ...     skewed.gradients(np.zeros(1), np.ones(2))
    ... except mfdeq.DerivativeError as error:
    ...     print(error.field)
    precision
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ConvergenceError(MfdeqError, RuntimeError):
    """A solve (forward, adjoint or inner) did not reach its tolerance.

    Attributes
    ----------
    best : array or tuple or None
        The best result computed; its residual is in the report.
    report : object or None
        How the solve went, with its history of residuals.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: h**2 + theta, 1, 1, "residual")
    >>> try:
    ...     mfdeq.solve(model, np.array([1.0]), np.array([0.5]), method="newton")
    ... except mfdeq.ConvergenceError as error:
    ...     print(error.report.converged, error.best.shape)
    False (1,)
    """

    def __init__(self, message: str, *, best: Any = None, report: Any = None) -> None:
        super().__init__(message)
        self.best = best
        self.report = report


class SingularStateError(MfdeqError, ArithmeticError):
    """The state operator A is singular, or so nearly singular that a solve has no digits left.

    Attributes
    ----------
    digits : float
        Decimal digits left in a solution of A x = b, -log10(eps cond(A)); 0 or less where A is
        singular to working precision.
    best, report
        As in `ConvergenceError`.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, "residual")
    >>> eq = mfdeq.equilibrium_at(model, np.array([0.0]), np.array([0.0]))
    >>> try:
    ...     eq.gradient(mfdeq.LeastSquares(np.array([0]), np.ones(1)))
    ... except mfdeq.SingularStateError as error:
    ...     print(error.digits <= 0.0)
    True
    """

    def __init__(
        self, message: str, *, digits: float = 0.0, best: Any = None, report: Any = None
    ) -> None:
        super().__init__(message)
        self.digits = digits
        self.best = best
        self.report = report


class OutOfMemoryError(MfdeqError, MemoryError):
    """The memory of the host or device does not suffice; the message says what to try.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> issubclass(mfdeq.OutOfMemoryError, MemoryError)
    True
    """


class StudyError(MfdeqError, RuntimeError):
    """A study cannot go on: a full disk, a directory in use, workers that do not start.

    Attributes
    ----------
    unrecorded : list
        Results that could not be written, with their cases. The study keeps them, and writes them
        first when it goes on.

    Examples
    --------
    >>> import pathlib
    >>> import tempfile
    >>> import mfdeq
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory) / "notes"
    ...     _ = path.write_text("a file, not a directory")
    ...     try:
    ...         mfdeq.Study(path).status()
    ...     except mfdeq.StudyError as error:
    ...         print(len(error.unrecorded))
    0
    """

    def __init__(self, message: str, *, unrecorded: Any = ()) -> None:
        super().__init__(message)
        self.unrecorded = list(unrecorded)


class CheckpointError(MfdeqError, OSError):
    """A checkpoint cannot be read or written, or belongs to another run.

    The message says what the file is, what was expected, and what to do.

    Examples
    --------
    >>> import pathlib
    >>> import tempfile
    >>> import numpy as np
    >>> import mfdeq
    >>> H = mfdeq.Precision(np.arange(1.0, 9.0))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory) / "run.npz"
    ...     _ = path.write_text("not a checkpoint")
    ...     try:
    ...         mfdeq.eigsh(H, k=1, checkpoint=path)
    ...     except mfdeq.CheckpointError as error:
    ...         print(isinstance(error, OSError))
    True
    """


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the run goes on, and the last checkpoint is intact.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.CheckpointWarning)  # raise it instead
    """


class NearSingularWarning(UserWarning):
    """The state operator A is so nearly singular that digits are lost.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.NearSingularWarning)  # raise it instead
    """


class AccuracyWarning(UserWarning):
    """A result has few digits; the message says why, and how to get more.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.AccuracyWarning)  # raise it instead
    """


class StudyWarning(UserWarning):
    """Records of a study were made by a function that has changed since; they are kept.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.StudyWarning)  # raise it instead
    """


def warn(message: str, category: type[Warning]) -> None:
    """Warn with the line of the caller outside this package."""
    frame, level = sys._getframe(1), 1
    inside = (__package__, "functools")
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


@contextlib.contextmanager
def note_origin(name: str) -> Iterator[None]:
    """Add a note that names a user's function to whatever it raises."""
    try:
        yield
    except Exception as error:
        error.add_note(f"mfdeq: raised in {name}")
        raise


def short_repr(x: Any) -> str:
    """Describe a value in a message: numbers and words as they are, everything else by its type."""
    if isinstance(x, type):
        return f"the class {x.__name__}"
    if x is None or isinstance(x, (bool, int, float, complex, str)):
        text = repr(x)
        return text if len(text) <= MAX_REPR_LENGTH else f"{text[:MAX_REPR_LENGTH]}..."
    shape = getattr(x, "shape", None)
    of_shape = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    return f"a {type(x).__name__}{of_shape}"
