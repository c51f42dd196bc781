"""The public names of cupy's modules: with ``python described.py`` those of the one on the path."""

import importlib
import inspect
import json
import re
import sys

MODULES = [
    "cupy",
    "cupy.linalg",
    "cupy.cuda",
    "cupy.cuda.memory",
    "cupy.cuda.runtime",
    "cupyx",
    "cupyx.scipy.linalg",
    "cupyx.scipy.sparse",
    "cupyx.scipy.sparse.linalg",
]
# Members that Python calls, whose absence is part of what cupy is.
SPECIAL = {f"__{r}{n}__" for r in ("", "r", "i") for n in ("add", "sub", "mul", "truediv", "pow")}
SPECIAL |= {f"__{n}__" for n in ("len", "bool", "float", "int", "index", "getitem", "abs", "neg")}
SPECIAL |= {"__array__", "__array_priority__", "__dlpack__", "__matmul__", "__rmatmul__"}
SPECIAL |= {"__hash__", "__array_namespace__", "__contains__"}


def described():
    """Of functions and methods the names of their parameters; None where they are not known."""
    found = {}
    for module in MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("_") or inspect.ismodule(value):
                continue
            found[f"{module}.{name}"] = parameters(value)
            if inspect.isclass(value) and value.__module__.startswith("cupy"):
                for member in dir(value):
                    inner = getattr(value, member)
                    if inner is not None and (not member.startswith("_") or member in SPECIAL):
                        special = member in SPECIAL
                        found[f"{module}.{name}.{member}"] = None if special else parameters(inner)
    return found


def parameters(function):
    """Of Cython's functions by the first line of their docstring."""
    if not callable(function) or inspect.isclass(function):
        return None
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        inside = re.match(r"_ndarray_base\.\w+\((.*)\)", function.__doc__ or "")
        if inside is None:
            return None
        return [part.split("=")[0].split()[-1].strip("*") for part in inside[1].split(", ")]


if __name__ == "__main__":
    json.dump(described(), sys.stdout)
