"""The public names of cupy's modules; ``python cupy_names.py`` prints them."""

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
# Special methods are listed too: some that numpy has are missing in cupy.
SPECIAL = {f"__{r}{n}__" for r in ("", "r", "i") for n in ("add", "sub", "mul", "truediv", "pow")}
SPECIAL |= {f"__{n}__" for n in ("len", "bool", "float", "int", "index", "getitem", "abs", "neg")}
SPECIAL |= {"__array__", "__array_priority__", "__dlpack__", "__matmul__", "__rmatmul__"}
SPECIAL |= {"__hash__", "__array_namespace__", "__contains__"}


def public_names():
    """Map the names to those of their parameters, or to None where these are not known."""
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
    """List the parameters of a function; for Cython's, the docstring begins with them."""
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
    json.dump(public_names(), sys.stdout)
