"""The command line: ``python -m mfdeq verify module:Model``, ``run experiment.toml`` and so on."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .arrays.backend import host
from .errors import ArgumentError, MfdeqError

NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)
GROUPS = 5  # of failures that are printed
LONGEST = 400  # characters of an error there
INTERRUPTED = 130  # the shell's status of it
EXIT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}  # 2 is of wrong arguments
EPILOG = """\
MODEL, --params and --loss are module:expression, the expression evaluated in the module, which is
looked for in the current directory too: examples.bratu:Bratu(31), my.models:model, numpy:zeros(3).
A class or function is called without arguments. --params may be a .npy file or numbers, 1,2.5,3.

The exit status is 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, 2 for wrong arguments and for a model
that returns what cannot be used (a wrong shape, NaN).
"""
RUNNING = """\
What is recorded is not run again: killed or interrupted (Ctrl-C), the same command goes on. The
exit status is 0 where all cases are done, 1 where some have failed, 2 for a mistake in the file,
130 after an interrupt. What such a file may say: docs/experiments.rst.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mfdeq", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_verifying, _running, _resuming, _showing, _reporting):
        add(commands)
    options = parser.parse_args(arguments)
    sys.path.insert(0, "")
    try:
        return options.run(options)
    except (_WrongError, MfdeqError) as error:
        commands.choices[options.command].error(f"{error}")


def _command(commands: Any, name: str, run: Callable, does: str, epilog: str = "") -> Any:
    command = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _verifying(commands: Any) -> None:
    does = "check every derivative of a model, and of a loss, at an equilibrium"
    command = _command(commands, "verify", _verify, does, EPILOG)
    command.add_argument("model", metavar="MODEL", help="module:expression")
    command.add_argument("--params", help="where to verify; by default random numbers")
    command.add_argument("--loss", help="module:expression; by default a random linear one")
    command.add_argument("--seed", type=int, default=0, help="of the random directions")
    command.add_argument("--rtol", type=float, help="of the equilibria, as in mfdeq.solve")


def _running(commands: Any) -> None:
    does = "run the experiment that a TOML file describes; again, what is left of it"
    command = _command(commands, "run", lambda options: _run(options, options.file), does, RUNNING)
    command.add_argument("file", metavar="FILE.toml")
    _how_to_run(command)


def _resuming(commands: Any) -> None:
    does = "go on with the experiment in a directory"
    command = _command(
        commands, "resume", lambda options: _run(options, _kept(options.directory)), does, RUNNING
    )
    command.add_argument("directory", metavar="DIRECTORY", type=Path)
    _how_to_run(command)


def _how_to_run(command: Any) -> None:
    command.add_argument(
        "--workers", type=int, help="processes; 0 runs in this one; as many as processors"
    )
    command.add_argument("--retry", action="store_true", help="run failed cases again")


def _showing(commands: Any) -> None:
    does = "say how far a study is, and what has failed"
    command = _command(commands, "status", _status, does)
    command.add_argument("directory", metavar="DIRECTORY", type=Path)


def _reporting(commands: Any) -> None:
    does = "write tables and figures of a study as one HTML page"
    command = _command(commands, "report", _report, does)
    command.add_argument("directory", metavar="DIRECTORY", type=Path)
    command.add_argument("-o", "--output", metavar="FILE.html", type=Path)


def _kept(directory: Path) -> Path:
    """The file of the experiment in a directory."""
    from .studies.experiment import COPY

    _study(directory)
    if not (directory / COPY).exists():
        raise _WrongError(f"{directory} is a study that a script has begun: run that again")
    return directory / COPY


