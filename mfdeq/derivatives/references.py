"""The objects that a function refers to besides its arguments, and whether they were replaced.

A Python function looks up closure variables, globals and attributes each time it is called, so that
assigning a new value to one of them changes the function.
"""

from __future__ import annotations

import collections
import functools
import sys
import types
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

from ..arrays.library import LIBRARY_MODULES, host

MAX_REFERENCES = 10_000  # of one function
MAX_ELEMENTS = 100  # of a list or dictionary whose elements are searched
PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None))  # compared by their values
# The functions of these packages are not searched.
LIBRARIES = sys.stdlib_module_names | set(LIBRARY_MODULES) | {host.__name__}
LIBRARIES |= {"jax", "jaxlib", "mfdeq", "scipy", "torch"}
MISSING = object()


class Reference(NamedTuple):
    """A name of an object.

    Attributes
    ----------
    name : str
        The name, such as "W" or "self.W".
    find : callable
        ``find()`` returns the object that has the name now.
    value : object
        The object that had it.
    """

    name: str
    find: Callable[[], Any]
    value: Any

    @property
    def is_replaced(self) -> bool:
        """Whether the name now refers to an object with another value."""
        now = self.find()
        if now is self.value:
            return False
        same_type = type(now) is type(self.value) and isinstance(now, PLAIN_TYPES)
        return not (same_type and now == self.value)


def references(function: Callable[..., Any]) -> list[Reference]:
    """Return what a function refers to: variables of its closure, globals, and their attributes.

    Functions that it calls are searched as well, except those of libraries. Only such attributes
    are listed whose names occur in the code, and all parameters of modules of PyTorch.
    """
    search = _Search()
    search.add(function, "")
    search.run()
    return search.found


class _Search:
    """A search for references, breadth first, which visits every object once."""

    def __init__(self) -> None:
        self.found: list[Reference] = []
        self.added: dict[tuple[int, ...], Any] = {}  # kept alive, so that identities are unique
        self.waiting: collections.deque[tuple[Any, str, frozenset[str]]] = collections.deque()

    def add(self, value: Any, name: str, names: frozenset[str] = frozenset()) -> None:
        """Add an object to be searched, of which code mentions attributes with some names."""
        key = (id(value), hash(names))
        if key not in self.added:
            self.added[key] = value
            self.waiting.append((value, name, names))

    def run(self) -> None:
        """Search the objects that have been added, and those that they refer to."""
        while self.waiting and len(self.found) <= MAX_REFERENCES:
            self._visit(*self.waiting.popleft())

    def _visit(self, value: Any, name: str, names: frozenset[str]) -> None:
        if isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.add(part, name, names)
        elif isinstance(value, types.MethodType):
            self._visit_function(value.__func__, value.__self__)
        elif isinstance(value, types.FunctionType):
            self._visit_function(value, MISSING)
        elif isinstance(value, list | tuple | dict) and len(value) > MAX_ELEMENTS:
            return
        elif isinstance(value, list | tuple):
            for i, part in enumerate(value):
                self._refer(f"{name}[{i}]", functools.partial(_item, value, i), part, names)
        elif isinstance(value, dict):
            for k, part in list(value.items()):
                self._refer(f"{name}[{k!r}]", functools.partial(value.get, k, MISSING), part, names)
        elif isinstance(value, types.ModuleType):
            self._visit_attributes(value, vars(value), name, names)
        elif hasattr(type(value), "named_parameters"):
            self._visit_module(value, name, names)
        elif _root(type(value).__module__) not in LIBRARIES and hasattr(value, "__dict__"):
            self._visit_object(value, name, names)

    def _refer(self, name: str, find: Callable[[], Any], value: Any, names: frozenset[str]) -> None:
        if isinstance(value, types.ModuleType | type | types.BuiltinFunctionType):
            if isinstance(value, types.ModuleType) and _root(value.__name__) not in LIBRARIES:
                self.add(value, name, names)
            return
        self.found.append(Reference(name, find, value))
        self.add(value, name, names)

    def _visit_function(self, function: Any, owner: Any) -> None:
        if _root(function.__module__) in LIBRARIES:
            return
        names = frozenset(_names(function.__code__))
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            value = _content(cell)
            self._refer(name, functools.partial(_content, cell), value, names)
        variables = function.__globals__
        for name in names & variables.keys():
            find = functools.partial(variables.get, name, MISSING)
            self._refer(name, find, variables[name], names)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.add(default, "", names)
        if owner is not MISSING:
            self.add(owner, "self", names)

    def _visit_module(self, module: Any, name: str, names: frozenset[str]) -> None:
        """Search a module of PyTorch, with all of its parts."""
        for table in (module._parameters, module._buffers, module._modules):
            for key, value in table.items():
                find = functools.partial(_entry, table, key)
                self._refer(f"{name}.{key}" if name else key, find, value, names)
        if _root(type(module).__module__) not in LIBRARIES:
            self._visit_object(module, name, names, "forward")

    def _visit_object(
        self, value: Any, name: str, names: frozenset[str], call: str = "__call__"
    ) -> None:
        for method in names | {call}:
            function = getattr(type(value), method, None)
            if isinstance(function, types.FunctionType):
                self.add(types.MethodType(function, value), name)
        self._visit_attributes(value, vars(value), name, names)

    def _visit_attributes(
        self, owner: Any, table: MutableMapping[str, Any], name: str, names: frozenset[str]
    ) -> None:
        for key in names & table.keys():
            find = functools.partial(getattr, owner, key, MISSING)
            self._refer(f"{name}.{key}" if name else key, find, table[key], names)


def _names(code: types.CodeType) -> Iterator[str]:
    """Return the names of globals and attributes in code, and in functions that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet, or no longer
        return MISSING


def _entry(table: Any, key: str) -> Any:
    # Tables of TorchScript have no `get`.
    return table[key] if key in table else MISSING  # noqa: SIM401


def _item(sequence: Any, i: int) -> Any:
    return sequence[i] if i < len(sequence) else MISSING


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]
