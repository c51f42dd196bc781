"""The command line: ``python -m mfdeq verify module:Model``."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from .arrays import host
from .errors import MfdeqError

EXIT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}  # 2 is of wrong arguments
EPILOG = """\
MODEL, --params and --loss are module:expression, the expression evaluated in the module, which is
looked for in the current directory too: examples.bratu:Bratu(31), my.models:model, numpy:zeros(3).
A class or function is called without arguments. --params may be a .npy file or numbers, 1,2.5,3.

The exit status is 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE, 2 for wrong arguments and for a model
that returns what cannot be used (a wrong shape, NaN).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mfdeq", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "verify",
        help="check every derivative of a model",
        description="Check every derivative of a model, and of a loss, at an equilibrium.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help="module:expression")
    command.add_argument("--params", help="where to verify; by default random numbers")
    command.add_argument("--loss", help="module:expression; by default a random linear one")
    command.add_argument("--seed", type=int, default=0, help="of the random directions")
    command.add_argument("--rtol", type=float, help="of the equilibria, as in mfdeq.solve")
    options = parser.parse_args(arguments)
    sys.path.insert(0, "")
    try:
        return _verify(options)
    except (_WrongError, MfdeqError) as error:
        command.error(f"{error}")


class _WrongError(Exception):
    """An argument that stands for nothing."""


def _verify(options: argparse.Namespace) -> int:
    import mfdeq

    model = _made(_named(options.model, "MODEL"))
    if not isinstance(model, (mfdeq.FixedPointModel, mfdeq.ResidualModel)):
        raise _WrongError(
            f"MODEL is a {type(model).__name__}; an mfdeq.FixedPointModel or ResidualModel, or "
            "what makes one, was expected"
        )
    loss = None if options.loss is None else _made(_named(options.loss, "--loss"))
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
    module, _, expression = given.partition(":")
    if not expression:
        raise _WrongError(f"{name} is {given!r}; module:expression was expected")
    try:
        scope = vars(importlib.import_module(module))
    except ImportError as error:
        raise _WrongError(f"{name}: {error}") from error
    try:
        return eval(expression, dict(scope))  # the user's own, on the user's own command line
    except (NameError, SyntaxError, AttributeError) as error:
        raise _WrongError(f"{name}: {expression!r} in {module}: {error}") from error


def _made(found: Any) -> Any:
    return found() if callable(found) else found


if __name__ == "__main__":
    sys.exit(main())