def _run(options: argparse.Namespace, file: Path) -> int:
    from .studies.computing import Computation
    from .studies.experiment import read
    from .studies.keeping import ExperimentStudy

    experiment = read(file)
    workers = options.workers
    if workers is None:
        workers = experiment.settings.get("workers")
    study = ExperimentStudy(experiment)
    try:
        records = study.map(
            Computation(experiment.fixed),
            experiment.cases,
            workers=workers,
            seed=experiment.settings.get("seed", 0),
            warm={"start": "state"} if experiment.settings.get("warm") else None,
            retry=options.retry,
        )
    except KeyboardInterrupt:
        print(f"interrupted: {len(study)} cases are recorded; the same command goes on from them")
        return INTERRUPTED
    failures = [record for record in records if record.status == "failed"]
    failed = len(failures)
    print(f"{len(records) - failed} cases done, {failed} failed, in {experiment.directory}")
    _print_failures(failures)
    return 1 if failed else 0


def _print_failures(failures: list[Any]) -> None:
    """Errors that differ in numbers alone once, with how many cases have them and the first."""
    groups: dict[str, list[Any]] = {}
    for record in failures:
        groups.setdefault(NUMBER.sub("#", str(record.error)), []).append(record)
    ordered = sorted(groups.values(), key=len, reverse=True)
    for records in ordered[:GROUPS]:
        error = textwrap.shorten(str(records[0].error), LONGEST, placeholder=" ...")
        print(f"{len(records)} failed, {records[0].params!r} first: {error}")
    if more := ordered[GROUPS:]:
        print(f"{sum(map(len, more))} failed with {len(more)} other errors; `report` has them")


def _status(options: argparse.Namespace) -> int:
    study = _study(options.directory)
    status = study.status()
    left = max(0, status.planned - status.done - status.failed)
    print(f"{status.done} cases done, {status.failed} failed, {left} left")
    print("running" if status.running else "not running")
    count = status.done + status.failed
    if count:
        print(f"{status.seconds / count:.3g} s a case")
    _print_failures(study.failures)
    return 1 if status.failed else 0


def _report(options: argparse.Namespace) -> int:
    page = _study(options.directory).to_html()
    output = options.output or options.directory / "report.html"
    try:
        output.write_text(page, "utf-8")
    except OSError as error:
        raise _WrongError(f"{output} cannot be written: {error}") from error
    print(output)
    return 0


def _study(directory: Path) -> Any:
    from .studies.study import Study

    study = Study(directory)
    if not study.store.made:
        raise _WrongError(f"{directory} holds no study; the directory of one was expected")
    return study


class _WrongError(Exception):
    """An argument that stands for nothing."""


def _verify(options: argparse.Namespace) -> int:
    import mfdeq

    model = _made(_named(options.model, "MODEL"), "MODEL")
    if not isinstance(model, (mfdeq.FixedPointModel, mfdeq.ResidualModel)):
        raise _WrongError(
            f"MODEL is a {type(model).__name__}; an mfdeq.FixedPointModel or ResidualModel, or "
            "what makes one, was expected"
        )
    loss = None if options.loss is None else _made(_named(options.loss, "--loss"), "--loss")
    params = _params(options.params, model)
    solve = {} if options.rtol is None else {"rtol": options.rtol}
    found = mfdeq.verify(model, params, loss, seed=options.seed, **solve)
    print(found)
    return EXIT[found.verdict]


def _params(given: str | None, model: Any) -> Any:
    if given is None:
        return host.random.default_rng(0).standard_normal(model.param_size)
    if given.endswith(".npy"):
        return host.load(given)
    if ":" in given:
        return _named(given, "--params")
    try:
        return host.array([float(number) for number in given.split(",")])
    except ValueError:
        raise _WrongError(
            f"--params is {given!r}; numbers, a .npy file or module:expression was expected"
        ) from None


def _named(given: str, name: str) -> Any:
    from .studies.experiment import named

    try:
        return named(given)
    except ArgumentError as error:
        raise _WrongError(f"{name}: {error}") from error


def _made(found: Any, name: str) -> Any:
    if not callable(found):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise _WrongError(
            f"{name} is called without arguments: {error}; write the call, as in module:make(31)"
        ) from error
    except ValueError:  # a builtin
        pass
    return found()


if __name__ == "__main__":
    sys.exit(main())
