"""Exceptions and warnings, whose messages say what was expected, what was found and what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

MAX_REPR_LENGTH = 60
ORIGIN_NOTE = "mfdeq: raised in"  # how a note begins that names a user's function
# Exceptions that show a mistake in a user's function. All others, raised at a trial point, mean
# that the model has no value there.
MISTAKES = (
    TypeError,
    NameError,
    AttributeError,
    ImportError,
    SyntaxError,
    NotImplementedError,
    MemoryError,
)


class MfdeqError(Exception):
    """Base class of the exceptions that mfdeq raises.

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
    """Raised if an argument has a wrong shape, dtype or value.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> mfdeq.Direct(rtol=2.0)
    Traceback (most recent call last):
    mfdeq.errors.ArgumentError: rtol of mfdeq.Direct: expected a number between 0 and 1, got 2.0
    """


class ModelError(MfdeqError, ValueError):
    """Raised for a wrong shape, dtype or device, or NaN, in a model's input or output.

    The message names the user's function, what was expected of it and what it returned.

    Attributes
    ----------
    non_finite : bool
        Whether it is NaN or infinity, which at a trial point means that the function has no value.

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

    def __init__(self, message: str, *, non_finite: bool = False) -> None:
        super().__init__(message)
        self.non_finite = non_finite


class DomainError(MfdeqError, ValueError):
    """Raised by a user's model to say that it has no value at a state or parameter.

    At a trial point (of a line search, an optimizer or a continuation) the step is shortened or
    rejected, and the report keeps the message. At a start the error propagates. Other exceptions of
    a model at a trial point have the same effect, except those that are mistakes, such as a
    `NameError`.

    Examples
    --------
    A model with a logarithm of the state. The first Newton step from h = 3 leads to a negative
    number and is shortened:

    >>> import numpy as np
    >>> import mfdeq
    >>> def residual(h, theta):
    ...     if np.real(h[0]) <= 0.0:
    ...         raise mfdeq.DomainError(f"h is {h[0]}, expected a positive number")
    ...     return np.log(h) - theta
    >>> model = mfdeq.from_function(residual, 1, 1, "residual")
    >>> eq = mfdeq.solve(model, np.array([0.0]), np.array([3.0]))
    >>> print(eq.state.round(4))
    [1.]
    """


class DerivativeError(MfdeqError, ValueError):
    """Raised if derivatives are inconsistent, such as a wrong adjoint or an asymmetric Hessian.

    Attributes
    ----------
    field : str
        The name of the derivative, such as "d_state" or "curvature.state_state"; empty if unknown.

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
    """Raised if a forward, adjoint or inner solve does not reach its tolerance.

    Attributes
    ----------
    best : array or tuple or None
        The best result computed; its residual is in the report.
    report : object or None
        The report on the solve, with its history of residuals.
    imbalance : (m,) array or None
        By how much redundant equations disagree (see `mfdeq.constrain`), if that is the reason.

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

    def __init__(
        self, message: str, *, best: Any = None, report: Any = None, imbalance: Any = None
    ) -> None:
        super().__init__(message)
        self.best = best
        self.report = report
        self.imbalance = imbalance


class SingularStateError(MfdeqError, ArithmeticError):
    """Raised if the state operator A is singular, or too ill-conditioned for any correct digit.

    Attributes
    ----------
    digits : float
        Correct decimal digits of a solution of A x = b, -log10(eps cond(A)); 0 or less if A is
        singular to working precision.
    kind : str
        "fold", "unused unknown", "dependent equations" or "free constant"; empty if unknown.
    unknowns, equations : list of int
        The unknowns and the equations that make up the null vectors of A and of its adjoint.
    right, left : (N,) array or None
        The null vectors of A and of its adjoint; (N, k) arrays if a model has k of them.
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
        self,
        message: str,
        *,
        digits: float = 0.0,
        kind: str = "",
        unknowns: Sequence[int] = (),
        equations: Sequence[int] = (),
        right: Any = None,
        left: Any = None,
        best: Any = None,
        report: Any = None,
    ) -> None:
        super().__init__(message)
        self.digits = digits
        self.kind = kind
        self.unknowns, self.equations = list(unknowns), list(equations)
        self.right, self.left = right, left
        self.best = best
        self.report = report


class OutOfMemoryError(MfdeqError, MemoryError):
    """Raised if the host or device has too little memory; the message suggests remedies.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> issubclass(mfdeq.OutOfMemoryError, MemoryError)
    True
    """


class StudyError(MfdeqError, RuntimeError):
    """Raised if a study cannot continue, as with a full disk or workers that do not start.

    Attributes
    ----------
    unrecorded : list
        Results that could not be written, with their cases. The study keeps them and writes them
        first when it resumes.

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
    """Raised if a checkpoint cannot be read or written, or belongs to another run.

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
    """Issued if a checkpoint cannot be written; the run continues, the last checkpoint is intact.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.CheckpointWarning)  # raise it instead
    """


class NearSingularWarning(UserWarning):
    """Issued if the state operator A is so nearly singular that digits are lost.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.NearSingularWarning)  # raise it instead
    """


class AccuracyWarning(UserWarning):
    """Issued if a result has few correct digits; the message says why and how to get more.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.AccuracyWarning)  # raise it instead
    """


class StudyWarning(UserWarning):
    """Issued if the function of a study has changed since its records were made; they are kept.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.StudyWarning)  # raise it instead
    """


class WorkerWarning(UserWarning):
    """Issued if a worker of an executor is lost; its experiments are solved by others.

    Examples
    --------
    >>> import warnings
    >>> import mfdeq
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", mfdeq.WorkerWarning)  # raise it instead
    """


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning that points to the calling line outside this package."""
    frame, level = sys._getframe(1), 1
    inside = (__package__, "functools")
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


def is_evaluation_failure(error: BaseException) -> bool:
    """Return whether an exception of a user's function means that it has no value at this point.

    Parameters
    ----------
    error : BaseException
        An exception raised at a trial state or parameter.

    Returns
    -------
    bool
        False for mistakes: `TypeError`, `NameError`, `AttributeError`, `ImportError`,
        `SyntaxError`, `NotImplementedError`, `MemoryError`, the `ModelError` of a wrong shape or
        dtype, and the errors of wrong arguments and derivatives.
    """
    if isinstance(error, ModelError):
        return error.non_finite
    mistakes = (*MISTAKES, ArgumentError, DerivativeError)
    return isinstance(error, Exception) and not isinstance(error, mistakes)


class note_origin:
    """Add a note that names a user's function to any exception it raises."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception):
            error.add_note(f"{ORIGIN_NOTE} {self.name}")


def was_raised_by_user(error: BaseException) -> bool:
    """Return whether an exception was raised in a user's function, as its notes say."""
    return any(note.startswith(ORIGIN_NOTE) for note in getattr(error, "__notes__", ()))


def short_repr(x: Any) -> str:
    """Describe a value for a message: scalars and strings by repr, other objects by type."""
    if isinstance(x, type):
        return f"the class {x.__name__}"
    if x is None or isinstance(x, (bool, int, float, complex, str)):
        text = repr(x)
        return text if len(text) <= MAX_REPR_LENGTH else f"{text[:MAX_REPR_LENGTH]}..."
    shape = getattr(x, "shape", None)
    of_shape = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    return f"a {type(x).__name__}{of_shape}"
