"""The command line: ``mfdeq verify``, ``mfdeq status`` and ``mfdeq report``."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mfdeq

from .arrays.backend import host
from .files.npy import DamagedFileError, read_npy

EXIT_STATUS = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}  # argparse exits with 2
MAX_FAILURE_GROUPS = 5  # distinct errors that `status` prints
MAX_ERROR_LENGTH = 400  # characters printed of each error
NUMBER_PATTERN = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)

DESCRIPTION = """\
Check the derivatives of a model, and look at the results of a study.

Run "mfdeq COMMAND --help" for the options of a command.
"""
VERIFY_DESCRIPTION = """\
Run mfdeq.verify: check every derivative of a model, and of a loss, at an equilibrium, and print a
table of the checks.
"""
VERIFY_EPILOG = """\
MODEL and LOSS have the form MODULE:EXPRESSION. The module is imported (the current directory is
on the path) and the expression is evaluated in its namespace. If the result is a class or a
function, it is called without arguments.

The expression is Python code that is executed: run only what you trust.

examples:
  mfdeq verify my.models:Diffusion
  mfdeq verify 'my.models:Diffusion(size=31)' --params 0.1,2.5,3
  mfdeq verify my.models:model --params theta.npy --loss my.models:misfit
  mfdeq verify my.models:model --params 'numpy:full(4, 0.1)'

exit status:
  0  all checks passed
  1  a check failed
  2  wrong arguments, or a model that returns a wrong shape or NaN
  3  no check failed, but at least one was inconclusive
"""
STATUS_DESCRIPTION = """\
Show the numbers of completed, failed and remaining cases of a study, whether it is running, the
time per case, and the errors of the failed cases. Errors that differ only in numbers are shown
once.
"""
STATUS_EPILOG = """\
exit status:
  0  no case has failed
  1  at least one case has failed
  2  wrong arguments, or a directory without a study
