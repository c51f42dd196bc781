"""Where numbers come from: versions, the commit of the code, the machine."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .cases import plain_value

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def machine() -> dict[str, Any]:
    """The machine that this process runs on."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "pid": os.getpid(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
    }


def provenance(function: Callable) -> dict[str, Any]:
    """What a function's results depend on beside its arguments."""
    packages = {d.name: d.version for d in metadata.distributions() if d.name}
    return {
        "function": full_name(function),
        "fingerprint": fingerprint(function),
        "commit": commit(function),
        "argv": sys.argv,
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items())),
        "machine": machine(),
    }


def full_name(function: Callable) -> str:
    """module.function, whichever way the module was started, with what a partial fixes."""
    inner = _inner(function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    module = getattr(inner, "__module__", "")
    if module == "__main__":
        module = Path(_source(inner) or "__main__").stem
    if not isinstance(function, functools.partial):
        return f"{module}.{name}"
    fixed = {name: plain_value(x, f"{name}= of a partial") for name, x in function.keywords.items()}
    args = plain_value(function.args, "an argument of a partial")
    return f"{module}.{name} with {json.dumps([args, fixed], sort_keys=True)}"


def _inner(function: Callable) -> Any:
    return inspect.unwrap(getattr(function, "func", function))


def fingerprint(function: Callable) -> str | None:
    """A digest of what a function is beside its name: its source, and the values that it holds.

    None where those are not to be had. What the function calls is not in it.
    """
    inner = _inner(function)
    owner = getattr(inner, "__self__", inner)
    cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    held = [] if owner is inner and inspect.isroutine(inner) else [owner]
    try:
        source = inspect.getsource(inner if inspect.isroutine(inner) else type(inner))
        values = pickle.dumps([*cells, *held], protocol=4)
    except Exception:  # a builtin, a function of a prompt, values that nothing pickles
        return None
    return hashlib.sha256(source.encode() + values).hexdigest()[:32]


def commit(function: Callable) -> str | None:
    """The commit of the repository that a function is in, with "+changes" if it has any."""
    source = _source(_inner(function))
    if source is None:
        return None
    found = _git(source, "rev-parse", "HEAD")
    if not found:
        return None
    return found + ("+changes" if _git(source, "status", "--porcelain", "-uno") else "")


def _source(function: Callable) -> str | None:
    try:
        return inspect.getsourcefile(function)
    except TypeError:  # a builtin
        return None


def _git(source: str, *arguments: str) -> str:
    command = ["git", "-C", str(Path(source).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):  # no git, or no such folder
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
