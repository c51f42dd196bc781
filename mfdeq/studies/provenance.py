"""Provenance of results: versions of packages, the commit of the code, and the machine."""

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

from .cases import json_value

FINGERPRINT_LENGTH = 32  # hexadecimal digits
GIT_TIMEOUT = 20.0  # seconds
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def utc_now() -> str:
    """Return the time in UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_machine() -> dict[str, Any]:
    """Describe the machine and the process, including its thread settings."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "pid": os.getpid(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def describe_provenance(function: Callable) -> dict[str, Any]:
    """Describe what the results of a function depend on besides its arguments."""
    packages = {d.name: d.version for d in metadata.distributions() if d.name}
    return {
        "function": qualified_name(function),
        "fingerprint": fingerprint(function),
        "commit": commit(function),
        "argv": sys.argv,
        "python": platform.python_version(),
        "packages": dict(sorted(packages.items())),
        "machine": describe_machine(),
    }


def qualified_name(function: Callable) -> str:
    """Return module.function, and the arguments that a `functools.partial` fixes.

    A script's module is named after its file, even while it runs as ``__main__``.
    """
    inner = _unwrap(function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    module = getattr(inner, "__module__", "")
    if module == "__main__":
        module = Path(_source_file(inner) or "__main__").stem
    if not isinstance(function, functools.partial):
        return f"{module}.{name}"
    fixed = {
        keyword: json_value(value, f"function: {keyword}= of a partial")
        for keyword, value in function.keywords.items()
    }
    args = json_value(function.args, "function: arguments of a partial")
    return f"{module}.{name} with {json.dumps([args, fixed], sort_keys=True)}"


def fingerprint(function: Callable) -> str | None:
    """Return a digest of a function's source and of the values bound to it.

    These are the values in its closure and, for a method, its object. None if they cannot be
    pickled or the source is not available. The functions that it calls are not included.
    """
    inner = _unwrap(function)
    owner = getattr(inner, "__self__", inner)
    cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    owners = [] if owner is inner and inspect.isroutine(inner) else [owner]
    try:
        source = inspect.getsource(inner if inspect.isroutine(inner) else type(inner))
        values = pickle.dumps([*cells, *owners], protocol=4)
    except Exception:  # a builtin, a function from a prompt, or values that cannot be pickled
        return None
    return hashlib.sha256(source.encode() + values).hexdigest()[:FINGERPRINT_LENGTH]


def commit(function: Callable) -> str | None:
    """Return the commit of the git repository that contains a function, or None.

    It ends in "+changes" if tracked files differ from the commit.
    """
    source = _source_file(_unwrap(function))
    if source is None:
        return None
    head = _run_git(source, "rev-parse", "HEAD")
    if not head:
        return None
    return head + ("+changes" if _run_git(source, "status", "--porcelain", "-uno") else "")


def _unwrap(function: Callable) -> Any:
    return inspect.unwrap(getattr(function, "func", function))


def _source_file(function: Callable) -> str | None:
    try:
        return inspect.getsourcefile(function)
    except TypeError:  # a builtin
        return None


def _run_git(source: str, *arguments: str) -> str:
    """Return what git prints in the directory of a file; "" if it fails."""
    command = ["git", "-C", str(Path(source).resolve().parent), *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError):  # git is not installed, or too slow
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