"""
REPORT_DESCRIPTION = """\
Write a study as one HTML page with its tables, figures, failures and provenance, and print the
name of the file. Requires the optional packages of "pip install mfdeq[studies]".
"""


class UsageError(Exception):
    """Raised for an invalid command-line argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command-line interface.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments without the program name, by default those of the process.

    Returns
    -------
    int
        The exit status of the process.

    Raises
    ------
    SystemExit
        With status 2, after a message on standard error, if an argument is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="mfdeq",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mfdeq {mfdeq.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_verify(commands)
    _add_status(commands)
    _add_report(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (UsageError, mfdeq.MfdeqError) as error:
        commands.choices[options.command].error(f"{error}")


def _add_command(
    commands: Any, name: str, run: Any, summary: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


# mfdeq verify


def _add_verify(commands: Any) -> None:
    command = _add_command(
        commands,
        "verify",
        _run_verify,
        "check the derivatives of a model and a loss",
        VERIFY_DESCRIPTION,
        VERIFY_EPILOG,
    )
    command.add_argument("model", metavar="MODEL", help="the model, MODULE:EXPRESSION")
    command.add_argument(
        "--params",
        metavar="PARAMS",
        help="the parameters at which to check: comma-separated numbers, a .npy file, or "
        "MODULE:EXPRESSION (default: random numbers)",
    )
    command.add_argument(
        "--loss", metavar="LOSS", help="the loss, MODULE:EXPRESSION (default: a random linear loss)"
    )
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the seed of the random directions (default: %(default)s)",
    )
    command.add_argument(
        "--rtol", type=float, help="the tolerance of the equilibria (default: as in mfdeq.solve)"
    )


def _run_verify(options: argparse.Namespace) -> int:
    sys.path.insert(0, "")
    model = _call(_evaluate(options.model, "MODEL"), "MODEL")
    if not isinstance(model, (mfdeq.FixedPointModel, mfdeq.ResidualModel)):
        raise UsageError(
            "MODEL: expected an mfdeq.FixedPointModel or mfdeq.ResidualModel, or a callable that "
            f"returns one, got {type(model).__name__}"
        )
    loss = None if options.loss is None else _call(_evaluate(options.loss, "--loss"), "--loss")
    params = _read_params(options.params, model)
    solve_options = {} if options.rtol is None else {"rtol": options.rtol}
    verification = mfdeq.verify(model, params, loss, seed=options.seed, **solve_options)
    print(verification)
    return EXIT_STATUS[verification.verdict]


def _read_params(text: str | None, model: Any) -> Any:
    if text is None:
        return host.random.default_rng(0).standard_normal(model.param_size)
    if text.endswith(".npy"):
        try:
            return read_npy(text)
        except (OSError, DamagedFileError) as error:
            raise UsageError(f"--params: cannot read {text}: {error}") from error
    if ":" in text:
        return _evaluate(text, "--params")
    try:
        return host.array([float(number) for number in text.split(",")])
    except ValueError:
        raise UsageError(
            "--params: expected comma-separated numbers, a .npy file or MODULE:EXPRESSION, "
            f"got {text!r}"
        ) from None


def _evaluate(text: str, name: str) -> Any:
    """Return the value of MODULE:EXPRESSION."""
    module, _, expression = text.partition(":")
    if not expression:
        raise UsageError(f"{name}: expected MODULE:EXPRESSION, got {text!r}")
    try:
        scope = vars(importlib.import_module(module))
    except Exception as error:  # the user's module may raise anything
        raise UsageError(f"{name}: cannot import {module}: {_describe(error)}") from error
    try:
        return eval(expression, dict(scope))  # the user's own code, on the user's command line
    except Exception as error:
        raise UsageError(
            f"{name}: cannot evaluate {expression!r} in {module}: {_describe(error)}"
        ) from error


def _describe(error: Exception) -> str:
    """Return the type and message of an error, with its last frame in the user's code."""
    library = Path(importlib.__file__).parent
    places = [
        f" ({frame.filename}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and not frame.filename.startswith("<")
        and library not in Path(frame.filename).parents
    ]
    return f"{type(error).__name__}: {error}{places[-1] if places else ''}"


def _call(value: Any, name: str) -> Any:
    """Call a class or a function without arguments; return any other value unchanged."""
    if not callable(value):
        return value
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise UsageError(
            f"{name}: cannot be called without arguments: {error}. Write the call with its "
            "arguments, as in module:make(31)"
        ) from error
    except ValueError:  # a builtin without a signature
        pass
    return value()


# mfdeq status


def _add_status(commands: Any) -> None:
    command = _add_command(
        commands,
        "status",
        _run_status,
        "show the progress and the failures of a study",
        STATUS_DESCRIPTION,
        STATUS_EPILOG,
    )
    command.add_argument(
        "directory", metavar="DIRECTORY", type=Path, help="the directory of the study"
    )


def _run_status(options: argparse.Namespace) -> int:
    study = _open_study(options.directory)
    status = study.status()
    recorded = status.done + status.failed
    print(f"{status.done} cases done, {status.failed} failed, {status.left} left")
    print("running" if status.running else "not running")
    if recorded:
        print(f"{status.seconds / recorded:.3g} s per case")
    _print_failures(study.failures)
    return 1 if status.failed else 0


def _print_failures(failures: list[Any]) -> None:
    """Print each distinct error with the number of failed cases and the first of them.

    Errors that differ only in numbers count as one.
    """
    groups: dict[str, list[Any]] = {}
    for record in failures:
        groups.setdefault(NUMBER_PATTERN.sub("#", str(record.error)), []).append(record)
    ordered = sorted(groups.values(), key=len, reverse=True)
    for records in ordered[:MAX_FAILURE_GROUPS]:
        error = textwrap.shorten(str(records[0].error), MAX_ERROR_LENGTH, placeholder=" ...")
        print(f"{len(records)} failed, {records[0].params!r} first: {error}")
    if others := ordered[MAX_FAILURE_GROUPS:]:
        print(
            f"{sum(map(len, others))} failed with {len(others)} other errors: `mfdeq report` "
            "lists them"
        )


# mfdeq report


def _add_report(commands: Any) -> None:
    command = _add_command(
        commands,
        "report",
        _run_report,
        "write a study as an HTML page",
        REPORT_DESCRIPTION,
    )
    command.add_argument(
        "directory", metavar="DIRECTORY", type=Path, help="the directory of the study"
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the file to write (default: DIRECTORY/report.html)",
    )


def _run_report(options: argparse.Namespace) -> int:
    page = _open_study(options.directory).to_html()
    output = options.output or options.directory / "report.html"
    try:
        output.write_text(page, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error}") from error
    print(output)
    return 0


def _open_study(directory: Path) -> mfdeq.Study:
    study = mfdeq.Study(directory)
    if not study.exists:
        raise UsageError(f"DIRECTORY: expected a directory with a study, got {directory}")
    return study


if __name__ == "__main__":
    sys.exit(main())
